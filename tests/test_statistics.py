from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnn_xray import InputError
from cnn_xray.metrics import auc_difference
from cnn_xray.statistics import (
    REPLICATES,
    Estimate,
    bootstrap_p,
    bootstrap_weights,
    checked_columns,
    cluster_mean,
    compare,
    estimate,
    hodges_lehmann,
    interval,
    over_trainings,
    paired_difference,
    pooled,
    sample_and_replicates,
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


def test_columns_come_back_as_numbers_and_patients_as_text():
    labels, confounder, patients = checked_columns(labels=[True, False], confounder=[NAN, 2], patients=[3, "b"])
    np.testing.assert_array_equal(labels, [1.0, 0.0])
    np.testing.assert_array_equal(confounder, [NAN, 2.0])
    assert patients.tolist() == ["3", "b"] and labels.dtype == np.float64
    assert checked_columns(least=0, differences=[])[0].shape == (0,)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [0, 2, 3]}, r"Labels must be 0 or 1: row 1 has 2.0 \(2 such\)"),
        ({"labels": [0, NAN]}, "Labels must be 0 or 1: row 1 has nan"),
        ({"probabilities": [0.1, 3.5]}, r"Probabilities must lie in 0..1 .*sigmoid.*row 1 has 3.5 \(1 such\)"),
        ({"probabilities": [0.1, NAN]}, "row 1 has nan"),
        ({"scores_b": [math.inf, 1]}, "Scores_b must be finite .*diverged.*row 0 has inf"),
        ({"confounder": [0, -math.inf]}, "Confounder must be finite, or NaN .*row 1 has -inf"),
        ({"patients": ["a", None, "b"]}, "Patients must be known .*row 1 has None"),
        ({"patients": pd.Series(["a", pd.NA])}, "Patients must be known .*row 1"),
        ({"labels": [0, 1, 1], "scores": [0.1, 0.2]}, r"one of each.*labels \(3,\), scores \(2,\)"),
        ({"labels": [[0, 1]]}, r"labels \(1, 2\)"),
        ({"labels": []}, "1 image or more"),
        ({"scores": ["high", "low"]}, "Scores must be numbers"),
    ],
)
def test_a_column_that_breaks_its_rule_is_named_with_its_row(columns, message):
    with pytest.raises(InputError, match=message):
        checked_columns(**columns)


def test_interval_is_the_percentile_interval_of_finite_replicates():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval([*np.arange(101.0), NAN, math.inf]) == pytest.approx((2.5, 97.5))
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
    with pytest.raises(InputError, match=r"a \(5,\), b \(4,\)"):
        paired_difference(a, b[:4], list("vwxyz"))
    with pytest.raises(InputError, match=r"values \(5,\), patients \(3,\)"):
        cluster_mean(a, list("vwx"))


def test_an_estimate_prints_as_a_number_with_its_interval():
    result = Estimate(0.9412, 0.9149, 0.9651, 624)
    assert str(result) == "0.94 [0.91, 0.97]"
    assert f"AUC {result:.3f}" == "AUC 0.941 [0.915, 0.965]"
    assert str(Estimate(0.5, NAN, NAN, 3)) == "0.50 [no interval]"
    assert str(Estimate(NAN, NAN, NAN, 0)) == "undefined"


def test_the_interval_of_a_difference_of_aucs_is_about_that_of_delong():
    rng = np.random.default_rng(0)
    labels, rows = np.repeat([0, 1], 150), np.arange(300)
    shared = rng.normal(size=300) + labels
    first, second = (
        pd.DataFrame({"label": labels, "logit": shared + much * rng.normal(size=300), "patient": rows})
        for much in (1, 2)
    )
    # DeLong, DeLong & Clarke-Pearson 1988: variance of how much more each image is in order with the first.
    logits = [[one["logit"].to_numpy()[labels == label] for label in (1, 0)] for one in (first, second)]
    of_first, of_second = ((positive[:, None] > negative).astype(float) for positive, negative in logits)
    gained = of_first - of_second
    se = math.sqrt(gained.mean(axis=1).var(ddof=1) / 150 + gained.mean(axis=0).var(ddof=1) / 150)
    result = auc_difference(first, second)
    assert result.value == pytest.approx(gained.mean())
    assert (result.low, result.high) == pytest.approx((result.value - 1.96 * se, result.value + 1.96 * se), abs=0.01)
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(result.value) / se), abs=0.02)


