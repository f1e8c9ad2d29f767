"""Attention metrics on 4 × 4 maps whose answers can be counted."""

import numpy as np
import pytest

from cnn_xray import attention
from cnn_xray.geometry import border_cells

RING = border_cells(0.25, (4, 4))  # the 12 outer cells


def one(rows):
    return np.array([rows], float)


CORNERED = one([[3, 0, 0, 0], [0, 2, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])  # 3 of 8 on the border
LEFT_LUNG = one([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])  # 2 of 16 cells
NOTHING = np.zeros((1, 4, 4))


def test_border_fraction_is_three_eighths():
    assert attention.border_fraction(CORNERED, RING) == pytest.approx(3 / 8)


def test_density_ratio_compares_means_not_sums():
    # Border: 3 over 12 cells; inside: 5 over 4 cells.
    assert attention.log2_density_ratio(CORNERED, RING) == pytest.approx(np.log2((3 / 12) / (5 / 4)))
    assert attention.log2_density_ratio(np.ones((1, 4, 4)), RING) == pytest.approx(0)


def test_density_ratio_is_kept_within_its_limit():
    assert attention.log2_density_ratio(one(1 - RING), RING) == -6
    assert attention.log2_density_ratio(one(RING), RING) == 6


def test_signed_border_evidence_keeps_the_sign_and_is_always_defined():
    maps = np.concatenate([-CORNERED, NOTHING])
    np.testing.assert_allclose(attention.signed_border_evidence(maps, RING), [-3, 0])


def test_lung_mass_and_enrichment():
    assert attention.mass_accuracy(CORNERED, LEFT_LUNG) == pytest.approx(3 / 8)
    assert attention.enrichment(CORNERED, LEFT_LUNG) == pytest.approx((3 / 8) / (2 / 16))


def test_rank_accuracy_counts_the_top_cells():
    # |L| = 2; the two hottest cells are the corner (3, outside) and the 2 (inside): one of two.
    assert attention.rank_accuracy(CORNERED, LEFT_LUNG) == pytest.approx(1 / 2)


def test_pointing_game_looks_at_the_hottest_cell():
    assert attention.pointing_game(CORNERED, LEFT_LUNG) == 0
    assert attention.pointing_game(CORNERED * (1 - RING), LEFT_LUNG) == 1


def test_artifact_sensitivity_takes_the_hottest_tenth():
    # A tenth of 16 cells is two: the corner and the 2. The artifact is the corner and its right neighbour.
    artifact = one([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert attention.artifact_sensitivity(CORNERED, artifact) == pytest.approx(1 / 2)


def test_zero_maps_and_missing_areas_are_nan_never_zero():
    found = attention.attention_metrics(np.concatenate([NOTHING, CORNERED]), np.ones(2), RING).iloc
    assert found[0]["zero_map"] == 1 and found[1]["zero_map"] == 0
    assert np.isnan(found[0]["border_attention_fraction"]) and np.isnan(found[0]["log2_border_density_ratio"])
    assert found[0]["signed_border_evidence"] == 0
    lungless = ["lung_attention_fraction", "lung_enrichment", "relevance_rank_accuracy", "pointing_game"]
    assert found[1][lungless].isna().all() and np.isnan(found[1]["artifact_sensitivity"])


def test_the_sign_says_what_is_explained():
    found = attention.attention_metrics(np.concatenate([-CORNERED, -CORNERED]), np.array([1.0, -1.0]), RING, None)
    assert found["zero_map"].tolist() == [1, 0]  # nothing there speaks for PNEUMONIA
    assert found["border_attention_fraction"][1] == pytest.approx(3 / 8)
    assert found["signed_border_evidence"].tolist() == [-3, -3]


def test_uniform_values_agree_with_a_uniform_map_where_ties_do_not_matter():
    flat = attention.attention_metrics(np.ones((1, 4, 4)), np.ones(1), RING, LEFT_LUNG)
    expected = attention.uniform_metrics(RING, 1, LEFT_LUNG)
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
    found = attention.attention_metrics(random, np.ones(len(random)), RING, lungs).mean(numeric_only=True)
    expected = attention.uniform_metrics(RING, 1, LEFT_LUNG).iloc[0]
    for name in ("relevance_rank_accuracy", "pointing_game"):
        assert found[name] == pytest.approx(expected[name], abs=0.01)
