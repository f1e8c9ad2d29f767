"""The manifest from a Kaggle folder and from a CSV, and every input it refuses."""

from pathlib import Path

import pandas as pd
import pytest

from cnn_xray import InputError
from cnn_xray.data import patient_of, read_manifest

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
    assert read_manifest(folder.parent).root == folder


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("person1_bacteria_1", "person1_bacteria"),
        ("person1_virus_6", "person1_virus"),
        ("person1234_virus_12_1", "person1234_virus"),
        ("IM-0115-0001", "IM-0115"),
        ("IM-0115-0001-0002", "IM-0115"),
        ("NORMAL2-IM-0115-0001", "NORMAL2-IM-0115"),
        ("scan7", None),
    ],
)
def test_patient_from_the_file_name_with_counters_kept_apart(stem, patient):
    assert patient_of(stem) == patient


def test_names_without_a_patient_are_said(folder):
    (folder / "train/NORMAL/scan7.png").touch()
    found = read_manifest(folder)
    assert found.table.set_index("path")["patient"]["train/NORMAL/scan7.png"] == "train/NORMAL/scan7.png"
    assert "CC BY 4.0" in found.notes[0] and "1 file names carry no patient" in found.notes[1]


def test_metadata_beside_the_images_is_used(folder):
    rows = {"path": ["test/NORMAL/IM-0001-0001.jpeg"], "original_width": [1857], "original_height": [1317],
            "lung_mask": ["lung_masks/a.png"], "pathogen": ["x"]}  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    table = read_manifest(folder).table.set_index("path")
    assert table.loc["test/NORMAL/IM-0001-0001.jpeg", "original_width"] == 1857
    assert table["original_width"].isna().sum() == 8
    assert table["lung_mask"].notna().sum() == 1


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
    columns.update(changes)
    file = tmp_path / "films.csv"
    pd.DataFrame({name: values for name, values in columns.items() if values is not None}).to_csv(file, index=False)
    return file


def test_csv_of_the_users_own(tmp_path):
    found = read_manifest(csv(tmp_path, original_width=[10, 20, None, 40]))
    assert found.table["label"].tolist() == [0, 1, 0, 1]
    assert found.table["original_width"].isna().tolist() == [False, False, True, False]
    assert found.name == "films"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patient": None}, "lacks the column patient"),
        ({"label": ["NORMAL", "FLU", "NORMAL", "PNEUMONIA"]}, "line 3: 'FLU'"),
        ({"split": ["train", "holdout", "test", "test"]}, "unknown split holdout"),
        ({"split": ["train"] * 4}, "no image in the split test"),
        ({"path": ["a.png", "../b.png", "c.png", "d.png"]}, "outside .* e.g. ../b.png"),
        ({"path": ["a.png", "/etc/b.png", "c.png", "d.png"]}, "outside .* e.g. /etc/b.png"),
        ({"path": ["a.png", str(Path.cwd() / "b.png"), "c.png", "d.png"]}, "outside"),
        ({"path": ["a.png", "a.png", "c.png", "d.png"]}, "more than once, e.g. a.png"),
        ({"path": ["a.png", "", "c.png", "d.png"]}, "line 3: path is empty"),
        ({"patient": ["1", "2", "2", "4"]}, "1 patients .* both training and test data: 2"),
        ({"original_width": ["10", "wide", "", ""]}, "original_width of b.png is 'wide'"),
        ({"lung_mask": ["../../m.png", "", "", ""]}, "lung_mask lie outside"),
    ],
)
def test_refused_tables(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_manifest(csv(tmp_path, **changes))


def test_a_file_that_is_no_table(tmp_path):
    file = tmp_path / "films.csv"
    file.write_bytes(b"\xff\xfe\x00\x01\x02\xff")
    with pytest.raises(InputError, match="films.csv"):
        read_manifest(file)
