"""Gradient maps: by hand, equal to the closed form at the last map, and apart where the logit ignores cells."""

import numpy as np
import pytest

from cnn_xray import InputError, backend, cam, network
from cnn_xray.parameters import TrainParameters

P = TrainParameters(image_size=64, width=4, seed=1)

# Two channels on 2 × 2 cells. The second is behind no ReLU: it has a negative cell.
ACTIVATIONS = np.stack([[[[5.0, 5], [5, 5]]], [[[1.0, 2], [3, -9]]]], axis=-1)
GRADIENT = np.stack([[[[4.0, 0], [0, 0]]], [[[-1.0, 2], [-1, -4]]]], axis=-1)


@pytest.fixture(scope="module")
def model():
    return network.build(P)


@pytest.fixture(scope="module")
def films():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64)).astype(np.uint8)


@pytest.fixture(scope="module")
def pooled():
    """Logit = Σ over four 2 × 2 windows of the largest grey value in each; ``early`` holds the film and its negative.

    With a weight of 0 or 4 for the negative, the smallest grey value of each window is left alone or subtracted.
    """
    keras = backend.start()
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="early")(image)
    x = keras.layers.MaxPooling2D(name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, name=network.LOGIT)(x))
    model.get_layer("early").set_weights([np.array([[[[1.0, -1.0]]]])])

    def weighted(negative):
        model.get_layer(network.LOGIT).set_weights([np.array([[4.0], [negative]]), np.zeros(1)])
        return model

    return weighted


FILM = np.array([[[9, 2, 3, 8], [5, 4, 6, 7], [1, 2, 3, 4], [8, 6, 7, 5]]], np.uint8)
LARGEST = np.array([[[9, 0, 0, 8], [0, 0, 0, 0], [0, 0, 0, 0], [8, 0, 7, 0]]])
SMALLEST = np.array([[[0, 2, 3, 0], [0, 0, 0, 0], [1, 0, 3, 0], [0, 0, 0, 0]]])


def test_grad_cam_by_hand():
    # Channel weights: 4/4 = 1 and (−1 + 2 − 1 − 4)/4 = −1, so 5 less the second channel everywhere.
    np.testing.assert_allclose(cam.grad_cam(ACTIVATIONS, GRADIENT), [[[4, 3], [2, 14]]])


def test_hires_cam_by_hand():
    # 5·4 + 1·(−1), 2·2, 3·(−1), −9·(−4)
    np.testing.assert_allclose(cam.hires_cam(ACTIVATIONS, GRADIENT), [[[19, 4], [-3, 36]]])


def test_layer_cam_by_hand():
    # For z, gradients 4 (first channel) and 2 (second) remain: 5·4 and 2·2. For −z: 1·1, 3·1 and −9·4, cut at 0.
    np.testing.assert_allclose(cam.layer_cam(ACTIVATIONS, GRADIENT), [[[20, 4], [0, 0]]])
    np.testing.assert_allclose(cam.layer_cam(ACTIVATIONS, -GRADIENT), [[[1, 0], [3, 0]]])


def test_a_cell_that_is_not_a_number_stays_so():
    broken = ACTIVATIONS.copy()
    broken[0, 0, 1, 1] = np.nan
    for method in cam.METHODS.values():
        assert np.isnan(method(broken, GRADIENT)).tolist() == [[[False, True], [False, False]]]


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_the_signed_methods_equal_the_closed_form_at_the_last_map(model, films, method):
    found = cam.gradient_map(model, films, method=method, batch_size=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cam.evidence(model, films).maps, atol=1e-5)


def test_layer_cam_at_the_last_map_keeps_the_channels_that_agree(model, films):
    features = backend.start().Model(model.input, model.get_layer("features").output)
    values = features.predict(films[..., None], verbose=0)
    weights = model.get_layer(network.LOGIT).get_weights()[0][:, 0]
    sign = np.array([1.0, -1, 1, -1, -1])
    expected = (values * np.maximum(0, sign[:, None, None, None] * weights)).sum(axis=-1) / values[0, ..., 0].size
    found = cam.gradient_map(model, films, method="layer_cam", sign=sign, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found >= cam.explained_heat(cam.evidence(model, films).maps, sign) - 1e-5).all()


