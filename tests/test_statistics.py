from __future__ import annotations

import math

import numpy as np
import pytest

from cnn_xray.errors import InputError
from cnn_xray.statistics import (
    Estimate,
    bootstrap_weights,
    cluster_mean,
    estimate,
    interval,
    paired_difference,
)

NAN = float("nan")


def test_an_image_weighs_as_often_as_its_patient_was_drawn():
    weights = bootstrap_weights(["a", "b", "a", "c"], n=500, seed=0)
    assert weights.shape == (500, 4) and weights.dtype == np.int16
    assert (weights[:, 0] == weights[:, 2]).all()
    # Three patients, three draws: counting each patient once, every replicate adds up to 3.
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights.max() == 3 and weights.min() == 0
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.15)


def test_weights_follow_the_seed_and_the_patient_not_the_row():
    patients = np.array([f"p{i % 7}" for i in range(20)])
    order = np.random.default_rng(1).permutation(20)
    weights = bootstrap_weights(patients, n=50, seed=3)
    np.testing.assert_array_equal(weights, bootstrap_weights(patients, n=50, seed=3))
    np.testing.assert_array_equal(weights[:, order], bootstrap_weights(patients[order], n=50, seed=3))
    assert (weights != bootstrap_weights(patients, n=50, seed=4)).any()


def test_a_missing_patient_is_refused():
    with pytest.raises(InputError, match="1 of 3 images have no patient"):
        bootstrap_weights(["a", None, "b"])


def test_interval_is_the_percentile_interval_of_finite_replicates():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval([*np.arange(101.0), NAN, NAN], level=0.9) == pytest.approx((5, 95))
    assert all(map(math.isnan, interval([NAN, NAN])))


def test_cluster_mean_of_two_patients_worked_by_hand():
    # Drawn are {a,a}, {a,b}, {b,b}: means 0, 1/3 and 1, the outer two with probability 1/4 each.
    result = cluster_mean([0, 0, 1], ["a", "a", "b"], n=400)
    assert result == Estimate(pytest.approx(1 / 3), 0.0, 1.0, 3)


def test_cluster_mean_leaves_out_what_is_not_finite_and_counts_the_rest():
    result = cluster_mean([1, 2, NAN, 3, math.inf], ["a", "b", "c", "d", "e"])
    assert result.value == 2 and result.n == 3
    assert result.low >= 1 and result.high <= 3
    empty = cluster_mean([NAN, NAN], ["a", "b"])
    assert math.isnan(empty.value) and empty.n == 0


def test_one_patient_gives_no_interval():
    for result in (
        cluster_mean([1.0, 2.0], ["a", "a"]),
        cluster_mean([1.0, 2.0, NAN], ["a", "a", "b"]),  # b has no value left
        estimate(1.5, [1.5, 1.5], ["a", "a"]),
    ):
        assert result.value == 1.5 and result.n == 2
        assert math.isnan(result.low) and math.isnan(result.high)


def test_interval_of_independent_images_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=400)
    result = cluster_mean(values, np.arange(400), n=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.08)


def test_ten_equal_images_a_patient_do_not_narrow_the_interval():
    per_patient = np.random.default_rng(0).normal(size=40)
    values, patients = np.repeat(per_patient, 10), np.repeat(np.arange(40), 10)
    honest = cluster_mean(values, patients)
    alone = cluster_mean(per_patient, np.arange(40))
    naive = cluster_mean(values, np.arange(400))
    assert (honest.low, honest.high) == pytest.approx((alone.low, alone.high))
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(math.sqrt(10), rel=0.15)


def test_paired_difference_is_listwise_and_within_image():
    a, b = np.array([3.0, 13.0, 103.0, NAN, 1.0]), np.array([1.0, 11.0, 101.0, 0.0, NAN])
    assert paired_difference(a, b, list("vwxyz")) == Estimate(2.0, 2.0, 2.0, 3)
    with pytest.raises(InputError, match="same images twice"):
        paired_difference(a, b[:4], list("vwxyz"))
    with pytest.raises(InputError, match="one entry an image"):
        cluster_mean(a, list("vwx"))


def test_an_estimate_prints_as_a_number_with_its_interval():
    result = Estimate(0.9412, 0.9149, 0.9651, 624)
    assert str(result) == "0.94 [0.91, 0.97]"
    assert f"AUC {result:.3f}" == "AUC 0.941 [0.915, 0.965]"
    assert str(Estimate(0.5, NAN, NAN, 3)) == "0.50 [no interval]"
    assert str(Estimate(NAN, NAN, NAN, 0)) == "undefined"
