"""Metrics, thresholds and calibration worked by hand, and beside scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from cnn_xray import InputError, statistics
from cnn_xray.metrics import (
    ADVISED,
    LOCKED,
    Calibration,
    auc_difference,
    auc_with_interval,
    calibration_scores,
    classification_metrics,
    information_added,
    learned_prevalence,
    metrics_at_thresholds,
    metrics_with_intervals,
    platt_scaling,
    prior_corrected_threshold,
    reliability_bins,
    sensitivity_threshold,
    temperature_scaling,
    thresholds,
    weighted_auc,
    youden_threshold,
)
from cnn_xray.statistics import bootstrap_p, bootstrap_weights, interval

# By falling probability: 1 1 0 1 0. At 0.5: TP 2, FN 1, FP 1, TN 1.
LABELS = [1, 1, 1, 0, 0]
PROBABILITIES = [0.9, 0.8, 0.2, 0.7, 0.1]


def tied_data(n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities in steps of 0.1 (many ties across the classes) and patients with 1 to 5 images."""
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.6).astype(int)
    probabilities = np.clip(np.round(0.3 * labels + 0.7 * rng.random(n), 1), 0, 1)
    return labels, probabilities, rng.integers(0, n // 3, n)


def calibrated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose sigmoid is the chance of label 1, and labels drawn with it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, n)
    return logits, (rng.random(n) < expit(logits)).astype(int)


def ece(labels, probabilities) -> float:
    return calibration_scores(labels, probabilities, np.arange(len(labels))).loc["ece", "value"]


def of_scikit_learn(labels, probabilities) -> dict[str, float]:
    """The ten metrics at 0.5, one by one."""
    called, nan = np.asarray(probabilities) >= 0.5, {"zero_division": np.nan}
    return {
        "accuracy": sklearn_metrics.accuracy_score(labels, called),
        "sensitivity": sklearn_metrics.recall_score(labels, called, **nan),
        "specificity": sklearn_metrics.recall_score(labels, called, pos_label=0, **nan),
        "precision": sklearn_metrics.precision_score(labels, called, **nan),
        "npv": sklearn_metrics.precision_score(labels, called, pos_label=0, **nan),
        "f1": sklearn_metrics.f1_score(labels, called, **nan),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, called),
        "auc": sklearn_metrics.roc_auc_score(labels, probabilities),
        "pr_auc": sklearn_metrics.average_precision_score(labels, probabilities),
        "brier": sklearn_metrics.brier_score_loss(labels, probabilities),
    }


def test_metrics_worked_by_hand():
    values = classification_metrics(LABELS, PROBABILITIES)
    expected = {
        "accuracy": 3 / 5,
        "sensitivity": 2 / 3,
        "specificity": 1 / 2,
        "precision": 2 / 3,
        "npv": 1 / 2,
        "f1": 2 / 3,
        "balanced_accuracy": 7 / 12,
        "auc": 5 / 6,  # of the six pairs only (0.2, 0.7) is the wrong way round
        "pr_auc": (1 + 1 + 3 / 4) / 3,
        "brier": (0.01 + 0.04 + 0.64 + 0.49 + 0.01) / 5,
    }
    assert values == pytest.approx(expected) == of_scikit_learn(LABELS, PROBABILITIES)


def test_the_threshold_itself_counts_as_positive():
    assert classification_metrics([1, 0], [0.5, 0.4], threshold=0.5)["sensitivity"] == 1
    assert classification_metrics(LABELS, PROBABILITIES, threshold=0.75)["specificity"] == 1


def test_an_absent_class_gives_nan_and_never_zero():
    only_normal = classification_metrics([0, 0], [0.9, 0.1])
    assert only_normal["accuracy"] == only_normal["specificity"] == 0.5
    assert only_normal["brier"] == pytest.approx(0.41)
    undefined = set(only_normal) - {"accuracy", "specificity", "brier"}
    assert {name for name, value in only_normal.items() if math.isnan(value)} == undefined
    only_pneumonia = classification_metrics([1, 1], [0.9, 0.1])
    defined = {name for name, value in only_pneumonia.items() if not math.isnan(value)}
    assert only_pneumonia["sensitivity"] == 0.5 and defined == {"accuracy", "sensitivity", "brier"}


