"""Occlusion worked by hand: fake networks that read the ring or the centre, and squares as large as the ring."""

import numpy as np
import pandas as pd
import pytest

from cnn_xray import interventions
from cnn_xray.data import Dataset
from cnn_xray.geometry import FRAME, Placement, View, soft_border
from cnn_xray.statistics import paired_difference

SIDE, WIDTH = 32, 0.0625  # a ring of two pixels, and a seam of half a pixel that reaches no pixel's centre
RING = np.ones((SIDE, SIDE), bool)
RING[2:-2, 2:-2] = False
CENTRE = np.zeros((SIDE, SIDE), bool)
CENTRE[14:18, 14:18] = True  # in every interior square


def of_ring(images):
    return images[:, RING].mean(axis=1) / 10 - 10


def of_centre(images):
    return images[:, CENTRE].mean(axis=1) / 10 - 10


@pytest.fixture(autouse=True)
def networks_are_functions_of_the_pixels(monkeypatch):
    monkeypatch.setattr(interventions, "predict", lambda model, images: model(images).astype(np.float32))


def films(pixels) -> Dataset:
    n, size = len(pixels), pixels.shape[1]
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": np.arange(n) % 2, "split": "test"})
    table["patient"] = [f"p{i}" for i in range(n)]
    place = [Placement(FRAME, FRAME)] * n
    return Dataset("tiny", None, table, View(size=size), pixels.astype(np.uint8), place, None, None, "f", ())


def two_tone(rings, rest) -> Dataset:
    return films(np.where(RING, np.reshape(rings, (-1, 1, 1)), np.reshape(rest, (-1, 1, 1))))


def random_films(n=6, seed=0) -> Dataset:
    return films(np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE)))


def occlude(model, data, width=WIDTH, seed=0) -> pd.DataFrame:
    return interventions.occlusion_effects(model, data, np.arange(len(data.pixels)), width, seed)


def at(found, fill, place, column="drop"):
    return found[(found["fill"] == fill) & (found["place"] == place)].sort_values("film")[column].to_numpy()


def test_one_row_a_film_fill_and_place():
    data = random_films()
    found = interventions.occlusion_effects(of_ring, data, np.array([4, 1]), WIDTH, 0)
    assert list(found.columns) == ["film", "path", "label", "fill", "place", "drop", "flip"]
    assert len(found) == 2 * 3 * 2 and not found.duplicated(["film", "fill", "place"]).any()
    assert set(found["fill"]) == set(interventions.FILLS) and set(found["place"]) == set(interventions.PLACES)
    names = found[["film", "path", "label"]].drop_duplicates()
    assert names.to_numpy().tolist() == [[0, "4.png", 0], [1, "1.png", 1]]


def test_the_mean_fill_of_a_ring_worked_by_hand():
    # 240 of 1024 pixels are ring. Film 0: z = 10; its mean grey is (200 · 240 + 40 · 784) / 1024 = 77.5, painted as 78.
    # Film 1: z = −6; mean grey (40 · 240 + 180 · 784) / 1024 = 147.2: 10.7 logits for NORMAL gone. Film 2: one grey.
    found = occlude(of_ring, two_tone([200, 40, 100], [40, 180, 100]))
    np.testing.assert_allclose(at(found, "mean", "border"), [12.2, 10.7, 0], atol=1e-5)
    assert at(found, "mean", "border", "flip").tolist() == [1, 1, 0]
    for fill in interventions.FILLS:  # what lies inside the ring is nothing to this network
        assert at(found, fill, "interior").tolist() == [0, 0, 0]
        assert at(found, fill, "interior", "flip").tolist() == [0, 0, 0]


def test_a_network_of_the_centre_loses_nothing_with_the_ring():
    pixels = np.where(CENTRE, np.array([200, 20]).reshape(-1, 1, 1), 100)
    found = occlude(of_centre, films(pixels))
    for fill in interventions.FILLS:
        assert at(found, fill, "border").tolist() == [0, 0]
    # z = 10 and −8; painted with 100 + 100/64 = 102 and 100 − 80/64 = 99 wherever the square is.
    np.testing.assert_allclose(at(found, "mean", "interior"), [9.8, 7.9], atol=1e-5)
    assert (at(found, "blur", "interior") > 0).all() and (at(found, "noise", "interior") > 0).all()
    assert at(found, "mean", "interior", "flip").tolist() == [0, 0]


def test_more_of_the_same_evidence_is_a_negative_drop():
    # z = −2, decided NORMAL; the mean grey, 59, is darker still: z = −4.1.
    found = occlude(of_ring, two_tone([80], [53]))
    assert at(found, "mean", "border") == pytest.approx([-2.1], abs=1e-5)
    assert at(found, "mean", "border", "flip") == [0]


