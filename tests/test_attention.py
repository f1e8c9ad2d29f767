"""Attention metrics on 4 × 4 maps whose answers can be counted; nulls; the original frame."""

import numpy as np
import pytest

from cnn_xray import attention
from cnn_xray.cam import Evidence
from cnn_xray.geometry import FRAME, Placement, area_mean, border_cells, to_frame

BORDER = border_cells(0.25, (4, 4))  # the 12 outer cells


def one(rows):
    return np.array([rows], float)


CORNERED = one([[3, 0, 0, 0], [0, 2, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])  # 3 of 8 on the border
LEFT_LUNG = one([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])  # 2 of 16 cells
NOTHING = np.zeros((1, 4, 4))


def test_border_fraction_is_three_eighths():
    assert attention.border_fraction(CORNERED, BORDER) == pytest.approx(3 / 8)


def test_density_ratio_compares_means_not_sums():
    # Border: 3 over 12 cells; inside: 5 over 4 cells.
    assert attention.log2_density_ratio(CORNERED, BORDER) == pytest.approx(np.log2((3 / 12) / (5 / 4)))
    assert attention.log2_density_ratio(np.ones((1, 4, 4)), BORDER) == pytest.approx(0)


def test_density_ratio_is_kept_within_its_limit():
    assert attention.log2_density_ratio(one(1 - BORDER), BORDER) == -6
    assert attention.log2_density_ratio(one(BORDER), BORDER) == 6


def test_signed_border_evidence_keeps_the_sign_and_is_always_defined():
    maps = np.concatenate([-CORNERED, NOTHING])
    np.testing.assert_allclose(attention.signed_border_evidence(maps, BORDER), [-3, 0])


def test_lung_mass_and_enrichment():
    assert attention.mass_accuracy(CORNERED, LEFT_LUNG) == pytest.approx(3 / 8)
    assert attention.enrichment(CORNERED, LEFT_LUNG) == pytest.approx((3 / 8) / (2 / 16))


def test_rank_accuracy_counts_the_top_cells():
    # |L| = 2; the two hottest cells are the corner (3, outside) and the 2 (inside): one of two.
    assert attention.rank_accuracy(CORNERED, LEFT_LUNG) == pytest.approx(1 / 2)


def test_pointing_game_looks_at_the_hottest_cell():
    assert attention.pointing_game(CORNERED, LEFT_LUNG) == 0
    assert attention.pointing_game(CORNERED * (1 - BORDER), LEFT_LUNG) == 1


def test_artifact_sensitivity_takes_the_hottest_tenth():
    # A tenth of 16 cells is two: the corner and the 2. The artifact is the corner and its right neighbour.
    artifact = one([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert attention.artifact_sensitivity(CORNERED, artifact) == pytest.approx(1 / 2)


def test_zero_maps_and_missing_areas_are_nan_never_zero():
    found = attention.attention_metrics(np.concatenate([NOTHING, CORNERED]), np.ones(2), BORDER).iloc
    assert found[0]["zero_map"] == 1 and found[1]["zero_map"] == 0
    assert np.isnan(found[0]["border_attention_fraction"]) and np.isnan(found[0]["log2_border_density_ratio"])
    assert found[0]["signed_border_evidence"] == 0
    lungless = ["lung_attention_fraction", "lung_enrichment", "relevance_rank_accuracy", "pointing_game"]
    assert found[1][lungless].isna().all() and np.isnan(found[1]["artifact_sensitivity"])


def test_the_sign_says_what_is_explained():
    found = attention.attention_metrics(np.concatenate([-CORNERED, -CORNERED]), np.array([1.0, -1.0]), BORDER, None)
    assert found["zero_map"].tolist() == [1, 0]  # nothing there speaks for PNEUMONIA
    assert found["border_attention_fraction"][1] == pytest.approx(3 / 8)
    assert found["signed_border_evidence"].tolist() == [-3, -3]


def test_uniform_values_agree_with_a_uniform_map_where_ties_do_not_matter():
    flat = attention.attention_metrics(np.ones((1, 4, 4)), np.ones(1), BORDER, LEFT_LUNG)
    expected = attention.uniform_metrics(BORDER, 1, LEFT_LUNG)
    for name in (
        "border_attention_fraction",
        "log2_border_density_ratio",
        "lung_attention_fraction",
        "lung_enrichment",
    ):
        assert flat[name][0] == pytest.approx(expected[name][0])
    assert list(expected) == list(flat)


def test_uniform_ranking_values_are_what_random_maps_average_to():
    rng = np.random.default_rng(0)
    random = rng.random((20_000, 4, 4))
    lungs = np.repeat(LEFT_LUNG, len(random), axis=0)
    found = attention.attention_metrics(random, np.ones(len(random)), BORDER, lungs).mean(numeric_only=True)
    expected = attention.uniform_metrics(BORDER, 1, LEFT_LUNG).iloc[0]
    for name in ("relevance_rank_accuracy", "pointing_game"):
        assert found[name] == pytest.approx(expected[name], abs=0.01)


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 32, 32)).astype(np.uint8)
LABELS = np.array([0, 0, 0, 1, 0, 1])


def test_the_neutral_image_weighs_the_classes_equally():
    expected = (PIXELS[:3].mean(axis=0) + PIXELS[3]) / 2
    np.testing.assert_allclose(attention.neutral_image(PIXELS[:4], LABELS[:4]), expected, atol=1e-3)


def test_the_border_is_replaced_and_the_interior_untouched():
    images = np.full((2, 20, 20), 200, np.uint8)
    found = attention.neutralised(images, np.full((20, 20), 50, np.float32), width=0.2)
    # Four pixels of 20 on each side are replaced; the fifth is blended, its centre half way into the seam.
    assert (found[:, :4] == 50).all() and (found[:, :, -4:] == 50).all()
    assert (found[:, 4, 5:15] == 125).all()
    assert (found[:, 5:15, 5:15] == 200).all()


def test_every_arm_has_a_row_an_image_and_measures_what_it_says():
    def brightness(sign):  # an explainer whose evidence is the image itself, on a quarter of its grid
        def explain(images):
            maps = sign * (area_mean(images, (8, 8)) - 100) / 64
            return Evidence(maps, maps.sum(axis=(1, 2)), 0.0)

        return explain

    neutral = np.full((32, 32), 150, np.float32)
    found = attention.metrics_beside_nulls(brightness(1), [brightness(-1), brightness(1)], PIXELS, neutral, 0.25)
    arms = ["image", "neutralised border", "constant image", "randomised weights", "uniform"]
    assert found["arm"].unique().tolist() == arms and (found.groupby("arm").size() == 6).all()
    of_arm = {arm: part["signed_border_evidence"].to_numpy() for arm, part in found.groupby("arm")}
    cells = 64 - 16  # of 8 × 8, a border of a quarter of the side leaves 4 × 4
    np.testing.assert_allclose(of_arm["neutralised border"], cells * 50 / 64, rtol=1e-5)
    np.testing.assert_allclose(of_arm["constant image"], cells * 50 / 64, rtol=1e-5)
    np.testing.assert_allclose(of_arm["randomised weights"], 0, atol=1e-5)  # the two are each other's negatives
    own = (area_mean(PIXELS, (8, 8)) - 100) * border_cells(0.25, (8, 8)) / 64
    np.testing.assert_allclose(of_arm["image"], own.sum(axis=(1, 2)), rtol=1e-4)
    assert found["artifact_sensitivity"].isna().all() and found["lung_enrichment"].isna().all()


WINDOW = [Placement((0.25, 0.25, 0.75, 0.75), FRAME)]  # of a 16 × 16 frame: rows and columns 4 to 11


def frame(*blocks):
    """A 16 × 16 map, zero but for (rows, columns, value)."""
    one = np.zeros((1, 16, 16), np.float32)
    for rows, columns, value in blocks:
        one[0, rows, columns] = value
    return one


def measured(maps, lungs=None, width=0.25, sign=1.0):
    return attention.window_metrics(maps, np.array([sign]), WINDOW, lungs, width).iloc[0]


def test_heat_outside_the_window_is_counted():
    maps = frame((slice(0, 2), slice(0, 2), 1.0), (slice(6, 10), slice(6, 10), 0.75))  # 4 outside, 12 inside
    assert measured(maps)["heat_outside_window"] == pytest.approx(4 / 16)


def test_the_new_edge_is_compared_with_the_rest_of_the_window_alone():
    # The window has 64 cells: 48 in its border of a quarter of the side, 16 in the core. Heat outside does not matter.
    maps = frame(
        (slice(4, 12), slice(4, 12), 1.0), (slice(6, 10), slice(6, 10), 4.0), (slice(0, 1), slice(0, 16), 99.0)
    )
    assert measured(maps)["inner_border_log2_density_ratio"] == pytest.approx(np.log2(1 / 4))


def test_lung_enrichment_counts_only_what_lies_in_the_window():
    lungs = frame((slice(0, 16), slice(0, 8), 1.0))  # the left half, half of the window
    maps = frame((slice(4, 12), slice(4, 8), 3.0), (slice(4, 12), slice(8, 12), 1.0), (slice(0, 2), slice(0, 2), 99.0))
    assert measured(maps, lungs)["lung_enrichment_in_window"] == pytest.approx((3 / 4) / (1 / 2))


def test_no_heat_and_no_lungs_are_nan():
    found = measured(frame())
    assert found.isna().all()
    assert np.isnan(measured(frame((slice(6, 10), slice(6, 10), 1.0)))["lung_enrichment_in_window"])
    assert np.isnan(measured(frame((slice(6, 10), slice(6, 10), 1.0)), sign=-1.0)["heat_outside_window"])


def test_lung_loss_by_hand():
    # Images of 100 × 100; one lung fills the frame, the other its middle half. A crop of 0.1 leaves 0.64 and all.
    lungs = np.zeros((2, 20, 20), bool)
    lungs[0] = True
    lungs[1, 5:15, 5:15] = True
    loss = attention.lung_loss(lungs, np.full((2, 2), 100.0), (0.0, 0.1), "squash")
    assert loss.loc[0.0, "median"] == pytest.approx(0)
    assert loss.loc[0.1, "median"] == pytest.approx(0.36 / 2)
    assert loss.loc[0.1, "percentile_95"] == pytest.approx(0.36 * 0.95)
    # The centre square of an image twice as wide as high: half of the full lung is outside it before any crop.
    wide = attention.lung_loss(lungs[:1], np.array([[200.0, 100.0]]), (0.0,), "square")
    assert wide.loc[0.0, "median"] == pytest.approx(0.5)
    unknown = attention.lung_loss(lungs, np.full((2, 2), np.nan), (0.1,), "squash")
    assert unknown.loc[0.1, "median"] == pytest.approx(0.36 / 2)


def test_a_map_carried_back_into_the_frame_is_zero_where_the_network_saw_nothing():
    framed = to_frame(np.ones((1, 4, 4)), WINDOW, attention.GRID)
    assert framed.shape == (1, *attention.GRID) and framed.mean() == pytest.approx(1 / 4)
    assert framed[0, :28].max() == 0 and (framed[0, 28:84, 28:84] == 1).all()
