"""The data's own leaks: size, what is left of an AUC without it, shape in the features, near-duplicates."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from cnn_xray import InputError, audit, statistics
from cnn_xray.audit import (
    auc_where_size_tells_little,
    fine_structure,
    log_odds,
    matched_auc,
    median_sizes,
    near_duplicates,
    perceptual_hash,
    shape_probe,
    shifted_correlation,
    size_only_probe,
    stratified_auc,
)
from cnn_xray.metrics import auc_with_interval
from cnn_xray.statistics import bootstrap_weights, interval

NAN = float("nan")


def people(n: int) -> list[str]:
    return [f"p{row}" for row in range(n)]


def sized(labels: list[int], widths: list[int | None], heights: list[int | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": labels,
            "split": "test",
            "patient": people(len(labels)),
            "original_width": pd.array(widths, dtype="Int64"),
            "original_height": pd.array(heights, dtype="Int64"),
        }
    )


# Same area for all, so aspect ratio alone tells them apart: 2:1 with label 1, 1:2 with label 0.
TRAIN = sized([1, 1, 1, 0, 0, 0], [200, 400, 600, 100, 200, 300], [100, 200, 300, 200, 400, 600])


def test_size_alone_gives_the_label_away():
    probe = size_only_probe(TRAIN, sized([1, 0, 1, 0], [800, 400, 100, 50], [400, 800, 50, 100]))
    assert probe.auc.value == 1 and probe.auc.n == 4 and probe.note == ""
    assert (probe.probabilities > 0.5).tolist() == [True, False, True, False]
    # Scale says nothing here, so the two images of one shape get one probability.
    assert probe.probabilities[0] == pytest.approx(probe.probabilities[2], abs=1e-6)


def test_unknown_sizes_are_left_out_and_counted():
    train = pd.concat([TRAIN, sized([0, 1], [None, 100], [100, None])], ignore_index=True)
    probe = size_only_probe(train, sized([0, 1, 0, 0], [None, 200, 100, 0], [100, 100, 200, 100]))
    assert (probe.n_train, probe.unknown_train, probe.unknown_test) == (6, 2, 2)
    assert np.isnan(probe.probabilities).tolist() == [True, False, False, True]
    assert probe.auc.value == 1 and probe.auc.n == 2


def test_equal_sizes_earn_one_half_as_on_the_phantom():
    train, test = (sized([0, 1] * 4, [64] * 8, [64] * 8) for _ in range(2))
    probe = size_only_probe(train, test)
    assert (probe.auc.value, probe.auc.low, probe.auc.high) == (0.5, 0.5, 0.5)
    assert "same original size" in probe.note


def test_no_size_or_one_class_is_nan_with_a_reason():
    unknown, positive = sized([0, 1], [None, None], [None, None]), TRAIN[TRAIN["label"] == 1]
    for train, test, reason in (
        (unknown, TRAIN, "No training image"),
        (TRAIN, unknown, "No test image"),
        (positive, TRAIN, "one class"),
        (TRAIN, positive, "one class"),
    ):
        probe = size_only_probe(train, test)
        assert math.isnan(probe.auc.value) and np.isnan(probe.probabilities).all()
        assert len(probe.probabilities) == len(test) and reason in probe.note


def test_the_interval_of_the_size_probe_follows_the_seed_and_the_patients():
    rng = np.random.default_rng(0)
    labels = [0, 1] * 30
    test = sized(labels, [int(100 + 30 * y + rng.integers(0, 60)) for y in labels], [100] * 60)
    first, other = (size_only_probe(TRAIN, test, seed=s).auc for s in (0, 1))
    assert first.value == other.value and first.low != other.low
    assert math.isnan(size_only_probe(TRAIN, test.assign(patient="one")).auc.low)


def test_median_sizes_by_hand():
    sizes = median_sizes(sized([0, 0, 0, 1, 1], [100, 200, 600, 300, None], [100, 100, 200, 100, 50]))
    assert sizes.loc[("test", 0)].tolist() == [3, 200, 100, 2]
    assert sizes.loc[("test", 1)].tolist() == [1, 300, 75, 3]


def confounded(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a confounder of AUC about .90, and a score as good that is independent of it within class."""
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.6).astype(int)
    return y, rng.normal(size=n) + 1.8 * y, rng.normal(size=n) + 1.8 * y