def test_precision_is_undefined_when_nothing_is_called_positive():
    values = classification_metrics([1, 0, 0], [0.4, 0.1, 0.2])
    assert math.isnan(values["precision"])
    assert values["sensitivity"] == 0 and values["f1"] == 0 and values["npv"] == pytest.approx(2 / 3)
    assert math.isnan(classification_metrics([1, 0], [0.9, 0.8])["npv"])


def test_weighted_auc_equals_scikit_learn_with_ties_and_weights():
    labels, probabilities, patients = tied_data()
    weights = bootstrap_weights(patients, n=300, seed=1)
    expected = [sklearn_metrics.roc_auc_score(labels, probabilities, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(labels, probabilities, weights), expected, rtol=1e-12)
    assert weighted_auc([1, 0], [0.5, 0.5], np.ones((1, 2))) == [0.5]
    assert np.isnan(weighted_auc([1, 0], [0.9, 0.1], np.array([[1, 0], [0, 1]]))).all()


def test_intervals_equal_those_from_scikit_learn_on_resampled_images(monkeypatch):
    monkeypatch.setattr(statistics, "REPLICATES", 150)
    labels, probabilities, patients = tied_data()
    table = metrics_with_intervals(labels, probabilities, patients, seed=2)
    rows = []
    for w in bootstrap_weights(patients, 150, seed=2):
        drawn = np.repeat(np.arange(len(labels)), w)
        rows.append(of_scikit_learn(labels[drawn], probabilities[drawn]))
    assert table.index.name == "metric" and list(table.columns) == ["value", "low", "high"]
    assert table["value"].to_dict() == pytest.approx(of_scikit_learn(labels, probabilities))
    np.testing.assert_allclose(table[["low", "high"]].T, pd.DataFrame(rows).quantile([0.025, 0.975]), rtol=1e-9)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_replicates_that_lack_a_class_are_left_out_of_the_interval():
    # Two patients, one a class: a quarter of the replicates has no negative, a quarter no positive.
    table = metrics_with_intervals([1, 0], [0.9, 0.8], ["a", "b"])
    assert list(table.loc["auc"]) == [1, 1, 1]
    assert list(table.loc["f1"]) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert list(table.loc["accuracy"]) == [0.5, 0, 1]  # defined on every replicate


def test_one_patient_gives_values_without_intervals():
    for table in (
        metrics_with_intervals(LABELS, PROBABILITIES, ["a"] * 5),
        calibration_scores(LABELS, PROBABILITIES, ["a"] * 5),
    ):
        assert table["value"].notna().all() and table[["low", "high"]].isna().all(axis=None)


def test_the_auc_is_that_of_the_table_compared_with_chance():
    labels, probabilities, patients = tied_data()
    result = auc_with_interval(labels, probabilities, patients, seed=5)
    row = metrics_with_intervals(labels, probabilities, patients, seed=5).loc["auc"]
    assert (result.value, result.low, result.high) == pytest.approx(tuple(row)) and result.n == 120
    assert result.low != auc_with_interval(labels, probabilities, patients, seed=6).low
    replicates = weighted_auc(labels, probabilities, bootstrap_weights(patients, seed=5))
    assert result.p == bootstrap_p(result.value, replicates, null=0.5) == pytest.approx(2 / 2001)
    assert auc_with_interval(labels, np.full(120, 0.3), patients).p == 1
    assert math.isnan(auc_with_interval([0, 1], [0.3, 0.4], ["a", "a"]).p)
    assert math.isnan(auc_with_interval([1, 1], [0.3, 0.4], ["a", "b"]).value)


def test_a_difference_of_aucs_draws_the_patients_of_both_sets_together():
    labels, probabilities, patients = tied_data()
    images = pd.DataFrame({"label": labels, "logit": probabilities, "patient": patients})
    same = auc_difference(images, images)
    assert (same.value, same.low, same.high, same.p, same.n) == (0, 0, 0, 1, 240)
    # Of a set with everything in order and one with everything out of order, every replicate says 1.
    apart = pd.DataFrame({"label": [0, 1] * 9, "logit": [-2.0, 3.0] * 9, "patient": list("abcdefghi") * 2})
    found = auc_difference(apart, apart.assign(logit=-apart["logit"]), seed=1)
    assert (found.value, found.low, found.high) == (1, 1, 1) and found.p == pytest.approx(2 / 2001)


def told(labels, wrong, rng):
    """Labels as +1 and −1, of which a share ``wrong`` is turned round."""
    return np.where(rng.random(len(labels)) < wrong, -1, 1) * (2 * labels - 1.0)


def test_information_is_the_entropy_that_a_second_score_takes_away():
    rng = np.random.default_rng(0)
    labels, patients, noise = np.arange(6000) % 2, np.arange(6000), rng.normal(size=6000)
    added = information_added(labels, noise, told(labels, 0.1, rng), patients)
    # H(½) − H(0.1) = 0.693 − 0.325 nats: what a reader who errs in one of ten images knows.
    assert added.value == pytest.approx(math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9), abs=0.02)
    assert added.low < added.value < added.high and added.p < 0.01
    assert -0.002 < information_added(labels, told(labels, 0.1, rng), noise, patients).value < 0.001
    first = told(labels, 0.2, rng)
    assert information_added(labels, first, first, patients).value == pytest.approx(0, abs=1e-3)  # nothing new