def test_the_sign_matters_to_layer_cam_only(model, films):
    normal = -np.ones(len(films))
    for method in ("grad_cam", "hires_cam"):
        signed = cam.gradient_map(model, films, "relu0a", method, normal)
        np.testing.assert_allclose(signed, cam.gradient_map(model, films, "relu0a", method), atol=1e-6)
    against = cam.gradient_map(model, films, "relu0a", "layer_cam", normal)
    toward = cam.gradient_map(model, films, "relu0a", "layer_cam")
    assert min(against.min(), toward.min()) >= 0 and min(against.max(), toward.max()) > 1e-3
    np.testing.assert_allclose(toward - against, cam.gradient_map(model, films, "relu0a", "hires_cam"), atol=1e-5)


def test_hires_cam_adds_up_to_the_logit_at_every_layer_where_nothing_above_is_offset(model, films):
    logits = cam.evidence(model, films).logits  # of a fresh network: no bias, normalisations without offset
    assert np.abs(logits).min() > 1e-2
    for layer in ("conv0a", "relu0a", "pool0", "norm1b"):
        found = cam.gradient_map(model, films, layer, "hires_cam")
        np.testing.assert_allclose(found.sum(axis=(1, 2)), logits, atol=1e-4, err_msg=layer)
        spread = cam.gradient_map(model, films, layer, "grad_cam").sum(axis=(1, 2))
        assert np.abs(spread - logits).max() > 1e-2, layer


def test_grad_cam_is_hot_where_the_logit_does_not_look_and_hires_cam_is_not(pooled):
    model = pooled(0.0)
    changed = FILM.copy()
    changed[0, 1] -= 1  # a whole row that no window's largest value is in
    logit = cam.evidence(model, FILM).logits
    assert logit == pytest.approx([9 + 8 + 8 + 7])
    assert cam.evidence(model, changed).logits == pytest.approx(logit)
    # Four of 16 gradients are 1, the others 0: the channel's weight is 1/4 in every cell, looked at or not.
    np.testing.assert_allclose(cam.gradient_map(model, FILM, "early", "grad_cam"), FILM / 4)
    np.testing.assert_allclose(cam.gradient_map(model, FILM, "early", "hires_cam"), LARGEST)
    np.testing.assert_allclose(cam.gradient_map(model, FILM, "early", "layer_cam"), LARGEST)


def test_grad_cam_is_blank_where_the_logit_looks_and_hires_cam_is_not(pooled):
    model = pooled(4.0)
    assert cam.evidence(model, FILM).logits == pytest.approx([32 - 2 - 3 - 1 - 3])
    # Film and negative weigh 1/4 each, and cancel.
    np.testing.assert_allclose(cam.gradient_map(model, FILM, "early", "grad_cam"), np.zeros((1, 4, 4)))
    np.testing.assert_allclose(cam.gradient_map(model, FILM, "early", "hires_cam"), LARGEST - SMALLEST)


@pytest.mark.parametrize("method", list(cam.METHODS))
def test_the_images_of_a_batch_are_kept_apart(model, films, method):
    sign = np.array([1.0, -1, 1, -1, -1])
    together = cam.gradient_map(model, films, "relu0a", method, sign)
    alone = [
        cam.gradient_map(model, film[None], "relu0a", method, one[None]) for film, one in zip(films, sign, strict=True)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    np.testing.assert_allclose(
        together, cam.gradient_map(model, films, "relu0a", method, sign, batch_size=2), atol=1e-5
    )
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_an_unknown_layer_or_method_is_named_with_the_known_ones(model, films):
    with pytest.raises(InputError, match="no layer 'conv9'.*relu0a.*features"):
        cam.gradient_map(model, films, layer="conv9")
    with pytest.raises(InputError, match="method 'score_cam'; there are grad_cam, hires_cam, layer_cam"):
        cam.gradient_map(model, films, method="score_cam")