def test_hodges_lehmann_worked_by_hand():
    # Walsh averages of -1, 2, 4, 11: -1, 0.5, 1.5, 2, 3, 4, 5, 6.5, 7.5, 11.
    result = hodges_lehmann([4, -1, NAN, 11, 2, math.inf])
    assert result.value == 3.5 and result.n == 4
    assert math.isnan(result.low) and math.isnan(result.high)  # all positive has probability 1/16 > 2.5 %


def test_the_interval_lies_between_two_walsh_averages_counted_by_hand():
    # Seven: P(W⁺ <= 2) = 3/128 is below 2.5 %, P(W⁺ <= 3) = 5/128 is not, so the third from either end.
    # Lowest -1, (-1+2)/2, (-1+3)/2; highest 20, (13+20)/2, (8+20)/2.
    result = hodges_lehmann([5, 20, -1, 3, 13, 2, 8])
    assert (result.low, result.high) == (1, 14)
    # Six: 1/64 is, 2/64 is not, so the ends themselves.
    result = hodges_lehmann([5, -1, 3, 13, 2, 8])
    assert (result.low, result.high) == (-1, 13)


def test_hodges_lehmann_of_the_depression_scale_factors():
    # Hollander & Wolfe 1999, table 3.1, the example of R's wilcox.test.
    # P(W⁺ <= 5) = 10/512 makes the bounds the sixth Walsh averages from the ends: 0.01 itself, (0.952 + 0.62) / 2.
    x = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    y = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    result = hodges_lehmann(x - y)
    assert vars(result) == pytest.approx(vars(Estimate(0.46, 0.010, 0.786, 9)))


@pytest.mark.parametrize("n", [20, 50, 51, 200])
def test_the_interval_holds_the_shifts_that_scipy_does_not_reject(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    result = hodges_lehmann(differences)
    for bound, inwards in ((result.low, 1e-9), (result.high, -1e-9)):
        assert stats.wilcoxon(differences - bound - inwards).pvalue > 0.05
        assert stats.wilcoxon(differences - bound + inwards).pvalue <= 0.05


def test_hodges_lehmann_of_zeros_and_nothing():
    with_zeros = hodges_lehmann([0, 0, 0, 0, 0, 1, 1, 1])
    assert with_zeros.n == 8 and (with_zeros.low, with_zeros.high) == (0, 1)
    zeros = hodges_lehmann([0.0] * 10)
    assert (zeros.value, zeros.low, zeros.high) == (0, 0, 0)
    for nothing in (hodges_lehmann([]), hodges_lehmann([NAN, NAN])):
        assert np.isnan([nothing.value, nothing.low]).all() and nothing.n == 0


def test_hodges_lehmann_takes_a_whole_test_set():
    differences = np.random.default_rng(0).normal(0.1, 1, 3000)
    result = hodges_lehmann(differences)
    half = 1.959964 * math.sqrt(math.pi / 3 / 3000)  # asymptotic efficiency 3/π on normal numbers
    assert result.value == pytest.approx(differences.mean(), abs=0.01)
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.05)


def test_the_interval_over_trainings_by_hand():
    found = over_trainings([1, 2, 3, NAN])  # standard deviation 1, t(.975, 2) = 4.303
    half = 4.3027 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-4) and found.n == 3
    alone, nothing = over_trainings([5]), over_trainings([])
    assert alone.value == 5 and math.isnan(alone.low) and math.isnan(nothing.value) and nothing.n == 0


