"""Thresholds from validation films alone, and what they give on others, worked by hand."""

import pandas as pd
import pytest

from cnn_xray import InputError, metrics

VALIDATION = pd.DataFrame({"label": [0, 0, 1, 1], "probability": [0.1, 0.3, 0.7, 0.9]})


def test_thresholds_by_hand():
    chosen = metrics.thresholds(VALIDATION, learned_prevalence=0.5, new_prevalence=0.6)
    assert list(chosen.values()) == pytest.approx([0.5, 0.5, 0.5, 0.4])  # the middle two lie midway between 0.3 and 0.7
    assert metrics.LOCKED in chosen and metrics.ADVISED in chosen
    with pytest.raises(InputError):
        metrics.thresholds(VALIDATION[VALIDATION["label"] == 1], 0.5, 0.6)


def test_metrics_at_each_threshold_by_hand():
    test = pd.DataFrame({"label": [0, 0, 1, 1], "probability": [0.2, 0.6, 0.4, 0.8]})
    found = metrics.metrics_at_thresholds(test, {"low": 0.3, "high": 0.7})
    assert found["threshold"].tolist() == [0.3, 0.7]
    assert found["sensitivity"].tolist() == [1.0, 0.5] and found["specificity"].tolist() == [0.5, 1.0]


def test_a_network_learns_the_prevalence_that_training_shows_it():
    labels = pd.Series([0, 1, 1, 1])
    assert [metrics.learned_prevalence(one, labels) for one in ("weights", "sampling", "none")] == [
        0.5,
        0.5,
        0.75,
    ]
