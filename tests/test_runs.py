"""Runs: what a record holds, when it is reused, and that half a run is never taken for one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import InputError, backend, runs, training
from cnn_xray.data import FITTING, load_dataset
from cnn_xray.parameters import RECIPES, TrainParameters
from cnn_xray.report.cli import main
from cnn_xray.runs import find_run, identity, run_id, run_of, runs_of

TINY = {"phantom_images": 80, "image_size": 32, "width": 4, "epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(autouse=True)
def own_cache(place, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(place / "cache"))


@pytest.fixture
def p(place):
    return TrainParameters(runs=str(place / "runs"), **TINY)


def test_a_run_leaves_a_whole_record(p):
    data = load_dataset(p)
    run = run_of(p, data)
    assert {file.name for file in run.folder.iterdir()} == {
        "run.json", "model.keras", "history.csv", "predictions.csv", "attention.csv",
    }  # fmt: skip
    record = run.record
    assert {"parameters", "metrics", "training", "measurement", "seed", "data_fingerprint"} <= set(record)
    for by in ("trained_by", "measured_by"):
        assert {"versions", "git_commit", "device"} <= set(record[by])
    assert record["parameters"]["epochs"] == 1 and record["parameters"]["artifact_rho"] == 0.95
    assert all(isinstance(value, int | float) for value in record["metrics"].values())
    assert {"test_auc", "test_accuracy", "conflict_auc", "neutral_auc", "clean_auc", "val_auc"} <= set(run.metrics)
    assert len(run.predictions) == (~(data.table["split"] == "train")).sum()
    assert run.metrics["largest_evidence_residual"] < 1e-4
    assert "border-rho0.95-32px-crop0-seed0-" in run.id


def test_the_saved_model_gives_the_saved_predictions(p):
    from cnn_xray.training import predict

    data = load_dataset(p)
    run = run_of(p, data)
    test = data.rows("test")
    saved = run.predictions.query("split == 'test'")["logit"]
    np.testing.assert_allclose(predict(run.model, data.pixels[test], tta=p.tta), saved, atol=1e-4)


def test_a_recorded_run_is_reused_unless_asked(p, monkeypatch, capsys):
    run_of(p)
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    assert "reused" in (run_of(p), capsys.readouterr().out)[1]
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run_of(p.model_copy(update={"rerun": True}))
    assert find_run(run_of(p).folder)  # the failed repetition cost nothing


def test_a_run_is_trained_again_once_a_process_however_often_it_is_asked_for(p, monkeypatch, capsys):
    again = p.model_copy(update={"rerun": True, "label_smoothing": 0.25})
    monkeypatch.setattr(runs, "_AGAIN", set())
    said = [(run_of(again), capsys.readouterr().out)[1] for _ in range(2)]
    assert "training on" in said[0] and "reused" in said[1]


def test_a_new_way_of_measuring_trains_nothing_again(p, monkeypatch, capsys):
    before = run_of(p)
    (before.folder / "attention.csv").write_text("of the former way")
    monkeypatch.setattr(runs, "MEASUREMENT", runs.MEASUREMENT + 1)
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    again = run_of(p)
    assert "measured again" in capsys.readouterr().out and again.folder == before.folder
    for name, value in before.metrics.items():
        assert again.metrics[name] == pytest.approx(value, abs=1e-5, nan_ok=True)
    assert "arm" in again.attention and again.record["measurement"] == runs.MEASUREMENT
    assert "recorded already, reused" in (run_of(p), capsys.readouterr().out)[1]


def test_a_run_is_that_of_its_training_images_and_measured_again_on_other_test_images(
    images, place, monkeypatch, capsys
):
    p = TrainParameters(data=images, runs=str(place / "runs"), **{**TINY, "batch_size": 8})
    fitting, whole = load_dataset(p, splits=FITTING), load_dataset(p)
    first = run_of(p, fitting)
    assert not (first.folder / "attention.csv").exists() and set(first.predictions["split"]) == {"val"}
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    again = run_of(p, whole)
    assert again.folder == first.folder and "measured again" in capsys.readouterr().out
    assert set(again.predictions["split"]) == {"val", "test"}
    for data in (fitting, whole):
        assert "recorded already, reused" in (run_of(p, data), capsys.readouterr().out)[1]
    run_of(p, replace(whole, test_fingerprint="of others"))
    assert "measured again" in capsys.readouterr().out


def test_all_runs_are_one_table_and_two_arms_are_compared_seed_by_seed(tmp_path, capsys):
    """Records and a sweep's rows by hand: the second arm is better by .02 and .04, mean .03, t(.975, 1) = 12.706."""
    defaults = {name: field.default for name, field in TrainParameters.model_fields.items()} | RECIPES["plain"]
    defaults = {name: one for name, one in defaults.items() if not name.startswith("phantom_")}  # of no phantom
    for arm, more, aucs in (
        ("a", {}, (0.9, 0.8)),
        ("b", {"crop": 0.1}, (0.92, 0.84)),
        ("n", {"labels": "permuted"}, (0.5,)),
    ):
        for seed, auc in enumerate(aucs):
            metrics = {"test_auc": auc, "train_seconds": 1.0}
            record = {"parameters": {**defaults, "data": "images", "seed": seed, **more}, "metrics": metrics}
            (tmp_path / f"{arm}{seed}").mkdir()
            (tmp_path / f"{arm}{seed}" / "run.json").write_text(json.dumps(record))
    sweep = pd.DataFrame({"arm": "swapped", "seed": [0, 1], "run": ["b0", "lost"], "status": ["done", "failed"]})
    sweep.assign(val_logits="x", conflict_logits="x", **{"val_R border": [0.3, np.nan]}).to_csv(
        tmp_path / "study.csv", index=False
    )
    table = runs.tidy(tmp_path)
    assert table.set_index("run").loc[["a0", "b0", "n0"], ["arm", "role"]].to_numpy().tolist() == [
        ["defaults", "main"], ["crop 0.1", "main"], ["labels permuted", "null probe"],
    ]  # fmt: skip
    assert "crop" in table and "zoom" not in table and "image_size" not in table
    told, found = runs.difference(table, "defaults", "crop 0.1")
    assert told == ["crop: 0.0 → 0.1"] and found.loc["test_auc", "seeds"] == 2
    auc = found.loc["test_auc", ["first", "second", "difference", "low", "high"]].tolist()
    assert auc == pytest.approx([0.85, 0.88, 0.03, 0.03 - 0.12706, 0.03 + 0.12706], abs=1e-4)
    assert main(["diff", "a1", "b1", "--runs", str(tmp_path)]) == 0 and "0.04" in capsys.readouterr().out
    both = runs.tidy(tmp_path, [tmp_path / "study.csv"]).set_index("run")
    assert both.loc["b0", "arm"] == "swapped" and both.loc["b0", "val_R border"] == 0.3
    assert both.loc["lost", "status"] == "failed" and not {"val_logits", "conflict_logits"} & {*both}
    for asked, sentence in (("zzz", "There is no finished arm or run 'zzz'; there are crop 0.1"), ("n0", "n0")):
        assert main(["diff", "b1", asked, "--runs", str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(InputError, match="There is no finished run in"):
        runs.tidy(tmp_path / "nowhere")


def test_an_option_that_is_off_is_no_part_of_a_runs_name(p):
    """So a run is still found when options are added later."""
    field = TrainParameters.model_fields["erasing"]
    assert field.json_schema_extra == {"off": 0.0}
    data, resolved = load_dataset(p), p.resolved()
    off = run_id(resolved, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "identity", lambda p: {k: v for k, v in identity(p).items() if k != "erasing"})
        assert run_id(resolved, data) == off
    assert run_id(resolved.model_copy(update={"erasing": 0.2}), data) != off


def test_a_repeat_is_another_training_and_permutation_of_the_same_images(p):
    again = p.model_copy(update={"repeat": 1, "labels": "permuted"})
    first, data = load_dataset(p.model_copy(update={"labels": "permuted"})), load_dataset(again)
    np.testing.assert_array_equal(first.pixels, data.pixels)
    assert first.table["split"].tolist() == data.table["split"].tolist()
    assert first.table["label"].tolist() != data.table["label"].tolist()
    one, other = (run_of(p.model_copy(update={"repeat": repeat})) for repeat in (0, 1))
    assert one.id != other.id and "-repeat1-" in other.id
    assert not np.allclose(one.predictions["logit"], other.predictions["logit"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"crop": 0.1}, {"learning_rate": 1e-4}, {"artifact_rho": 0.5}])
def test_another_setting_is_another_run(p, change):
    ids = []
    for one in (p, p.model_copy(update=change)):
        one = one.resolved()
        ids.append(run_id(one, load_dataset(one)))
    assert ids[0] != ids[1]


@pytest.fixture(scope="module")
def images(place):
    """A manifest of grey images of one size, half of them with a lung mask."""
    lines = ["path,label,split,patient,lung_mask"]
    (place / "images").mkdir()
    for i in range(24):
        Image.fromarray(np.full((32, 32), 100 + i, np.uint8)).save(place / "images" / f"{i}.png")
        Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 8)).save(place / "images" / f"mask{i}.png")
        lines.append(f"{i}.png,{i % 2},{'train' if i < 16 else 'test'},p{i},mask{i}.png")
    (place / "images" / "manifest.csv").write_text("\n".join(lines))
    return str(place / "images" / "manifest.csv")