def test_log_odds_tie_what_differs_in_the_last_bit_and_stay_finite():
    assert log_odds([0.5, 0.75]).tolist() == [0, pytest.approx(math.log(3))]
    assert log_odds([0.3])[0] == log_odds([np.nextafter(0.3, 1)])[0]
    ends = log_odds([0, 1, NAN])
    assert ends[0] == -ends[1] < -30 and np.isnan(ends[2])


# Strata. In the first 3 of 4 pairs are in order; in the second 1½ of 3 (one tie, one right, one wrong).
LABELS = [1, 1, 0, 0, 1, 0, 0, 0]
SCORES = [0.8, 0.4, 0.6, 0.2, 0.5, 0.5, 0.1, 0.9]
CONFOUNDER = [-1, -1, -1, -1, 2, 2, 2, 2]


def test_two_strata_by_hand():
    result = stratified_auc(LABELS, SCORES, CONFOUNDER, people(8))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.auc.n == 8
    assert 0 <= result.auc.low < 4.5 / 7 < result.auc.high <= 1
    assert result.confounder_auc.value == result.confounder_auc.low == result.confounder_auc.high == 0.5
    table = result.table
    assert table.index.tolist() == [1, 2] and table.index.name == "stratum"
    assert table["confounder_low"].tolist() == table["confounder_high"].tolist() == [-1, 2]
    assert table["n_positive"].tolist() == [2, 1] and table["n_negative"].tolist() == [2, 3]
    assert table["auc"].tolist() == [0.75, 0.5] and table["confounder_auc"].tolist() == [0.5, 0.5]


def test_only_pairs_of_one_stratum_count():
    y, c, s = confounded(200)
    s = s.round(1)  # with ties
    result = stratified_auc(y, s, c, people(200))
    stratum = np.argsort(np.argsort(c)) // 40
    wins = pairs = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero((y == 0) & (stratum == stratum[i])):
            pairs += 1
            wins += 1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0
    assert result.auc.value == pytest.approx(wins / pairs)
    table = result.table
    assert (table["n_positive"] + table["n_negative"]).tolist() == [40] * 5
    assert (table["confounder_high"].to_numpy()[:-1] < table["confounder_low"].to_numpy()[1:]).all()


def test_the_confounder_itself_is_worth_little_within_strata_and_nothing_when_matched():
    y, c, _ = confounded()
    assert auc_with_interval(y, 1 / (1 + np.exp(-c)), people(600)).value > 0.85
    five = stratified_auc(y, c, c, people(600))
    assert 0.5 < five.auc.value < 0.68 and five.auc == five.confounder_auc
    whole = np.clip(c.round(), 0, 2)  # three values, each a stratum of its own
    assert stratified_auc(y, whole, whole, people(600)).auc.value == pytest.approx(0.5)
    matched = matched_auc(y, c, c, people(600))
    assert matched.auc == matched.confounder_auc and matched.auc.value == pytest.approx(0.5, abs=0.06)
    assert matched_auc(y, c, c, people(600), caliper=0.02).auc.value == pytest.approx(0.5, abs=0.01)


def test_a_good_score_that_is_no_confounder_stays_good():
    y, c, s = confounded()
    patients = [f"p{row // 2}" for row in range(600)]
    raw = auc_with_interval(y, 1 / (1 + np.exp(-s)), patients)
    for adjusted in (stratified_auc(y, s, c, patients).auc, matched_auc(y, s, c, patients).auc):
        assert adjusted.low < raw.value < adjusted.high and adjusted.value == pytest.approx(raw.value, abs=0.04)


