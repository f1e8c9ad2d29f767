"""The data's own leaks: size, what is left of an AUC without it, shape in the features, near-duplicates."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, audit
from cnn_xray.audit import (
    auc_on_equal_sizes,
    fine_structure,
    log_odds,
    median_sizes,
    near_duplicates,
    perceptual_hash,
    shifted_correlation,
    size_only_probe,
)
from cnn_xray.metrics import auc_with_interval

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


# Pairs. The standard deviations within class are 1 and 1. Sizes 0, 2 (positive) and 1, −1 (negative).
FOUR = {
    "labels": [1, 1, 0, 0],
    "scores": [3.0, 1.0, 2.0, 1.0],
    "inside": [1.0, 0.0, 0.0, 1.0],
    "confounder": [0.0, 2.0, 1.0, -1.0],
    "patients": people(4),
}


def test_two_and_two_by_hand():
    found = auc_on_equal_sizes(**FOUR, calipers=(1.0, 5.0))
    # At most 1 apart are 0 – 1, 0 – −1 and 2 – 1. The score orders the first two and not the third (1 < 2); size orders
    # the second and third. Inside, these are ahead by 1, 0 and 0. Of the pairs of any size 2 – −1 is behind by 1 and in
    # no bin of theirs but the lowest; there are as many bins as values, so it counts with the two that are ahead by 0.
    one = found.loc[1.0]
    assert one["equal size"].value == pytest.approx(2 / 3) and one["size alone"].value == pytest.approx(2 / 3)
    assert one["pairs"] == 3 and one["equal size"].n == 4
    # Ahead by 1: one pair, in order. Ahead by 0 or less: 0 – −1 (in order), 2 – 1 (not), 2 – −1 (a tie): 1.5 of 3.
    assert one["any size, as hard"].value == pytest.approx((1 * 1 + 2 * 0.5) / 3)
    assert one["difference"].value == pytest.approx(0)
    # In reverse: of the equal pairs inside orders one and ties two. 2 – −1 is as hard for the score as none of them.
    assert one["in reverse"].value == pytest.approx(0)
    wide = found.loc[5.0]  # every pair is of equal size: the plain AUC, and nothing to take out
    plain = auc_with_interval(FOUR["labels"], [0.9, 0.2, 0.5, 0.2], FOUR["patients"])
    assert wide["equal size"].value == wide["any size, as hard"].value == plain.value == 0.625 and wide["pairs"] == 4


def test_pairs_of_any_size_are_weighted_as_hard_as_those_of_equal_size():
    # Three of four pairs of equal size are hard (inside: a tie) and the score orders none; of any size, half are hard.
    found = auc_on_equal_sizes(
        labels=[1, 1, 0, 0, 0, 0],
        scores=[2, 1, 2, 1, 0, 0],
        inside=[0, 0, 0, 0, -1, -1],
        confounder=[0, 9, 0, 9, 0, 50],
        patients=people(6),
        calipers=(0,),
    ).loc[0]
    # Equal: 1st – 3rd and 2nd – 4th tie (0.5), 1st – 5th is in order and easy. Of any size the hard ones: two ties, 1st
    # – 4th in order, 2nd – 3rd not; so 0.5. The easy ones are all in order.
    assert found["pairs"] == 3 and found["equal size"].value == pytest.approx(2 / 3)
    assert found["any size, as hard"].value == pytest.approx((2 * 0.5 + 1 * 1) / 3)


def mixed(use_of_size: float, unread: float = 0.0, n: int = 600) -> dict[str, np.ndarray]:
    """A network that reads disease, inside, and size beside it. Disease and size go together: some pairs are easy."""
    y, size, _ = confounded(n)
    noise = np.random.default_rng(1).normal(size=(2, n))
    inside = 1.2 * y + 0.4 * size + noise[0]
    score = inside + use_of_size * size + 0.3 * noise[1]
    read = inside + unread * np.random.default_rng(2).normal(size=n)
    return {"labels": y, "scores": score, "inside": read, "confounder": size, "patients": np.array(people(n))}


def test_what_is_harder_is_told_from_what_is_owed_to_size():
    whole = {use: auc_with_interval(y, 1 / (1 + np.exp(-s)), names).value
             for use in (0.0, 1.0) for y, s, _, _, names in [mixed(use).values()]}  # fmt: skip
    honest, user = (auc_on_equal_sizes(**mixed(use)).loc[0.2] for use in (0.0, 1.0))
    # On pairs of equal size both lose: for the one the pairs are harder, the other misses size.
    assert honest["equal size"].value < whole[0.0] - 0.02 and user["equal size"].value < whole[1.0] - 0.02
    assert honest["difference"].low < 0 < honest["difference"].high and honest["difference"].value < 0.01
    assert user["difference"].low > 0.02 and user["in reverse"].high < 0 <= honest["in reverse"].high
    for one in (honest, user):
        assert one["size alone"].value == pytest.approx(0.5, abs=0.06)
        assert one["any size, as hard"].value - one["equal size"].value == pytest.approx(one["difference"].value)
    # A network that reads size alone falls to what size alone reaches.
    size = mixed(0.0) | {"scores": mixed(0.0)["confounder"]}
    found = auc_on_equal_sizes(**size).loc[0.2]
    assert found["equal size"].value == found["size alone"].value and found["difference"].low > 0.2


def test_a_noisy_reader_accuses_an_honest_score_and_the_reverse_does_not():
    honest, user = (auc_on_equal_sizes(**mixed(use, unread=1.5)).loc[0.2] for use in (0.0, 1.0))
    assert honest["difference"].low > 0 and honest["in reverse"].value > 0  # hardness is not held equal
    assert user["difference"].low > 0 and user["in reverse"].high < 0


def test_a_score_that_is_inside_owes_nothing_to_size():
    known = mixed(0.0)
    found = auc_on_equal_sizes(**known | {"scores": known["inside"]})
    assert (found["difference"].map(lambda one: abs(one.value)) < 0.01).all()


def test_images_of_unknown_size_or_without_a_reading_are_left_out():
    more = {
        "labels": [1, 0],
        "scores": [0.0, 1.0],
        "inside": [NAN, 5.0],
        "confounder": [0.5, NAN],
        "patients": ["x", "y"],
    }
    found = auc_on_equal_sizes(**{name: [*FOUR[name], *more[name]] for name in FOUR}, calipers=(1.0,))
    assert found.loc[1.0].equals(auc_on_equal_sizes(**FOUR, calipers=(1.0,)).loc[1.0])


def test_what_cannot_be_compared_is_nan():
    for change in ({"confounder": [NAN] * 4}, {"labels": [0] * 4}, {"confounder": [1, 1, 0, 0]}):
        found = auc_on_equal_sizes(**FOUR | change)
        assert found["pairs"].tolist() == [0, 0] and all(math.isnan(one.value) for one in found["equal size"])
    one = auc_on_equal_sizes(**FOUR | {"patients": ["one"] * 4}, calipers=(1.0,)).loc[1.0, "equal size"]
    assert one.value == pytest.approx(2 / 3) and math.isnan(one.low)


def test_bad_input_is_a_sentence():
    for change, sentence in (
        ({"labels": [1, 2, 0, 0]}, "Labels must be 0 or 1: row 1 has 2"),
        ({"scores": [0.1, NAN, 0, 0]}, "Scores must be finite .*row 1"),
        ({"confounder": [0, -math.inf, 0, 0]}, "Confounder must be finite, or NaN .*row 1 has -inf"),
        ({"patients": ["a"]}, r"patients \(1,\)"),
        ({"patients": ["a", None, "b", "c"]}, "Patients must be known"),
        ({"calipers": (0.2, NAN)}, "caliper is nan"),
        ({"calipers": (-0.1,)}, "caliper is -0.1"),
    ):
        with pytest.raises(InputError, match=sentence):
            auc_on_equal_sizes(**FOUR | change)


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
