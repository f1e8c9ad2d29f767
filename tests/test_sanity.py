"""Sanity checks of maps: rank correlations by hand, and weights drawn anew layer by layer."""

import numpy as np
import pandas as pd
import pytest

from cnn_xray import cam, network
from cnn_xray.parameters import TrainParameters

P = TrainParameters(image_size=64, width=4, seed=3)
ONE_TO_FOUR = np.array([[[1.0, 2], [3, 4]]])


@pytest.fixture(scope="module")
def model():
    """As if trained: away from its first weights, and with statistics and offsets of its own."""
    built = network.build(P)
    rng = np.random.default_rng(0)
    for layer in built.layers:
        moved = [rng.normal(size=w.shape) if w.ndim > 1 else rng.random(w.shape) for w in layer.get_weights()]
        layer.set_weights([w + 0.3 * by for w, by in zip(layer.get_weights(), moved, strict=True)])
    return built


@pytest.fixture(scope="module")
def films():
    coarse = np.random.default_rng(1).integers(0, 256, (6, 16, 16))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def table(model, films):
    return cam.parameter_randomisation(model, films, seed=5)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([[1.0, 2], [3, 4]], 1),
        ([[-1.0, 20], [30, 31]], 1),  # ranks only
        ([[4.0, 3], [2, 1]], -1),
        ([[2.0, 1], [4, 3]], 0.6),  # 1 − 6·(1 + 1 + 1 + 1)/(4·15)
        ([[1.0, 1], [2, 3]], 4.5 / np.sqrt(5 * 4.5)),  # tied ranks 1.5, 1.5, 3, 4
        ([[7.0, 7], [7, 7]], np.nan),
        ([[1.0, np.nan], [3, 4]], np.nan),
    ],
)
def test_agreement_by_hand(other, expected):
    other = np.array([other])
    assert cam.rank_agreement(ONE_TO_FOUR, other) == pytest.approx([expected], nan_ok=True)
    assert cam.rank_agreement(other, ONE_TO_FOUR) == pytest.approx([expected], nan_ok=True)


def test_agreement_is_that_of_scipy_image_by_image():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 7, 4, 5)).astype(float)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(cam.rank_agreement(a, b), expected)
    assert cam.rank_agreement(a, a).tolist() == [1] * 7


def test_the_cascade_goes_from_the_logit_down_to_the_first_convolution(table, model):
    convolutions = [layer.name for layer in model.layers if layer.name.startswith("conv")]
    assert list(table.index) == ["none", "logit", *reversed(convolutions)]
    assert table.columns.tolist() == ["signed", "absolute", "signed_left_out", "absolute_left_out"]


def test_the_maps_fall_apart_as_weights_are_drawn_anew(table):
    assert table.loc["none"].tolist() == [1, 1, 0, 0]
    later = table.iloc[1:]
    assert (later[["signed", "absolute"]].abs() < 0.9).all(axis=None)
    assert (later.loc["conv0a", ["signed", "absolute"]].abs() < 0.4).all()  # one draw each: about 0, never quite
    assert (later[["signed_left_out", "absolute_left_out"]] == 0).all(axis=None)


def test_the_network_is_left_as_it_was(model, films):
    before = [w.copy() for w in model.get_weights()]
    cam.parameter_randomisation(model, films[:2], seed=5)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_the_same_seed_gives_the_same_table_and_another_does_not(model, films, table):
    pd.testing.assert_frame_equal(cam.parameter_randomisation(model, films, seed=5), table, atol=1e-5)
    other = cam.parameter_randomisation(model, films, seed=6)
    assert (other["signed"] - table["signed"]).iloc[1:].abs().max() > 1e-3


def test_the_seed_of_the_training_does_not_draw_the_first_weights_again(films):
    found = cam.parameter_randomisation(network.build(P), films, seed=P.seed)
    assert (found["signed"].iloc[1:] < 0.99).all()


def test_a_normalisation_is_drawn_anew_with_its_convolution(model):
    rows = cam.parameter_randomisation(model, np.zeros((1, 64, 64), np.uint8), seed=5).index
    convolutions = [layer.name for layer in model.layers if layer.name.startswith("conv")]
    assert rows.tolist() == ["none", "logit", *reversed(convolutions)]


def test_constant_maps_are_left_out_and_counted():
    maps = np.concatenate([ONE_TO_FOUR, np.zeros((1, 2, 2)), [[[1.0, -1], [1, -1]]]])
    row = cam._agreement_row(maps, maps)  # the third is constant once its sign is gone
    assert row == {"signed": 1, "absolute": 1, "signed_left_out": 1, "absolute_left_out": 2}
    nothing = cam._agreement_row(maps, np.zeros_like(maps))
    assert np.isnan([nothing["signed"], nothing["absolute"]]).all() and nothing["signed_left_out"] == 3
