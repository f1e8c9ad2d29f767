"""Discordant pairs and left-out strata by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from conflicting_images import (
    LEFT_OUT,
    auc_by_stratum,
    discordant_auc,
    errors_by_property,
    left_out_strata,
    most_wrong,
    without_strata,
)
from image_properties import PROPERTIES, log_odds_by_property
from noise_images import N, noise_dataset

from cnn_xray import InputError
from cnn_xray.statistics import interval, sample_and_replicates


def people(n: int) -> list[str]:
    return [f"p{row}" for row in range(n)]


# ---- discordant pairs. Of positives A, B and negatives C, D, E, F these are discordant: A–C (a tie), A–D (right),
# A–E (wrong) and B–D (wrong). The log-odds of B and E are equal; those of F are below either positive's.
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
    """Labels, scores and log-odds, the latter two with ties."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, n), rng.normal(size=n).round(1), rng.normal(size=n).round(1)


def by_hand(labels, scores, log_odds) -> float:
    """The share of discordant pairs in order, pair by pair."""
    right = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            if log_odds[i] < log_odds[j]:
                pairs += 1
                right += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    return right / pairs if pairs else math.nan


def test_it_is_the_share_of_pairs_in_order():
    y, s, q = noise(200)
    assert discordant_auc(y, s, q, people(200)).value == pytest.approx(by_hand(y, s, q), abs=1e-12)


def test_who_follows_the_property_scores_nothing_and_who_opposes_it_everything():
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


def test_images_of_one_patient_count_as_one():
    y, s, q = (np.repeat(column, 5) for column in noise())
    apart = discordant_auc(y, s, q, people(150))
    together = discordant_auc(y, s, q, np.repeat(people(30), 5))
    assert together.value == pytest.approx(apart.value) == pytest.approx(by_hand(*noise()))
    assert 1.5 < (together.high - together.low) / (apart.high - apart.low) < 3.2  # about the root of five


def test_without_a_discordant_pair_there_is_no_value():
    for labels, log_odds in (([1, 1, 0, 0], [3, 4, 1, 3]), ([1, 1, 0, 0], [0] * 4), ([1] * 4, [1, 2, 3, 4])):
        found = discordant_auc(labels, log_odds, log_odds, people(len(labels)))
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high) and found.n == 0


def test_one_patient_gives_no_interval():
    found = discordant_auc(LABELS, SCORES, SUSPECTED, ["one"] * 6)
    assert found.value == 1.5 / 4 and math.isnan(found.low) and math.isnan(found.high)


def test_bad_input_is_a_sentence():
    good = {"labels": [1, 0], "scores": [0.1, 0.2], "log_odds": [0.0, 1.0], "patients": ["a", "b"]}
    for change in ({"labels": [1, 2]}, {"labels": [1]}, {"scores": [1]}, {"log_odds": [[0, 1]]}, {"patients": ["a"]}):
        with pytest.raises(InputError, match="^(Labels must|Each image needs)"):
            discordant_auc(**(good | change))
    with pytest.raises(InputError, match="(?i)patient"):
        discordant_auc(**(good | {"patients": ["a", None]}))


# ---- left-out strata


def test_the_images_that_speak_most_against_their_class_are_left_out_by_hand():
    table = pd.DataFrame({"label": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], "patient": list("abccdefghi")})
    log_odds = pd.DataFrame(
        {"size": [5.0, 1, 9, 1, 2, 7, 3, 8, 9, 6], "contrast": [0.0, 9, 8, 9, 0, 5, 4, 3, 2, 1]}
    )  # of the normal images a high value speaks against the class, of the others a low one
    strata = left_out_strata(table, log_odds, 0.4)
    # size: of the normal images a (5), then c (mean of 9 and 1: also 5, but with it there would be three), of two
    # allowed; of the others f (3) and i (6). contrast: b (9), then c (8.5) is too many; i (1) and h (2).
    assert strata["size"].to_numpy().nonzero()[0].tolist() == [0, 6, 9]
    assert strata["contrast"].to_numpy().nonzero()[0].tolist() == [1, 8, 9]
    assert not left_out_strata(table, log_odds, 0.19).any(axis=None)


