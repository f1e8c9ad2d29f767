"""One way in: manifests from folders and CSVs, splits by patient, the data set, and artifacts planted in it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import InputError, geometry
from cnn_xray.data import (
    FITTING,
    _phantom_spec,
    load_dataset,
    name_of,
    patients_in_two_splits,
    plant,
    read_manifest,
    validation_split,
)
from cnn_xray.geometry import View
from cnn_xray.parameters import DataParameters

TEST_SETS = ["test", "neutral", "conflict", "clean"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(cache))


# ---- manifests

FILES = {
    "train/NORMAL": ["IM-0115-0001.jpeg", "NORMAL2-IM-0115-0001.jpeg"],
    "train/PNEUMONIA": ["person1_bacteria_1.jpeg", "person1_virus_6.jpeg", "person1_bacteria_2.jpeg"],
    "val/NORMAL": ["NORMAL2-IM-1427-0001.jpeg"],
    "val/PNEUMONIA": ["person1946_bacteria_4874.jpeg"],
    "test/NORMAL": ["IM-0001-0001.jpeg", ".DS_Store", "notes.txt"],
    "test/PNEUMONIA": ["person3_virus_16.jpeg"],
}


@pytest.fixture
def folder(tmp_path):
    for place, names in FILES.items():
        (tmp_path / "chest_xray" / place).mkdir(parents=True)
        for name in names:
            (tmp_path / "chest_xray" / place / name).touch()
    return tmp_path / "chest_xray"


def test_kaggle_layout(folder):
    found = read_manifest(folder)
    assert found.name == "chest_xray"
    assert list(found.table.columns[:4]) == ["path", "label", "split", "patient"]
    assert found.table["split"].value_counts().to_dict() == {"train": 5, "val": 2, "test": 2}
    assert found.table["label"].sum() == 5
    assert found.table["original_width"].isna().all() and found.table["lung_mask"].isna().all()


def test_the_zip_that_nests_the_folder_once_more(folder):
    found = read_manifest(folder.parent)
    assert found.root == folder and found.name == name_of(folder.parent) != "chest_xray"  # in reports as well


def test_patients_come_from_the_file_names_with_counters_kept_apart(folder):
    for name in ("person1234_virus_12_1", "IM-0115-0001-0002", "IM-0115"):
        (folder / f"train/NORMAL/{name}.png").touch()
    patients = read_manifest(folder).table.set_index("path")["patient"]
    found = {Path(path).stem: patient for path, patient in patients.items() if path.startswith("train")}
    assert found == {
        "person1_bacteria_1": "person1_bacteria",
        "person1_bacteria_2": "person1_bacteria",
        "person1_virus_6": "person1_virus",
        "person1234_virus_12_1": "person1234_virus",
        "IM-0115-0001": "IM-0115",
        "IM-0115-0001-0002": "IM-0115",
        "NORMAL2-IM-0115-0001": "NORMAL2-IM-0115",
        "IM-0115": "train/NORMAL/IM-0115.png",  # says nothing of an image's number, so nothing of a patient
    }


def test_names_of_another_collection_are_not_taken_for_this_one(folder):
    for file in [*folder.glob("*/*/person*"), *folder.glob("*/*/NORMAL2*")]:
        file.rename(file.with_name(f"IM-{len(file.name):04d}-0007{file.suffix}"))  # as a viewer exports a series
    found = read_manifest(folder)
    assert (found.table["patient"] == found.table["path"]).all()
    assert len(found.notes) == 1 and "carry no patient" in found.notes[0]


def test_names_without_a_patient_are_said(folder):
    (folder / "train/NORMAL/scan7.png").touch()
    found = read_manifest(folder)
    assert found.table.set_index("path")["patient"]["train/NORMAL/scan7.png"] == "train/NORMAL/scan7.png"
    assert "CC BY 4.0" in found.notes[0] and "1 file names carry no patient" in found.notes[1]


def test_metadata_beside_the_images_is_used(folder):
    header = "path,original_width,original_height,lung_mask,pathogen"
    (folder / "metadata.csv").write_text(f"{header}\ntest/NORMAL/IM-0001-0001.jpeg,1857,1317,lung_masks/a.png,x\n")
    table = read_manifest(folder).table.set_index("path")
    assert table.loc["test/NORMAL/IM-0001-0001.jpeg", "original_width"] == 1857
    assert table["original_width"].isna().sum() == 8
    assert table["lung_mask"].notna().sum() == 1 and "pathogen" not in table


def test_lung_masks_beside_the_images_are_used_without_metadata(folder):
    mask = folder / "lung_masks/test/NORMAL/IM-0001-0001.png"
    mask.parent.mkdir(parents=True)
    mask.touch()
    found = read_manifest(folder).table.set_index("path")["lung_mask"].dropna()
    assert found.to_dict() == {"test/NORMAL/IM-0001-0001.jpeg": "lung_masks/test/NORMAL/IM-0001-0001.png"}


def test_metadata_of_other_images_are_refused(folder):
    (folder / "metadata.csv").write_text("path,original_width\nelsewhere.jpeg,100\n")
    with pytest.raises(InputError, match="No path in .* is that of an image, e.g. elsewhere.jpeg"):
        read_manifest(folder)


def test_missing_empty_and_absent_folders(folder, tmp_path):
    with pytest.raises(InputError, match="No data at"):
        read_manifest(tmp_path / "nowhere")
    (folder / "test/PNEUMONIA/person3_virus_16.jpeg").unlink()
    with pytest.raises(InputError, match=r"test.PNEUMONIA is empty"):
        read_manifest(folder)
    (folder / "test/PNEUMONIA").rmdir()
    with pytest.raises(InputError, match=r"test.PNEUMONIA is absent"):
        read_manifest(folder)


def csv(tmp_path, **changes):
    columns = {
        "path": ["a.png", "b.png", "c.png", "d.png"],
        "label": ["NORMAL", "PNEUMONIA", 0, 1],
        "split": ["train", "train", "test", "test"],
        "patient": ["1", "2", "3", "4"],
    }
    file = tmp_path / "cohort.csv"
    kept = {name: values for name, values in (columns | changes).items() if values is not None}
    pd.DataFrame(kept).to_csv(file, index=False)
    return file


def test_csv_of_the_users_own(tmp_path):
    found = read_manifest(csv(tmp_path, original_width=[10, 20, None, 40]))
    assert found.table["label"].tolist() == [0, 1, 0, 1]
    assert found.table["original_width"].isna().tolist() == [False, False, True, False]
    assert found.name == "cohort"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patient": None}, "lacks the column patient"),
        ({"label": ["NORMAL", "FLU", "NORMAL", "PNEUMONIA"]}, "line 3: 'FLU'"),
        ({"split": ["train", "holdout", "test", "test"]}, "unknown split holdout"),
        ({"split": ["train"] * 4}, "no image in the split test"),
        ({"path": ["a.png", "../b.png", "c.png", "d.png"]}, "outside .* e.g. ../b.png"),
        ({"path": ["a.png", "/etc/b.png", "c.png", "d.png"]}, "outside .* e.g. /etc/b.png"),
        ({"path": ["a.png", "a.png", "c.png", "d.png"]}, "more than once, e.g. a.png"),
        ({"path": ["a.png", "./a.png", "c.png", "d.png"]}, "more than once, e.g. a.png"),
        ({"path": ["a.png", "", "c.png", "d.png"]}, "line 3: path is empty"),
        ({"patient": ["1", "2", "2", "4"]}, "1 patients .* both training and test data: 2"),
        ({"patient": ["1", "2", " 2 ", "4"]}, "1 patients .* both training and test data: 2"),
        ({"patient": ["1", "2", " ", "4"]}, "line 4: patient is empty"),
        ({"original_width": ["10", "wide", "", ""]}, "original_width of b.png is 'wide'"),
        ({"original_width": ["10", "", "0", "inf"]}, "original_width of c.png is '0'"),
        ({"lung_mask": ["../../m.png", "", "", ""]}, "lung_mask lie outside"),
    ],
)
def test_refused_tables(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_manifest(csv(tmp_path, **changes))


def test_an_absolute_path_is_refused_even_inside(tmp_path):
    with pytest.raises(InputError, match="b.png is absolute; paths are relative"):
        read_manifest(csv(tmp_path, path=["a.png", str(tmp_path / "b.png"), "c.png", "d.png"]))


def test_a_file_that_is_no_table(tmp_path):
    file = tmp_path / "cohort.csv"
    file.write_bytes(b"\xff\xfe\x00\x01\x02\xff")
    with pytest.raises(InputError, match="cohort.csv"):
        read_manifest(file)


# ---- patients and splits


def table_of(rows):
    frame = pd.DataFrame(rows, columns=["patient", "label", "split"])
    frame.insert(0, "path", [f"{row}.png" for row in range(len(frame))])
    return frame


def cohort():
    """60 normal patients with one image, 80 ill ones with 1 to 5 (240 images), 20 test images; 3 rows in val."""
    rows = [(f"n{i}", 0, "train") for i in range(60)]
    rows += [(f"p{i}", 1, "train") for i in range(80) for _ in range(1 + i % 5)]
    rows += [(f"t{i}", i % 2, "test") for i in range(20)]
    frame = table_of(rows)
    frame.loc[[0, 60, 61], "split"] = "val"
    return frame


def test_each_class_is_cut_at_the_fraction_and_no_patient_is_cut_in_two():
    frame = cohort()
    result = validation_split(frame)
    val = result[result["split"] == "val"]
    assert (val["label"] == 0).sum() == 9  # 15 % of 60
    assert abs((val["label"] == 1).sum() - 36) <= 2  # 15 % of 240, to within half of the largest patient
    assert result.groupby("patient")["split"].nunique().max() == 1
    assert patients_in_two_splits(result, pooled=False).empty
    pd.testing.assert_frame_equal(frame, cohort())
    pd.testing.assert_frame_equal(result.drop(columns="split"), frame.drop(columns="split"))
    assert ((result["split"] == "test") == (frame["split"] == "test")).all()
    assert set(result["split"]) == {"train", "val", "test"}


def test_the_split_follows_the_seed_and_not_the_order_of_rows():
    frame = cohort()
    result = validation_split(frame, seed=1)
    assert result["split"].equals(validation_split(frame, seed=1)["split"])
    assert not result["split"].equals(validation_split(frame, seed=2)["split"])
    shuffled = frame.iloc[np.random.default_rng(0).permutation(len(frame))]
    assert validation_split(shuffled, seed=1)["split"].sort_index().equals(result["split"])
    # The folder an image came from, train or val, does not matter either.
    moved = frame.assign(split=frame["split"].replace("val", "train"))
    assert validation_split(moved, seed=1)["split"].equals(result["split"])


def test_two_patients_a_class_are_enough():
    frame = table_of([(patient, label, "train") for patient, label in zip("abcdd", (0, 0, 1, 1, 1), strict=True)])
    for seed in range(5):
        result = validation_split(frame, seed)
        assert result.groupby("split")["label"].nunique().to_dict() == {"train": 2, "val": 2}


def test_patients_with_both_labels_stay_whole():
    rows = [(f"m{i}", i % 2, "train") for i in range(20)] + [(f"m{i}", 1 - i % 2, "train") for i in range(20)]
    result = validation_split(table_of(rows))
    assert (result["split"] == "val").sum() == 6
    assert result.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([("a", 0, "train"), ("b", 1, "train"), ("c", 1, "train")], (1, 2)),
        ([("a", 0, "train"), ("b", 0, "train")], (2, 0)),
        ([("a", 0, "test"), ("b", 1, "test")], (0, 0)),
        # Whichever way these three are divided by stratum, validation stays without a class.
        ([("a", 0, "train"), ("m", 0, "train"), ("m", 1, "train"), ("b", 1, "train")], (2, 2)),
    ],
)
def test_an_impossible_split_says_why(rows, counts):
    said = "The validation split would lack a class: .* {} patients have NORMAL images and {} PNEUMONIA"
    with pytest.raises(InputError, match=said.format(*counts)):
        validation_split(table_of(rows))


def test_leaking_patients_are_named_and_paired_test_sets_are_not():
    splits = {
        "a": ["train", "val"],  # pooled before the split: no leakage yet
        "b": ["train", "test", "test"],
        "c": ["val", "conflict"],
        "d": ["test", "neutral", "clean"],
        "e": ["train", "train"],
    }
    frame = table_of([(patient, 0, split) for patient, names in splits.items() for split in names])
    found = patients_in_two_splits(frame)
    assert found.values.tolist() == [["b", "test, train", 3], ["c", "conflict, val", 2]]
    assert list(found.columns) == ["patient", "splits", "n"]
    divided = patients_in_two_splits(frame, pooled=False)
    assert divided["patient"].tolist() == ["a", "b", "c"] and divided["splits"][0] == "train, val"
    clean = patients_in_two_splits(frame[frame["patient"].isin(["d", "e"])])
    assert clean.empty and list(clean.columns) == ["patient", "splits", "n"]


# ---- the data set

MASKED = 10  # a seed that validates on images with a lung mask


@pytest.fixture
def images(tmp_path):
    """24 grey images, each of its own brightness, 16 to train on; masks for half of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for i in range(24):
        Image.fromarray(np.full((40, 40), 10 * i, np.uint8)).save(folder / f"{i}.png")
        if i % 2 == 0:
            mask = np.zeros((40, 40), np.uint8)
            mask[10:30, 10:30] = 255
            Image.fromarray(mask).save(folder / f"mask{i}.png")
        mask = f"mask{i}.png" if i % 2 == 0 else ""
        rows.append((f"{i}.png", int(i % 3 == 0), "train" if i < 16 else "test", f"p{i}", mask))
    table = pd.DataFrame(rows, columns=["path", "label", "split", "patient", "lung_mask"])
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