def test_information_goes_on_counting_where_the_auc_saturates():
    rng = np.random.default_rng(1)
    labels, patients = np.arange(4000) % 2, np.arange(4000)
    known = rng.normal(size=4000) + 3.2 * labels
    marker = told(labels, 0.25, rng)  # ρ = .5
    logit = 3.2 * (known - 1.6) + math.log(3) * marker  # the ideal reader of both
    gained = sklearn_metrics.roc_auc_score(labels, logit) - sklearn_metrics.roc_auc_score(labels, known)
    found = information_added(labels, known, marker, patients)
    assert 0 < gained < 0.008 and found.low > 0.015  # a sixth of what the first score leaves open, 0.12 nats


def test_without_a_first_score_information_is_what_the_second_tells_by_itself():
    rng = np.random.default_rng(2)
    labels, patients = np.arange(4000) % 2, np.arange(4000)
    found = information_added(labels, None, told(labels, 0.25, rng), patients)
    assert found.value == pytest.approx(math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75), abs=0.02)


def test_trainings_are_averaged_and_widen_the_interval_by_their_spread():
    rng = np.random.default_rng(3)
    labels, patients = np.arange(2000) % 2, np.arange(2000)
    good, bad = told(labels, 0.05, rng), told(labels, 0.4, rng)
    alone = [information_added(labels, None, one, patients) for one in (good, bad)]
    both = information_added(labels, None, np.stack([good, bad]), patients)
    assert both.value == pytest.approx((alone[0].value + alone[1].value) / 2)
    # two trainings drawn with replacement: in a quarter of the replicates the one alone, in a quarter the other
    assert both.low < alone[1].high and both.high > alone[0].low
    same = information_added(labels, None, np.stack([good, good]), patients)
    assert (same.low, same.high) == pytest.approx((alone[0].low, alone[0].high))


def test_a_score_may_mean_something_else_in_another_group():
    rng = np.random.default_rng(4)
    labels, patients, groups = np.arange(4000) % 2, np.arange(4000), np.repeat(["val", "test"], 2000)
    score = told(labels, 0.1, rng) * np.repeat([1, -1], 2000)  # turned round in the second
    assert abs(information_added(labels, None, score, patients).value) < 0.01
    assert information_added(labels, None, score, patients, groups).low > 0.3


