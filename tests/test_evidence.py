"""Evidence maps: exact decomposition, agreement with gradient Grad-CAM, and cases worked by hand."""

import numpy as np
import pytest

from cnn_xray import backend, evidence, network
from cnn_xray.errors import InputError
from cnn_xray.parameters import TrainParameters

P = TrainParameters(image_size=32, width=8, seed=1)


@pytest.fixture(scope="module")
def model():
    return network.build(P)


@pytest.fixture(scope="module")
def films():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype(np.uint8)


def test_evidence_and_bias_add_up_to_the_logit(model, films):
    model.get_layer("logit").bias.assign([0.7])
    found = evidence.closed_form(model, films)
    assert found.bias == pytest.approx(0.7)
    assert found.maps.shape == (5, 16, 16) and found.maps.dtype == np.float32
    assert found.residual().max() < 1e-4
    assert np.abs(found.maps).max() > 1e-6
    np.testing.assert_allclose(found.logits, model.predict(films[..., None], verbose=0)[:, 0], atol=1e-5)


def test_grad_cam_at_the_last_map_equals_the_closed_form(model, films):
    found = evidence.grad_cam(model, films, batch_size=2)
    np.testing.assert_allclose(found, evidence.closed_form(model, films).maps, atol=1e-4)


def test_grad_cam_keeps_the_images_of_a_batch_apart(model, films):
    together = evidence.grad_cam(model, films, layer="relu0a")
    alone = np.concatenate([evidence.grad_cam(model, film[None], layer="relu0a") for film in films])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_an_unknown_layer_is_named_with_the_known_ones(model, films):
    with pytest.raises(InputError, match="no layer 'conv9'.*relu0a.*features"):
        evidence.grad_cam(model, films, layer="conv9")


def test_a_network_whose_map_is_known():
    # Two channels: the image itself and its negative, by 1 × 1 convolutions; weights 3 and 1 on 2 × 2 cells.
    keras = backend.start()
    image = keras.Input((2, 2, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name=network.FEATURES)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, name=network.LOGIT)(x))
    model.get_layer(network.FEATURES).set_weights([np.array([[[[1.0, -1.0]]]])])
    model.get_layer(network.LOGIT).set_weights([np.array([[3.0], [1.0]]), np.array([0.5])])
    film = np.array([[[0, 4], [8, 2]]], np.uint8)
    found = evidence.closed_form(model, film)
    # c_u = (3 x − 1 x) / 4 = x / 2
    np.testing.assert_allclose(found.maps[0], [[0, 2], [4, 1]])
    assert found.logits[0] == pytest.approx(7.5)
    np.testing.assert_allclose(evidence.grad_cam(model, film), found.maps)


def test_channel_weights_and_combination_by_hand():
    gradient = np.zeros((1, 2, 2, 2))
    gradient[0, :, :, 0] = [[4, 0], [0, 0]]
    gradient[0, :, :, 1] = -1
    weights = evidence.channel_weights(gradient)
    np.testing.assert_allclose(weights, [[1, -1]])
    activations = np.stack([np.full((1, 2, 2), 5.0), np.array([[[1.0, 2], [3, 9]]])], axis=-1)
    np.testing.assert_allclose(evidence.combine(activations, weights), [[[4, 3], [2, -4]]])


def test_what_is_explained():
    maps = np.array([[[1.0, -2.0]], [[1.0, -2.0]]])
    np.testing.assert_allclose(evidence.explained(maps, np.array([1.0, -1.0])), [[[1, 0]], [[0, 2]]])
    logits = np.array([2.0, -3.0])
    assert evidence.signs(logits, "predicted").tolist() == [1, -1]
    assert evidence.signs(logits, "pneumonia").tolist() == [1, 1]
