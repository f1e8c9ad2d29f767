"""The network: names, map size, padding, standardised images; and its own layers, by hand."""

from functools import partial

import cv2
import numpy as np
import pytest

from cnn_xray import backend, cam, geometry, network, swaps
from cnn_xray.parameters import TrainParameters
from cnn_xray.training import fit, predict

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
        assert list(convolutions) == [f"conv{place}" for place in expected.split()]
        assert set(convolutions.values()) == {4, 8, 16} and convolutions["conv2b"] == 16


def test_brightness_and_contrast_of_the_image_do_not_reach_the_network():
    """Every image is standardised, so a dimmer or flatter exposure of the same chest scores the same."""
    model = network.build(SMALL)
    image = np.random.default_rng(0).integers(0, 200, (1, 32, 32, 1)).astype("float32")
    np.testing.assert_allclose(model.predict(image, verbose=0), model.predict(0.8 * image + 30, verbose=0), atol=1e-2)


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
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype("float32")
    zeros, mirrored = (np.asarray(behind_standardisation(padding)(image)) for padding in ("same", "reflect"))
    np.testing.assert_allclose(zeros[:, 7:-7, 7:-7], mirrored[:, 7:-7, 7:-7], atol=1e-5)
    assert np.abs(zeros - mirrored).max() > 0.01


@pytest.mark.parametrize("size", [32, 64, 68, 96, 120])
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


def augmented(images, **changes):
    """What the layer before standardisation makes of images (N, 64, 64, 1) in training."""
    model = network.build(TrainParameters(image_size=64, width=4, **(STILL | changes)))
    seen = backend.start().Model(model.input, model.get_layer("standardise").input)
    return np.asarray(seen(images, training=True))[..., 0]


def test_without_augmentation_training_sees_the_image_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(augmented(images), images[..., 0] / 255, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"rotation": 8.0}, {"shift": 0.05}, {"zoom": 0.15}, {"aspect_jitter": 0.4}, {"brightness": 0.1},
     {"contrast": 0.4}, {"blur": 0.02}, {"sharpen": 1.0}, {"erasing": 1.0}],
)  # fmt: skip
def test_every_option_changes_what_training_sees(change):
    images = np.random.default_rng(0).integers(40, 200, (16, 64, 64, 1)).astype("float32")
    assert np.abs(augmented(images, **change) - images[..., 0] / 255).max() > 0.05


def test_a_hidden_border_stays_hidden_however_the_image_is_moved():
    p = {"keep": "without_border", "border": 0.125, "brightness": 0.3, "aspect_jitter": 0.6, "zoom": 0.3, "shift": 0.1}
    seen = augmented(np.full((64, 64, 64, 1), 200.0, "float32"), **p)
    assert (seen[:, 8:-8, 8:-8] > 0).any(axis=0).all() and (seen[:, 30:34, 30:34] > 0).all()
    for side in (seen[:, :8], seen[:, -8:], seen[:, :, :8], seen[:, :, -8:]):
        assert (side == 0).all()
    model = network.build(TrainParameters(image_size=64, width=4, **p))
    hidden = backend.start().Model(model.input, model.get_layer("standardise").input)
    images = np.random.default_rng(0).integers(1, 256, (3, 64, 64, 1)).astype("float32")
    painted = geometry.part_alone(images[..., 0].astype(np.uint8), "without_border", 0.125, None, np.arange(3))
    np.testing.assert_allclose(np.asarray(hidden(images, training=False))[..., 0], painted / 255, atol=1e-6)


def test_erased_patches_are_grey_rectangles_of_the_stated_area_on_the_stated_share_of_images():
    seen = augmented(np.full((400, 64, 64, 1), 255.0, "float32"), erasing=0.3)
    grey = np.abs(seen - 0.5) < 1e-6
    assert (grey | (seen == 1)).all()
    erased = grey[grey.any(axis=(1, 2))]
    assert len(erased) / 400 == pytest.approx(0.3, abs=0.07)
    sides = np.array([(patch.any(axis=0).sum(), patch.any(axis=1).sum()) for patch in erased])
    assert (sides.prod(axis=1) == erased.sum(axis=(1, 2))).all()
    low, high = np.sqrt(network.ERASED) * 64
    assert low - 1 <= sides.min() < low + 4 and high - 4 < sides.max() <= high + 1


def test_the_evidence_penalty_by_hand():
    keras = backend.start()
    layer = network.EvidencePenalty(0.5, lambda: keras.ops.array([[2.0], [-1.0]]))
    features = np.zeros((2, 2, 2, 2), "float32")
    features[0, 0], features[0, 1] = [1.0, 0.0], [1.0, 5.0]  # evidence 2 above, -3 below
    features[1] = 100.0
    lungs = np.zeros((2, 2, 2, 1), "float32")
    lungs[0, 0] = 1.0  # above; of the second image no lungs are known, and it adds nothing
    np.testing.assert_array_equal(np.asarray(layer(features, lungs, training=True)), features)
    assert float(layer.losses[0]) == pytest.approx(0.5 * 3)


