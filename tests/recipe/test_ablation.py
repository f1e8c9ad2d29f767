"""The recipe is chosen without the test split: the selection runs to its end although no test image can be read."""

from pathlib import Path

import ablation
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import InputError, images
from cnn_xray.parameters import TrainParameters


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The selection with two tiny arms, writing into an empty folder."""
    base = {"image_size": 32, "width": 4, "epochs": 1, "keep_epoch": "last", "runs": str(tmp_path / "runs")}
    for name, value in {
        "BASE": base, "ARMS": {"base": {}, "no blur": {"blur": 0.0}}, "SEEDS": (0,), "REFERENCE_SIDE": 32,
        "TABLE": tmp_path / "ablation.csv", "TEST": tmp_path / "ablation_test.csv",
    }.items():  # fmt: skip
        monkeypatch.setattr(ablation, name, value)
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """40 noise images to fit on, of a size each, and 8 of the test split: a manifest CSV and its folder."""
    folder, rng, rows = tmp_path / "noise", np.random.default_rng(0), []
    folder.mkdir()
    for i in range(48):
        size = (int(rng.integers(40, 80)), int(rng.integers(40, 80)))
        Image.fromarray(rng.integers(0, 256, size).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "label": i % 2, "split": "train" if i < 40 else "test", "patient": f"p{i}"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def test_selection_never_sees_the_test_split(tiny, folder, monkeypatch):
    test_images = {folder / f"{i}.png" for i in range(40, 48)}
    for image in test_images:
        image.write_text("not an image")  # whoever decodes it is refused
    opened, digested = set(), set()
    decode, digests = images.decode, images.digests
    monkeypatch.setattr(images, "decode", lambda file, *rest: (opened.add(Path(file)), decode(file, *rest))[1])
    monkeypatch.setattr(images, "digests", lambda files, *rest: (digested.update(files), digests(files, *rest))[1])

    ablation.select(str(folder / "manifest.csv"))
    table = pd.read_csv(ablation.TABLE)
    assert table["arm"].tolist() == ["base", "no blur"] and table["stressed_auc"].between(0, 1).all()
    assert not ablation.TEST.exists() and not [name for name in table if "test" in name]
    assert digested and not test_images & (opened | digested)
    for run in table["run"]:
        predictions = pd.read_csv(folder.parent / "runs" / run / "predictions.csv")
        assert (
            set(predictions["split"]) == {"val"} and not {folder / path for path in predictions["path"]} & test_images
        )

    with pytest.raises(InputError, match="8 images"):  # the trap is set: opening the test split would have sprung it
        ablation.open_test(str(folder / "manifest.csv"))


def test_the_labels_of_test_images_change_nothing(tiny, folder):
    place = str(folder / "manifest.csv")
    ablation.select(place)
    before = pd.read_csv(ablation.TABLE)
    ablation.TABLE.unlink()
    table = pd.read_csv(place)
    table.loc[table["split"] == "test", "label"] = 1 - table["label"]
    table.to_csv(place, index=False)
    ablation.select(place)
    pd.testing.assert_frame_equal(pd.read_csv(ablation.TABLE), before)


def test_the_test_split_is_opened_when_nothing_is_left_to_choose(tiny, folder, monkeypatch):
    place = str(folder / "manifest.csv")
    with pytest.raises(SystemExit, match="finish the selection"):
        ablation.open_test(place)
    ablation.select(place)
    ablation.open_test(place)
    opened = pd.read_csv(ablation.TEST)
    assert opened["arm"].tolist() == ["base", "no blur"] and opened["test_auc"].between(0, 1).all()
    assert opened["run"].tolist() == pd.read_csv(ablation.TABLE)["run"].tolist()
    monkeypatch.setattr("cnn_xray.runs.Run.score", lambda *_: pytest.fail("scored again"))
    ablation.open_test(place)
    ablation.select(place)


def test_the_default_recipe_is_the_arm_that_won():
    """Of the arms of full size that train within ten minutes on two cores (the strata take a third of the images)."""
    table = pd.read_csv(ablation.TABLE)
    assert not set(table.groupby("arm").size()) - {len(ablation.SEEDS)}, "an arm lacks seeds"
    of_arms = table[table["arm"].str.startswith("full size")].groupby("arm")
    affordable = of_arms["train_seconds"].mean() * 1.5 < 600
    arm = of_arms["changed_auc"].mean()[affordable].idxmax()
    views = of_arms[list(ablation.VIEWS)].mean().loc[arm].idxmax()
    locked = TrainParameters(data="images").resolved()
    won = {**ablation.BASE, **ablation.ARMS[arm], "tta": ablation.VIEWS[views]}
    assert {name: getattr(locked, name) for name in won} == won
    assert list(ablation.LOCKED.values())[-1] == arm


def test_means_of_arms_by_hand():
    figures = {"stressed_auc": [0.8, 0.9, 0.5], "changed_auc": [0.7, 0.7, 0.6], "test_auc": [0.9, 1, 0.8]}
    networks = pd.DataFrame(
        {"arm": ["base", "base", "letterbox"], "seed": [0, 1, 0], "opened_after": "first", **figures}
    )
    found = ablation.means_of_arms(networks)
    assert found["test_auc"].to_dict() == {"base": pytest.approx(0.95), "letterbox": 0.8}
    assert (
        found.loc["base", "sd_stressed_auc"] == pytest.approx(0.1 / 2**0.5) and found.loc["base", "sd_changed_auc"] == 0
    )
    assert found["less_jitter"].to_dict() == {"base": False, "letterbox": True}


def test_rank_correlation_by_hand():
    found = ablation.rank_correlation(pd.Series([1.0, 5, 20, 100]), pd.Series([1, 2, 4, 3]))
    assert found.value == pytest.approx(0.8) and found.n == 4  # 1 − 6·2 / (4·15)
    assert found.low < 0.8 < found.high < 1