def test_images_of_a_patient_do_not_tell_on_each_other():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 25)
    labels = (patients % 2).astype(int)
    of_patient = rng.permutation(40)[patients] / 1.0  # knows who it is and nothing of the class
    assert information_added(labels, rng.normal(size=1000), of_patient, patients).value < 0.02
    few = information_added(labels, of_patient, of_patient, np.where(labels == 1, patients % 4, patients))
    assert math.isnan(few.value)  # two patients of one class


def test_youden_threshold_worked_by_hand():
    # J at "p >= 0.9": 1/3, 0.8: 2/3, 0.7: 1/6, 0.2: 1/2, 0.1: 0. Best at 0.8, midway to 0.7.
    assert youden_threshold(LABELS, PROBABILITIES) == pytest.approx(0.75)
    assert youden_threshold([1, 1, 0, 0], [0.99, 0.8, 0.2, 0.01]) == pytest.approx(0.5)
    # Backwards: no threshold beats calling everything positive, and none is infinite.
    assert youden_threshold([0, 1], [0.9, 0.1]) == pytest.approx(0.1)


def test_sensitivity_threshold_worked_by_hand():
    # Two of three positives suffice for 0.6, all three are needed for 0.95.
    assert sensitivity_threshold(LABELS, PROBABILITIES, 0.6) == pytest.approx(0.75)
    assert sensitivity_threshold(LABELS, PROBABILITIES) == pytest.approx(0.15)
    # 55 of 100 are 55 % exactly: rounding must not ask for one more.
    hundred = np.linspace(0.01, 1, 100)
    assert sensitivity_threshold([0] + [1] * 100, [0, *hundred], 0.55) == pytest.approx(0.455)


def test_a_threshold_reaches_what_it_promises_on_tied_data():
    labels, probabilities, _ = tied_data()
    threshold = sensitivity_threshold(labels, probabilities, 0.95)
    assert classification_metrics(labels, probabilities, threshold)["sensitivity"] >= 0.95
    above = probabilities[probabilities > threshold].min() + 0.01
    assert classification_metrics(labels, probabilities, above)["sensitivity"] < 0.95
    best = youden_threshold(labels, probabilities)
    scores = [
        classification_metrics(labels, probabilities, t)["balanced_accuracy"] for t in (best, *np.linspace(0, 1, 101))
    ]
    assert scores[0] == pytest.approx(max(scores[1:]))


def test_thresholds_by_hand():
    validation = pd.DataFrame({"label": [0, 0, 1, 1], "probability": [0.1, 0.3, 0.7, 0.9]})
    chosen = thresholds(validation, learned_prevalence=0.5, new_prevalence=0.6)
    assert list(chosen.values()) == pytest.approx([0.5, 0.5, 0.5, 0.4])  # the middle two lie midway between 0.3 and 0.7
    assert LOCKED in chosen and ADVISED in chosen
    with pytest.raises(InputError, match="both classes: 2 of 2"):
        thresholds(validation[validation["label"] == 1], 0.5, 0.6)


def test_metrics_at_each_threshold_by_hand():
    images = pd.DataFrame({"label": [0, 0, 1, 1], "probability": [0.2, 0.6, 0.4, 0.8]})
    found = metrics_at_thresholds(images, {"low": 0.3, "high": 0.7})
    assert found["threshold"].tolist() == [0.3, 0.7] and found.index.name == "threshold at"
    assert found["sensitivity"].tolist() == [1.0, 0.5] and found["specificity"].tolist() == [0.5, 1.0]


def test_a_network_learns_the_prevalence_that_training_shows_it():
    labels = pd.Series([0, 1, 1, 1])
    assert [learned_prevalence(one, labels) for one in ("weights", "sampling", "none")] == [0.5, 0.5, 0.75]


def test_prior_corrected_threshold_worked_by_hand():
    assert prior_corrected_threshold(0.5, 0.625) == pytest.approx(0.375)  # trained with class weights: 1 − π′
    assert prior_corrected_threshold(0.3, 0.3) == pytest.approx(0.5)
    # Odds from 1/3 to 3, so nine times: a probability of 0.1 (odds 1/9) becomes 0.5.
    assert prior_corrected_threshold(0.25, 0.75) == pytest.approx(0.1)