@pytest.mark.slow
def test_with_the_evidence_penalty_there_is_less_of_it_outside_the_lungs():
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = rng.normal(110, 10, (96, 32, 32))
    images[:, :, :14:4] += 60 * labels[:, None, None]  # stripes, outside the lungs
    images[:, 10:22, 18:30] += 60 * labels[:, None, None]
    images, lungs = np.clip(images, 0, 255).astype(np.uint8), np.zeros((96, 32, 32), bool)
    lungs[:, :, 16:] = True
    found = {}
    for penalty in (0.0, 0.2):
        p = TrainParameters(
            image_size=32, width=8, epochs=40, batch_size=16, evidence_penalty=penalty, shift=0.2, learning_rate=5e-3
        )
        model = network.build(p, for_training=True)
        changes = partial(swaps.planned, p=p, labels=labels, patients=np.arange(96), lungs=lungs)
        fit(model, p, (images, labels), (images, labels), changes)
        exact = network.in_float32(model, p)
        np.testing.assert_allclose(predict(exact, images), predict(model, images), atol=1e-4)
        evidence = np.abs(cam.evidence(exact, images).maps).mean(axis=0)
        columns = evidence.shape[1] // 2
        found[penalty] = evidence[:, : columns - 1].sum() / evidence.sum()
    assert found[0.2] < 0.85 * found[0.0], found


def test_a_saved_network_with_every_option_scores_the_same(tmp_path):
    options = {
        "keep": "without_border",
        "padding": "reflect",
        "sharpen": 1.0,
        "erasing": 0.5,
        "dropout": 0.0,
        "seed": 1,
    }
    p = TrainParameters(image_size=32, width=4, **options)
    model = network.build(p)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = network.load(tmp_path / "model.keras")
    for training in (False, True):  # from one seed the same augmentation too
        np.testing.assert_allclose(again(images, training=training), model(images, training=training), atol=1e-5)


# ---- the layers that Keras lacks

RANDOM = {  # every layer that acts in training only, with everything it can do
    "RandomAffine": {"rotation": 10.0, "shift": 0.1, "zoom": 0.1, "aspect_jitter": 0.3, "fill": "reflect", "seed": 3},
    "RandomSharpness": {"blur": 2.0, "sharpen": 1.5, "seed": 4},
}


def made(name: str, **options):
    """A layer of that name, or the one of `RANDOM`."""
    backend.start(0)

    return getattr(network, name)(**(options or RANDOM[name]))


def noise_images(count: int = 8, side: int = 16) -> np.ndarray:
    """Noise in 0..1, (count, side, side, 1)."""
    return np.random.default_rng(0).random((count, side, side, 1)).astype("float32")


@pytest.mark.parametrize("name", RANDOM)
def test_it_acts_in_training_only(name):
    layer, noise = made(name), noise_images()
    for seen in (layer(noise, training=False), layer(noise)):
        np.testing.assert_array_equal(seen, noise)
    changed = np.asarray(layer(noise, training=True))
    assert changed.shape == noise.shape
    assert np.abs(changed - noise).max() > 0.1


@pytest.mark.parametrize("name", RANDOM)
def test_every_image_and_every_step_is_changed_anew(name):
    layer = made(name)
    same = np.repeat(noise_images(1), 8, axis=0)
    first, second = (np.asarray(layer(same, training=True)) for _ in range(2))
    assert np.abs(first - first[:1]).max() > 0.05 and np.abs(first - second).max() > 0.05
    np.testing.assert_allclose(made(name)(same, training=True), first, atol=1e-6)  # of one seed


@pytest.mark.parametrize("name", RANDOM)
def test_a_saved_model_brings_its_layers_back(name, tmp_path):
    keras, noise = backend.start(0), noise_images()
    image = keras.Input((16, 16, 1))
    model = keras.Model(image, made(name)(image))
    model.save(tmp_path / "model.keras")
    again = network.load(tmp_path / "model.keras")
    assert again.output.shape == model.output.shape
    for training in (False, True):
        expected = np.asarray(model(noise, training=training))
        np.testing.assert_allclose(again(noise, training=training), expected, atol=1e-6)


# ---- the affine map


def transformed(image, **amounts):
    """One image (h, w) through the affine map of known amounts."""
    keras = network.keras
    RandomAffine = network.RandomAffine

    names = ("mirror", "angle", "x", "y", "log_width", "log_height")
    start = {"mirror": 1.0}
    drawn = {name: keras.ops.array([amounts.get(name, start.get(name, 0.0))], "float32") for name in names}
    coefficients = RandomAffine.transforms(drawn, *image.shape)
    moved = keras.ops.image.affine_transform(image[None, ..., None].astype("float32"), coefficients)
    return np.asarray(moved)[0, ..., 0]