def test_one_stratum_is_the_plain_auc_with_its_interval():
    y, _, s = confounded(100)
    p, patients = 1 / (1 + np.exp(-s)), [f"p{row // 3}" for row in range(100)]
    result = stratified_auc(y, p, np.full(100, 0.3), patients, seed=5)
    plain = auc_with_interval(y, p, patients, seed=5)
    assert (result.auc.value, result.auc.low, result.auc.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert len(result.table) == 1


def test_equal_values_share_a_stratum():
    table = stratified_auc(
        [0, 1] * 50, np.arange(100), np.repeat([0.0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 95]), people(100)
    )
    assert (table.table["n_positive"] + table.table["n_negative"]).tolist() == [5, 95]


def test_a_stratum_without_a_class_is_nan_and_does_not_count():
    result = stratified_auc(LABELS + [1, 1], SCORES + [0, 0], CONFOUNDER + [7, 7], people(10))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.auc.n == 8
    assert result.table.loc[3, ["auc", "low", "high", "confounder_auc"]].isna().all()
    assert result.table.loc[3, ["n_positive", "n_negative"]].tolist() == [2, 0]


def test_unknown_confounders_are_left_out():
    labels, scores, confounder = LABELS + [1, 0], SCORES + [0, 1], CONFOUNDER + [NAN, NAN]
    result = stratified_auc(labels, scores, confounder, people(10))
    assert result.auc.value == pytest.approx(4.5 / 7) and result.auc.n == 8
    matched = matched_auc(labels, scores, confounder, people(10))
    assert len(matched.table) == 3 and matched.table.to_numpy().max() < 8


def test_one_patient_gives_no_interval():
    result = stratified_auc(LABELS, SCORES, CONFOUNDER, ["one"] * 8)
    assert result.auc.value == pytest.approx(4.5 / 7) and math.isnan(result.auc.low) and math.isnan(result.auc.high)
    assert result.table[["low", "high"]].isna().all(axis=None)


# Matching. Both classes have variance 14, so the caliper is 0.2·√14 = 0.75: it lets 0 – 0.5 and 3 – 3.5 through.
THREE = ([1, 1, 1, 0, 0, 0], [0.9, 0.4, 0.0, 1.0, 0.5, 0.1], [0, 3, 9, -5.5, 0.5, 3.5])


def pairs_of(result):
    return result.table[["positive", "negative"]].to_numpy().tolist()


def test_three_and_three_matched_by_hand():
    result = matched_auc(*THREE, people(6))
    assert pairs_of(result) == [[0, 4], [1, 5]]
    # .9 beats .5 and .1, .4 beats .1 only; of the confounders only 3 > 0.5 is in order.
    assert result.auc.value == 0.75 and result.confounder_auc.value == 0.25 and result.auc.n == 4


def test_the_caliper_is_in_standard_deviations_within_class():
    assert len(matched_auc(*THREE, people(6), caliper=0.13).table) == 0  # 0.13·√14 = 0.486
    assert len(matched_auc(*THREE, people(6), caliper=0.14).table) == 2  # 0.14·√14 = 0.524
    assert len(matched_auc(*THREE, people(6), caliper=100).table) == 3
    for caliper in (-0.1, NAN):
        with pytest.raises(InputError, match="caliper"):
            matched_auc(*THREE, people(6), caliper=caliper)


def test_partners_are_never_of_one_patient():
    c = [0, 10, 0, 10]  # the caliper is 0.2·5 = 1
    assert pairs_of(matched_auc([1, 1, 0, 0], [1, 1, 0, 0], c, ["a", "b", "a", "c"])) == [[1, 3]]
    assert len(matched_auc([1, 1, 0, 0], [1, 1, 0, 0], c, ["a"] * 4).table) == 0


def test_more_pairs_come_before_nearer_ones_and_of_as_many_the_nearest():
    # Both standard deviations are 0.5, so the caliper is 0.65. Nearest first would take 1 – 0.6 and leave 0 alone.
    result = matched_auc([1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0.6, 1.6], people(4), caliper=1.3)
    assert pairs_of(result) == [[0, 2], [1, 3]]
    result = matched_auc([1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0.9, 2], people(4), caliper=9)
    assert pairs_of(result) == [[0, 2]]


def test_the_matched_interval_is_that_of_the_matched_images():
    y, c, s = confounded(200)
    p, patients = 1 / (1 + np.exp(-s)), np.array([f"p{row // 3}" for row in range(200)])
    result = matched_auc(y, p, c, patients, seed=2)
    rows = result.table.to_numpy().ravel()
    plain = auc_with_interval(y[rows], p[rows], patients[rows], seed=2)
    assert (result.auc.value, result.auc.low, result.auc.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert len(set(rows)) == len(rows) == result.auc.n and (y[result.table.to_numpy()] == [1, 0]).all()


def test_the_seed_and_not_the_row_decides_between_equal_matches():
    labels, scores = [1] * 20 + [0] * 4, np.arange(24)
    chosen = [
        matched_auc(labels, scores, [0] * 24, people(24), seed=n).table["positive"].tolist() for n in (0, 1, 2, 0)
    ]
    assert len({tuple(rows) for rows in chosen}) > 1 and all(len(rows) == 4 for rows in chosen)
    assert chosen[0] == chosen[3]


@pytest.mark.parametrize("function", [stratified_auc, matched_auc])
def test_what_cannot_be_compared_is_nan(function):
    for labels, confounder in (
        ([1, 1, 0, 0], [NAN] * 4),
        ([0, 0, 0, 0], [0, 0, 1, 1]),
        ([1, 1, 0, 0], [1, 1, 0, 0]),  # no spread within class
    ):
        result = function(labels, [0.1, 0.2, 0.3, 0.4], confounder, people(4))
        for e in (result.auc, result.confounder_auc):
            assert math.isnan(e.value) and math.isnan(e.low) and e.n == 0
    assert matched_auc([1, 1, 0, 0], [1, 2, 3, 4], [NAN] * 4, people(4)).table.shape == (0, 2)


@pytest.mark.parametrize("function", [stratified_auc, matched_auc])
def test_bad_input_is_a_sentence(function):
    good = {"labels": [1, 0], "scores": [0.1, 0.2], "confounder": [0.0, 0.0], "patients": ["a", "b"]}
    for change, sentence in (
        ({"labels": [1, 2]}, "Labels must be 0 or 1: row 1 has 2"),
        ({"scores": [0.1, NAN]}, "Scores must be finite .*row 1"),
        ({"confounder": [0, -math.inf]}, "Confounder must be finite, or NaN .*row 1 has -inf"),
        ({"patients": ["a"]}, r"patients \(1,\)"),
        ({"patients": ["a", None]}, "Patients must be known"),
    ):
        with pytest.raises(InputError, match=sentence):
            function(**(good | change))


# The shape probe learns "shape = first feature" from these, and the second feature is noise.
RNG = np.random.default_rng(0)
X_TRAIN = RNG.uniform(-3, 3, (400, 2))
Y_TRAIN = np.arange(400) % 2
X_TEST = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
Y_TEST = [0, 0, 1, 1]


def shape_known(x_train, shape_train, x_test, shape_test, labels_train, labels_test, patients, seed=0):
    """`shape_probe` of features and shapes given outright: an image holds its row number, its sizes hold the shape."""
    shape = np.concatenate([shape_train, shape_test]).astype(float)
    table = pd.DataFrame({"original_width": 1000 * np.exp(shape), "original_height": 1000.0})
    table["label"] = np.concatenate([labels_train, labels_test])
    table["patient"] = [*people(len(shape_train)), *patients]
    features = np.concatenate([x_train, x_test])
    rows = {"val": np.arange(len(shape_train)), "test": np.arange(len(shape_train), len(shape))}
    data = SimpleNamespace(table=table, pixels=np.arange(len(shape)), rows=rows.get)
    return shape_probe(lambda images: features[images], data, seed)


def test_r2_by_hand():
    result = shape_known(X_TRAIN, X_TRAIN[:, 0], X_TEST, [0, 1, 2, 4], Y_TRAIN, Y_TEST, people(4))
    # Errors 0, 0, 0, 1; squares about the mean 1.75 add up to 8.75. Within class the errors are 0, 0, −½, ½ and the
    # shapes −½, ½, −1, 1.
    assert result.r2.value == pytest.approx(1 - 1 / 8.75, abs=1e-3)
    assert result.r2_within_class.value == pytest.approx(1 - 0.5 / 2.5, abs=1e-3)
    assert result.r2.n == 4
    # A constant error counts overall and not within class.
    result = shape_known(X_TRAIN, X_TRAIN[:, 0], X_TEST, [1, 2, 3, 4], Y_TRAIN, Y_TEST, people(4))
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
        result = shape_known(features[a], shape[a], features[b], shape[b], y[a], y[b], people(300))
        assert result.r2.value > 0.3 and result.r2.low < result.r2.value < result.r2.high
        assert result.r2_within_class.value == pytest.approx(1.0 if know else 0.0, abs=0.05)


def test_the_r2_intervals_are_those_of_repeated_rows(monkeypatch):
    monkeypatch.setattr(statistics, "REPLICATES", 300)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 2)), np.arange(60) % 2
    shape = x[:, 0] + y + rng.normal(0, 0.7, 60)
    patients = np.array([f"p{row // 2}" for row in range(60)])
    slope_one = X_TRAIN[:, 0]  # the fitted line is the first feature, up to the penalty
    result = shape_known(X_TRAIN, slope_one, x, shape, Y_TRAIN, y, patients, seed=4)
    replicates = []
    for w in bootstrap_weights(patients, 300, seed=4):
        truth, guess, label = (np.repeat(v, w) for v in (shape, x[:, 0], y))
        within = [v - np.array([v[label == k].mean() for k in (0, 1)])[label] for v in (truth, guess)]
        replicates.append((r2_score(truth, guess), r2_score(*within)))
    overall, within = np.transpose(replicates)
    assert (result.r2.low, result.r2.high) == pytest.approx(interval(overall), abs=1e-3)
    assert (result.r2_within_class.low, result.r2_within_class.high) == pytest.approx(interval(within), abs=1e-3)


