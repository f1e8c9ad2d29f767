"""A sweep refuses before it starts, goes on after failures and interruptions, and never runs a finished run again."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from cnn_xray import InputError
from cnn_xray import sweep as module
from cnn_xray.sweep import Planned, read, sweep

REDUCE = Path(__file__).parents[1] / "benchmarks/reduce"

TINY = {
    "phantom_images": 80,
    "image_size": 32,
    "width": 4,
    "epochs": 1,
}
ARMS = {"plain": {}, "swapped": {"swap": "border"}}


def written(place: Path, **told) -> Path:
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump({"fixed": TINY, "arms": ARMS, "seeds": 2} | told))
    return file


def test_every_seed_of_every_arm_is_planned_seed_by_seed(tmp_path):
    planned = read(written(tmp_path))
    assert [(one.arm, one.seed) for one in planned] == [("plain", 0), ("swapped", 0), ("plain", 1), ("swapped", 1)]
    assert planned[1].given == TINY | {"swap": "border"} and not planned[0].open_test
    assert [one.seed for one in read(written(tmp_path, seeds=[7, 3]))] == [7, 7, 3, 3]


def test_a_grid_is_all_its_combinations(tmp_path):
    file = tmp_path / "grid.yaml"
    told = {"fixed": TINY | {"swap": "border"}, "grid": {"swap_share": [0.25, 0.5], "crop": [0.0, 0.1]}}
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    assert [one.arm for one in read(file)] == [
        "swap_share 0.25, crop 0.0",
        "swap_share 0.5, crop 0.0",
        "swap_share 0.25, crop 0.1",
        "swap_share 0.5, crop 0.1",
    ]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"armz": {}}, "There is no parameter 'armz'; the nearest one is 'arms'"),
        ({"arms": ["plain"]}, "arms is .*, but it must be arms by name, each with names and values"),
        ({"arms": {"one": 3}}, "arms is 3, but it must be arms by name"),
        ({"seeds": "six"}, "seeds is 'six', but it must be a number of seeds, or a list of them"),
        ({"fixed": [1]}, "fixed is .*, but it must be names and values of parameters"),
        ({"open_test": 1}, "open_test is 1, but it must be True or False"),
        ({"notebook": "07_magic"}, "there is no notebook '07_magic'; choose one of 01_data_audit"),
        ({"arms": {}}, "there is nothing to run, for arms or grid is empty"),
        ({"seeds": []}, "there is nothing to run, for seeds is empty"),
        ({"grid": {"crop": [0.1]}}, "has arms and a grid; give one of them"),
        ({"grid": {"crop": 0.1}, "arms": {}}, "grid is 0.1, but it must be lists of values by name"),
        ({"grid": {"crop": []}, "arms": {}}, "there is nothing to run, for arms or grid is empty"),
        ({"arms": {"one": {"swop": "border"}}}, "arm 'one': There is no parameter 'swop'; the nearest one is 'swap'"),
        ({"arms": {"one": {"crop": 0.7}}}, "arm 'one': crop is 0.7, but it must be a number"),
        ({"arms": {"one": {"seed": 3}}}, "arm 'one': seed is not of an arm; seeds says which there are"),
        ({"fixed": {"seed": 3}}, "seed is not to be fixed; seeds says which there are"),
        ({"seeds": 10**12}, "seeds is 1000000000000, but it must be a number of seeds"),
        ({"arms": {"one": {"consistency": 1.0}}}, "say what is swapped"),
        ({"external": {"dta": "x"}, "open_test": True}, "There is no parameter 'dta'; the nearest one is 'data'"),
        ({"external": "elsewhere"}, "external is 'elsewhere', but it must be parameters that images from elsewhere"),
        ({"external": {"data": "elsewhere"}}, "external images are scored when the test split is, after the choice"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_starts(tmp_path, told, sentence):
    with pytest.raises(InputError, match=sentence):
        read(written(tmp_path, **told))


@pytest.mark.parametrize("file", sorted(REDUCE.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_study_of_the_repository_can_be_run(file):
    planned = read(file)
    assert len({(one.arm, one.seed) for one in planned}) == len(planned) >= 18


@pytest.mark.parametrize("text", [b"[1, 2]", b"a: [", b"{1: 2}", b"", b"\xff\xfe"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_bytes(text)
    with pytest.raises(InputError, match="cannot be read as a sweep|there is nothing to run"):
        read(file)
    with pytest.raises(InputError, match="cannot be read as a sweep"):
        read(tmp_path / "none.yaml")


def faked(monkeypatch, failing=(), name="images", test_images="a"):
    """Runs that only note that they ran; those of ``failing`` fail."""
    ran = []

    def run(one, expected, jobs):
        ran.append((one.arm, one.seed))
        row = module._told(one, expected) | {"seconds": 1.0}
        if (one.arm, one.seed) in failing:
            return row | {"status": "failed", "error": "the disk is full"}
        return row | {"status": "done"} | ({"test_auc": 0.9} if one.open_test else {"val_auc": 0.8})

    monkeypatch.setattr(module, "_in_its_own_process", run)
    rows = lambda *splits: np.arange(len(LABELS))  # noqa: E731
    seen = SimpleNamespace(table=LABELS, lungs=None, rows=rows, name=name, test_fingerprint=test_images)
    monkeypatch.setattr(module, "load_dataset", lambda p, splits: seen)
    monkeypatch.setattr(module, "run_id", lambda p, data: data.name + p.model_dump_json())
    monkeypatch.setattr(module, "PHANTOM", "of no data")  # each is called by its name
    return ran


def test_numbers_are_read_as_python_writes_them(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("arms: {one: {learning_rate: 1e-3, weight_decay: 2.5E-4}}")
    assert [one.given for one in read(file)] == [{"learning_rate": 0.001, "weight_decay": 0.00025}]


def test_two_arms_that_are_one_run_are_refused_before_anything_starts(tmp_path, monkeypatch):
    file = written(tmp_path, arms={"one": {"patience": 3}, "two": {"patience": 9}}, seeds=1)
    ran = faked(monkeypatch)
    sweep(file)  # here ids tell every parameter
    monkeypatch.setattr(module, "run_id", lambda p, data: p.model_dump_json(exclude={"patience"}))
    with pytest.raises(InputError, match="The arms 'one' and 'two' are one and the same run"):
        sweep(file)
    assert len(ran) == 2


def test_a_table_that_is_no_sweep_is_not_replaced(tmp_path, monkeypatch):
    file = written(tmp_path)
    file.with_suffix(".csv").write_text("path,label\na.png,1\n")
    faked(monkeypatch)
    with pytest.raises(InputError, match="is no table of a sweep"):
        sweep(file)
    assert file.with_suffix(".csv").read_text() == "path,label\na.png,1\n"


def test_a_failure_is_recorded_stops_nothing_and_is_tried_again(tmp_path, monkeypatch, capsys):
    file = written(tmp_path)
    faked(monkeypatch, failing={("swapped", 0)})
    with pytest.raises(InputError, match="1 of 4 runs failed"):
        sweep(file)
    assert "swapped, seed 0: failed: the disk is full" in capsys.readouterr().out
    table = pd.read_csv(file.with_suffix(".csv"))
    assert table["status"].value_counts().to_dict() == {"done": 3, "failed": 1}
    ran = faked(monkeypatch)
    sweep(file)
    assert ran == [("swapped", 0)]
    assert (pd.read_csv(file.with_suffix(".csv"))["status"] == "done").all()
    assert "4 runs: 3 done, 1 waiting" in capsys.readouterr().out


def test_what_was_changed_is_run_again_and_nothing_else(tmp_path, monkeypatch):
    faked(monkeypatch)
    sweep(written(tmp_path))
    ran = faked(monkeypatch)
    table = sweep(written(tmp_path, arms={"plain": {}, "swapped": {"swap": "border", "swap_share": 0.9}}, seeds=1))
    assert ran == [("swapped", 0)] and len(pd.read_csv(table)) == 4
    ran = faked(monkeypatch)
    sweep(written(tmp_path, arms={"plain": {}}, seeds=1, open_test=True))
    assert ran == [("plain", 0)]


def test_other_test_images_or_images_from_elsewhere_are_scored_again(tmp_path, monkeypatch):
    file = written(tmp_path, arms={"plain": {}}, seeds=1, open_test=True, external={"seed": 9})
    for images, count in (("a", 1), ("a", 0), ("b", 1), ("b", 0)):
        ran = faked(monkeypatch, test_images=images)
        told = pd.read_csv(sweep(file))
        assert len(ran) == count and told[["test_images", "external_images"]].to_numpy().tolist() == [[images] * 2]


def test_other_data_join_a_table_and_a_failure_takes_nothing_from_it(tmp_path, monkeypatch):
    file = written(tmp_path, arms={"plain": {}}, seeds=1)
    faked(monkeypatch)
    sweep(file)
    faked(monkeypatch, name="others")
    assert pd.read_csv(sweep(file))["data"].tolist() == ["others", "images"]
    written(tmp_path, arms={"plain": {"epochs": 2}}, seeds=1)
    faked(monkeypatch, failing={("plain", 0)})
    with pytest.raises(InputError, match="1 of 1 runs failed"):
        sweep(file)
    told = pd.read_csv(file.with_suffix(".csv")).sort_values(["data", "status"])
    assert told[["data", "status"]].to_numpy().tolist() == [
        ["images", "done"],
        ["images", "failed"],
        ["others", "done"],
    ]


def test_two_sweeps_at_once_lose_nothing_of_each_other(tmp_path, monkeypatch):
    file = written(tmp_path, arms={"None": {}}, seeds=2)  # a name, though pandas takes it for nothing
    faked(monkeypatch)
    run, others = module._in_its_own_process, [file]

    def run_beside_another(one, expected, jobs):
        if others:
            sweep(others.pop())
        return run(one, expected, jobs)

    monkeypatch.setattr(module, "_in_its_own_process", run_beside_another)
    found = module._table(sweep(file))
    assert found[["arm", "seed"]].to_numpy().tolist() == [["None", 0], ["None", 1]]


def test_an_opening_that_fails_leaves_what_was_measured_on_validation(tmp_path, monkeypatch):
    faked(monkeypatch)
    sweep(written(tmp_path))
    faked(monkeypatch, failing={("plain", 0)})
    with pytest.raises(InputError, match="1 of 4 runs failed"):
        sweep(written(tmp_path, open_test=True))
    faked(monkeypatch)
    table = pd.read_csv(sweep(written(tmp_path, open_test=True)))
    assert (table["val_auc"] == 0.8).all() and (table["test_auc"] == 0.9).all() and (table["status"] == "done").all()
    assert table["error"].isna().all()


def test_swaps_outside_the_lungs_without_masks_are_refused_before_anything_starts(tmp_path, monkeypatch):
    ran = faked(monkeypatch)
    with pytest.raises(InputError, match="Without masks, swap the border"):
        sweep(written(tmp_path, arms={"outside": {"swap": "outside_lungs"}}))
    assert not ran


def read_bytes(file: Path) -> bytes:
    """What a process was started with; nothing of one that has just ended."""
    with suppress(OSError):
        return file.read_bytes()
    return b""


LABELS = pd.DataFrame({"label": [0, 1]})


def test_a_study_is_the_finished_runs_of_all_tables_on_these_data(tmp_path):
    packed = module._scored("val", [0, 1], np.array([-1.5, 2.0]))["val_logits"]
    rows = {"arm": ["a", "b", "c"], "data": ["images", "images", "phantom"], "status": ["done", "failed", "done"]}
    pd.DataFrame(rows).assign(val_logits=packed).to_csv(tmp_path / "small.csv", index=False)
    pd.DataFrame(rows).assign(arm="d").to_csv(tmp_path / "large.csv", index=False)
    found = module.studied(tmp_path, "images")
    assert found[["sweep", "arm"]].to_numpy().tolist() == [["large", "d"], ["small", "a"]]
    np.testing.assert_array_equal(module.logits_of(found["val_logits"].iloc[-1]), [-1.5, 2.0])
    with pytest.raises(InputError, match="has no finished sweep of others; run cnn-xray sweep .* and -p data"):
        module.studied(tmp_path, "others")
    scored = pd.DataFrame(rows).assign(arm=["e", "f", "g"], status="done", test_images=["ours", "others'", "ours"])
    scored.to_csv(tmp_path / "scored.csv", index=False)
    assert module.studied(tmp_path, "images", images="ours")["arm"].tolist() == ["d", "e", "a"]  # not known, ours, ...


def test_a_study_compares_arms_where_both_are(tmp_path):
    for name, arms in (("planted", ["border, plain", "border, cure"]), ("small", ["plain", "other"]), ("dose", ["a"])):
        pd.DataFrame({"arm": arms, "data": "images", "status": "done"}).to_csv(tmp_path / f"{name}.csv", index=False)
    assert module.studied(tmp_path, "images", "plain", "cure")["sweep"].unique().tolist() == ["dose", "planted"]
    with pytest.raises(InputError, match="No sweep of images in .* has the arms 'plain' and 'cura'; there are a; bor"):
        module.studied(tmp_path, "images", "plain", "cura")


def test_a_scheduler_that_is_not_there_is_told_in_a_sentence(tmp_path, monkeypatch):
    faked(monkeypatch)
    with pytest.raises(InputError, match="No Dask scheduler at tcp://127.0.0.1:1 can be reached"):
        sweep(written(tmp_path), scheduler="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_a_cluster_gives_the_same_table_and_a_dead_worker_loses_nothing_finished(tmp_path, monkeypatch):
    """A real scheduler and two workers in processes of their own on loopback."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))
    tables = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        for place, scheduler in (("joblib", ""), ("dask", cluster.scheduler_address)):
            (tmp_path / place).mkdir()
            file = written(tmp_path / place, fixed=TINY | {"runs": str(tmp_path / place / "runs")}, seeds=1)
            tables.append(
                pd.read_csv(sweep(file, jobs=2, scheduler=scheduler)).filter(regex="^(?!.*seconds)(?!train_)")
            )
        cluster.scale(0)  # no worker is left
        monkeypatch.setattr(module, "_rows", partial(lost_worker, module._rows))
        written(tmp_path / "dask", fixed=TINY | {"runs": str(tmp_path / "dask" / "runs")}, seeds=2)
        with pytest.raises(InputError, match="2 of 2 runs failed"):
            sweep(file, jobs=2, scheduler=cluster.scheduler_address)
    pd.testing.assert_frame_equal(*tables, atol=1e-4)
    after = pd.read_csv(file.with_suffix(".csv"))
    assert after["status"].tolist() == ["done", "done", "failed", "failed"]


