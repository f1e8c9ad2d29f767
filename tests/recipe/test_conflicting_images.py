"""Stressed validation: discordant pairs and left-out strata by hand, and crude properties of films."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError, stress
from cnn_xray.data import Dataset
from cnn_xray.geometry import View
from cnn_xray.statistics import interval, sample_and_replicates
from cnn_xray.stress import PROPERTIES, discordant_auc, left_out, left_out_auc, properties, suspicion, without_strata


def people(n: int) -> list[str]:
    return [f"p{row}" for row in range(n)]


# ---- discordant pairs. Of positives A, B and negatives C, D, E, F these are discordant: A–C (a tie), A–D (right),
# A–E (wrong) and B–D (wrong). B and E are equally suspected; F is suspected less than either positive.
LABELS = [1, 1, 0, 0, 0, 0]
SUSPECTED = [1, 3, 2, 4, 3, 0]
SCORES = [0.90, 0.20, 0.90, 0.50, 0.95, 0.99]


def test_discordant_pairs_by_hand():
    found = discordant_auc(LABELS, SCORES, SUSPECTED, people(6))
    assert found.value == pytest.approx(1.5 / 4) and found.n == 5
    assert 0 <= found.low <= found.value <= found.high <= 1
    without_f = discordant_auc(LABELS[:5], SCORES[:5], SUSPECTED[:5], people(5))
    assert without_f.value == found.value and without_f.n == 5


def noise(n: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and suspicions, the latter two with ties."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, n), rng.normal(size=n).round(1), rng.normal(size=n).round(1)


def by_hand(labels, scores, suspected) -> float:
    """The share of discordant pairs in order, pair by pair."""
    right = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            if suspected[i] < suspected[j]:
                pairs += 1
                right += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    return right / pairs if pairs else math.nan


def test_it_is_the_share_of_pairs_in_order():
    y, s, q = noise(200)
    assert discordant_auc(y, s, q, people(200)).value == pytest.approx(by_hand(y, s, q), abs=1e-12)


def test_who_follows_the_suspicion_scores_nothing_and_who_opposes_it_everything():
    y, _, q = noise(200)
    assert discordant_auc(y, q, q, people(200)).value == 0
    assert discordant_auc(y, -q, q, people(200)).value == 1
    assert discordant_auc(y, np.zeros(200), q, people(200)).value == 0.5


def test_its_interval_is_that_of_repeated_rows():
    y, s, q = noise()
    patients = np.array([f"p{row // 2}" for row in range(30)])
    found = discordant_auc(y, s, q, patients)
    weights = sample_and_replicates(patients)
    replicates = [by_hand(*(np.repeat(column, drawn) for column in (y, s, q))) for drawn in weights[1:]]
    assert (found.low, found.high) == pytest.approx(interval(replicates), abs=1e-12)


def test_films_of_one_patient_count_as_one():
    y, s, q = (np.repeat(column, 5) for column in noise())
    apart = discordant_auc(y, s, q, people(150))
    together = discordant_auc(y, s, q, np.repeat(people(30), 5))
    assert together.value == pytest.approx(apart.value) == pytest.approx(by_hand(*noise()))
    assert 1.5 < (together.high - together.low) / (apart.high - apart.low) < 3.2  # about the root of five


def test_without_a_discordant_pair_there_is_no_value():
    for labels, suspected in (([1, 1, 0, 0], [3, 4, 1, 3]), ([1, 1, 0, 0], [0] * 4), ([1] * 4, [1, 2, 3, 4]), ([], [])):
        found = discordant_auc(labels, suspected, suspected, people(len(labels)))
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high) and found.n == 0


def test_one_patient_gives_no_interval():
    found = discordant_auc(LABELS, SCORES, SUSPECTED, ["one"] * 6)
    assert found.value == 1.5 / 4 and math.isnan(found.low) and math.isnan(found.high)


def test_bad_input_is_a_sentence():
    good = {"labels": [1, 0], "scores": [0.1, 0.2], "suspected": [0.0, 1.0], "patients": ["a", "b"]}
    for change in ({"labels": [1, 2]}, {"labels": [1]}, {"scores": [1]}, {"suspected": [[0, 1]]}, {"patients": ["a"]}):
        with pytest.raises(InputError, match="^Discordant pairs need a"):
            discordant_auc(**(good | change))
    with pytest.raises(InputError, match="1 of 2 images have no patient"):
        discordant_auc(**(good | {"patients": ["a", None]}))


# ---- what films give away

N = 120


def data(seed: int = 0, **columns) -> Dataset:
    """Films of noise, half of either class, that give nothing away; two thirds to train, the rest val and test."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(N)],
            "label": np.arange(N) % 2,
            "split": np.repeat(["train", "val", "test"], [80, 20, 20]),
            "patient": people(N),
            "original_width": rng.integers(900, 1100, N),
            "original_height": rng.integers(700, 900, N),
        }
    ).assign(**columns)
    table = table.astype({"original_width": "Int64", "original_height": "Int64"})
    pixels = rng.integers(50, 200, (N, 16, 16)).astype(np.uint8)
    return Dataset("films", Path("."), table, View(0.0, "squash", 16), pixels, [], None, None, "0123", ())