def test_the_affine_map_by_hand():
    image = np.arange(25.0).reshape(5, 5)
    np.testing.assert_allclose(transformed(image), image, atol=1e-4)
    np.testing.assert_allclose(transformed(image, mirror=-1.0), image[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(transformed(image, angle=np.pi / 2), np.rot90(image), atol=1e-3)
    np.testing.assert_allclose(transformed(image, x=0.2)[:, :4], image[:, 1:], atol=1e-4)
    line = np.zeros((9, 9))
    line[4, 3:6] = 1  # three wide, one high; twice as wide: the middle cell of five on either side is full
    wide = transformed(line, log_width=np.log(2))
    assert wide[4, 3:6].tolist() == pytest.approx([1, 1, 1]) and wide[4].sum() == pytest.approx(6, abs=0.1)
    assert wide[3].sum() == pytest.approx(0)


def test_amounts_stay_within_their_limits_and_some_images_are_as_they_are():
    layer = made("RandomAffine", flip=True, rotation=10.0, shift=0.1, zoom=0.2, aspect_jitter=0.3)
    from cnn_xray.network import UNMOVED

    drawn = {name: np.asarray(values) for name, values in layer.drawn(2000).items()}
    moved = drawn["angle"] != 0
    assert moved.mean() == pytest.approx(1 - UNMOVED, abs=0.04)
    sums = drawn["log_width"] + drawn["log_height"], drawn["log_width"] - drawn["log_height"]
    limits = ((drawn["angle"], np.pi / 18), (drawn["x"], 0.1), (drawn["y"], 0.1), (sums[0], 0.4), (sums[1], 0.3))
    for amount, limit in limits:
        assert (amount[~moved] == 0).all()
        assert [-limit, limit] == pytest.approx([amount.min(), amount.max()], rel=0.02)
    assert drawn["mirror"].mean() == pytest.approx(0, abs=0.07) and set(drawn["mirror"]) == {-1, 1}


def test_beyond_the_edge_it_is_black_or_mirrored():
    white = np.ones((20, 16, 16, 1), "float32")
    moves = {"flip": False, "rotation": 20.0, "shift": 0.2}
    black, mirrored = (
        np.asarray(made("RandomAffine", **moves, fill=fill)(white, training=True)) for fill in ("constant", "reflect")
    )
    assert black.min() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(mirrored, 1, atol=1e-5)


# ---- sharpness


def opencv(image: np.ndarray, sigma: float, reach: int) -> np.ndarray:
    """OpenCV's Gaussian blur of one image (h, w), mirrored at the edge."""
    return cv2.GaussianBlur(image, (2 * reach + 1, 2 * reach + 1), sigma, borderType=cv2.BORDER_REFLECT)


def test_blur_is_gaussian_and_each_image_has_its_own():
    keras, noise = backend.start(0), noise_images(3, 32)
    found = np.asarray(network.RandomSharpness.blurred(noise, keras.ops.array([1e-3, 1.0, 2.0]), reach=5))
    np.testing.assert_allclose(found[0], noise[0], atol=1e-5)
    for i, sigma in ((1, 1.0), (2, 2.0)):
        np.testing.assert_allclose(found[i, ..., 0], opencv(noise[i, ..., 0], sigma, 5), atol=1e-4)


def test_sharpening_is_an_unsharp_mask_of_one_pixel_by_hand():
    noise = noise_images(400, 12)
    sharp = np.asarray(made("RandomSharpness", sharpen=1.5, seed=1)(noise, training=True))
    amounts = []
    for x, found in zip(noise[..., 0], sharp[..., 0], strict=True):
        detail = x - opencv(x, 1.0, 3)
        amount = ((found - x) * detail).sum() / (detail**2).sum()
        np.testing.assert_allclose(found, x + amount * detail, atol=1e-4)
        amounts.append(amount)
    assert -1e-4 < min(amounts) and 1.4 < max(amounts) < 1.5 + 1e-4
    assert np.mean(np.array(amounts) < 1e-4) == pytest.approx(0.5, abs=0.08)  # there was no blur for these
    assert np.median([a for a in amounts if a > 1e-4]) == pytest.approx(0.75, abs=0.15)


def test_one_half_is_blurred_and_the_other_sharpened():
    noise = noise_images(400, 12)
    detail = noise.std(axis=(1, 2, 3))
    both = np.asarray(made("RandomSharpness", blur=2.0, sharpen=2.0)(noise, training=True)).std(axis=(1, 2, 3))
    assert (both < detail).mean() == pytest.approx(0.5, abs=0.08)
    assert (both / detail).min() < 0.3 and (both / detail).max() > 2.5
    blurred = np.asarray(made("RandomSharpness", blur=2.0)(noise, training=True)).std(axis=(1, 2, 3))
    assert (blurred < detail + 1e-5).all() and (blurred < 0.99 * detail).mean() == pytest.approx(0.4, abs=0.1)


# ---- padding


def test_a_network_trained_in_half_precision_is_measured_in_float32():
    half = network.build(SMALL, "mixed_bfloat16")
    exact = network.in_float32(half, SMALL)
    assert half.get_layer("conv0a").compute_dtype == "bfloat16" and half.get_layer("affine").compute_dtype == "float32"
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    for one, other in zip(half.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert network.build(SMALL).get_layer("conv0a").compute_dtype == "float32"  # the policy does not stay