def test_pooled_worked_by_hand():
    found = pooled([Estimate(0.2, 0.1, 0.3, 50), Estimate(0.4, 0.2, 0.6, 40), Estimate(0.6, 0.3, 0.9, 60)])
    # mean 0.4; spread of the trainings 0.2, t of 2 degrees of freedom 4.302653; mean half-width 0.2
    half = math.hypot(4.302653 * 0.2 / math.sqrt(3), 0.2)
    assert (found.value, found.n) == (pytest.approx(0.4), 40)
    assert (found.low, found.high) == (pytest.approx(0.4 - half), pytest.approx(0.4 + half))


def test_pooled_of_one_is_its_own_and_without_a_bound_there_is_none():
    one = pooled([Estimate(0.2, 0.19, 0.4, 50)])
    assert (one.value, one.low, one.high) == (0.2, 0.19, 0.4)
    assert math.isnan(pooled([Estimate(0.2, 0.1, 0.3), Estimate(0.3)]).low)


def test_the_interval_of_pooled_covers_the_mean_over_trainings_and_patients():
    """400 recipes whose trainings differ by 0.1 (SD) and whose patients, the same for all, by 0.05."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        patients = rng.normal(0, 0.05)
        values = patients + rng.normal(0, 0.1, 6)
        found = pooled([Estimate(one, one - 1.96 * 0.05, one + 1.96 * 0.05, 1) for one in values])
        covered.append(found.low <= 0 <= found.high)
    assert 0.95 <= np.mean(covered) <= 1


def test_bootstrap_p_counts_replicates_on_either_side():
    replicates = np.r_[np.full(3, -1.0), np.full(96, 2.0)]
    assert bootstrap_p(1.5, replicates) == pytest.approx(2 * 4 / 100)
    assert bootstrap_p(1.5, -replicates) == pytest.approx(2 * 4 / 100)
    assert bootstrap_p(1.5, [*replicates, NAN, math.inf]) == pytest.approx(2 * 4 / 100)
    assert bootstrap_p(1.5, replicates, null=-2) == pytest.approx(2 / 100)
    assert bootstrap_p(0, [0, 0, 0]) == 1  # on neither side, so on both
    assert bootstrap_p(0, [-1, 1]) == 1  # 2 · 2/3
    assert np.isnan([bootstrap_p(NAN, replicates), bootstrap_p(1, [NAN]), bootstrap_p(1, [])]).all()


def test_a_comparison_is_the_estimate_with_its_p():
    replicates = np.r_[np.full(3, -1.0), np.full(96, 2.0)]
    result = compare(1.5, replicates, ["a", "b", "b"])
    assert (result.value, result.n, result.p) == (1.5, 3, 8 / 100)
    assert (result.low, result.high) == interval(replicates)
    assert compare(1.5, replicates, ["a", "b"], null=-2).p == 2 / 100


def test_what_one_patient_or_no_value_gives_is_not_compared():
    alone = compare(1.5, [1.5, 1.5], ["a", "a"])
    assert alone.value == 1.5 and alone.n == 2 and np.isnan([alone.low, alone.high, alone.p]).all()
    undefined = compare(NAN, [0.1, 0.2, 0.3], ["a", "b"])  # some replicates are defined, the value is not
    assert np.isnan([undefined.low, undefined.high, undefined.p]).all() and undefined.n == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hodges_lehmann([[1.0, 2.0]]), r"differences \(1, 2\)"),
    ],
)
def test_a_test_of_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_sample_is_the_first_row_of_its_replicates():
    weights = sample_and_replicates(list("aabc"), seed=3)
    assert weights.shape == (REPLICATES + 1, 4) and (weights[0] == 1).all()
    np.testing.assert_array_equal(weights[1:], bootstrap_weights(list("aabc"), seed=3))


def test_too_many_undefined_replicates_leave_the_value_alone():
    replicates = np.r_[np.full(6, np.nan), np.linspace(0, 1, 94)]
    found = compare(0.5, replicates, np.arange(10))
    assert found.value == 0.5 and np.isnan([found.low, found.high, found.p]).all()
    replicates = np.r_[np.full(4, np.nan), np.linspace(0, 1, 96)]
    assert not np.isnan(compare(0.5, replicates, np.arange(10)).low)