def test_properties_by_hand():
    films = data()
    films.pixels[0] = 100
    films.pixels[1] = np.tile([[90, 110], [110, 90]], (8, 8))
    films.pixels[2] = cv2.GaussianBlur(films.pixels[3], (5, 5), 1.0)
    films.table.loc[0, ["original_width", "original_height"]] = [1000, 500]
    found = properties(films)
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
    films = data(split=["train"] * 100 + ["val"] * 20)
    found = properties(films)
    films.table.loc[5, ["original_width", "original_height"]] = pd.NA
    found, known = properties(films), found.drop(index=5)
    for name in ("size", "proportions"):
        assert found[name][5] == pytest.approx(known[name].median())
        np.testing.assert_allclose(found[name].drop(index=5), known[name])
    nothing = data(original_width=pd.array([pd.NA] * N, "Int64"))
    assert (properties(nothing)[["size", "proportions"]] == 0).all(axis=None)


def test_the_median_size_is_that_of_the_films_for_fitting():
    films, other = data(), data()
    for one in (films, other):
        one.table.loc[5, ["original_width", "original_height"]] = pd.NA
    other.table.loc[other.rows("test"), "original_width"] = 9000
    assert properties(films)["size"][5] == properties(other)["size"][5]


def test_a_property_that_tells_nothing_ties_all_films():
    constant = data(original_width=1000, original_height=800)
    told = suspicion(constant)
    assert told["size"].nunique() == told["proportions"].nunique() == 1 < told["exposure"].nunique()
    assert math.isnan(discordant_auc(constant.table["label"], np.arange(N), told["size"], people(N)).value)


def test_what_goes_with_the_class_is_suspected_each_property_for_itself():
    films = data()
    positive = films.table["label"] == 1
    films.table.loc[positive, "original_width"] += 400
    extreme = np.where(np.arange(N) // 2 % 2 == 0, 40, -40)  # of exposure: only its square tells
    films.pixels[:] = films.pixels + np.where(positive, extreme, 0)[:, None, None]
    told = suspicion(films)
    assert tuple(told.columns) == PROPERTIES and told.index.equals(films.table.index)
    aucs = {name: roc_auc_score(positive, told[name]) for name in told}
    assert aucs["size"] > 0.99 and aucs["exposure"] > 0.99 and aucs["proportions"] > 0.9
    assert max(aucs["contrast"], aucs["sharpness"]) < 0.65


def test_suspicion_is_fitted_on_the_films_for_fitting_alone():
    films = data()
    told = suspicion(films)
    test = films.rows("test")
    other = replace(films, table=films.table.copy(), pixels=films.pixels.copy())
    other.table.loc[test, "label"] = 1
    other.table.loc[test, "original_width"] = 5000
    other.pixels[test] //= 2
    others = np.setdiff1d(np.arange(N), test)
    pd.testing.assert_frame_equal(suspicion(other).iloc[others], told.iloc[others])
    assert (suspicion(other).iloc[test] != told.iloc[test]).all(axis=None)
    for split in ("train", "val"):
        changed = replace(films, table=films.table.copy())
        changed.table.loc[films.rows(split), "label"] = 1 - films.table["label"]
        assert (suspicion(changed) != told).all(axis=None)


# ---- left-out strata


def test_the_films_that_speak_most_against_their_class_are_left_out_by_hand():
    table = pd.DataFrame({"label": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], "patient": list("abccdefghi")})
    suspected = pd.DataFrame(
        {"size": [5.0, 1, 9, 1, 2, 7, 3, 8, 9, 6], "contrast": [0.0, 9, 8, 9, 0, 5, 4, 3, 2, 1]}
    )  # of the normal films a high suspicion speaks against the class, of the others a low one
    strata = left_out(table, suspected, 0.4)
    # size: of the normal films a (5), then c (mean of 9 and 1: also 5, but with it there would be three), of two
    # allowed; of the others f (3) and i (6). contrast: b (9), then c (8.5) is too many; i (1) and h (2).
    assert strata["size"].to_numpy().nonzero()[0].tolist() == [0, 6, 9]
    assert strata["contrast"].to_numpy().nonzero()[0].tolist() == [1, 8, 9]
    assert not left_out(table, suspected, 0.19).any(axis=None)


