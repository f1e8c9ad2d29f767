"""The assembled data set: alignment, bad images, masks, fingerprint, and the phantom's pairs."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import InputError, geometry
from cnn_xray.data import FITTING, load_dataset
from cnn_xray.geometry import View
from cnn_xray.parameters import DataParameters

MASKED = 10  # a seed that validates on films with a lung mask


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


def load(films, splits=None, **more):
    return load_dataset(DataParameters(data=str(films / "manifest.csv"), image_size=32, **more), splits=splits)


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
    data = load_dataset(DataParameters(phantom_images=80))
    rows = {name: data.rows(name) for name in ("test", "neutral", "conflict", "clean")}
    patients = [data.table.iloc[part][["patient", "label"]].to_numpy().tolist() for part in rows.values()]
    assert patients[0] == patients[1] == patients[2] == patients[3]
    marked = data.artifacts[rows["conflict"]].any(axis=(1, 2))
    assert (marked == (data.table["label"].to_numpy()[rows["conflict"]] == 0)).all()
    assert not data.artifacts[rows["clean"]].any()
    np.testing.assert_array_equal(data.pixels[rows["conflict"][~marked]], data.pixels[rows["clean"][~marked]])


def test_a_crop_of_an_eighth_removes_the_border_artifact():
    p = DataParameters(phantom_images=80)
    assert load_dataset(p).artifacts.any()
    assert not load_dataset(p, View(0.125, "square", 64)).artifacts.any()


# ---- some of the splits


def test_what_is_not_asked_for_is_not_read(films):
    whole = load(films)
    for i in range(16, 24):
        (films / f"{i}.png").write_text("garbage")
    (films / "mask16.png").write_text("garbage")
    with pytest.raises(InputError, match="8 images and masks cannot be read"):  # without its film a mask is not read
        load(films)
    data = load(films, splits=FITTING)
    assert set(data.table["split"]) == set(FITTING) and len(data.table) == len(data.lungs) == len(data.placements) == 16
    fitting = whole.rows(*FITTING)
    pd.testing.assert_frame_equal(data.table, whole.table.iloc[fitting].reset_index(drop=True))
    np.testing.assert_array_equal(data.pixels, whole.pixels[fitting])
    np.testing.assert_array_equal(data.lungs, whole.lungs[fitting])
    assert data.fingerprint != whole.fingerprint


def test_every_film_keeps_its_own_pixels_where_others_before_it_are_not_read(films):
    table = pd.read_csv(films / "manifest.csv")
    table.iloc[::-1].to_csv(films / "manifest.csv", index=False)
    for more in ({}, {"keep": "border"}, {"artifact_rho": 0.9, "artifact_amplitude": 0.05}):
        data = load(films, splits=FITTING, **more)
        assert set(data.table["split"]) == set(FITTING) and len(data.pixels) == len(data.table) == 16
        for film, path in zip(data.pixels, data.table["path"], strict=True):
            assert int(film[0, 15]) == pytest.approx(10 * int(path.removesuffix(".png")), abs=2)


# ---- a part of the film


def test_films_without_a_mask_are_left_out_where_a_part_needs_one(films):
    data = load(films, keep="outside_lungs", seed=MASKED)
    assert data.table["path"].tolist() == [f"{i}.png" for i in range(0, 24, 2)]
    assert len(data.pixels) == len(data.placements) == len(data.lungs) == 12 and data.artifacts is None
    assert data.notes[-1] == "12 films without a lung mask were left out."
    for film, mask, path in zip(data.pixels, data.lungs, data.table["path"], strict=True):
        assert not film[mask].any() and mask.mean() == pytest.approx(0.25, abs=0.02)
        assert film[~mask].mean() == pytest.approx(10 * int(path.removesuffix(".png")), abs=1)
    assert data.rows("test").tolist() == [8, 9, 10, 11]


def test_the_box_is_that_of_the_training_masks_alone(films):
    table = load(films).table
    for name, split in zip(table["path"], table["split"], strict=True):
        mask = np.full((40, 40), 255, np.uint8)  # of films that must not be looked at
        if split == "train":
            mask = np.pad(np.full((20, 20), 255, np.uint8), 10)
        Image.fromarray(mask).save(films / f"mask{name}")
    table.assign(lung_mask="mask" + table["path"]).to_csv(films / "manifest.csv", index=False)
    data = load(films, keep="outside_lung_box", crop=0.1)
    assert len(data.table) == 24 and set(data.table["split"]) == {"train", "val", "test"}
    box = np.zeros((32, 32), bool)
    box[6:26, 6:26] = True  # 10:30 of 40 px, of which the crop cut four
    black = data.pixels[data.table["path"] != "0.png"] == 0  # that film is black throughout
    assert (black == box).all()


def test_a_part_of_the_phantom_keeps_its_pairs():
    whole = load_dataset(DataParameters(phantom_images=80, border=0.125))
    data = load_dataset(DataParameters(phantom_images=80, border=0.125, keep="centre"))
    assert (data.pixels[:, :8] == 128).all() and (data.pixels[:, :, -8:] == 128).all()
    np.testing.assert_array_equal(data.pixels[:, 8:-8, 8:-8], whole.pixels[:, 8:-8, 8:-8])
    np.testing.assert_array_equal(data.pixels[data.rows("conflict")], data.pixels[data.rows("clean")])
    assert (whole.pixels[whole.rows("conflict")] != whole.pixels[whole.rows("clean")]).any()


@pytest.mark.parametrize("part", geometry.NEED_LUNGS)
def test_a_part_that_needs_masks_says_so_where_there_are_none(films, part):
    table = pd.read_csv(films / "manifest.csv").drop(columns="lung_mask")
    table.to_csv(films / "manifest.csv", index=False)
    with pytest.raises(InputError, match=rf"^keep is '{part}', which needs lung masks, and these data have none\.$"):
        load(films, keep=part)


def test_masks_for_one_class_or_one_split_are_not_enough(films):
    table = pd.read_csv(films / "manifest.csv")
    table.loc[(table["split"] == "test") & (table["label"] == 1), "lung_mask"] = np.nan
    table.to_csv(films / "manifest.csv", index=False)
    with pytest.raises(InputError, match="no test film that is PNEUMONIA has one"):
        load(films, keep="lung_outline")
    assert len(load(films, keep="border").table) == 24


def test_empty_masks_are_no_masks(films):
    for mask in films.glob("mask*.png"):
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(mask)
    with pytest.raises(InputError, match="which needs lung masks, but no"):
        load(films, keep="outside_lungs")


@pytest.mark.parametrize("border", [0.49, 0.01])
def test_a_ring_that_leaves_all_or_nothing_is_refused(films, ring):
    with pytest.raises(InputError, match=f"ring is {ring}, which is"):
        load(films, keep="centre", border=ring)


# ---- permuted labels


def test_permuting_moves_only_the_labels_of_training_and_validation():
    true = load_dataset(DataParameters(phantom_images=160))
    permuted = load_dataset(DataParameters(phantom_images=160, labels="permuted"))
    fit, test = true.rows("train", "val"), true.rows("test", "neutral", "conflict", "clean")
    labels = [data.table["label"].to_numpy() for data in (true, permuted)]
    assert (labels[0][test] == labels[1][test]).all()
    for name in ("train", "val"):
        rows = true.rows(name)
        assert labels[0][rows].sum() == labels[1][rows].sum()
        assert (labels[0][rows] == labels[1][rows]).mean() == pytest.approx(0.5, abs=0.25)
    same = [column for column in true.table if column != "label"]
    pd.testing.assert_frame_equal(true.table[same], permuted.table[same])
    np.testing.assert_array_equal(true.pixels[fit], permuted.pixels[fit])
    assert (load_dataset(DataParameters(phantom_images=160, labels="permuted")).table["label"] == labels[1]).all()


def test_the_fingerprint_is_that_of_the_files_whatever_is_kept_planted_or_permuted(films):
    first = load(films, seed=MASKED).fingerprint
    for change in ({"keep": "lung_outline"}, {"keep": "border"}, {"artifact_rho": 0.5}, {"labels": "permuted"}):
        assert load(films, seed=MASKED, **change).fingerprint == first


def test_planted_films_without_masks_are_left_out_in_all_four_versions(films):
    data = load(films, artifact_rho=0.5, keep="outside_lungs", seed=MASKED)
    assert data.table["split"].isin(["train", "val"]).sum() == 8
    tests = data.table.groupby("split")["path"].agg(list)[["test", "neutral", "conflict", "clean"]]
    assert all(paths == ["16.png", "18.png", "20.png", "22.png"] for paths in tests)
    assert len(data.pixels) == len(data.placements) == len(data.lungs) == len(data.artifacts) == 24
    assert data.artifacts.any(axis=(1, 2)).tolist() == (data.table["artifact"] == 1).tolist()
    marked = data.table["artifact"] == 1
    for film, area, path in zip(data.pixels[marked], data.artifacts[marked], data.table["path"][marked], strict=True):
        assert film[area].max() > 10 * int(path.removesuffix(".png")) + 5
