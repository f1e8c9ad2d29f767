"""Layers that Keras lacks: what they do by hand, in training only, and that a saved model brings them back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cnn_xray import backend, network

RANDOM = {  # every layer that acts in training only, with everything it can do
    "RandomAffine": {"rotation": 10.0, "shift": 0.1, "zoom": 0.1, "aspect_jitter": 0.3, "fill": "reflect", "seed": 3},
    "RandomSharpness": {"blur": 2.0, "sharpen": 1.5, "seed": 4},
    "RandomGamma": {"gamma": 0.5, "seed": 5},
}
ALL = {**RANDOM, "ReflectionPadding": {"before": 1, "after": 2}}


def made(name: str, **options):
    """A layer of that name, or the one of `ALL`."""
    backend.start(0)

    return getattr(network, name)(**(options or ALL[name]))


def films(count: int = 8, side: int = 16) -> np.ndarray:
    """Noise in 0..1, (count, side, side, 1)."""
    return np.random.default_rng(0).random((count, side, side, 1)).astype("float32")


@pytest.mark.parametrize("name", RANDOM)
def test_it_acts_in_training_only(name):
    layer, noise = made(name), films()
    for seen in (layer(noise, training=False), layer(noise)):
        np.testing.assert_array_equal(seen, noise)
    changed = np.asarray(layer(noise, training=True))
    assert changed.shape == noise.shape
    assert np.abs(changed - noise).max() > 0.1


@pytest.mark.parametrize("name", RANDOM)
def test_every_film_and_every_step_is_changed_anew(name):
    layer = made(name)
    same = np.repeat(films(1), 8, axis=0)
    first, second = (np.asarray(layer(same, training=True)) for _ in range(2))
    assert np.abs(first - first[:1]).max() > 0.05 and np.abs(first - second).max() > 0.05
    np.testing.assert_allclose(made(name)(same, training=True), first, atol=1e-6)  # of one seed


@pytest.mark.parametrize("name", ALL)
def test_a_layer_is_made_again_from_its_configuration(name):
    layer, noise = made(name), films()
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    training = {"training": True} if name in RANDOM else {}
    np.testing.assert_allclose(again(noise, **training), layer(noise, **training), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_brings_its_layers_back(name, tmp_path):
    keras, noise = backend.start(0), films()
    image = keras.Input((16, 16, 1))
    model = keras.Model(image, made(name)(image))
    model.save(tmp_path / "model.keras")
    again = network.load(tmp_path / "model.keras")
    assert again.output.shape == model.output.shape
    for training in (False, True):
        expected = np.asarray(model(noise, training=training))
        np.testing.assert_allclose(again(noise, training=training), expected, atol=1e-6)


# ---- the affine map


def transformed(film, **amounts):
    """One film (h, w) through the affine map of known amounts."""
    keras = backend.start(0)
    from cnn_xray.network import RandomAffine

    names = ("mirror", "angle", "x", "y", "log_width", "log_height")
    start = {"mirror": 1.0}
    drawn = {name: keras.ops.array([amounts.get(name, start.get(name, 0.0))], "float32") for name in names}
    coefficients = RandomAffine.transforms(drawn, *film.shape)
    moved = keras.ops.image.affine_transform(film[None, ..., None].astype("float32"), coefficients)
    return np.asarray(moved)[0, ..., 0]


def test_the_affine_map_by_hand():
    film = np.arange(25.0).reshape(5, 5)
    np.testing.assert_allclose(transformed(film), film, atol=1e-4)
    np.testing.assert_allclose(transformed(film, mirror=-1.0), film[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(transformed(film, angle=np.pi / 2), np.rot90(film), atol=1e-3)
    np.testing.assert_allclose(transformed(film, x=0.2)[:, :4], film[:, 1:], atol=1e-4)
    line = np.zeros((9, 9))
    line[4, 3:6] = 1  # three wide, one high; twice as wide: the middle cell of five on either side is full
    wide = transformed(line, log_width=np.log(2))
    assert wide[4, 3:6].tolist() == pytest.approx([1, 1, 1]) and wide[4].sum() == pytest.approx(6, abs=0.1)
    assert wide[3].sum() == pytest.approx(0)


def test_amounts_stay_within_their_limits_and_some_films_are_as_they_are():
    layer = made("RandomAffine", flip=True, rotation=10.0, shift=0.1, zoom=0.2, aspect_jitter=0.3)
    from cnn_xray.network import UNMOVED

    drawn = {name: np.asarray(values) for name, values in layer.draw(2000).items()}
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


def opencv(film: np.ndarray, sigma: float, reach: int) -> np.ndarray:
    """OpenCV's Gaussian blur of one film (h, w), mirrored at the edge."""
    return cv2.GaussianBlur(film, (2 * reach + 1, 2 * reach + 1), sigma, borderType=cv2.BORDER_REFLECT)


def test_blur_is_gaussian_and_each_image_has_its_own():
    keras, noise = backend.start(0), films(3, 32)
    found = np.asarray(made("RandomSharpness", blur=2.0).blur(noise, keras.ops.array([1e-3, 1.0, 2.0])))
    np.testing.assert_allclose(found[0], noise[0], atol=1e-5)
    for i, sigma in ((1, 1.0), (2, 2.0)):
        np.testing.assert_allclose(found[i, ..., 0], opencv(noise[i, ..., 0], sigma, 5), atol=1e-4)


def test_sharpening_is_an_unsharp_mask_of_one_pixel_by_hand():
    noise = films(400, 12)
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
    noise = films(400, 12)
    detail = noise.std(axis=(1, 2, 3))
    both = np.asarray(made("RandomSharpness", blur=2.0, sharpen=2.0)(noise, training=True)).std(axis=(1, 2, 3))
    assert (both < detail).mean() == pytest.approx(0.5, abs=0.08)
    assert (both / detail).min() < 0.3 and (both / detail).max() > 2.5
    blurred = np.asarray(made("RandomSharpness", blur=2.0)(noise, training=True)).std(axis=(1, 2, 3))
    assert (blurred < detail + 1e-5).all() and (blurred < 0.99 * detail).mean() == pytest.approx(0.4, abs=0.1)


# ---- gamma


def test_gamma_is_one_exponent_a_film_of_the_range_asked_for():
    grey = np.linspace(0, 1, 11, dtype="float32")[None, None, :, None]
    for gamma in (0.5, 2.0):
        bent = np.asarray(made("RandomGamma", gamma=gamma)(np.repeat(grey, 300, axis=0), training=True))[:, 0, :, 0]
        assert (bent[:, 0] == 0).all() and (bent[:, -1] == 1).all()
        assert (np.diff(bent) > 0).all()
        exponents = np.log(bent[:, 1:-1]) / np.log(grey[0, 0, 1:-1, 0])
        np.testing.assert_allclose(exponents, exponents[:, :1] + np.zeros(9), rtol=1e-3)
        logs = np.log(exponents[:, 0])
        assert [logs.min(), np.median(logs), logs.max()] == pytest.approx([-gamma, 0, gamma], abs=0.15 * gamma)
        assert np.abs(logs).max() < gamma + 1e-3


# ---- padding


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (0, 3)])
def test_reflection_padding_is_numpys(before, after):
    images = np.random.default_rng(0).random((2, 6, 5, 3)).astype("float32")
    sides = (before, after)
    expected = np.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")
    np.testing.assert_array_equal(made("ReflectionPadding", before=before, after=after)(images), expected)