def test_a_stratum_is_whole_patients_and_no_more_than_its_share():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"label": np.repeat([0, 1], [400, 100])})
    table["patient"] = table["label"].astype(str) + "-" + pd.Series(rng.integers(0, 60, 500)).astype(str)
    told = pd.DataFrame(rng.normal(size=(500, 5)), columns=list(PROPERTIES))
    strata = left_out(table, told)
    assert tuple(strata.columns) == PROPERTIES
    for name in strata:
        assert (strata[name].groupby(table["patient"]).nunique() == 1).all()
        share = strata[name].groupby(table["label"]).mean()
        assert (share <= stress.LEFT_OUT).all() and (share > stress.LEFT_OUT - 0.05).all()
        for label, sign in ((0, 1), (1, -1)):
            means = sign * told[name][table["label"] == label].groupby(table["patient"]).mean()
            out = means.index.isin(table["patient"][strata[name]])
            assert means[out].min() >= means[~out].max()
    shuffled = rng.permutation(500)
    again = left_out(table.iloc[shuffled].reset_index(drop=True), told.iloc[shuffled].reset_index(drop=True))
    np.testing.assert_array_equal(again, strata.iloc[shuffled])


def test_without_the_strata_is_the_rest_to_train_on():
    films = data(split=["train"] * 100 + ["val"] * 20)
    strata = pd.DataFrame(False, index=range(N), columns=list(PROPERTIES))
    strata.loc[[3, 8], "size"] = strata.loc[[8, 110], "contrast"] = True
    rest = without_strata(films, strata)
    assert rest.rows("val").tolist() == [3, 8, 110] and len(rest.rows("train")) == N - 3
    assert rest.pixels is films.pixels and films.rows("val").tolist() == list(range(100, 120))
    assert rest.fingerprint != films.fingerprint == "0123"
    assert without_strata(films, strata[["contrast", "size"]]).fingerprint == rest.fingerprint
    assert without_strata(films, strata[["size"]]).fingerprint != rest.fingerprint


def test_strata_need_both_classes_inside_and_outside():
    films = data(split=["train"] * 100 + ["val"] * 20)
    nothing = pd.DataFrame(False, index=range(N), columns=["size"])
    for held_out in ([], [2, 4], range(N), range(0, N, 2)):
        strata = nothing.copy()
        strata.loc[list(held_out), "size"] = True
        with pytest.raises(InputError, match="^Stressed validation needs films of both classes held out and kept"):
            without_strata(films, strata)


def test_a_class_with_too_few_patients_has_no_stratum():
    films = data()
    films.table.loc[films.table["label"] == 1, "patient"] = "one"
    assert left_out(films.table, suspicion(films)).empty


def test_the_auc_of_each_stratum_by_hand():
    table = pd.DataFrame({"label": [0, 0, 1, 1, 1]})
    strata = pd.DataFrame({"size": [True, True, True, False, True], "contrast": [True, False, False, True, True]})
    found = left_out_auc(table, [0.4, 0.7, 0.5, 0.1, 0.9], strata)
    assert found.to_dict() == {"size": 0.75, "contrast": 0.5}


def test_a_property_without_differences_has_no_stratum():
    constant = data(original_width=1000, original_height=800)
    assert list(left_out(constant.table, suspicion(constant))) == ["sharpness", "exposure", "contrast"]