def lost_worker(rows, todo, jobs, scheduler):
    """As if the worker of each run had died: what is submitted is cancelled."""
    from distributed import Client

    with pytest.MonkeyPatch.context() as patch:
        submit = Client.submit

        def cancelled(client, *told, **how):
            future = submit(client, *told, **how)
            future.cancel()
            return future

        patch.setattr(Client, "submit", cancelled)
        yield from rows(todo, jobs, scheduler)


def test_a_sweep_is_told_on_test_images_once_every_run_is_opened_and_not_before():
    runs = pd.DataFrame({"arm": ["plain", "swapped"], "val_auc": [0.9, 0.8], "test_auc": [0.7, np.nan]})
    half = module.shown_split(runs)
    assert half["auc"].tolist() == [0.9, 0.8] and set(half["images"]) == {"validation"}
    opened = module.shown_split(half.assign(test_auc=[0.7, 0.6]))  # told before, and told anew
    assert opened["auc"].tolist() == [0.7, 0.6] and set(opened["images"]) == {"test"}
    assert opened["val_auc"].tolist() == [0.9, 0.8] and not opened.columns.duplicated().any()
    assert set(module.shown_split(runs.drop(columns="test_auc"))["images"]) == {"validation"}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_no_test_image_is_read_until_it_is_opened(tmp_path, monkeypatch):
    file = written(tmp_path, fixed=TINY | {"runs": str(tmp_path / "runs")}, seeds=1)
    environment = {**os.environ, "CNN_XRAY_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "cnn_xray.report.cli", "sweep", str(file)]
    begun = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    table = file.with_suffix(".csv")
    while not table.exists() and begun.poll() is None:
        time.sleep(0.2)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    begun_at = time.monotonic()
    while [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read_bytes(one)]:
        assert time.monotonic() < begun_at + 60, "a run outlives its sweep"
        time.sleep(0.2)
    assert pd.read_csv(table)["arm"].tolist() == ["plain"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and "2 runs: 1 done, 1 waiting" in told.stdout, told.stderr
    rows = pd.read_csv(table).set_index("arm")
    assert (rows["status"] == "done").all() and rows["val_auc"].between(0, 1).all()
    assert not [name for name in rows if name.startswith("test_")]
    record = json.loads((tmp_path / "runs" / rows.loc["plain", "run"] / "run.json").read_text())
    assert set(record["images"]) == {"train", "val"}
    assert {f"val_R {region}" for region in (*module.REGIONS, *module.UNSEEN)} <= set(rows)
    assert len(module.logits_of(rows.loc["plain", "val_logits"])) == record["images"]["val"]
    phantom = next((tmp_path / "cache" / "phantoms").glob("*/manifest.csv"))
    written(
        tmp_path,
        fixed=TINY | {"runs": str(tmp_path / "runs")},
        seeds=1,
        open_test=True,
        external={"data": str(phantom)},
    )
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and "2 runs: 0 done, 2 waiting" in told.stdout, told.stderr
    opened = pd.read_csv(table).set_index("arm")
    assert opened["run"].tolist() == rows["run"].tolist()
    assert opened[["test_auc", "conflict_auc", "test_AUC lost border"]].notna().all(axis=None)
    pd.testing.assert_series_equal(opened["external_auc"], opened["test_auc"], check_names=False)  # the same images
    pd.testing.assert_series_equal(opened["val_auc"], rows["val_auc"])
    pd.testing.assert_series_equal(opened["val_R border"], rows["val_R border"])
    monkeypatch.setenv("CNN_XRAY_CACHE", environment["CNN_XRAY_CACHE"])
    first = Planned("plain", 0, TINY | {"runs": str(tmp_path / "runs")}, open_test=True)
    assert {"val_R border", "test_R border"} <= set(module.measured(first))  # opened at once
    assert "val_R border" not in module.measured(replace(first, validated=True))
    shifted = Planned("plain", 0, TINY, True, {"seed": 9, "artifact_rho": 0.0, "artifact_kinds": "text"}).elsewhere()
    assert (shifted.seed, shifted.rho, shifted.artifact_kinds) == (9, 0, "text")  # another phantom, as it is asked for
    assert (
        json.loads((tmp_path / "runs" / rows.loc["plain", "run"] / "run.json").read_text())["trained_by"]
        == record["trained_by"]
    )