def test_positions_are_averaged():
    data = random_films()
    masks = interventions.interior_squares(SIDE, WIDTH, seed=3)
    assert len(masks) == interventions.POSITIONS and len({mask.tobytes() for mask in masks}) > 1
    row, column = np.argwhere((np.sum(masks, axis=0) > 1) & (np.sum(masks, axis=0) < 3))[0]  # in some, not in all
    found = occlude(lambda images: images[:, row, column] - 128.5, data, seed=3)
    grey, mean = data.pixels[:, row, column], data.pixels.mean(axis=(1, 2))
    z = grey - 128.5
    after = [np.round(grey * (1 - mask[row, column]) + mean * mask[row, column]) - 128.5 for mask in masks]
    lost = [np.where(z > 0, 1, -1) * (z - one) for one in after]
    np.testing.assert_allclose(at(found, "mean", "interior"), np.mean(lost, axis=0), atol=1e-4)
    flips = np.mean([(one > 0) != (z > 0) for one in after], axis=0)
    np.testing.assert_array_equal(at(found, "mean", "interior", "flip"), flips)
    assert 0 < flips.max() < 1


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("width", [0.05, 0.1, 0.125, 0.13])
def test_squares_are_as_large_as_the_ring_and_inside_it(size, width):
    ring = soft_border(size, width)
    masks = interventions.interior_squares(size, width, seed=1)
    assert len(masks) == 4
    for mask in masks:
        assert abs(mask.sum() - ring.sum()) <= size  # to within a row of pixels
        assert (mask + ring).max() <= 1 + 1e-6 and mask.max() == 1 and not mask[ring == 1].any()
        rows, columns = mask.max(axis=1) > 0, mask.max(axis=0) > 0
        assert abs(int(rows.sum()) - int(columns.sum())) <= 1


def test_squares_follow_the_seed():
    first, again, other = (np.stack(interventions.interior_squares(64, 0.1, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("width", [0.132, 0.2, 0.4])
def test_without_room_the_interior_is_nan_and_counted(width):
    data = random_films()
    found = occlude(of_centre, data, width=width)
    inside = found[found["place"] == "interior"]
    assert inside[["drop", "flip"]].isna().all(axis=None) and len(inside) == 6 * 3
    assert found.loc[found["place"] == "border", ["drop", "flip"]].notna().all(axis=None)
    table = interventions.occlusion_summary(found, data.table["patient"].to_numpy())
    assert table[["interior", "flips interior", "difference", "low", "high"]].isna().all(axis=None)
    assert (table["undefined"] == 6).all() and (table["n"] == 0).all() and table["border"].notna().all()


def test_a_constant_film_is_changed_by_no_fill():
    found = occlude(lambda images: images[:, 1::3, 2::5].sum(axis=(1, 2)) - 5000, films(np.full((2, 32, 32), 137)))
    assert (found["drop"] == 0).all() and (found["flip"] == 0).all()  # its noise has no spread either


def test_the_noise_has_mean_and_spread_of_the_film_and_is_its_own():
    pixels = np.random.default_rng(0).normal(120, 20, (2, 64, 64)).clip(0, 255).astype(np.uint8)
    seen = []

    def watched(images):
        seen.append(images)
        return images.mean(axis=(1, 2)) - 100

    occlude(watched, films(pixels), width=0.1)
    first, second = seen[3][:2]  # after the films themselves: mean, blur, noise; the ring comes first
    ring = soft_border(64, 0.1) == 1
    for film, noisy in zip(pixels, (first, second), strict=True):
        assert noisy[ring].mean() == pytest.approx(film.mean(), abs=2) and (noisy[ring] != film[ring]).mean() > 0.9
        assert noisy[ring].std() == pytest.approx(film.std(), rel=0.1)
        assert (noisy[soft_border(64, 0.1) == 0] == film[soft_border(64, 0.1) == 0]).all()
    assert abs(np.corrcoef(first[ring], second[ring])[0, 1]) < 0.1


def test_the_blur_takes_the_detail_and_leaves_the_level():
    board = np.where((np.indices((32, 32)).sum(axis=0) % 2).astype(bool), 255, 0)[None]
    seen = []
    occlude(lambda images: seen.append(images) or images.mean(axis=(1, 2)), films(board))
    blurred = seen[2][0][RING]
    assert blurred.mean() == pytest.approx(127.5, abs=2) and blurred.std() < 5 < board[0][RING].std()


def test_the_same_seed_gives_the_same_result_in_batches_of_any_size(monkeypatch):
    data = random_films(7)

    def model(images):
        return images[:, 3:9, 5:14].mean(axis=(1, 2)) - 127

    first, other = (occlude(model, data, seed=seed) for seed in (1, 2))
    monkeypatch.setattr(interventions, "_OCCLUDED_AT_ONCE", 3)
    pd.testing.assert_frame_equal(occlude(model, data, seed=1), first)
    assert not first.equals(other)


def test_the_summary_worked_by_hand():
    rows = [
        (film, fill, place, drop + shift, flip)
        for fill, shift in (("mean", 0), ("blur", 10), ("noise", -10))
        for film, ring, interior in ((0, (3, 1), (1, 0.25)), (1, (5, 0), (2, 0)), (2, (1, 0), (np.nan, np.nan)))
        for place, (drop, flip) in (("border", ring), ("interior", interior))
    ]
    occluded = pd.DataFrame(rows, columns=["film", "fill", "place", "drop", "flip"]).sample(frac=1, random_state=0)
    table = interventions.occlusion_summary(occluded, np.array(["a", "b", "c"]), seed=4)
    assert list(table.index) == ["mean", "blur", "noise"]
    assert table["border"].tolist() == [3, 13, -7] and table["interior"].tolist() == [1.5, 11.5, -8.5]
    # Films with both: 3 − 1 and 5 − 2.
    assert (table["difference"] == 2.5).all() and (table["n"] == 2).all() and (table["undefined"] == 1).all()
    expected = paired_difference([3, 5], [1, 2], ["a", "b"], seed=4)
    assert (table["low"] == expected.low).all() and (table["high"] == expected.high).all()
    assert table["flips ring"].tolist() == pytest.approx([1 / 3] * 3)
    assert table["flips interior"].tolist() == [0.125] * 3
    one = interventions.occlusion_summary(occluded, np.array(["a", "a", "a"]))
    assert one[["low", "high"]].isna().all(axis=None) and (one["difference"] == 2.5).all()