def id_of(images, **more):
    p = TrainParameters(data=images, image_size=32, **more).resolved()
    return run_id(p, load_dataset(p))


def test_what_is_seen_planted_or_permuted_is_another_run(images):
    parts = [
        {"keep": part}
        for part in ("border", "without_border", "outside_lung_box", "outside_lungs", "lung_outline", "between")
    ]
    planted = [{"artifact_rho": 0.5}, {"artifact_rho": 0.0}, {"artifact_rho": 0.5, "artifact_kinds": "text"}]
    more = [{}, *parts, *planted, {"labels": "permuted"}, {"labels": "permuted", "keep": "border"}]
    more += [{"artifact_rho": 0.5, "artifact_amplitude": 0.5}, {"keep": "border", "border": 0.2}]
    ids = [id_of(images, **change) for change in more]
    assert len(set(ids)) == len(ids)
    assert ids[0].startswith("images-32px-crop0-seed0-")
    assert ids[1].startswith("images-32px-crop0-border-seed0-")
    assert ids[7].startswith("images-border-rho0.5-32px-crop0-seed0-")
    assert id_of(images, labels="permuted", keep="border").startswith("images-32px-crop0-border-permuted-seed0-")


def test_how_an_artifact_looks_that_is_not_planted_is_no_part_of_the_run(images):
    other = {"artifact_location": "inside", "artifact_kinds": "tubing", "artifact_amplitude": 2.0}
    assert id_of(images) == id_of(images, **other)
    assert id_of(images, artifact_rho=0.5) != id_of(images, artifact_rho=0.5, **other)
    named = identity(TrainParameters(data=images))
    assert not [name for name in named if name.startswith("artifact_")] and named["keep"] == "all"


