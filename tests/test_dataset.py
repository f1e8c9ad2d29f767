"""The assembled data set: alignment, bad images, masks, fingerprint, and the phantom's pairs."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import dataset
from cnn_xray.errors import InputError
from cnn_xray.parameters import DataParameters
from cnn_xray.view import View


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def films(tmp_path):
    """24 grey films, each of its own brightness, 16 to train on; masks for half of them."""
    folder = tmp_path / "films"
    folder.mkdir()
    rows = []
    for i in range(24):
        Image.fromarray(np.full((40, 40), 10 * i, np.uint8)).save(folder / f"{i}.png")
        if i % 2 == 0:
            mask = np.zeros((40, 40), np.uint8)
            mask[10:30, 10:30] = 255
            Image.fromarray(mask).save(folder / f"mask{i}.png")
        rows.append({"path": f"{i}.png", "label": i % 3 == 0, "split": "train" if i < 16 else "test",
                     "patient": f"p{i}", "lung_mask": f"mask{i}.png" if i % 2 == 0 else ""})  # fmt: skip
    table = pd.DataFrame(rows)
    table["label"] = table["label"].astype(int)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


def load(films, **more):
    return dataset.load(DataParameters(data=str(films / "manifest.csv"), image_size=32, **more))


def test_rows_stay_aligned(films):
    data = load(films)
    assert len(data.table) == 24 and data.pixels.shape == (24, 32, 32)
    for row, path in enumerate(data.table["path"]):
        assert data.pixels[row].mean() == pytest.approx(10 * int(path.removesuffix(".png")), abs=1)
    assert data.table["has_lung"].sum() == 12
    assert data.lungs[data.table["has_lung"]].mean() == pytest.approx(0.25, abs=0.02)
    assert not data.lungs[~data.table["has_lung"]].any()
    assert data.artifacts is None
    assert set(data.table["split"]) == {"train", "val", "test"}


def test_original_sizes_come_from_the_files_when_nothing_else_is_known(films):
    assert load(films).table["original_width"].tolist() == [40] * 24


def test_partly_known_sizes_stay_unknown_and_are_said(films):
    table = pd.read_csv(films / "manifest.csv")
    table["original_width"], table["original_height"] = 80, 40
    table.loc[3, ["original_width", "original_height"]] = np.nan
    table.to_csv(films / "manifest.csv", index=False)
    data = load(films, aspect="square")
    assert data.table["original_width"].isna().sum() == 1
    assert "1 images have no known original size" in data.notes[0]
    assert {place.window for place in data.placements} == {(0.25, 0.0, 0.75, 1.0)}


def test_bad_images_are_refused_or_skipped_and_said(films):
    (films / "5.png").write_bytes(b"")
    (films / "7.png").write_text("no image")
    with pytest.raises(InputError, match="2 images and masks cannot be read") as error:
        load(films)
    assert "5.png" in str(error.value) and "7.png" in str(error.value)
    data = load(films, on_bad_image="skip")
    assert len(data.table) == len(data.pixels) == len(data.placements) == len(data.lungs) == 22
    assert {"5.png", "7.png"}.isdisjoint(data.table["path"])
    assert data.pixels[data.table["path"] == "8.png"].mean() == pytest.approx(80, abs=1)
    assert "2 images and masks could not be read" in data.notes[0] and "5.png" in data.notes[0]


def test_a_mask_of_another_size_is_refused_or_left_out(films):
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(films / "mask4.png")
    with pytest.raises(InputError, match=r"mask4.png: the mask has 40×20 px, its image 40×40"):
        load(films)
    data = load(films, on_bad_image="skip")
    assert len(data.table) == 24 and data.table["has_lung"].sum() == 11


def test_nothing_readable_is_an_error_even_when_skipping(films):
    for i in range(24):
        (films / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match="None of the 24 images"):
        load(films, on_bad_image="skip")


def test_the_fingerprint_follows_content_labels_and_split_not_place(films, tmp_path):
    first = load(films).fingerprint
    assert load(films, crop=0.1).fingerprint == first
    os.rename(films, tmp_path / "moved")
    moved = tmp_path / "moved"
    assert load(moved).fingerprint == first
    assert load(moved, seed=1).fingerprint != first
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(moved / "mask4.png")
    other_mask = load(moved).fingerprint
    assert other_mask != first
    Image.fromarray(np.full((40, 40), 77, np.uint8)).save(moved / "3.png")
    assert load(moved).fingerprint not in (first, other_mask)


def test_the_phantoms_test_sets_are_pairs():
    data = dataset.load(DataParameters(phantom_images=80))
    rows = {name: data.rows(name) for name in ("test", "neutral", "conflict", "clean")}
    patients = [data.table.iloc[part][["patient", "label"]].to_numpy().tolist() for part in rows.values()]
    assert patients[0] == patients[1] == patients[2] == patients[3]
    marked = data.artifacts[rows["conflict"]].any(axis=(1, 2))
    assert (marked == (data.table["label"].to_numpy()[rows["conflict"]] == 0)).all()
    assert not data.artifacts[rows["clean"]].any()
    np.testing.assert_array_equal(data.pixels[rows["conflict"][~marked]], data.pixels[rows["clean"][~marked]])


def test_a_crop_of_an_eighth_removes_the_border_artifact():
    p = DataParameters(phantom_images=80)
    assert dataset.load(p).artifacts.any()
    assert not dataset.load(p, View(0.125, "square", 64)).artifacts.any()