def test_a_stratum_is_whole_patients_and_no_more_than_its_share():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"label": np.repeat([0, 1], [400, 100])})
    table["patient"] = table["label"].astype(str) + "-" + pd.Series(rng.integers(0, 60, 500)).astype(str)
    log_odds = pd.DataFrame(rng.normal(size=(500, 5)), columns=list(PROPERTIES))
    strata = left_out_strata(table, log_odds)
    assert tuple(strata.columns) == PROPERTIES
    for name in strata:
        assert (strata[name].groupby(table["patient"]).nunique() == 1).all()
        share = strata[name].groupby(table["label"]).mean()
        assert (share <= LEFT_OUT).all() and (share > LEFT_OUT - 0.05).all()
        for label, sign in ((0, 1), (1, -1)):
            means = sign * log_odds[name][table["label"] == label].groupby(table["patient"]).mean()
            out = means.index.isin(table["patient"][strata[name]])
            assert means[out].min() >= means[~out].max()
    shuffled = rng.permutation(500)
    again = left_out_strata(table.iloc[shuffled].reset_index(drop=True), log_odds.iloc[shuffled].reset_index(drop=True))
    np.testing.assert_array_equal(again, strata.iloc[shuffled])


def test_without_the_strata_is_the_rest_to_train_on():
    images = noise_dataset(split=["train"] * 100 + ["val"] * 20)
    strata = pd.DataFrame(False, index=range(N), columns=list(PROPERTIES))
    strata.loc[[3, 8], "size"] = strata.loc[[8, 110], "contrast"] = True
    rest = without_strata(images, strata)
    assert rest.rows("val").tolist() == [3, 8, 110] and len(rest.rows("train")) == N - 3
    assert rest.pixels is images.pixels and images.rows("val").tolist() == list(range(100, 120))
    assert rest.fingerprint != images.fingerprint == "0123"
    assert without_strata(images, strata[["contrast", "size"]]).fingerprint == rest.fingerprint
    assert without_strata(images, strata[["size"]]).fingerprint != rest.fingerprint


def test_strata_need_both_classes_inside_and_outside():
    images = noise_dataset(split=["train"] * 100 + ["val"] * 20)
    nothing = pd.DataFrame(False, index=range(N), columns=["size"])
    for held_out in ([], [2, 4], range(N), range(0, N, 2)):
        strata = nothing.copy()
        strata.loc[list(held_out), "size"] = True
        with pytest.raises(InputError, match="^Left-out strata need images of both classes held out and kept"):
            without_strata(images, strata)


def test_a_class_with_too_few_patients_has_no_stratum():
    images = noise_dataset()
    images.table.loc[images.table["label"] == 1, "patient"] = "one"
    assert left_out_strata(images.table, log_odds_by_property(images)).empty


def test_the_auc_of_each_stratum_by_hand():
    table = pd.DataFrame({"label": [0, 0, 1, 1, 1]})
    strata = pd.DataFrame({"size": [True, True, True, False, True], "contrast": [True, False, False, True, True]})
    found = auc_by_stratum(table["label"], [0.4, 0.7, 0.5, 0.1, 0.9], strata)
    assert found.to_dict() == {"size": 0.75, "contrast": 0.5}


def test_a_property_without_differences_has_no_stratum():
    constant = noise_dataset(original_width=1000, original_height=800)
    assert list(left_out_strata(constant.table, log_odds_by_property(constant))) == [
        "sharpness",
        "exposure",
        "contrast",
    ]


def test_errors_where_a_property_speaks_least_and_most_against_the_class_by_hand():
    log_odds = pd.DataFrame({"size": [1.0, 2, 3, 1, 2, 3], "contrast": 5.0}, index=range(6, 12))
    found = errors_by_property([0, 0.5, 1, 0.25, 0, 0], pd.Series([0, 0, 0, 1, 1, 1], log_odds.index), log_odds)
    assert list(found.index) == ["size"]  # the contrast is the same everywhere
    assert found.loc["size"].to_dict() == {(0, "least"): 0, (0, "most"): 1, (1, "least"): 0, (1, "most"): 0.25}


def test_the_images_that_are_most_wrong_by_hand():
    log_odds = pd.DataFrame({"size": [1.0, 2, -1, 3], "contrast": [0.0, 3, -2, 4]}, index=range(6, 10))
    found = most_wrong(pd.Series([0, 0, 1, 1], log_odds.index), [0.5, -2, -1, 3], log_odds, count=1)
    assert found.to_dict("list") == {
        "place": [2, 0],
        "label": [1, 0],
        "logit": [-1, 0.5],
        "against": ["contrast", "size"],
    }
    assert most_wrong(pd.Series([1]), [0.0], pd.DataFrame({"size": [2.0]}))["against"].tolist() == ["nothing"]