def test_where_things_lie_is_no_part_of_the_run(p):
    p = p.resolved()
    data = load_dataset(p)
    assert run_id(p, data) == run_id(p.model_copy(update={"runs": "x", "rerun": True}), data)


def together(folder, **changes):
    """Parameters and data of two tiny networks."""
    every = [TrainParameters(runs=str(folder), seed=seed, **{**TINY, **changes}) for seed in (1, 2)]
    return [(one, load_dataset(one)) for one in every]


def test_networks_asked_for_together_are_trained_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backend, "trainings_at_once", lambda wanted: min(wanted, 2))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # else one thread is all there is, and nothing to share
    one, other = together(tmp_path / "together")
    found = runs_of([one, other, one])
    assert [run.record["seed"] for run in found] == [1, 2, 1] and found[0].folder == found[2].folder
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("to be trained: 2, up to 2 at a time")
    of_each = {said[i].partition(":")[0] for i in (1, 3)}  # what a network says stands together: its id, and an epoch
    assert of_each == {run.id for run in found} and all(said[i].startswith("epoch") for i in (2, 4))
    assert found[0].record["trained_by"]["intra_op_threads"] == max(1, joblib.cpu_count() // 2)
    alone = run_of(one[0].model_copy(update={"runs": str(tmp_path / "alone")}), one[1])
    assert alone.id == found[0].id  # sums of several threads differ in their last digits
    np.testing.assert_allclose(alone.predictions["logit"], found[0].predictions["logit"], atol=0.01)
    logits = found[1].predictions["logit"]
    shutil.rmtree(found[1].folder)
    assert runs_of([one, other])[1].predictions["logit"].equals(logits)  # alone now, but with as many threads
    said = capsys.readouterr().out
    assert "to be trained: 1, up to 2" in said and said.count("reused") == 1


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_networks_whose_process_is_killed_are_trained_one_by_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backend, "trainings_at_once", lambda wanted: min(wanted, 2))
    monkeypatch.setattr(runs, "_in_worker", killed)
    found = runs_of(together(tmp_path))
    assert [run.record["seed"] for run in found] == [1, 2] and capsys.readouterr().out.count("training on") == 2


def test_trainings_side_by_side_end_with_the_process_that_asked_for_them(place):
    folder, changes = place / "orphans", {"epochs": 500, "patience": 500}
    script = (
        "from cnn_xray import backend; from cnn_xray.runs import runs_of; from test_runs import together;"
        f"backend.trainings_at_once = lambda _: 2; runs_of(together({str(folder)!r}, **{changes}))"
    )
    asking = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parent)
    assert asking.stdout is not None
    deadline = time.monotonic() + 60
    while len([*folder.glob(".*")]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len([*folder.glob(".*")]) == 2  # both are at it
    asking.kill()
    with ThreadPoolExecutor() as reader:  # its workers hold the other end of the pipe as long as they live
        reader.submit(asking.stdout.read).result(timeout=10)
    asking.stdout.close()
    assert asking.wait(1) == -signal.SIGKILL and not [*folder.glob("[!.]*")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_leaves_no_run(place, how):
    folder = place / f"interrupted{how}"
    script = (
        "from cnn_xray.runs import run_of; from cnn_xray.parameters import TrainParameters;"
        f"run_of(TrainParameters(**{ {**TINY, 'epochs': 500, 'patience': 500, 'runs': str(folder)} }))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("epoch"):
            child.send_signal(how)
            break
    child.stdout.close()
    assert child.wait(60) != 0
    assert [one for one in folder.iterdir() if not one.name.startswith(".")] == []
    if how == signal.SIGINT:
        assert list(folder.iterdir()) == []
