"""The network: names, map size, padding, standardised films, and erased patches."""

import numpy as np
import pytest

from cnn_xray import backend, network
from cnn_xray.parameters import TrainParameters

SMALL = TrainParameters(image_size=32, width=8, seed=2)


@pytest.mark.parametrize(("size", "cells"), [(32, 16), (64, 16), (96, 24), (128, 16), (224, 14)])
def test_the_last_map_keeps_at_least_fourteen_cells(size, cells):
    model = network.build(TrainParameters(image_size=size, width=4))
    assert model.get_layer("features").output.shape[1:3] == (cells, cells)
    assert model.output.shape == (None, 1)


def test_no_layer_is_nested_and_every_name_is_told_apart():
    names = [layer.name for layer in network.build(SMALL).layers]
    assert len(set(names)) == len(names)
    assert {"conv0a", "norm0a", "relu0a", "gap", "dropout", "logit"} <= set(names)


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again = (network.build(SMALL).get_layer("conv0a").get_weights()[0] for _ in range(2))
    other = network.build(SMALL.model_copy(update={"seed": 3})).get_layer("conv0a").get_weights()[0]
    np.testing.assert_allclose(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_depth_and_width_are_those_asked_for():
    for depth, expected in ((2, "0a 1a 2a 2b"), (3, "0a 1a 1b 2a 2b 2c"), (5, "0a 1a 1b 1c 1d 2a 2b 2c 2d 2e")):
        layers = network.build(TrainParameters(image_size=128, width=4, depth=depth)).layers
        convolutions = {layer.name: layer.filters for layer in layers if layer.name.startswith("conv")}
        convolutions.pop("contrast", None)
        assert list(convolutions) == [f"conv{place}" for place in expected.split()]
        assert set(convolutions.values()) == {4, 8, 16} and convolutions["conv2b"] == 16


def test_brightness_and_contrast_of_the_film_do_not_reach_the_network():
    """Every film is standardised, so a dimmer or flatter exposure of the same chest scores the same."""
    model = network.build(SMALL)
    film = np.random.default_rng(0).integers(0, 200, (1, 32, 32, 1)).astype("float32")
    np.testing.assert_allclose(model.predict(film, verbose=0), model.predict(0.8 * film + 30, verbose=0), atol=1e-2)


# ---- padding


def behind_standardisation(padding):
    """The convolutions alone, at random weights: standardised images (N, 64, 64, 1) → the last feature map."""
    model = network.build(TrainParameters(image_size=64, width=4, padding=padding))
    return backend.start().Model(model.get_layer("standardise").output, model.get_layer("features").output)


def test_zeros_beyond_the_edge_show_in_the_map_and_mirrored_padding_does_not():
    flat = np.ones((1, 64, 64, 1), "float32")
    zeros, mirrored = (np.asarray(behind_standardisation(padding)(flat)) for padding in ("same", "reflect"))
    inside = np.broadcast_to(zeros[:, 8:9, 8:9], zeros.shape)
    assert np.abs(inside).max() > 0.01
    np.testing.assert_allclose(mirrored, inside, atol=1e-5)
    np.testing.assert_allclose(zeros[:, 4:-4, 4:-4], inside[:, 4:-4, 4:-4], atol=1e-5)
    assert np.abs(zeros - inside)[:, [0, -1]].max() > 0.1 * np.abs(inside).max()


def test_far_from_the_edge_the_padding_makes_no_difference():
    film = np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype("float32")
    zeros, mirrored = (np.asarray(behind_standardisation(padding)(film)) for padding in ("same", "reflect"))
    np.testing.assert_allclose(zeros[:, 7:-7, 7:-7], mirrored[:, 7:-7, 7:-7], atol=1e-5)
    assert np.abs(zeros - mirrored).max() > 0.01


@pytest.mark.parametrize("size", [32, 64, 65, 96, 127])
def test_maps_have_one_size_whatever_the_padding(size):
    def sizes(padding):
        layers = network.build(TrainParameters(image_size=size, width=4, padding=padding)).layers
        return {layer.name: layer.output.shape for layer in layers if layer.name.startswith(("conv", "relu", "pool"))}

    assert sizes("reflect") == sizes("same")


# ---- augmentation in the network

STILL = {
    "flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "aspect_jitter": 0.0,
    "brightness": 0.0, "contrast": 0.0, "blur": 0.0,
}  # fmt: skip


def augmented(films, **changes):
    """What the layer before standardisation makes of films (N, 64, 64, 1) in training."""
    model = network.build(TrainParameters(image_size=64, width=4, **(STILL | changes)))
    seen = backend.start().Model(model.input, model.get_layer("standardise").input)
    return np.asarray(seen(films, training=True))[..., 0]


def test_without_augmentation_training_sees_the_film_as_it_is():
    films = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(augmented(films), films[..., 0] / 255, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"rotation": 8.0}, {"shift": 0.05}, {"zoom": 0.15}, {"aspect_jitter": 0.4}, {"brightness": 0.1},
     {"contrast": 0.4}, {"gamma": 0.3}, {"blur": 0.02}, {"sharpen": 1.0}, {"erasing": 1.0}],
)  # fmt: skip
def test_every_option_changes_what_training_sees(change):
    films = np.random.default_rng(0).integers(40, 200, (16, 64, 64, 1)).astype("float32")
    assert np.abs(augmented(films, **change) - films[..., 0] / 255).max() > 0.05


def test_erased_patches_are_grey_rectangles_of_the_stated_area_on_the_stated_share_of_films():
    seen = augmented(np.full((400, 64, 64, 1), 255.0, "float32"), erasing=0.3)
    grey = np.abs(seen - 0.5) < 1e-6
    assert (grey | (seen == 1)).all()
    erased = grey[grey.any(axis=(1, 2))]
    assert len(erased) / 400 == pytest.approx(0.3, abs=0.07)
    sides = np.array([(patch.any(axis=0).sum(), patch.any(axis=1).sum()) for patch in erased])
    assert (sides.prod(axis=1) == erased.sum(axis=(1, 2))).all()
    low, high = np.sqrt(network.ERASED) * 64
    assert low - 1 <= sides.min() < low + 4 and high - 4 < sides.max() <= high + 1


def test_a_saved_network_with_every_option_scores_the_same(tmp_path):
    options = {"padding": "reflect", "gamma": 0.3, "sharpen": 1.0, "erasing": 0.5, "dropout": 0.0, "seed": 1}
    p = TrainParameters(image_size=32, width=4, **options)
    model = network.build(p)
    films = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = network.load(tmp_path / "model.keras")
    for training in (False, True):  # from one seed the same augmentation too
        np.testing.assert_allclose(again(films, training=training), model(films, training=training), atol=1e-5)
