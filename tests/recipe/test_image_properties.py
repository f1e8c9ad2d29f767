"""Crude properties of images, and what each says of the class."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from conflicting_images import discordant_auc
from image_properties import PROPERTIES, against_class, image_properties, log_odds_by_property
from noise_images import N, noise_dataset
from sklearn.metrics import roc_auc_score


def test_properties_by_hand():
    images = noise_dataset()
    images.pixels[0] = 100
    images.pixels[1] = np.tile([[90, 110], [110, 90]], (8, 8))
    images.pixels[2] = cv2.GaussianBlur(images.pixels[3], (5, 5), 1.0)
    images.table.loc[0, ["original_width", "original_height"]] = [1000, 500]
    found = image_properties(images)
    assert tuple(found.columns) == PROPERTIES and len(found) == N and found.notna().all(axis=None)
    flat, checks, blurred, sharp = (found.iloc[row] for row in range(4))
    assert flat.to_dict() == pytest.approx(
        {"size": math.log(500_000), "proportions": math.log(2), "sharpness": math.log(1e-3), "exposure": 100,
         "contrast": 0}, abs=1e-6)  # fmt: skip
    # The Laplacian of the chequers is four times the step of 20, up and down.
    assert (checks["exposure"], checks["contrast"]) == (100, 10)
    assert checks["sharpness"] == pytest.approx(math.log(80), abs=1e-3)
    assert blurred["sharpness"] < sharp["sharpness"] - 1 and blurred["contrast"] < sharp["contrast"]


def test_unknown_sizes_count_as_the_median_and_none_at_all_as_nothing():
    images = noise_dataset(split=["train"] * 100 + ["val"] * 20)
    found = image_properties(images)
    images.table.loc[5, ["original_width", "original_height"]] = pd.NA
    found, known = image_properties(images), found.drop(index=5)
    for name in ("size", "proportions"):
        assert found[name][5] == pytest.approx(known[name].median())
        np.testing.assert_allclose(found[name].drop(index=5), known[name])
    nothing = noise_dataset(original_width=pd.array([pd.NA] * N, "Int64"))
    assert (image_properties(nothing)[["size", "proportions"]] == 0).all(axis=None)


def test_the_median_size_is_that_of_the_images_for_fitting():
    images, other = noise_dataset(), noise_dataset()
    for one in (images, other):
        one.table.loc[5, ["original_width", "original_height"]] = pd.NA
    other.table.loc[other.rows("test"), "original_width"] = 9000
    assert image_properties(images)["size"][5] == image_properties(other)["size"][5]


def test_a_property_that_tells_nothing_ties_all_images():
    constant = noise_dataset(original_width=1000, original_height=800)
    log_odds = log_odds_by_property(constant)
    assert log_odds["size"].nunique() == log_odds["proportions"].nunique() == 1 < log_odds["exposure"].nunique()
    assert math.isnan(
        discordant_auc(constant.table["label"], np.arange(N), log_odds["size"], noise_dataset().table["patient"]).value
    )


def test_what_goes_with_the_class_is_suspected_each_property_for_itself():
    images = noise_dataset()
    positive = images.table["label"] == 1
    images.table.loc[positive, "original_width"] += 400
    extreme = np.where(np.arange(N) // 2 % 2 == 0, 40, -40)  # of exposure: only its square tells
    images.pixels[:] = images.pixels + np.where(positive, extreme, 0)[:, None, None]
    log_odds = log_odds_by_property(images)
    assert tuple(log_odds.columns) == PROPERTIES and log_odds.index.equals(images.table.index)
    aucs = {name: roc_auc_score(positive, log_odds[name]) for name in log_odds}
    assert aucs["size"] > 0.99 and aucs["exposure"] > 0.99 and aucs["proportions"] > 0.9
    assert max(aucs["contrast"], aucs["sharpness"]) < 0.65


def test_log_odds_are_fitted_on_the_images_for_fitting_alone():
    images = noise_dataset()
    log_odds = log_odds_by_property(images)
    test = images.rows("test")
    other = replace(images, table=images.table.copy(), pixels=images.pixels.copy())
    other.table.loc[test, "label"] = 1
    other.table.loc[test, "original_width"] = 5000
    other.pixels[test] //= 2
    others = np.setdiff1d(np.arange(N), test)
    pd.testing.assert_frame_equal(log_odds_by_property(other).iloc[others], log_odds.iloc[others])
    assert (log_odds_by_property(other).iloc[test] != log_odds.iloc[test]).all(axis=None)
    for split in ("train", "val"):
        changed = replace(images, table=images.table.copy())
        changed.table.loc[images.rows(split), "label"] = 1 - images.table["label"]
        assert (log_odds_by_property(changed) != log_odds).all(axis=None)


def test_log_odds_against_the_class_by_hand():
    against = against_class(pd.DataFrame({"size": [2.0, 3.0]}), pd.Series([0, 1]))
    assert against["size"].tolist() == [2, -3]
