"""Evidence maps: exact decomposition, and cases worked by hand."""

import numpy as np
import pytest

from cnn_xray import backend, cam, network
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
    found = cam.evidence(model, films)
    assert found.bias == pytest.approx(0.7)
    assert found.maps.shape == (5, 16, 16) and found.maps.dtype == np.float32
    assert found.residual().max() < 1e-4
    assert np.abs(found.maps).max() > 1e-6
    np.testing.assert_allclose(found.logits, model.predict(films[..., None], verbose=0)[:, 0], atol=1e-5)


def test_a_network_whose_map_is_known():
    # Two channels: the image itself and its negative, by 1 × 1 convolutions; weights 3 and 1 on 2 × 2 cells.
    keras = backend.start()
    image = keras.Input((2, 2, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, name=network.LOGIT)(x))
    model.get_layer("").set_weights([np.array([[[[1.0, -1.0]]]])])
    model.get_layer(network.LOGIT).set_weights([np.array([[3.0], [1.0]]), np.array([0.5])])
    film = np.array([[[0, 4], [8, 2]]], np.uint8)
    found = cam.evidence(model, film)
    # c_u = (3 x − 1 x) / 4 = x / 2
    np.testing.assert_allclose(found.maps[0], [[0, 2], [4, 1]])
    assert found.logits[0] == pytest.approx(7.5)


def test_what_is_explained():
    maps = np.array([[[1.0, -2.0]], [[1.0, -2.0]]])
    np.testing.assert_allclose(cam.explained_heat(maps, np.array([1.0, -1.0])), [[[1, 0]], [[0, 2]]])
    logits = np.array([2.0, -3.0])
    assert cam.explained_sign(logits, "predicted").tolist() == [1, -1]
    assert cam.explained_sign(logits, "pneumonia").tolist() == [1, 1]
