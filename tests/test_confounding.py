from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cnn_xray import InputError
from cnn_xray.audit import log_odds, matched_auc, shape_probe, stratified_auc
from cnn_xray.metrics import auc_with_interval
from cnn_xray.statistics import bootstrap_weights, interval

NAN = float("nan")


def people(n: int) -> list[str]:
    return [f"p{row}" for row in range(n)]


def films(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a confounder of AUC about .90, and a score as good that is independent of it within class."""
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.6).astype(int)
    return y, rng.normal(size=n) + 1.8 * y, rng.normal(size=n) + 1.8 * y


def test_log_odds_ties_what_differs_in_the_last_bit_and_stays_finite():
    assert log_odds([0.5, 0.75]).tolist() == [0, pytest.approx(math.log(3))]
    assert log_odds([0.3])[0] == log_odds([np.nextafter(0.3, 1)])[0]
    ends = log_odds([0, 1, NAN])
    assert ends[0] == -ends[1] < -30 and np.isnan(ends[2])
    with pytest.raises(InputError, match="one is 1.5"):
        log_odds([0.5, 1.5])


# Strata. In the first 3 of 4 pairs are in order; in the second 1½ of 3 (one tie, one right, one wrong).
LABELS = [1, 1, 0, 0, 1, 0, 0, 0]
SCORES = [0.8, 0.4, 0.6, 0.2, 0.5, 0.5, 0.1, 0.9]
CONFOUNDER = [-1, -1, -1, -1, 2, 2, 2, 2]


def test_two_strata_by_hand():
    result = stratified_auc(LABELS, SCORES, CONFOUNDER, people(8))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.auc.n == 8 and result.note == ""
    assert 0 <= result.auc.low < 4.5 / 7 < result.auc.high <= 1
    assert result.confounder_auc.value == result.confounder_auc.low == result.confounder_auc.high == 0.5
    assert result.strata.tolist() == [0] * 4 + [1] * 4
    table = result.table
    assert table.index.tolist() == [1, 2] and table.index.name == "stratum"
    assert table["confounder_low"].tolist() == table["confounder_high"].tolist() == [-1, 2]
    assert table["n_positive"].tolist() == [2, 1] and table["n_negative"].tolist() == [2, 3]
    assert table["auc"].tolist() == [0.75, 0.5] and table["confounder_auc"].tolist() == [0.5, 0.5]


def test_only_pairs_of_one_stratum_count():
    y, c, s = films(200)
    s = s.round(1)  # with ties
    result = stratified_auc(y, s, c, people(200), strata=4)
    wins = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            if result.strata[i] == result.strata[j]:
                pairs += 1
                wins += 1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0
    assert result.auc.value == pytest.approx(wins / pairs)
    assert np.bincount(result.strata).tolist() == [50] * 4
    table = result.table
    assert (table["confounder_high"].to_numpy()[:-1] < table["confounder_low"].to_numpy()[1:]).all()


def test_the_confounder_itself_is_good_overall_and_worth_little_within_strata():
    y, c, _ = films()
    assert stratified_auc(y, c, c, people(600), strata=1).auc.value > 0.85
    five, many = (stratified_auc(y, c, c, people(600), strata=n) for n in (5, 40))
    assert five.auc.value < 0.68 and many.auc.value < 0.55
    assert five.auc == five.confounder_auc
    coarse = stratified_auc(y, c.round(), c.round(), people(600), strata=20)
    assert coarse.auc.value == pytest.approx(0.5)  # each value a stratum of its own


def test_a_good_score_that_is_no_confounder_stays_good():
    y, c, s = films()
    patients = [f"p{row // 2}" for row in range(600)]
    raw = stratified_auc(y, s, np.zeros(600), patients).auc
    for adjusted in (stratified_auc(y, s, c, patients).auc, matched_auc(y, s, c, patients).auc):
        assert adjusted.low < raw.value < adjusted.high and adjusted.value == pytest.approx(raw.value, abs=0.04)


def test_one_stratum_is_the_plain_auc_with_its_interval():
    y, _, s = films(100)
    p, patients = 1 / (1 + np.exp(-s)), [f"p{row // 3}" for row in range(100)]
    result = stratified_auc(y, p, np.full(100, 0.3), patients, seed=5)
    plain = auc_with_interval(y, p, patients, seed=5)
    assert (result.auc.value, result.auc.low, result.auc.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert "nothing to adjust for" in result.note and len(result.table) == 1


def test_equal_values_share_a_stratum():
    c = np.repeat([0.0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 95])
    strata = stratified_auc([0, 1] * 50, np.arange(100), c, people(100), strata=5).strata
    assert len(set(strata[5:])) == 1 and (np.diff(strata) >= 0).all() and set(strata) == set(range(strata.max() + 1))


def test_a_stratum_without_a_class_is_nan_and_does_not_count():
    result = stratified_auc(LABELS + [1, 1], SCORES + [0, 0], CONFOUNDER + [7, 7], people(10))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.auc.n == 8
    assert result.table.loc[3, ["auc", "low", "high", "confounder_auc"]].isna().all()
    assert result.table.loc[3, ["n_positive", "n_negative"]].tolist() == [2, 0]


def test_what_strata_cannot_compare_is_nan_with_a_reason():
    for labels, confounder, reason in (
        ([1, 1, 0, 0], [NAN] * 4, "No image has a known"),
        ([1, 1, 1, 1], [0, 0, 1, 1], "one class"),
        ([1, 1, 0, 0], [1, 1, 0, 0], "No stratum has images of both"),
    ):
        result = stratified_auc(labels, [0.1, 0.2, 0.3, 0.4], confounder, people(4))
        assert all(math.isnan(v) for v in (result.auc.value, result.auc.low, result.confounder_auc.value))
        assert result.auc.n == 0 and reason in result.note and len(result.strata) == 4
    assert stratified_auc([1, 0], [0.1, 0.2], [NAN, NAN], people(2)).table.shape == (0, 8)


def test_unknown_confounders_are_left_out_and_counted():
    labels, scores, confounder = LABELS + [1, 0], SCORES + [0, 1], CONFOUNDER + [NAN, NAN]
    result = stratified_auc(labels, scores, confounder, people(10))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.unknown == 2
    assert result.strata.tolist()[-2:] == [-1, -1]
    matched = matched_auc(labels, scores, confounder, people(10))
    assert matched.unknown == 2 and matched.pairs == 3 and matched.left_out == 2 and matched.matches.max() < 8


def test_one_patient_gives_no_interval():
    result = stratified_auc(LABELS, SCORES, CONFOUNDER, ["one"] * 8)
    assert result.auc.value == pytest.approx(4.5 / 7) and math.isnan(result.auc.low) and math.isnan(result.auc.high)
    assert result.table[["low", "high"]].isna().all(axis=None)


# Matching. Both classes have variance 14, so the caliper is 0.2·√14 = 0.75: it lets 0 – 0.5 and 3 – 3.5 through.
THREE = ([1, 1, 1, 0, 0, 0], [0.9, 0.4, 0.0, 1.0, 0.5, 0.1], [0, 3, 9, -5.5, 0.5, 3.5])


def test_three_and_three_matched_by_hand():
    result = matched_auc(*THREE, people(6))
    assert result.matches.tolist() == [[0, 4], [1, 5]]
    assert (result.pairs, result.left_out, result.unknown, result.note) == (2, 2, 0, "")
    # .9 beats .5 and .1, .4 beats .1 only; of the confounders only 3 > 0.5 is in order.
    assert result.auc.value == 0.75 and result.confounder_auc.value == 0.25 and result.auc.n == 4


def test_the_caliper_is_in_standard_deviations_within_class():
    assert matched_auc(*THREE, people(6), caliper=0.13).pairs == 0  # 0.13·√14 = 0.486
    assert matched_auc(*THREE, people(6), caliper=0.14).pairs == 2  # 0.14·√14 = 0.524
    assert matched_auc(*THREE, people(6), caliper=100).pairs == 3


def test_partners_are_never_of_one_patient():
    c = [0, 10, 0, 10]  # the caliper is 0.2·5 = 1
    result = matched_auc([1, 1, 0, 0], [1, 1, 0, 0], c, ["a", "b", "a", "c"])
    assert result.matches.tolist() == [[1, 3]] and result.left_out == 2
    assert matched_auc([1, 1, 0, 0], [1, 1, 0, 0], c, ["a"] * 4).pairs == 0


def test_more_pairs_come_before_nearer_ones():
    # Both standard deviations are 0.5, so the caliper is 0.65. Nearest first would take 1 – 0.6 and leave 0 alone.
    result = matched_auc([1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0.6, 1.6], people(4), caliper=1.3)
    assert result.matches.tolist() == [[0, 2], [1, 3]]


def test_of_as_many_pairs_the_nearest_are_taken():
    result = matched_auc([1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0.9, 2], people(4), caliper=9)
    assert result.matches.tolist() == [[0, 2]] and result.left_out == 2


def test_the_matched_interval_is_that_of_the_matched_images():
    y, c, s = films(200)
    p, patients = 1 / (1 + np.exp(-s)), np.array([f"p{row // 3}" for row in range(200)])
    result = matched_auc(y, p, c, patients, seed=2)
    rows = result.matches.ravel()
    plain = auc_with_interval(y[rows], p[rows], patients[rows], seed=2)
    assert (result.auc.value, result.auc.low, result.auc.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert len(set(rows)) == len(rows) == result.auc.n and (y[result.matches] == [1, 0]).all()


def test_the_confounder_itself_is_worth_nothing_when_matched():
    y, c, _ = films()
    result = matched_auc(y, c, c, people(600))
    assert result.auc == result.confounder_auc and result.auc.value == pytest.approx(0.5, abs=0.06)
    assert matched_auc(y, c, c, people(600), caliper=0.02).auc.value == pytest.approx(0.5, abs=0.01)


def test_the_seed_and_not_the_row_decides_between_equal_matches():
    labels, scores = [1] * 20 + [0] * 4, np.arange(24)
    chosen = {tuple(sorted(matched_auc(labels, scores, [0] * 24, people(24), seed=n).matches[:, 0])) for n in range(5)}
    assert len(chosen) > 1 and all(len(rows) == 4 for rows in chosen)
    again = [matched_auc(labels, scores, [0] * 24, people(24), seed=3) for _ in range(2)]
    assert again[0].auc == again[1].auc and (again[0].matches == again[1].matches).all()


def test_what_cannot_be_matched_is_nan_with_a_reason():
    for labels, confounder, reason in (
        ([1, 1, 0, 0], [NAN] * 4, "No image has a known"),
        ([0, 0, 0, 0], [0, 0, 1, 1], "one class"),
        ([1, 1, 0, 0], [5, 6, 0, 1], "within 0.2 standard deviations"),
        ([1, 1, 0, 0], [1, 1, 0, 0], "within 0.2 standard deviations"),  # no spread: only equal values match
    ):
        result = matched_auc(labels, [0.1, 0.2, 0.3, 0.4], confounder, people(4))
        assert math.isnan(result.auc.value) and math.isnan(result.auc.low) and math.isnan(result.confounder_auc.value)
        assert result.pairs == result.auc.n == 0 and result.matches.shape == (0, 2) and reason in result.note
        assert result.left_out + result.unknown == 4


@pytest.mark.parametrize("function", [stratified_auc, matched_auc])
def test_bad_input_is_a_sentence(function):
    good = {"labels": [1, 0], "scores": [0.1, 0.2], "confounder": [0.0, 0.0], "patients": ["a", "b"]}
    for change, sentence in (
        ({"labels": [1, 2]}, "Labels must be 0 or 1: row 1 has 2"),
        ({"scores": [0.1, NAN]}, "Scores must be finite .*row 1"),
        ({"scores": ["high", "low"]}, "Scores must be numbers"),
        ({"confounder": [0, -math.inf]}, "confounder must be finite, or NaN .*row 1 has -inf"),
        ({"confounder": [[0, 0]]}, "one number an image"),
        ({"patients": ["a"]}, r"patients \(1,\)"),
        ({"patients": ["a", None]}, "1 of 2 images have no patient"),
        ({"labels": [], "scores": [], "confounder": [], "patients": []}, "there must be one"),
    ):
        with pytest.raises(InputError, match=sentence):
            function(**(good | change))


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="0 strata"):
        stratified_auc(LABELS, SCORES, CONFOUNDER, people(8), strata=0)
    for caliper in (-0.1, NAN):
        with pytest.raises(InputError, match="caliper"):
            matched_auc(*THREE, people(6), caliper=caliper)


# The shape probe learns "shape = first feature" from these, and the second feature is noise.
RNG = np.random.default_rng(0)
X_TRAIN = RNG.uniform(-3, 3, (400, 2))
Y_TRAIN = np.arange(400) % 2
X_TEST = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
Y_TEST = [0, 0, 1, 1]


def test_r2_by_hand():
    result = shape_probe(X_TRAIN, X_TRAIN[:, 0], X_TEST, [0, 1, 2, 4], Y_TRAIN, Y_TEST, people(4))
    # Errors 0, 0, 0, 1; squares about the mean 1.75 add up to 8.75. Within class the errors are 0, 0, −½, ½ and the
    # shapes −½, ½, −1, 1.
    assert result.r2.value == pytest.approx(1 - 1 / 8.75, abs=1e-3)
    assert result.r2_within_class.value == pytest.approx(1 - 0.5 / 2.5, abs=1e-3)
    assert (result.r2.n, result.n_train, result.unknown_train, result.unknown_test, result.note) == (4, 400, 0, 0, "")


def test_a_constant_error_counts_overall_and_not_within_class():
    result = shape_probe(X_TRAIN, X_TRAIN[:, 0], X_TEST, [1, 2, 3, 4], Y_TRAIN, Y_TEST, people(4))
    assert result.r2.value == pytest.approx(1 - 4 / 5, abs=1e-3)
    assert result.r2_within_class.value == pytest.approx(1, abs=1e-3)


def test_features_that_know_the_label_alone_know_no_shape_within_class():
    rng = np.random.default_rng(1)
    y = np.arange(600) % 2
    shape = y + rng.normal(0, 0.5, 600)
    features = np.c_[y + rng.normal(0, 0.1, 600), rng.normal(size=(600, 7))]
    for know in (False, True):
        if know:
            features[:, 3] = 100 * shape
        a, b = slice(0, 300), slice(300, 600)
        result = shape_probe(features[a], shape[a], features[b], shape[b], y[a], y[b], people(300))
        assert result.r2.value > 0.3 and result.r2.low < result.r2.value < result.r2.high
        assert result.r2_within_class.value == pytest.approx(1.0 if know else 0.0, abs=0.05)


def test_the_r2_intervals_are_those_of_repeated_rows():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 2)), np.arange(60) % 2
    shape = x[:, 0] + y + rng.normal(0, 0.7, 60)
    patients = np.array([f"p{row // 2}" for row in range(60)])
    slope_one = X_TRAIN[:, 0]  # the fitted line is the first feature, up to the penalty
    result = shape_probe(X_TRAIN, slope_one, x, shape, Y_TRAIN, y, patients, seed=4)
    replicates = []
    for w in bootstrap_weights(patients, seed=4):
        truth, guess, label = (np.repeat(v, w) for v in (shape, x[:, 0], y))
        within = [v - np.array([v[label == k].mean() for k in (0, 1)])[label] for v in (truth, guess)]
        replicates.append((r2_score(truth, guess), r2_score(*within)))
    overall, within = np.transpose(replicates)
    assert (result.r2.low, result.r2.high) == pytest.approx(interval(overall), abs=1e-3)
    assert (result.r2_within_class.low, result.r2_within_class.high) == pytest.approx(interval(within), abs=1e-3)


def test_films_of_one_shape_are_nan_with_a_reason():
    square, varied, same_ratio = np.zeros(400), X_TRAIN[:, 0], np.log(np.arange(2, 802, 2)) - np.log(np.arange(1, 401))
    for train, test, reason in (
        (square, np.zeros(4), "All training images have the same shape"),
        (same_ratio, [0, 1, 2, 3], "All training images have the same shape"),
        (varied, [2, 2, 2, 2], "All test images have the same shape"),
        (np.full(400, NAN), [0, 1, 2, 3], "No training image has a known shape"),
        (varied, [NAN] * 4, "No test image has a known shape"),
    ):
        result = shape_probe(X_TRAIN, train, X_TEST, test, Y_TRAIN, Y_TEST, people(4))
        for e in (result.r2, result.r2_within_class):
            assert math.isnan(e.value) and math.isnan(e.low) and math.isnan(e.high)
        assert reason in result.note


def test_shape_that_is_the_label_is_nan_within_class_only():
    result = shape_probe(np.c_[Y_TRAIN], 0.3 * Y_TRAIN, np.c_[Y_TEST], [0, 0, 0.3, 0.3], Y_TRAIN, Y_TEST, people(4))
    assert result.r2.value == pytest.approx(1, abs=1e-3) and math.isnan(result.r2_within_class.value)
    assert "Within a class" in result.note


def test_unknown_shapes_are_left_out_and_counted_and_one_patient_has_no_interval():
    train = X_TRAIN[:, 0].copy()
    train[:10] = NAN
    result = shape_probe(X_TRAIN, train, X_TEST, [0, 1, NAN, 3], Y_TRAIN, Y_TEST, ["one"] * 4)
    assert (result.n_train, result.unknown_train, result.unknown_test, result.r2.n) == (390, 10, 1, 3)
    assert result.r2.value == pytest.approx(1, abs=1e-3) and math.isnan(result.r2.low)


def test_bad_features_are_a_sentence():
    good = [X_TRAIN, X_TRAIN[:, 0], X_TEST, [0, 1, 2, 3], Y_TRAIN, Y_TEST, people(4)]
    for place, value, sentence in (
        (0, X_TRAIN[:5], "Each training image needs a row of features"),
        (2, X_TEST[:, 0], "Each test image needs a row of features"),
        (2, X_TEST[:, :1], "the same features in both splits"),
        (2, X_TEST * NAN, "Features must be finite: test row 0"),
        (3, [0, 1, 2, math.inf], "Shapes must be finite"),
        (5, [0, 1, 2, 3], "Labels must be 0 or 1"),
        (6, people(3), "got 3 patients for 4 images"),
    ):
        with pytest.raises(InputError, match=sentence):
            shape_probe(*good[:place], value, *good[place + 1 :])