def test_at_the_corrected_threshold_the_new_images_are_decided_best():
    # Normals N(−1, 1) and pneumonias N(1, 1): trained at 0.5 the logit is 2x, so at 0.9 the best cut is at −log(9).
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.9).astype(int)
    p = expit(2 * (rng.normal(size=50_000) + 2 * labels - 1))
    cuts = np.linspace(0.02, 0.6, 30)
    best = cuts[np.argmax([np.mean((p >= t) == labels) for t in cuts])]
    assert prior_corrected_threshold(0.5, 0.9) == pytest.approx(best, abs=0.03)


def test_a_probability_from_a_logit():
    found = Calibration(slope=2, intercept=-1).probability([0.5, 1, -1000, 1000])
    assert found.dtype == np.float64
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 0, 1])


def test_temperature_finds_the_factor_that_logits_were_scaled_by():
    logits, labels = calibrated(20_000)
    fit = temperature_scaling(3 * logits, labels)
    assert 1 / fit.slope == pytest.approx(3, rel=0.03) and fit.intercept == 0
    assert 1 / temperature_scaling(logits / 4, labels).slope == pytest.approx(1 / 4, rel=0.03)


def test_temperature_worked_by_hand():
    # At ±2, three of four images are on the right side. Targets for 4 and 4: 5/6 and 1/6, so the mean target at +2 is
    # (3 · 5/6 + 1/6) / 4 = 2/3, and sigmoid(2 / T) = 2/3 where T = 2 / log 2.
    fit = temperature_scaling([2, 2, 2, -2, -2, -2, -2, 2], [1, 1, 1, 1, 0, 0, 0, 0])
    assert 1 / fit.slope == pytest.approx(2 / math.log(2))
    assert fit.probability([2.0]) == pytest.approx([2 / 3])


def test_platt_finds_slope_and_intercept():
    logits, labels = calibrated(20_000)
    fit = platt_scaling((logits + 1.5) / 0.4, labels)
    assert (fit.slope, fit.intercept) == pytest.approx((0.4, -1.5), rel=0.04)


def test_platt_worked_by_hand():
    # Two values of the logit, so the fit meets the mean target at each. Targets: 4/5 for 3 positives, 1/3 for one
    # negative. At 1: 4/5. At 0: (4/5 + 1/3) / 2 = 17/30.
    fit = platt_scaling([1, 1, 0, 0], [1, 1, 1, 0])
    assert fit.probability([0, 1]) == pytest.approx([17 / 30, 4 / 5], rel=1e-5)


def test_calibrations_agree_with_scikit_learn():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    logits, labels = calibrated(5000)
    z = 3 * logits - 1
    as_it_is = LogisticRegression()  # a model whose logit is its only feature
    as_it_is.classes_, as_it_is.coef_, as_it_is.intercept_ = np.array([0, 1]), np.ones((1, 1)), np.zeros(1)
    for method, fit, apart in (("sigmoid", platt_scaling, 1e-6), ("temperature", temperature_scaling, 2e-3)):
        theirs = CalibratedClassifierCV(FrozenEstimator(as_it_is), method=method).fit(z[:, None], labels)
        np.testing.assert_allclose(
            fit(z, labels).probability(z), theirs.predict_proba(z[:, None])[:, 1], atol=apart, rtol=0
        )


def test_the_scale_of_the_logits_does_not_matter():
    logits, labels = calibrated(500)
    for fit, offset, scale in ((platt_scaling, 7, 1e6), (platt_scaling, 7, 1e-6), (temperature_scaling, 0, 1e-6)):
        z = scale * (logits + offset)
        np.testing.assert_allclose(fit(z, labels).probability(z), fit(logits, labels).probability(logits), atol=1e-5)


