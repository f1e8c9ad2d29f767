"""The network: names, map size, augmentation only in training, and learning something."""

import numpy as np
import pytest

from cnn_xray import backend, network, training
from cnn_xray.parameters import TrainParameters

SMALL = TrainParameters(image_size=32, width=8, epochs=3, batch_size=16, seed=2)


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


def test_augmentation_acts_in_training_only():
    keras = backend.start(0)
    from cnn_xray.augmentation import RandomAffine

    layer = RandomAffine(rotation=10, shift=0.1, zoom=0.1, aspect_jitter=0.3)
    film = keras.random.uniform((4, 16, 16, 1), seed=1)
    np.testing.assert_allclose(layer(film, training=False), film)
    moved = np.asarray(layer(film, training=True))
    assert np.abs(moved - np.asarray(film)).max() > 0.1
    assert np.abs(moved[0] - moved[1]).max() > 0.1


def transformed(film, **amounts):
    """One film (h, w) through the affine map of known amounts."""
    keras = backend.start(0)
    from cnn_xray.augmentation import RandomAffine

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


def test_blur_is_gaussian_and_each_image_has_its_own():
    import cv2

    keras = backend.start(0)
    from cnn_xray.augmentation import RandomBlur

    films = np.random.default_rng(0).random((3, 32, 32, 1)).astype("float32")
    found = np.asarray(RandomBlur(2.0).blur(films, keras.ops.array([1e-3, 1.0, 2.0])))
    np.testing.assert_allclose(found[0], films[0], atol=1e-5)
    for i, sigma in ((1, 1.0), (2, 2.0)):
        expected = cv2.GaussianBlur(films[i, ..., 0], (11, 11), sigma, borderType=cv2.BORDER_REFLECT)
        np.testing.assert_allclose(found[i, ..., 0], expected, atol=1e-4)


def test_some_films_are_seen_as_they_are():
    backend.start(0)
    from cnn_xray.augmentation import UNMOVED, RandomAffine

    layer = RandomAffine(flip=False, rotation=10, shift=0.1, zoom=0.1, aspect_jitter=0.3)
    angles = np.asarray(layer.draw(2000)["angle"])
    assert (angles == 0).mean() == pytest.approx(UNMOVED, abs=0.04)


def test_brightness_and_contrast_of_the_film_do_not_reach_the_network():
    """Every film is standardised, so a dimmer or flatter exposure of the same chest scores the same."""
    model = network.build(SMALL)
    film = np.random.default_rng(0).integers(0, 200, (1, 32, 32, 1)).astype("float32")
    np.testing.assert_allclose(model.predict(film, verbose=0), model.predict(0.8 * film + 30, verbose=0), atol=1e-2)


def bright_or_dark(count, seed):
    """Films whose class is the brightness of the centre: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    films = rng.integers(60, 120, (count, 32, 32))
    films[:, 8:24, 8:24] += 100 * labels[:, None, None]
    return films.astype(np.uint8), labels


def test_training_learns_keeps_its_best_epoch_and_prints_a_line_an_epoch(capsys):
    train, validation = bright_or_dark(64, 0), bright_or_dark(32, 1)
    model = network.build(SMALL)
    history = training.fit(model, SMALL, train, validation)
    printed = capsys.readouterr().out
    assert printed.count("epoch ") == 3 and "val_auc" in printed and "left" in printed
    assert history["best"].sum() == 1
    assert history["val_auc"].max() > 0.95
    kept = history.loc[history["best"], "val_loss"].iloc[0]
    logits = training.predict(model, validation[0])
    from sklearn.metrics import log_loss

    assert log_loss(validation[1], training.probability(logits)) == pytest.approx(kept, abs=1e-4)


def test_training_is_repeatable():
    train, validation = bright_or_dark(32, 0), bright_or_dark(16, 1)
    p = SMALL.model_copy(update={"epochs": 1})
    losses = [training.fit(network.build(p), p, train, validation)["loss"].iloc[0] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_pooled_features_and_the_logit_weights_give_the_logit():
    p = TrainParameters(image_size=32, width=4)
    model = network.build(p)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype(np.uint8)
    kernel, bias = model.get_layer("logit").get_weights()
    by_hand = (training.pooled(model, images) @ kernel + bias)[:, 0]
    np.testing.assert_allclose(by_hand, training.predict(model, images), atol=1e-5)
