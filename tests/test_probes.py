from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from cnn_xray.audit import median_sizes, size_only_probe


def table(labels: list[int], widths: list[int | None], heights: list[int | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": labels,
            "split": "test",
            "patient": [f"p{row}" for row in range(len(labels))],
            "original_width": pd.array(widths, dtype="Int64"),
            "original_height": pd.array(heights, dtype="Int64"),
        }
    )


# Same area for all, so aspect ratio alone tells them apart: 2:1 with label 1, 1:2 with label 0.
TRAIN = table([1, 1, 1, 0, 0, 0], [200, 400, 600, 100, 200, 300], [100, 200, 300, 200, 400, 600])


def test_shape_alone_gives_the_label_away():
    test = table([1, 0, 1, 0], [800, 400, 100, 50], [400, 800, 50, 100])
    probe = size_only_probe(TRAIN, test)
    assert probe.auc.value == 1 and probe.auc.n == 4 and probe.note == ""
    assert (probe.probabilities > 0.5).tolist() == [True, False, True, False]
    # Scale says nothing here, so the two films of one shape get one probability.
    assert probe.probabilities[0] == pytest.approx(probe.probabilities[2], abs=1e-6)


def test_unknown_sizes_are_left_out_and_counted():
    train = pd.concat([TRAIN, table([0, 1], [None, 100], [100, None])], ignore_index=True)
    test = table([0, 1, 0, 0], [None, 200, 100, 0], [100, 100, 200, 100])
    probe = size_only_probe(train, test)
    assert (probe.n_train, probe.unknown_train, probe.unknown_test) == (6, 2, 2)
    assert np.isnan(probe.probabilities).tolist() == [True, False, False, True]
    assert probe.auc.value == 1 and probe.auc.n == 2


def test_equal_sizes_earn_one_half_as_on_the_phantom():
    train, test = (table([0, 1] * 4, [64] * 8, [64] * 8) for _ in range(2))
    probe = size_only_probe(train, test)
    assert (probe.auc.value, probe.auc.low, probe.auc.high) == (0.5, 0.5, 0.5)
    assert "same original size" in probe.note


def test_no_size_at_all_is_nan_with_a_reason():
    unknown = table([0, 1], [None, None], [None, None])
    for train, test, reason in ((unknown, TRAIN, "No training image"), (TRAIN, unknown, "No test image")):
        probe = size_only_probe(train, test)
        assert math.isnan(probe.auc.value) and np.isnan(probe.probabilities).all()
        assert len(probe.probabilities) == len(test) and reason in probe.note


def test_one_class_is_nan_with_a_reason():
    positive = TRAIN[TRAIN["label"] == 1]
    probe = size_only_probe(positive, TRAIN)
    assert math.isnan(probe.auc.value) and "one class" in probe.note
    probe = size_only_probe(TRAIN, positive)
    assert math.isnan(probe.auc.value) and np.isfinite(probe.probabilities).all() and "one class" in probe.note


def test_the_interval_follows_the_seed_and_the_patients():
    rng = np.random.default_rng(0)
    labels = [0, 1] * 30
    test = table(labels, [int(100 + 30 * y + rng.integers(0, 60)) for y in labels], [100] * 60)
    first, again, other = (size_only_probe(TRAIN, test, seed=s) for s in (0, 0, 1))
    assert first.auc == again.auc and first.auc.value == other.auc.value and first.auc.low != other.auc.low
    assert math.isnan(size_only_probe(TRAIN, test.assign(patient="one")).auc.low)


def test_median_sizes_by_hand():
    sizes = median_sizes(table([0, 0, 0, 1, 1], [100, 200, 600, 300, None], [100, 100, 200, 100, 50]))
    assert sizes.loc[("test", 0)].tolist() == [3, 200, 100, 2]
    assert sizes.loc[("test", 1)].tolist() == [1, 300, 75, 3]