def test_separated_classes_give_finite_fits_worked_by_hand():
    # Ten images a class at ±5: every image meets its target, 11/12 or 1/12, at the slope log(11) / 5.
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
    assert sklearn_metrics.roc_auc_score(labels, probabilities) == sklearn_metrics.roc_auc_score(labels, logits)
    assert ((probabilities >= 0.5) == (logits >= 0)).all()


def test_platt_mends_a_shift_on_new_images_that_temperature_cannot():
    logits, labels = calibrated(1500)
    new, truth = calibrated(1500, seed=1)
    by_platt, by_temperature = (
        ece(truth, fit(3 * logits - 4, labels).probability(3 * new - 4)) for fit in (platt_scaling, temperature_scaling)
    )
    assert by_platt < 0.05 < 0.1 < by_temperature < ece(truth, expit(3 * new - 4))


# Two bins, since equal probabilities share one: {0.2 three times} sees 1/3, {0.7 three times} sees 1.
IN_TWO_BINS = ([0, 1, 0, 1, 1, 1], [0.2, 0.2, 0.2, 0.7, 0.7, 0.7])


def test_ece_worked_by_hand():
    # Half the images are 1/3 − 0.2 off, half 1 − 0.7.
    assert ece(*IN_TWO_BINS) == pytest.approx((2 / 15 + 3 / 10) / 2)
    # 0.4 has three of four images; whole, it is |0.4 · 3 − 1| / 4 off. Split, it would be more.
    assert ece([0, 1, 0, 0], [0.1, 0.4, 0.4, 0.4]) == pytest.approx((0.1 + 0.2) / 4)
    # Fewer images than bins: the mean |p − y|.
    assert ece([0, 1, 0, 1, 1, 1], [0.1, 0.3, 0.2, 0.6, 0.8, 0.7]) == pytest.approx(1.9 / 6)
    assert ece([0, 1], [0, 1]) == 0
    assert ece([1], [0.25]) == 0.75


def test_reliability_worked_by_hand():
    table = reliability_bins(*IN_TWO_BINS, list("abcdef"))
    assert list(table.columns) == ["mean_probability", "share_positive", "low", "high", "n"]
    assert list(table["mean_probability"]) == pytest.approx([0.2, 0.7]) and list(table["n"]) == [3, 3]
    assert list(table["share_positive"]) == pytest.approx([1 / 3, 1])
    # Of three patients drawn, the positive one is any of them 0 to 3 times; no class but one, no interval.
    assert list(table.loc[1, ["low", "high"]]) == [0, 1]
    assert table.loc[2, ["low", "high"]].isna().all()
    assert reliability_bins(*IN_TWO_BINS, ["a"] * 6)[["low", "high"]].isna().all(axis=None)


def test_bins_hold_equally_many_images():
    logits, labels = calibrated(624)
    table = reliability_bins(labels, expit(logits), np.arange(624))
    assert list(table.index) == list(range(1, 16)) and table.index.name == "bin"
    assert set(table["n"]) == {41, 42} and table["n"].sum() == 624
    assert table["mean_probability"].is_monotonic_increasing


def test_the_scores_come_from_the_bins_of_the_diagram_whatever_the_order_of_rows():
    logits, labels = calibrated(300)
    probabilities, patients = np.round(expit(logits), 1), np.arange(300) // 2
    table, scores = (f(labels, probabilities, patients) for f in (reliability_bins, calibration_scores))
    of_table = (table["n"] * (table["mean_probability"] - table["share_positive"]).abs()).sum() / 300
    assert scores.loc["ece", "value"] == pytest.approx(of_table)
    order = np.random.default_rng(2).permutation(300)
    shuffled = labels[order], probabilities[order], patients[order]
    np.testing.assert_allclose(reliability_bins(*shuffled), table, atol=1e-12)
    np.testing.assert_allclose(calibration_scores(*shuffled), scores, atol=1e-12)