def test_images_of_one_shape_or_of_none_are_nan():
    square, varied, same_ratio = np.zeros(400), X_TRAIN[:, 0], np.log(np.arange(2, 802, 2)) - np.log(np.arange(1, 401))
    for train, test in (
        (square, np.zeros(4)),
        (same_ratio, [0, 1, 2, 3]),
        (varied, [2, 2, 2, 2]),
        (np.full(400, NAN), [0, 1, 2, 3]),
        (varied, [NAN] * 4),
    ):
        result = shape_known(X_TRAIN, train, X_TEST, test, Y_TRAIN, Y_TEST, people(4))
        assert all(math.isnan(e.value) and math.isnan(e.low) for e in (result.r2, result.r2_within_class))


def test_shape_that_is_the_label_is_nan_within_class_only():
    result = shape_known(np.c_[Y_TRAIN], 0.3 * Y_TRAIN, np.c_[Y_TEST], [0, 0, 0.3, 0.3], Y_TRAIN, Y_TEST, people(4))
    assert result.r2.value == pytest.approx(1, abs=1e-3) and math.isnan(result.r2_within_class.value)


def test_unknown_shapes_are_left_out_and_one_patient_has_no_interval():
    train = X_TRAIN[:, 0].copy()
    train[:10] = NAN
    result = shape_known(X_TRAIN, train, X_TEST, [0, 1, NAN, 3], Y_TRAIN, Y_TEST, ["one"] * 4)
    assert result.r2.n == 3 and result.r2.value == pytest.approx(1, abs=1e-3) and math.isnan(result.r2.low)


