from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics

from cnn_xray import InputError
from cnn_xray.metrics import (
    Calibration,
    calibration_scores,
    metrics_with_intervals,
    platt_scaling,
    prior_corrected_threshold,
    reliability_bins,
    temperature_scaling,
)
from cnn_xray.statistics import bootstrap_weights, interval

# Two bins: {0.1, 0.2, 0.3} says 0.2 and sees 1/3, {0.6, 0.8, 0.7} says 0.7 and sees 1.
LABELS = [0, 1, 0, 1, 1, 1]
PROBABILITIES = [0.1, 0.3, 0.2, 0.6, 0.8, 0.7]


def ece(labels, probabilities, bins: int = 15) -> float:
    return calibration_scores(labels, probabilities, np.arange(len(labels)), bins).loc["ece", "value"]


def calibrated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose sigmoid is the chance of label 1, and labels drawn with it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, n)
    return logits, (rng.random(n) < expit(logits)).astype(int)


def test_a_probability_from_a_logit():
    found = Calibration(slope=2, intercept=-1).probability([0.5, 1, -1000, 1000])
    assert found.dtype == np.float64
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 0, 1])


def test_temperature_finds_the_factor_that_logits_were_scaled_by():
    logits, labels = calibrated(100_000)
    fit = temperature_scaling(3 * logits, labels)
    assert 1 / fit.slope == pytest.approx(3, rel=0.02) and fit.intercept == 0
    assert 1 / temperature_scaling(logits / 4, labels).slope == pytest.approx(1 / 4, rel=0.02)


def test_temperature_worked_by_hand():
    # At ±2, three of four films are on the right side. Targets for 4 and 4: 5/6 and 1/6, so the mean target at +2 is
    # (3 · 5/6 + 1/6) / 4 = 2/3, and sigmoid(2 / T) = 2/3 where T = 2 / log 2.
    fit = temperature_scaling([2, 2, 2, -2, -2, -2, -2, 2], [1, 1, 1, 1, 0, 0, 0, 0])
    assert 1 / fit.slope == pytest.approx(2 / math.log(2))
    assert fit.probability([2.0]) == pytest.approx([2 / 3])


def test_platt_finds_slope_and_intercept():
    logits, labels = calibrated(100_000)
    fit = platt_scaling((logits + 1.5) / 0.4, labels)
    assert (fit.slope, fit.intercept) == pytest.approx((0.4, -1.5), rel=0.03)


