from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from cnn_xray import InputError
from cnn_xray.metrics import (
    METRICS,
    auc_with_interval,
    classification_metrics,
    metrics_with_intervals,
    sensitivity_threshold,
    weighted_auc,
    youden_threshold,
)
from cnn_xray.statistics import bootstrap_p, bootstrap_weights

# By falling probability: 1 1 0 1 0. At 0.5: TP 2, FN 1, FP 1, TN 1.
LABELS = [1, 1, 1, 0, 0]
PROBABILITIES = [0.9, 0.8, 0.2, 0.7, 0.1]


def tied_data(n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities in steps of 0.1 (many ties across the classes) and patients with 1 to 5
    images."""
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.6).astype(int)
    probabilities = np.clip(np.round(0.3 * labels + 0.7 * rng.random(n), 1), 0, 1)
    return labels, probabilities, rng.integers(0, n // 3, n)


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
    assert tuple(values) == METRICS
    assert values == pytest.approx(expected)


def test_the_threshold_itself_counts_as_positive():
    assert classification_metrics([1, 0], [0.5, 0.4], threshold=0.5)["sensitivity"] == 1
    assert classification_metrics(LABELS, PROBABILITIES, threshold=0.75)["specificity"] == 1


def test_an_absent_class_gives_nan_and_never_zero():
    only_normal = classification_metrics([0, 0], [0.9, 0.1])
    assert only_normal["accuracy"] == only_normal["specificity"] == 0.5
    assert only_normal["brier"] == pytest.approx(0.41)
    undefined = set(METRICS) - {"accuracy", "specificity", "brier"}
    assert {name for name, value in only_normal.items() if math.isnan(value)} == undefined
    only_pneumonia = classification_metrics([1, 1], [0.9, 0.1])
    assert only_pneumonia["sensitivity"] == 0.5 and math.isnan(only_pneumonia["specificity"])


def test_precision_is_undefined_when_nothing_is_called_positive():
    values = classification_metrics([1, 0, 0], [0.4, 0.1, 0.2])
    assert math.isnan(values["precision"])
    assert values["sensitivity"] == 0 and values["f1"] == 0 and values["npv"] == pytest.approx(2 / 3)
    assert math.isnan(classification_metrics([1, 0], [0.9, 0.8])["npv"])


def test_vectorised_auc_equals_scikit_learn_with_ties_and_weights():
    labels, probabilities, patients = tied_data()
    weights = bootstrap_weights(patients, n=300, seed=1)
    expected = [metrics.roc_auc_score(labels, probabilities, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(labels, probabilities, weights), expected, rtol=1e-12)
    assert weighted_auc(np.array([1, 0]), np.array([0.5, 0.5]), np.ones((1, 2))) == [0.5]
    assert np.isnan(weighted_auc(np.array([1, 0]), np.array([0.9, 0.1]), np.array([[1, 0]]))).all()


def test_intervals_equal_those_from_scikit_learn_on_resampled_images():
    labels, probabilities, patients = tied_data()
    table = metrics_with_intervals(labels, probabilities, patients, threshold=0.5, n=200, seed=2)
    rows = []
    for w in bootstrap_weights(patients, n=200, seed=2):
        drawn = np.repeat(np.arange(len(labels)), w)
        rows.append(list(classification_metrics(labels[drawn], probabilities[drawn]).values()))
    assert tuple(table.index) == METRICS and table.index.name == "metric"
    assert list(table.columns) == ["value", "low", "high"]
    np.testing.assert_allclose(table["value"], list(classification_metrics(labels, probabilities).values()))
    np.testing.assert_allclose(table[["low", "high"]].T, np.quantile(rows, [0.025, 0.975], axis=0), rtol=1e-9)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_replicates_that_lack_a_class_are_left_out_of_the_interval():
    # Two patients, one a class: a quarter of the replicates has no negative, a quarter no positive.
    table = metrics_with_intervals([1, 0], [0.9, 0.8], ["a", "b"], n=100)
    assert list(table.loc["auc"]) == [1, 1, 1]
    assert list(table.loc["f1"]) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert list(table.loc["accuracy"]) == [0.5, 0, 1]  # defined on every replicate


def test_one_patient_gives_values_without_intervals():
    table = metrics_with_intervals(LABELS, PROBABILITIES, ["a"] * 5)
    assert table["value"].notna().all() and table[["low", "high"]].isna().all(axis=None)


def test_intervals_are_reproducible_from_the_seed():
    data = tied_data()
    table = metrics_with_intervals(*data, n=100, seed=5)
    assert table.equals(metrics_with_intervals(*data, n=100, seed=5))
    assert not table.equals(metrics_with_intervals(*data, n=100, seed=6))


def test_auc_estimate_agrees_with_the_table():
    data = tied_data()
    result = auc_with_interval(*data, n=300)
    row = metrics_with_intervals(*data, n=300).loc["auc"]
    assert (result.value, result.low, result.high) == pytest.approx(tuple(row)) and result.n == 120
    assert math.isnan(auc_with_interval([1, 1], [0.3, 0.4], ["a", "b"]).value)


def test_the_auc_is_compared_with_chance():
    labels, probabilities, patients = tied_data()
    result = auc_with_interval(labels, probabilities, patients, n=300)
    replicates = weighted_auc(labels, probabilities, bootstrap_weights(patients, n=300))
    assert result.p == bootstrap_p(result.value, replicates, null=0.5) == pytest.approx(2 / 301)
    assert auc_with_interval(labels, np.full(120, 0.3), patients, n=300).p == 1
    assert math.isnan(auc_with_interval([0, 1], [0.3, 0.4], ["a", "a"]).p)


def test_youden_threshold_worked_by_hand():
    # J at "p >= 0.9": 1/3, 0.8: 2/3, 0.7: 1/6, 0.2: 1/2, 0.1: 0. Best at 0.8, midway to 0.7.
    assert youden_threshold(LABELS, PROBABILITIES) == pytest.approx(0.75)
    assert youden_threshold([1, 1, 0, 0], [0.99, 0.8, 0.2, 0.01]) == pytest.approx(0.5)
    # Backwards: no threshold beats calling everything positive, and none is infinite.
    assert youden_threshold([0, 1], [0.9, 0.1]) == pytest.approx(0.1)


def test_sensitivity_threshold_worked_by_hand():
    # Two of three positives suffice for 0.6, all three are needed for 0.95.
    assert sensitivity_threshold(LABELS, PROBABILITIES, 0.6) == pytest.approx(0.75)
    assert sensitivity_threshold(LABELS, PROBABILITIES, 0.95) == pytest.approx(0.15)
    # 55 of 100 are 55 % exactly: rounding must not ask for one more.
    hundred = np.linspace(0.01, 1, 100)
    assert sensitivity_threshold(np.ones(100), hundred, 0.55) == pytest.approx(0.455)


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


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [0.1, 0.2], "row 1 has 2"),
        ([0, math.nan], [0.1, 0.2], "row 1 has nan"),
        ([0, 1], [0.1, math.nan], "row 1 has nan .*diverged"),
        ([0, 1], [0.1, 3.5], "row 1 has 3.5"),
        ([0, 1, 1], [0.1, 0.2], r"labels \(3,\), probabilities \(2,\)"),
        ([], [], "at least one"),
        (["x", 1], [0.1, 0.2], "must be numbers"),
    ],
)
def test_bad_input_is_refused_with_the_row(labels, probabilities, message):
    with pytest.raises(InputError, match=message):
        classification_metrics(labels, probabilities)


def test_more_bad_input():
    with pytest.raises(InputError, match=r"patients \(1,\)"):
        metrics_with_intervals([0, 1], [0.1, 0.2], ["a"])
    with pytest.raises(InputError, match="both classes"):
        youden_threshold([1, 1], [0.1, 0.2])
    with pytest.raises(InputError, match="label 1"):
        sensitivity_threshold([0, 0], [0.1, 0.2])
    with pytest.raises(InputError, match="target sensitivity is 95"):
        sensitivity_threshold([0, 1], [0.1, 0.2], 95)