def test_what_size_cannot_explain_is_one_table():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    sizes = pd.DataFrame({"original_width": 1000 + 300 * labels + rng.integers(0, 500, 200), "original_height": 1000})
    images = sizes.assign(label=labels, patient=people(200))
    probe = size_only_probe(images, images)
    found, strata = auc_where_size_tells_little(labels, 2.0 * labels + rng.normal(size=200), probe, people(200))
    matched = [f"matched on size, caliper {caliper}" for caliper in (0.2, 0.05)]
    assert found.index.tolist() == ["all test images", "within five strata of size", *matched]
    size_alone = [one.value for one in found["size alone"]]
    assert size_alone[0] > size_alone[1] > size_alone[3] and found["images"].iloc[0] == 200
    assert all(one.value > 0.85 for one in found["network"]) and len(strata) == 5
    same = size_only_probe(images.assign(original_width=1000), images.assign(original_width=1000))
    assert all(one.empty for one in auc_where_size_tells_little(labels, labels, same, people(200)))


def chest(seed: int, size: int = 128) -> np.ndarray:
    """(size, size) uint8: a body brighter in the middle, the same for every seed, and structure of its own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = 80 * np.exp(-2 * columns**2 - rows**2)
    coarse, fine = (cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), s * size / 128) for s in (8, 2.5))
    image = 60 + body + 25 * coarse / coarse.std() + 12 * fine / fine.std()
    return np.clip(image, 0, 235).astype(np.uint8)


def shifted(image: np.ndarray, fraction: float) -> np.ndarray:
    move = np.array([[1, 0, fraction * image.shape[1]], [0, 1, 0]], np.float32)
    return cv2.warpAffine(image, move, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def recompressed(image: np.ndarray, quality: int = 60) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def in_splits(images: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, pd.DataFrame]:
    rows = [(f"{i}.png", split, i % 2, f"p{i}") for i, (split, _) in enumerate(images)]
    table = pd.DataFrame(rows, columns=["path", "split", "label", "patient"])
    return np.stack([image for _, image in images]), table


COPIES = {
    "exact": lambda image: image.copy(),
    "brighter": lambda image: (image.astype(int) + 15).astype(np.uint8),
    "less contrast": lambda image: (image * 0.8 + 20).astype(np.uint8),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), image.shape[0] / 200),
    "shifted by 2 %": lambda image: shifted(image, 0.02),
    "JPEG, quality 60": recompressed,
}


@pytest.mark.parametrize("size", [64, 128, 224])
@pytest.mark.parametrize("change", COPIES)
def test_a_copy_in_another_split_is_found_and_nothing_else(change, size):
    originals = [chest(seed, size) for seed in range(8)]
    images = [("train", image) for image in originals[:6]] + [("test", image) for image in originals[6:]]
    found = near_duplicates(*in_splits([*images, ("test", COPIES[change](originals[2]))]))
    assert len(found.pairs) == 1 and found.counts["near_duplicates"].tolist() == [1]
    pair = found.pairs.iloc[0]
    expected = {"split_a": "train", "split_b": "test", "path_a": "2.png", "path_b": "8.png"}
    assert pair[:4].to_dict() == expected
    assert pair["correlation"] >= 0.92
    if change == "exact":
        assert pair["distance"] == 0 and pair["correlation"] == pytest.approx(1, abs=1e-5)


def test_a_mirrored_or_blank_image_is_not_found():
    blank = np.zeros((128, 128), np.uint8)
    for first, second in ((chest(0), chest(0)[:, ::-1]), (blank, blank), (blank, chest(0))):
        assert near_duplicates(*in_splits([("train", first), ("test", second)])).pairs.empty


def test_images_with_the_same_layout_are_candidates_but_not_duplicates():
    layout = chest(0).astype(float)
    rng = np.random.default_rng(1)
    grains = [cv2.GaussianBlur(rng.normal(size=layout.shape), (0, 0), 2) for _ in range(2)]
    alike = [np.clip(cv2.GaussianBlur(layout, (0, 0), 6) + 3 * g / g.std(), 0, 255).astype(np.uint8) for g in grains]
    found = near_duplicates(*in_splits([("train", alike[0]), ("test", alike[1])]), max_distance=96)
    assert found.counts.values.tolist() == [["train", "test", found.counts["nearest"][0], 1, 0]]
    assert found.pairs.empty


def test_only_splits_that_must_not_share_are_compared(monkeypatch):
    monkeypatch.setattr(audit, "_BATCH", 1)  # pairs are correlated in several batches
    found = near_duplicates(*in_splits([(name, chest(0)) for name in ("train", "train", "val", "test", "neutral")]))
    counted = found.counts.set_index(["split_a", "split_b"])["near_duplicates"].to_dict()
    of_train = {("train", "val"): 2, ("train", "neutral"): 2, ("train", "test"): 2}
    assert counted == of_train | {("val", "neutral"): 1, ("val", "test"): 1}
    assert len(found.pairs) == 8


def test_one_split_alone_gives_empty_tables_with_their_columns():
    found = near_duplicates(*in_splits([("test", chest(0)), ("clean", chest(0))]))
    assert found.pairs.empty and found.counts.empty
    other = near_duplicates(*in_splits([("train", chest(0)), ("test", chest(1))]))
    assert list(found.pairs.columns) == list(other.pairs.columns)
    assert list(found.counts.columns) == list(other.counts.columns)


def test_the_distance_limits_what_is_a_candidate():
    images, table = in_splits([("train", chest(0)), ("test", shifted(chest(0), 0.02))])
    nearest = int((perceptual_hash(images[:1]) != perceptual_hash(images[1:])).sum())
    assert nearest > 0
    found = near_duplicates(images, table, max_distance=nearest)
    assert found.pairs["distance"].tolist() == found.counts["nearest"].tolist() == [nearest]
    assert near_duplicates(images, table, max_distance=nearest - 1).pairs.empty


def test_a_hash_has_half_its_bits_set_and_ignores_brightness():
    hashes = perceptual_hash(np.stack([chest(0), chest(0) + np.uint8(20), chest(1)]))
    assert hashes.shape == (3, 255) and hashes.dtype == bool
    assert hashes.sum(axis=1).tolist() == [127, 127, 127]  # 255 bits about their median
    assert (hashes[0] != hashes[1]).sum() <= 4 and (hashes[0] != hashes[2]).sum() > 64


def test_correlation_finds_the_shift_to_half_a_pixel():
    wide = chest(0, 160)
    here = wide[:128, :128]
    others = [wide[d : d + 128, d : d + 128] for d in (1, 7, 20)] + [255 - here]
    values = shifted_correlation(fine_structure(np.stack([here] * 4)), fine_structure(np.stack(others)))
    assert values[0] > 0.95 and values[1] > 0.8  # half a pixel; 3.5 pixels, less of the image in common
    assert values[2] < 0.6 and values[3] < 0.6  # 10 pixels, beyond the search; the negative