def test_platt_worked_by_hand():
    # Two values of the logit, so the fit meets the mean target at each. Targets: 4/5 for 3 positives, 1/3 for one
    # negative. At 1: 4/5. At 0: (4/5 + 1/3) / 2 = 17/30.
    fit = platt_scaling([1, 1, 0, 0], [1, 1, 1, 0])
    assert fit.probability([0, 1]) == pytest.approx([17 / 30, 4 / 5], rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_the_scale_of_the_logits_does_not_matter_to_platt(scale):
    logits, labels = calibrated(500)
    probabilities = platt_scaling(scale * logits + 7 * scale, labels).probability(scale * logits + 7 * scale)
    np.testing.assert_allclose(probabilities, platt_scaling(logits, labels).probability(logits), atol=1e-5)


def test_separated_classes_give_finite_fits_worked_by_hand():
    # Ten films a class at ±5: every film meets its target, 11/12 or 1/12, at the slope log(11) / 5.
    logits, labels = [-5] * 10 + [5] * 10, [0] * 10 + [1] * 10
    assert temperature_scaling(logits, labels).slope == pytest.approx(math.log(11) / 5)
    fit = platt_scaling(logits, labels)
    assert (fit.slope, fit.intercept) == pytest.approx((math.log(11) / 5, 0), abs=1e-5)


def test_logits_without_use():
    backwards, labels = [1, 2, 3, 4], [1, 1, 0, 0]
    assert 1 / temperature_scaling(backwards, labels).slope == pytest.approx(1000, rel=1e-3)
    assert temperature_scaling(backwards, labels).probability(backwards) == pytest.approx([0.5] * 4, abs=2e-3)
    assert platt_scaling(backwards, labels).slope < 0
    constant = platt_scaling([0.3] * 4, [0, 1, 1, 1])  # targets 4/5 three times and 1/3
    assert constant.slope == 0 and constant.probability([0.3]) == pytest.approx([(3 * 4 / 5 + 1 / 3) / 4])


def test_temperature_keeps_the_ranking_and_the_decision():
    logits, labels = calibrated(400)
    logits = 3 * logits - 1
    probabilities = temperature_scaling(logits, labels).probability(logits)
    assert metrics.roc_auc_score(labels, probabilities) == metrics.roc_auc_score(labels, logits)
    assert ((probabilities >= 0.5) == (logits >= 0)).all()


def test_platt_mends_a_shift_on_new_films_that_temperature_cannot():
    logits, labels = calibrated(4000)
    new, truth = calibrated(4000, seed=1)
    shifted = {name: fit(3 * logits - 4, labels).probability(3 * new - 4) for name, fit in FITS.items()}
    errors = {name: ece(truth, p) for name, p in shifted.items()}
    raw = ece(truth, expit(3 * new - 4))
    assert errors["platt"] < 0.03 < 0.1 < errors["temperature"] < raw


FITS = {"temperature": temperature_scaling, "platt": platt_scaling}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1, 2], [1, 1], "both classes: 2 of 2 are of label 1"),
        ([1, 2], [0, 0], "both classes: 0 of 2"),
        ([], [], "both classes: 0 of 0"),
        ([1, math.nan], [0, 1], "finite .*row 1 has nan"),
        ([math.inf, 1], [0, 1], "finite .*row 0 has inf"),
        ([1, 2, 3], [0, 1], r"\(3,\) and \(2,\)"),
        ([[1], [2]], [0, 1], r"\(2, 1\) and \(2,\)"),
        ([1, 2, 3], [0, 1, 2], "Labels must be 0 or 1: row 2 has 2"),
        (["x", 1], [0, 1], "numbers without gaps"),
    ],
)
def test_a_calibration_cannot_be_fitted_to_bad_input(fit, logits, labels, message):
    with pytest.raises(InputError, match=message):
        fit(logits, labels)


def test_prior_shift_worked_by_hand():
    assert prior_corrected_threshold(0.5, 0.625) == pytest.approx(0.375)  # trained with class weights: 1 − π′
    assert prior_corrected_threshold(0.3, 0.3) == pytest.approx(0.5)
    # Odds from 1/3 to 3, so nine times: a probability of 0.1 (odds 1/9) becomes 0.5.
    assert prior_corrected_threshold(0.25, 0.75) == pytest.approx(0.1)


def test_at_the_shifted_threshold_the_new_films_are_decided_best():
    # Normals N(−1, 1) and pneumonias N(1, 1): trained at 0.5 the logit is 2x, so at 0.9 the best cut is at −log(9).
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.9).astype(int)
    p = expit(2 * (rng.normal(size=50_000) + 2 * labels - 1))
    thresholds = np.linspace(0.02, 0.6, 30)
    best = thresholds[np.argmax([np.mean((p >= t) == labels) for t in thresholds])]
    assert prior_corrected_threshold(0.5, 0.9) == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize(
    ("prevalences", "message"),
    [((0, 0.5), "trained at is 0"), ((0.5, 1), "met now is 1"), ((math.nan, 0.5), "is nan"), ((74, 0.5), "is 74")],
)
def test_an_impossible_prevalence_is_refused(prevalences, message):
    with pytest.raises(InputError, match=message):
        prior_corrected_threshold(*prevalences)