def test_patients_are_drawn_and_not_images():
    rng = np.random.default_rng(0)
    labels, probabilities = np.repeat(rng.integers(0, 2, 40), 10), np.full(400, 0.5)
    few = reliability_bins(labels, probabilities, np.repeat(np.arange(40), 10)).loc[1]
    many = reliability_bins(labels, probabilities, np.arange(400)).loc[1]
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])


def test_calibration_scores_equal_those_of_the_table_and_of_scikit_learn():
    logits, labels = calibrated(200)
    probabilities, patients = expit(2 * logits), np.arange(200) // 3
    table = calibration_scores(labels, probabilities, patients, seed=3)
    assert list(table.index) == ["brier", "log_loss", "ece"] and list(table.columns) == ["value", "low", "high"]
    brier = metrics_with_intervals(labels, probabilities, patients, seed=3).loc["brier"]
    assert tuple(table.loc["brier"]) == pytest.approx(tuple(brier))
    assert table.loc["log_loss", "value"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    losses = -np.log(np.where(labels == 1, probabilities, 1 - probabilities))
    drawn = [np.average(losses, weights=w) for w in bootstrap_weights(patients, seed=3)]
    assert tuple(table.loc["log_loss", ["low", "high"]]) == pytest.approx(interval(drawn))


def test_the_interval_of_the_ece_allows_for_its_bias():
    # True ECEs: about 0 for the first; for the second, what very many images show.
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
    true = np.mean([abs(many[images].mean() - many_labels[images].mean()) for images in in_bins])
    assert good["high"] < bad["low"] < true < bad["high"]


def test_an_image_that_is_wrong_beyond_doubt_costs_a_finite_loss():
    table = calibration_scores([0, 1], [1.0, 1.0], ["a", "b"])
    assert table.loc["log_loss", "value"] == pytest.approx(sklearn_metrics.log_loss([0, 1], [1.0, 1.0]))
    assert table.loc["log_loss", "high"] == pytest.approx(36.04, abs=0.01)
    assert list(table.loc["brier"]) == [0.5, 0, 1]


def test_one_class_has_calibration_scores_too():
    assert list(calibration_scores([1, 1], [0.5, 0.5], ["a", "b"])["value"]) == pytest.approx([0.25, math.log(2), 0.5])


@pytest.mark.parametrize(
    "function",
    [metrics_with_intervals, auc_with_interval, reliability_bins, calibration_scores],
)
def test_labels_probabilities_and_patients_are_checked(function):
    for given, message in (
        (([0, 2], [0.1, 0.2], ["a", "b"]), "Labels must be 0 or 1: row 1"),
        (([0, 1], [0.1, 1.5], ["a", "b"]), "Probabilities must lie in 0..1"),
        (([0, 1], [0.1, 0.2], ["a", None]), "Patients must be known"),
        (([0, 1], [0.1, 0.2], ["a"]), r"patients \(1,\)"),
        (([], [], []), "1 image or more"),
    ):
        with pytest.raises(InputError, match=message):
            function(*given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification_metrics([0, 1], [0.1, math.nan]), "row 1 has nan"),
        (lambda: youden_threshold([1, 1], [0.1, 0.2]), "Youden's threshold needs images of both classes: 2 of 2"),
        (lambda: sensitivity_threshold([0, 0], [0.1, 0.2]), "both classes: 0 of 2 are of label 1"),
        (lambda: sensitivity_threshold([0, 1], [0.1, 0.2], 95), "target sensitivity is 95"),
        (lambda: prior_corrected_threshold(0, 0.5), "trained at is 0"),
        (lambda: prior_corrected_threshold(0.5, 1), "met now is 1"),
        (lambda: prior_corrected_threshold(math.nan, 0.5), "is nan"),
        (lambda: temperature_scaling([1, 2], [1, 1]), "A calibration needs images of both classes: 2 of 2"),
        (lambda: platt_scaling([1, math.nan], [0, 1]), "Scores must be finite .*row 1 has nan"),
        (lambda: platt_scaling([1, 2, 3], [0, 1]), r"scores \(3,\), labels \(2,\)"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(call, message):
    with pytest.raises(InputError, match=message):
        call()
