from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError
from cnn_xray.data import patients_in_two_splits, validation_split


def table(rows: list[tuple[str, int, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["patient", "label", "split"])
    frame.insert(0, "path", [f"{row}.png" for row in range(len(frame))])
    return frame


def cohort() -> pd.DataFrame:
    """60 normal patients with one image, 80 ill ones with 1 to 5 (240 images), 20 test images; 3 rows in
    val."""
    rows = [(f"n{i}", 0, "train") for i in range(60)]
    rows += [(f"p{i}", 1, "train") for i in range(80) for _ in range(1 + i % 5)]
    rows += [(f"t{i}", i % 2, "test") for i in range(20)]
    frame = table(rows)
    frame.loc[[0, 60, 61], "split"] = "val"
    return frame


def test_each_class_is_cut_at_the_fraction_and_no_patient_is_cut_in_two():
    result = validation_split(cohort(), fraction=0.15, seed=0)
    val = result[result["split"] == "val"]
    assert (val["label"] == 0).sum() == 9  # 15 % of 60
    assert abs((val["label"] == 1).sum() - 36) <= 2  # 15 % of 240, to within half of the largest patient
    assert result.groupby("patient")["split"].nunique().max() == 1
    assert patients_in_two_splits(result, pooled=False).empty


def test_the_input_and_its_test_rows_stay_as_they_are():
    frame = cohort()
    before = frame.copy()
    result = validation_split(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(result.drop(columns="split"), before.drop(columns="split"))
    tested = before["split"] == "test"
    assert (result.loc[tested, "split"] == "test").all()
    assert set(result.loc[~tested, "split"]) == {"train", "val"}


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
    frame = table([(patient, label, "train") for patient, label in zip("abcdd", (0, 0, 1, 1, 1), strict=True)])
    for seed in range(5):
        result = validation_split(frame, fraction=(0.15, 0.9)[seed % 2], seed=seed)
        assert result.groupby("split")["label"].nunique().to_dict() == {"train": 2, "val": 2}


def test_patients_with_both_labels_stay_whole():
    rows = [(f"m{i}", i % 2, "train") for i in range(10)] + [(f"m{i}", 1 - i % 2, "train") for i in range(10)]
    result = validation_split(table(rows), fraction=0.2)
    assert (result["split"] == "val").sum() == 4
    assert result.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0, "train"), ("b", 1, "train"), ("c", 1, "train")], r"1 patient\(s\) have images of label 0"),
        ([("a", 0, "train"), ("b", 0, "train")], r"0 patient\(s\) have images of label 1"),
        ([("a", 0, "test"), ("b", 1, "test")], "nothing to fit"),
        # Whichever way these three are divided by stratum, validation stays without a class.
        ([("a", 0, "train"), ("m", 0, "train"), ("m", 1, "train"), ("b", 1, "train")], "would lack a class"),
    ],
)
def test_an_impossible_split_says_why(rows, message):
    with pytest.raises(InputError, match=message):
        validation_split(table(rows))


def test_other_bad_input():
    for fraction in (0, 1, 15):
        with pytest.raises(InputError, match=f"fraction is {fraction}"):
            validation_split(cohort(), fraction=fraction)
    frame = cohort()
    frame.loc[3, "patient"] = None
    with pytest.raises(InputError, match="1 training images have no patient"):
        validation_split(frame)


def test_leaking_patients_are_named_and_paired_test_sets_are_not():
    frame = table(
        [
            ("a", 0, "train"), ("a", 0, "val"),  # pooled before the split: no leakage yet
            ("b", 1, "train"), ("b", 1, "test"), ("b", 1, "test"),
            ("c", 1, "val"), ("c", 1, "conflict"),
            ("d", 0, "test"), ("d", 0, "neutral"), ("d", 0, "clean"),
            ("e", 0, "train"), ("e", 0, "train"),
        ]
    )  # fmt: skip
    found = patients_in_two_splits(frame)
    assert found.values.tolist() == [["b", "test, train", 3], ["c", "conflict, val", 2]]
    assert list(found.columns) == ["patient", "splits", "n"]
    divided = patients_in_two_splits(frame, pooled=False)
    assert divided["patient"].tolist() == ["a", "b", "c"] and divided["splits"][0] == "train, val"
    clean = patients_in_two_splits(frame[frame["patient"].isin(["d", "e"])])
    assert clean.empty and list(clean.columns) == ["patient", "splits", "n"]