def test_ece_worked_by_hand():
    # Half the films are 1/3 − 0.2 off, half 1 − 0.7.
    assert ece(LABELS, PROBABILITIES, bins=2) == pytest.approx((2 / 15 + 3 / 10) / 2)
    # One bin: says 0.45, sees 4/6. A bin a film: the mean |p − y|.
    assert ece(LABELS, PROBABILITIES, bins=1) == pytest.approx(4 / 6 - 0.45)
    assert ece(LABELS, PROBABILITIES, bins=6) == pytest.approx(1.9 / 6)
    assert ece(LABELS, PROBABILITIES, bins=100) == pytest.approx(1.9 / 6)
    assert ece([0, 1], [0, 1]) == 0
    assert ece([1], [0.25]) == 0.75


def test_equal_probabilities_share_a_bin():
    # 0.4 has three of four films; whole, it is (0.4 + |0.4 · 3 − 1|) / 4 off. Split, it would be more.
    labels, probabilities = [0, 1, 0, 0], [0.1, 0.4, 0.4, 0.4]
    assert ece(labels, probabilities, bins=2) == pytest.approx((0.1 + 0.2) / 4)
    assert ece(labels, probabilities, bins=15) == pytest.approx((0.1 + 0.2) / 4)
    table = reliability_bins(labels, probabilities, list("abcd"), bins=15)
    assert list(table["n"]) == [1, 3] and list(table["mean_probability"]) == pytest.approx([0.1, 0.4])
    # All equal: one bin.
    assert list(reliability_bins(labels, [0.7] * 4, list("abcd"))["n"]) == [4]


def test_bins_hold_equally_many_films():
    logits, labels = calibrated(624)
    table = reliability_bins(labels, expit(logits), np.arange(624))
    assert list(table.index) == list(range(1, 16)) and table.index.name == "bin"
    assert set(table["n"]) == {41, 42} and table["n"].sum() == 624
    assert table["mean_probability"].is_monotonic_increasing


def test_row_order_has_no_say():
    logits, labels = calibrated(300)
    probabilities, patients = np.round(expit(logits), 1), np.arange(300) // 2
    order = np.random.default_rng(2).permutation(300)
    shuffled = labels[order], probabilities[order], patients[order]
    np.testing.assert_allclose(
        reliability_bins(*shuffled), reliability_bins(labels, probabilities, patients), atol=1e-12
    )
    np.testing.assert_allclose(
        calibration_scores(*shuffled), calibration_scores(labels, probabilities, patients), atol=1e-12
    )


def test_ece_comes_from_the_bins_of_the_diagram():
    logits, labels = calibrated(300)
    probabilities = np.round(expit(2 * logits), 2)
    table = reliability_bins(labels, probabilities, np.arange(300), bins=7)
    of_table = (table["n"] * (table["mean_probability"] - table["share_positive"]).abs()).sum() / 300
    assert ece(labels, probabilities, bins=7) == pytest.approx(of_table)


def test_reliability_worked_by_hand():
    table = reliability_bins(LABELS, PROBABILITIES, list("abcdef"), bins=2)
    assert list(table.columns) == ["mean_probability", "share_positive", "low", "high", "n"]
    assert list(table["mean_probability"]) == pytest.approx([0.2, 0.7])
    assert list(table["share_positive"]) == pytest.approx([1 / 3, 1])
    # Of three patients drawn, the positive one is any of them 0 to 3 times; no class but one, no interval.
    assert list(table.loc[1, ["low", "high"]]) == [0, 1]
    assert table.loc[2, ["low", "high"]].isna().all()


def test_patients_are_drawn_and_not_films():
    rng = np.random.default_rng(0)
    labels, probabilities = np.repeat(rng.integers(0, 2, 40), 10), np.full(400, 0.5)
    few = reliability_bins(labels, probabilities, np.repeat(np.arange(40), 10)).loc[1]
    many = reliability_bins(labels, probabilities, np.arange(400)).loc[1]
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])
    one = reliability_bins(LABELS, PROBABILITIES, ["a"] * 6, bins=1)
    assert one[["low", "high"]].isna().all(axis=None)