def load(images, splits=None, **more):
    return load_dataset(DataParameters(data=str(images / "manifest.csv"), image_size=32, **more), splits=splits)


def test_rows_stay_aligned(images):
    data = load(images)
    assert len(data.table) == 24 and data.pixels.shape == (24, 32, 32)
    for row, path in enumerate(data.table["path"]):
        assert data.pixels[row].mean() == pytest.approx(10 * int(path.removesuffix(".png")), abs=1)
    assert data.table["has_lung"].sum() == 12
    assert data.lungs[data.table["has_lung"]].mean() == pytest.approx(0.25, abs=0.02)
    assert not data.lungs[~data.table["has_lung"]].any()
    assert data.artifacts is None
    assert set(data.table["split"]) == {"train", "val", "test"}


def test_the_order_of_a_table_changes_nothing(images):
    before = load(images)
    pd.read_csv(images / "manifest.csv").sample(frac=1, random_state=0).to_csv(images / "manifest.csv", index=False)
    pd.testing.assert_frame_equal(load(images).table, before.table)


def test_masks_of_zeros_and_ones_are_refused_not_taken_for_empty(images):
    for file in images.glob("mask*.png"):
        Image.fromarray(np.asarray(Image.open(file)) // 255).save(file)
    with pytest.raises(InputError, match="no pixel above 127, .* highest value is 1. Save them as 0 and 255"):
        load(images)


def test_test_images_have_no_part_in_how_training_images_are_seen(images):
    table = pd.read_csv(images / "manifest.csv")
    table["original_width"], table["original_height"] = 80, 40
    table.loc[[1, 3], ["original_width", "original_height"]] = np.nan
    seen = []
    for width in (80, 400):
        table.loc[table["split"] == "test", "original_width"] = width
        table.to_csv(images / "manifest.csv", index=False)
        seen.append(load(images, aspect="letterbox").placements[:16])
    assert seen[0] == seen[1]
    mask = np.zeros((40, 40), np.uint8)
    mask[2:38, 2:38] = 255
    Image.fromarray(mask).save(images / "mask20.png")  # of a test image
    whole, fitting = (load(images, crop_to="lungs", splits=splits) for splits in (None, FITTING))
    assert whole.placements[:16] == fitting.placements


def test_original_sizes_come_from_the_files_when_nothing_else_is_known(images):
    assert load(images).table["original_width"].tolist() == [40] * 24


def test_what_is_read_does_not_decide_who_knows_its_size(images):
    table = pd.read_csv(images / "manifest.csv")
    sizes = np.where(table["split"] == "test", 40, np.nan)
    table.assign(original_width=sizes, original_height=sizes).to_csv(images / "manifest.csv", index=False)
    assert load(images).fingerprint == load(images, splits=FITTING).fingerprint


def test_partly_known_sizes_stay_unknown_and_are_said(images):
    table = pd.read_csv(images / "manifest.csv")
    table["original_width"], table["original_height"] = 80, 40
    table.loc[3, ["original_width", "original_height"]] = np.nan
    table.to_csv(images / "manifest.csv", index=False)
    data = load(images, aspect="square")
    assert data.table["original_width"].isna().sum() == 1
    assert "1 images have no known original size" in data.notes[0]
    assert {place.window for place in data.placements} == {(0.25, 0.0, 0.75, 1.0)}


def test_bad_images_are_refused_or_skipped_and_said(images):
    (images / "5.png").write_bytes(b"")
    (images / "7.png").write_text("no image")
    with pytest.raises(InputError, match="2 images and masks cannot be read") as error:
        load(images)
    assert "5.png: the file is empty" in str(error.value) and "7.png: not a readable image" in str(error.value)
    assert "on_bad_image = skip" in str(error.value)
    data = load(images, on_bad_image="skip")
    assert len(data.table) == len(data.pixels) == len(data.placements) == len(data.lungs) == 22
    assert {"5.png", "7.png"}.isdisjoint(data.table["path"])
    assert data.pixels[data.table["path"] == "8.png"].mean() == pytest.approx(80, abs=1)
    assert "2 images and masks could not be read" in data.notes[0] and "5.png" in data.notes[0]


def test_a_mask_of_another_size_is_refused_or_left_out(images):
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(images / "mask4.png")
    with pytest.raises(InputError, match=r"mask4.png: the mask has 40×20 px, its image 40×40"):
        load(images)
    data = load(images, on_bad_image="skip")
    assert len(data.table) == 24 and data.table["has_lung"].sum() == 11


def test_nothing_readable_is_an_error_even_when_skipping(images):
    for i in range(24):
        (images / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match="None of the 24 images"):
        load(images, on_bad_image="skip")


def test_the_fingerprint_follows_content_labels_and_split_not_place(images, tmp_path):
    first = load(images).fingerprint
    assert load(images, crop=0.1).fingerprint == first
    os.rename(images, tmp_path / "moved")
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


def test_what_is_not_asked_for_is_not_read(images):
    whole = load(images)
    for i in range(16, 24):
        (images / f"{i}.png").write_text("garbage")
    (images / "mask16.png").write_text("garbage")
    with pytest.raises(InputError, match="8 images and masks cannot be read"):  # without its image a mask is not read
        load(images)
    data = load(images, splits=FITTING)
    assert set(data.table["split"]) == set(FITTING) and len(data.table) == len(data.lungs) == len(data.placements) == 16
    fitting = whole.rows(*FITTING)
    pd.testing.assert_frame_equal(data.table, whole.table.iloc[fitting].reset_index(drop=True))
    np.testing.assert_array_equal(data.pixels, whole.pixels[fitting])
    np.testing.assert_array_equal(data.lungs, whole.lungs[fitting])
    assert data.fingerprint == whole.fingerprint and data.test_fingerprint == "" != whole.test_fingerprint


def test_test_images_alone_are_enough_where_nothing_is_fitted(images):
    whole, table = load(images), pd.read_csv(images / "manifest.csv")
    table[table["split"] == "test"].to_csv(images / "manifest.csv", index=False)
    alone = load(images, splits=("test",))
    np.testing.assert_array_equal(alone.pixels, whole.pixels[whole.rows("test")])
    assert alone.fingerprint == "" and alone.test_fingerprint == whole.test_fingerprint
    with pytest.raises(InputError, match="no image in the split train; needed are train and test images"):
        load(images)


def test_every_image_keeps_its_own_pixels_where_others_before_it_are_not_read(images):
    table = pd.read_csv(images / "manifest.csv")
    table.iloc[::-1].to_csv(images / "manifest.csv", index=False)
    for more in ({}, {"keep": "border"}, {"artifact_rho": 0.9, "artifact_amplitude": 0.05}):
        data = load(images, splits=FITTING, **more)
        assert set(data.table["split"]) == set(FITTING) and len(data.pixels) == len(data.table) == 16
        for image, path in zip(data.pixels, data.table["path"], strict=True):
            assert int(image[0, 15]) == pytest.approx(10 * int(path.removesuffix(".png")), abs=2)


def test_images_without_a_mask_are_left_out_where_a_part_needs_one(images):
    data = load(images, keep="outside_lungs", seed=MASKED)
    assert set(data.table["path"]) == {f"{i}.png" for i in range(0, 24, 2)}
    assert len(data.pixels) == len(data.placements) == len(data.lungs) == 12 and data.artifacts is None
    assert data.notes[-1] == "12 images without a lung mask were left out."
    for image, mask, path in zip(data.pixels, data.lungs, data.table["path"], strict=True):
        assert not image[mask].any() and mask.mean() == pytest.approx(0.25, abs=0.02)
        assert image[~mask].mean() == pytest.approx(10 * int(path.removesuffix(".png")), abs=1)
    assert data.rows("test").tolist() == [8, 9, 10, 11]


def test_the_box_is_that_of_the_training_masks_alone(images):
    table = load(images).table
    for name, split in zip(table["path"], table["split"], strict=True):
        mask = np.full((40, 40), 255, np.uint8)  # of images that must not be looked at
        if split == "train":
            mask = np.pad(np.full((20, 20), 255, np.uint8), 10)
        Image.fromarray(mask).save(images / f"mask{name}")
    table.assign(lung_mask="mask" + table["path"]).to_csv(images / "manifest.csv", index=False)
    data = load(images, keep="outside_lung_box", crop=0.1)
    assert len(data.table) == 24 and set(data.table["split"]) == {"train", "val", "test"}
    box = np.zeros((32, 32), bool)
    box[6:26, 6:26] = True  # 10:30 of 40 px, of which the crop cut four
    black = data.pixels[data.table["path"] != "0.png"] == 0  # that image is black throughout
    assert (black == box).all()


def test_a_part_of_the_phantom_keeps_its_pairs():
    whole = load_dataset(DataParameters(phantom_images=80, border=0.125))
    data = load_dataset(DataParameters(phantom_images=80, border=0.125, keep="without_border"))
    assert (data.pixels[:, :8] == 0).all() and (data.pixels[:, :, -8:] == 0).all()
    np.testing.assert_array_equal(data.pixels[:, 8:-8, 8:-8], whole.pixels[:, 8:-8, 8:-8])
    np.testing.assert_array_equal(data.pixels[data.rows("conflict")], data.pixels[data.rows("clean")])
    assert (whole.pixels[whole.rows("conflict")] != whole.pixels[whole.rows("clean")]).any()


@pytest.mark.parametrize("part", geometry.NEED_LUNGS)
def test_a_part_that_needs_masks_says_so_where_there_are_none(images, part):
    table = pd.read_csv(images / "manifest.csv").drop(columns="lung_mask")
    table.to_csv(images / "manifest.csv", index=False)
    with pytest.raises(InputError, match=rf"^keep is '{part}', which needs lung masks, and these data have none\.$"):
        load(images, keep=part)


def test_masks_for_one_class_or_one_split_are_not_enough(images):
    table = pd.read_csv(images / "manifest.csv")
    table.loc[(table["split"] == "test") & (table["label"] == 1), "lung_mask"] = np.nan
    table.to_csv(images / "manifest.csv", index=False)
    with pytest.raises(InputError, match="no test image that is PNEUMONIA has one"):
        load(images, keep="lung_outline")
    assert len(load(images, keep="border").table) == 24


def test_empty_masks_are_no_masks(images):
    for mask in images.glob("mask*.png"):
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(mask)
    with pytest.raises(InputError, match="which needs lung masks, but no"):
        load(images, keep="outside_lungs")


def test_a_border_that_leaves_nothing_is_refused(images):
    with pytest.raises(InputError, match="border is 0.49, which is"):
        load(images, keep="without_border", border=0.49)


def test_permuting_moves_only_the_labels_of_training_and_validation():
    true = load_dataset(DataParameters(phantom_images=80))
    permuted = load_dataset(DataParameters(phantom_images=80, labels="permuted"))
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
    assert (load_dataset(DataParameters(phantom_images=80, labels="permuted")).table["label"] == labels[1]).all()


def test_the_fingerprint_is_that_of_the_files_whatever_is_kept_planted_or_permuted(images):
    first = load(images, seed=MASKED).fingerprint
    for change in ({"keep": "lung_outline"}, {"keep": "border"}, {"artifact_rho": 0.5}, {"labels": "permuted"}):
        assert load(images, seed=MASKED, **change).fingerprint == first


def test_planted_images_without_masks_are_left_out_in_all_four_versions(images):
    data = load(images, artifact_rho=0.5, keep="outside_lungs", seed=MASKED)
    assert data.table["split"].isin(["train", "val"]).sum() == 8
    tests = data.table.groupby("split")["path"].agg(list)[["test", "neutral", "conflict", "clean"]]
    assert all(paths == ["16.png", "18.png", "20.png", "22.png"] for paths in tests)
    assert len(data.pixels) == len(data.placements) == len(data.lungs) == len(data.artifacts) == 24
    assert data.artifacts.any(axis=(1, 2)).tolist() == (data.table["artifact"] == 1).tolist()
    marked = data.table["artifact"] == 1
    for image, area, path in zip(data.pixels[marked], data.artifacts[marked], data.table["path"][marked], strict=True):
        assert image[area].max() > 10 * int(path.removesuffix(".png")) + 5


# ---- planted artifacts

N_FITTING, N_TESTING = 24, 12


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A chest_xray folder: images of many sizes, each of its own brightness, brighter to the right, two lungs."""
    folder = tmp_path_factory.mktemp("real") / "chest_xray"
    for split, count in (("train", N_FITTING), ("test", N_TESTING)):
        for i in range(count):
            path = f"{split}/{('NORMAL', 'PNEUMONIA')[i % 2]}/{i}.png"
            height, width = 240 + 3 * i, 400 - 3 * i
            image = 60 + 3 * i + np.tile(np.linspace(0, 60, width), (height, 1))
            mask = np.zeros((height, width), np.uint8)
            mask[60 + i : 180 + i, 60:160] = mask[60:180, 220 : 260 + i] = 255
            for name, picture in ((path, image), (f"lung_masks/{path}", mask)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(folder / name)
    return folder


def load_planted(real, **more):
    return load_dataset(DataParameters(data=str(real), **{"image_size": 64, "artifact_rho": 0.5, **more}))


def planted(table, rho, seed=0, location="border", kinds="exposure", lungs=None, pixels=None):
    """[row, split, whether marked, image, mask] of every version."""
    pixels = np.full((len(table), 32, 32), 100, np.uint8) if pixels is None else pixels
    p = DataParameters(seed=seed, artifact_location=location, artifact_kinds=kinds)
    return list(plant(pixels, table, lungs, p, rho))


def many(count=900):
    """``count`` images of alternating class, a third each to train, to validate and to test on."""
    order = np.arange(count)
    return pd.DataFrame({"label": order % 2, "split": np.array(["train", "val", "test"])[order % 3]})


def test_the_box_about_each_images_lungs_fills_the_view(real):
    whole = load_planted(real, artifact_rho=None, image_size=224)
    data = load_planted(real, artifact_rho=None, crop_to="lungs")
    margin = round(geometry.LUNG_MARGIN * 224) / 224
    for i, (lung, place) in enumerate(zip(data.lungs, data.placements, strict=True)):
        x0, y0, x1, y1 = place.window
        columns, rows = (np.flatnonzero(whole.lungs[i].any(axis=axis)) for axis in (0, 1))
        assert x0 == pytest.approx(columns[0] / 224 - margin) and x1 == pytest.approx((columns[-1] + 1) / 224 + margin)
        assert y0 == pytest.approx(rows[0] / 224 - margin) and y1 == pytest.approx((rows[-1] + 1) / 224 + margin)
        inner = round(margin / (x1 - x0) * 64) + 1
        assert lung[:, inner + 1].any() and not lung[:, : inner - 2].any() and lung[:, -inner - 2].any()
    planted = load_planted(real, crop_to="lungs", artifact_kinds="exposure")
    assert len(planted.table) > len(data.table) and not planted.artifacts.all(axis=(1, 2)).any()
    with pytest.raises(InputError, match="leave crop at 0"):
        DataParameters.from_mapping({"crop_to": "lungs", "crop": 0.1})


def test_where_no_lungs_are_known_the_box_is_the_mean_of_the_others(images):
    data = load(images, crop_to="lungs")
    having = data.table["has_lung"].to_numpy()
    boxes = np.array([place.window for place in data.placements])
    np.testing.assert_allclose(
        boxes[~having], np.tile(boxes[having].mean(axis=0), ((~having).sum(), 1)), atol=0.5 / 224
    )
    manifest = pd.read_csv(images / "manifest.csv")
    manifest.assign(lung_mask=manifest["lung_mask"].where(manifest["split"] == "test")).to_csv(
        images / "manifest.csv", index=False
    )
    assert np.isfinite(
        [place.window for place in load(images, crop_to="lungs").placements]
    ).all()  # of test images alone
    manifest.drop(columns="lung_mask").to_csv(images / "manifest.csv", index=False)
    with pytest.raises(InputError, match="crop_to is 'lungs', which needs lung masks"):
        load(images, crop_to="lungs")


def test_local_equalisation_brings_out_what_is_faint():
    plain, clear = (load_dataset(DataParameters(phantom_images=80, clahe=clip)) for clip in (0.0, 4.0))
    detail = [np.abs(np.diff(data.pixels.astype(float), axis=2)).mean() for data in (plain, clear)]
    assert detail[1] > 1.3 * detail[0] and plain.pixels.shape == clear.pixels.shape


@pytest.mark.parametrize("rho", [0.8, 0.0, -0.5])
def test_the_artifact_agrees_with_the_label_as_often_as_rho_says(rho):
    table = many()
    found = pd.DataFrame([one[:3] for one in planted(table, rho)], columns=["row", "split", "marked"])
    found["label"] = table["label"].to_numpy()[found["row"]]
    share = found.groupby("split")["marked"].agg("mean")
    agrees = (found["marked"] == found["label"]).groupby(found["split"]).mean()
    assert agrees[["train", "val", "test"]].tolist() == pytest.approx([(1 + rho) / 2] * 3, abs=0.08)
    assert agrees["neutral"] == pytest.approx(0.5, abs=0.08)
    assert agrees["conflict"] == 0 and share["clean"] == 0
    train = found[found["split"] == "train"].groupby("label")["marked"].mean()
    assert train.tolist() == pytest.approx([(1 - rho) / 2, (1 + rho) / 2], abs=0.08)  # either class in its measure


def test_training_images_stay_one_and_test_images_become_four():
    table = many(6)
    found = planted(table, 0.5)
    rows, splits = zip(*(one[:2] for one in found), strict=True)
    assert rows == (0, 1, 2, 2, 2, 2, 3, 4, 5, 5, 5, 5)
    assert list(splits) == ["train", "val", *TEST_SETS] * 2


def test_a_marked_image_differs_where_it_says_and_an_unmarked_one_nowhere():
    for _, split, marked, image, mask in planted(many(60), 0.5):
        np.testing.assert_array_equal(image != 100, mask)
        assert mask.any() == marked and not (marked and split == "clean")


def test_a_global_artifact_marks_images_without_a_place():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 32, 32)).astype(np.uint8)
    for row, _, marked, image, mask in planted(many(60), 0.5, location="global", kinds="blur", pixels=pixels):
        assert (image != pixels[row]).any() == marked and not mask.any()


def test_the_seed_decides_which_images_get_it():
    def marks(seed):
        return [marked for _, _, marked, *_ in planted(many(60), 0.5, seed)]

    assert marks(0) == marks(0) != marks(1)


def test_every_kind_is_used():
    areas = [mask.mean() for *_, marked, _, mask in planted(many(60), 0.0, kinds="exposure, vignette") if marked]
    assert min(areas) < 0.1 and max(areas) > 0.3


def test_data_with_test_sets_of_their_own_are_refused():
    table = many(6)
    table.loc[2, "split"] = "conflict"
    with pytest.raises(InputError, match="have the test set conflict"):
        planted(table, 0.5)


def test_everything_stays_aligned_with_the_image_it_came_from(real):
    plain, data = load_planted(real, artifact_rho=None, image_size=224), load_planted(real, image_size=224)
    assert data.table["split"].value_counts()[TEST_SETS].tolist() == [N_TESTING] * 4
    lengths = {len(part) for part in (data.table, data.pixels, data.placements, data.lungs, data.artifacts)}
    assert lengths == {N_FITTING + 4 * N_TESTING}
    source = [plain.table["path"].tolist().index(path) for path in data.table["path"]]
    untouched = ~data.artifacts
    np.testing.assert_array_equal(data.pixels[untouched], plain.pixels[source][untouched])
    assert (data.pixels != plain.pixels[source])[data.artifacts].all()
    np.testing.assert_array_equal(data.lungs, plain.lungs[source])
    assert data.placements == [plain.placements[row] for row in source]
    assert data.table["label"].tolist() == plain.table["label"].iloc[source].tolist()
    assert data.fingerprint == plain.fingerprint
    assert "An artifact (marker, border) was planted, ρ = 0.5." in data.notes
    assert data.artifacts.any(axis=(1, 2)).tolist() == (data.table["artifact"] == 1).tolist()
    assert data.table["has_artifact"].all()


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
def test_the_test_sets_are_counterfactual_twins(real, aspect):
    data = load_planted(real, aspect=aspect, artifact_kinds="vignette")
    sets = {name: data.rows(name) for name in TEST_SETS}
    clean = data.pixels[sets["clean"]]
    assert not data.artifacts[sets["clean"]].any()
    for rows in sets.values():
        assert data.table["path"].iloc[rows].tolist() == data.table["path"].iloc[sets["clean"]].tolist()
        assert not (data.pixels[rows] != clean)[~data.artifacts[rows]].any()
    marked, normal = data.table["artifact"].to_numpy() == 1, data.table["label"].to_numpy() == 0
    np.testing.assert_array_equal(marked[sets["conflict"]], normal[sets["conflict"]])
    assert (data.pixels[sets["conflict"]] != clean).any(axis=(1, 2)).tolist() == normal[sets["conflict"]].tolist()


@pytest.mark.parametrize("view", [{"aspect": "letterbox"}, {"aspect": "square", "crop": 0.2}, {"crop": 0.1}])
def test_a_clean_image_looks_as_it_does_where_nothing_is_planted(real, view):
    plain, data = load_planted(real, artifact_rho=None, **view), load_planted(real, **view)
    clean, test = data.rows("clean"), plain.rows("test")
    difference = data.pixels[clean].astype(int) - plain.pixels[test]
    assert np.abs(difference).max() <= 2  # grey levels, of a frame resampled twice
    assert plain.placements == [data.placements[row] for row in (*data.rows("train", "val"), *clean)]


def test_the_padding_of_a_letterbox_stays_black(real):
    data = load_planted(real, aspect="letterbox", artifact_kinds="exposure")
    assert data.artifacts.any()
    for image, mask, place in zip(data.pixels, data.artifacts, data.placements, strict=True):
        top, bottom = round(place.target[1] * 64), round(place.target[3] * 64)
        assert 0 < top < bottom < 64
        assert not np.delete(image, np.s_[top:bottom], axis=0).any()
        assert not np.delete(mask, np.s_[top:bottom], axis=0).any()


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
def test_a_crop_of_an_eighth_removes_a_marker_at_the_border(real, aspect):
    data = load_planted(real, crop=0.125, aspect=aspect)
    assert not data.artifacts.any() and data.table["artifact"].any()
    for name in TEST_SETS:
        np.testing.assert_array_equal(data.pixels[data.rows(name)], data.pixels[data.rows("clean")])


def test_inside_the_lungs_it_needs_their_masks_and_stays_within(real, tmp_path):
    inside = {"artifact_location": "inside", "artifact_kinds": "marker, text, tubing"}
    data = load_planted(real, image_size=224, **inside)
    assert data.artifacts.any() and not (data.artifacts & ~data.lungs).any()
    (tmp_path / "train").symlink_to(real / "train")
    (tmp_path / "test").symlink_to(real / "test")
    with pytest.raises(InputError, match="artifact_location is 'inside', which needs lung masks, and"):
        load_planted(tmp_path, **inside)
    shutil.copytree(real / "lung_masks", tmp_path / "lung_masks")
    for lost in sorted((tmp_path / "lung_masks").rglob("*.png"))[::9]:
        lost.unlink()
    some, every = load_planted(tmp_path, image_size=224, **inside), load_planted(tmp_path)
    left_out = len(every.rows("train", "val", "clean")) - len(some.rows("train", "val", "clean"))
    assert f"{left_out} images without a lung mask were left out." in some.notes and left_out == 4
    assert some.lungs.any(axis=(1, 2)).all() and not (some.artifacts & ~some.lungs).any()


def test_the_same_seed_gives_the_same_images(real):
    first, again, other = load_planted(real), load_planted(real), load_planted(real, seed=1)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    paths = [data.table.query("split == 'test' and artifact == 1")["path"].tolist() for data in (first, other)]
    assert paths[0] != paths[1]


def test_nothing_is_written_among_the_data(real):
    before = {path: path.stat().st_mtime_ns for path in real.rglob("*")}
    load_planted(real, artifact_kinds="text", keep="border", labels="permuted")
    assert {path: path.stat().st_mtime_ns for path in real.rglob("*")} == before


def test_only_a_part_of_planted_images_can_be_kept(real):
    marked = load_planted(real)
    border, centre = load_planted(real, keep="border"), load_planted(real, keep="without_border")
    for one in (border, centre):
        np.testing.assert_array_equal(one.artifacts, marked.artifacts)
        assert one.table["artifact"].tolist() == marked.table["artifact"].tolist()
    np.testing.assert_array_equal(border.pixels[:, :8], marked.pixels[:, :8])
    assert (border.pixels[:, 8:-8, 8:-8] == 128).all()
    for name in TEST_SETS:  # the marker lies in the border, so the centres are the same
        np.testing.assert_array_equal(centre.pixels[centre.rows(name)], centre.pixels[centre.rows("clean")])
        assert name == "clean" or (border.pixels[border.rows(name)] != border.pixels[border.rows("clean")]).any()


def test_the_phantom_follows_the_parameters():
    spec = _phantom_spec(DataParameters(phantom_images=200, artifact_rho=0.0, image_size=256, seed=7))
    assert (spec.images, spec.test_images, spec.rho, spec.size, spec.seed) == (200, 50, 0.0, 256, 7)
    small, large = (
        _phantom_spec(DataParameters(phantom_images=80)),
        _phantom_spec(DataParameters(phantom_images=5000)),
    )
    assert (small.test_images, large.test_images, small.size) == (24, 300, 128)