def test_scores_equal_those_of_the_house_and_of_scikit_learn():
    logits, labels = calibrated(200)
    probabilities, patients = expit(2 * logits), np.arange(200) // 3
    table = calibration_scores(labels, probabilities, patients, seed=3)
    assert list(table.index) == ["brier", "log_loss", "ece"] and list(table.columns) == ["value", "low", "high"]
    assert table.loc["log_loss", "value"] == pytest.approx(metrics.log_loss(labels, probabilities))
    np.testing.assert_allclose(
        table.loc["brier"], metrics_with_intervals(labels, probabilities, patients, seed=3).loc["brier"], rtol=1e-9
    )
    drawn = [
        metrics.log_loss(labels, probabilities, sample_weight=w) for w in bootstrap_weights(patients, n=2000, seed=3)
    ]
    assert tuple(table.loc["log_loss", ["low", "high"]]) == pytest.approx(interval(drawn))
    assert not table.equals(calibration_scores(labels, probabilities, patients, seed=4))


def test_the_interval_of_the_ece_allows_for_its_bias():
    # True ECEs: about 0 for the first; for the second, what very many films show.
    logits, labels = calibrated(624, seed=5)
    good = calibration_scores(labels, expit(logits), np.arange(624)).loc["ece"]
    assert 0 <= good["low"] < 0.01 < good["value"] <= good["high"] < 0.06
    for seed in range(3, 8):  # some of them so lucky that all of the interval would lie below the value
        other_logits, other_labels = calibrated(624, seed)
        row = calibration_scores(other_labels, expit(other_logits), np.arange(624)).loc["ece"]
        assert row["low"] < row["value"] <= row["high"]
    bad = calibration_scores(labels, expit(3 * logits), np.arange(624)).loc["ece"]
    many_logits, many_labels = calibrated(200_000)
    many = expit(3 * many_logits)
    in_bins = np.array_split(np.argsort(many), 15)
    true = np.mean([abs(many[films].mean() - many_labels[films].mean()) for films in in_bins])
    assert good["high"] < bad["low"] < true < bad["high"]


def test_a_film_that_is_wrong_beyond_doubt_costs_a_finite_loss():
    table = calibration_scores([0, 1], [1.0, 1.0], ["a", "b"])
    assert table.loc["log_loss", "value"] == pytest.approx(metrics.log_loss([0, 1], [1.0, 1.0]))
    assert table.loc["log_loss", "high"] == pytest.approx(36.04, abs=0.01)
    assert list(table.loc["brier"]) == [0.5, 0, 1]


def test_one_patient_gives_scores_without_intervals():
    table = calibration_scores(LABELS, PROBABILITIES, ["a"] * 6)
    assert table["value"].notna().all() and table[["low", "high"]].isna().all(axis=None)


def test_one_class_has_scores_too():
    assert list(calibration_scores([1, 1], [0.5, 0.5], ["a", "b"])["value"]) == pytest.approx([0.25, math.log(2), 0.5])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [0.1, 0.2], "Labels must be 0 or 1: row 1 has 2"),
        ([0, 1], [0.1, 1.5], "0..1 .*row 1 has 1.5"),
        ([0, 1], [0.1, math.nan], "row 1 has nan"),
        ([0, 1, 1], [0.1, 0.2], r"\(2,\) and \(3,\)"),
        ([], [], "0 films"),
    ],
)
def test_bad_probabilities_are_refused(labels, probabilities, message):
    for function in (reliability_bins, calibration_scores):
        with pytest.raises(InputError, match=message):
            function(labels, probabilities, ["a"] * len(labels))


@pytest.mark.parametrize("function", [reliability_bins, calibration_scores])
def test_bad_patients_are_refused(function):
    with pytest.raises(InputError, match="2 films and 1 patients"):
        function([0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(InputError, match="no patient"):
        function([0, 1], [0.1, 0.2], ["a", None])


def test_less_than_one_bin_is_refused():
    with pytest.raises(InputError, match="0 bins"):
        ece(LABELS, PROBABILITIES, bins=0)
