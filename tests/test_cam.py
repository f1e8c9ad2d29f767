"""Evidence and gradient maps by hand, equal where they must be; and what is left when weights are drawn anew."""

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, backend, cam, network
from cnn_xray.parameters import TrainParameters

P = TrainParameters(image_size=32, width=8, seed=1)


@pytest.fixture(scope="module")
def model():
    return network.build(P)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype(np.uint8)


def test_evidence_and_bias_add_up_to_the_logit(model, images):
    model.get_layer("logit").bias.assign([0.7])
    found = cam.evidence(model, images)
    assert found.bias == pytest.approx(0.7)
    assert found.maps.shape == (5, 16, 16) and found.maps.dtype == np.float32
    assert found.residual().max() < 1e-4
    assert np.abs(found.maps).max() > 1e-6
    np.testing.assert_allclose(found.logits, model.predict(images[..., None], verbose=0)[:, 0], atol=1e-5)


def test_a_network_whose_map_is_known():
    # Two channels: the image itself and its negative, by 1 × 1 convolutions; weights 3 and 1 on 2 × 2 cells.
    keras = backend.start()
    image = keras.Input((2, 2, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="features")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, name="logit")(x))
    model.get_layer("features").set_weights([np.array([[[[1.0, -1.0]]]])])
    model.get_layer("logit").set_weights([np.array([[3.0], [1.0]]), np.array([0.5])])
    image = np.array([[[0, 4], [8, 2]]], np.uint8)
    found = cam.evidence(model, image)
    # c_u = (3 x − 1 x) / 4 = x / 2
    np.testing.assert_allclose(found.maps[0], [[0, 2], [4, 1]])
    assert found.logits[0] == pytest.approx(7.5)


def test_what_is_explained():
    maps = np.array([[[1.0, -2.0]], [[1.0, -2.0]]])
    np.testing.assert_allclose(cam.explained_heat(maps, np.array([1.0, -1.0])), [[[1, 0]], [[0, 2]]])
    logits = np.array([2.0, -3.0])
    assert cam.explained_sign(logits, "predicted").tolist() == [1, -1]
    assert cam.explained_sign(logits, "pneumonia").tolist() == [1, 1]


P64 = TrainParameters(image_size=64, width=4, seed=1)

# Two channels on 2 × 2 cells. The second is behind no ReLU: it has a negative cell.
ACTIVATIONS = np.stack([[[[5.0, 5], [5, 5]]], [[[1.0, 2], [3, -9]]]], axis=-1)
GRADIENT = np.stack([[[[4.0, 0], [0, 0]]], [[[-1.0, 2], [-1, -4]]]], axis=-1)


@pytest.fixture(scope="module")
def network64():
    return network.build(P64)


@pytest.fixture(scope="module")
def images64():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64)).astype(np.uint8)


@pytest.fixture(scope="module")
def pooled():
    """Logit = Σ over four 2 × 2 windows of the largest grey value in each; ``early`` holds the image and its negative.

    With a weight of 0 or 4 for the negative, the smallest grey value of each window is left alone or subtracted.
    """
    keras = backend.start()
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="early")(image)
    x = keras.layers.MaxPooling2D(name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, name="logit")(x))
    model.get_layer("early").set_weights([np.array([[[[1.0, -1.0]]]])])

    def weighted(negative):
        model.get_layer("logit").set_weights([np.array([[4.0], [negative]]), np.zeros(1)])
        return model

    return weighted


IMAGE = np.array([[[9, 2, 3, 8], [5, 4, 6, 7], [1, 2, 3, 4], [8, 6, 7, 5]]], np.uint8)
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
def test_the_signed_methods_equal_the_closed_form_at_the_last_map(network64, images64, method):
    found = cam.gradient_map(network64, images64, method=method, batch_size=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cam.evidence(network64, images64).maps, atol=1e-5)


def test_layer_cam_at_the_last_map_keeps_the_channels_that_agree(network64, images64):
    features = backend.start().Model(network64.input, network64.get_layer("features").output)
    values = features.predict(images64[..., None], verbose=0)
    weights = network64.get_layer("logit").get_weights()[0][:, 0]
    sign = np.array([1.0, -1, 1, -1, -1])
    expected = (values * np.maximum(0, sign[:, None, None, None] * weights)).sum(axis=-1) / values[0, ..., 0].size
    found = cam.gradient_map(network64, images64, method="layer_cam", sign=sign, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found >= cam.explained_heat(cam.evidence(network64, images64).maps, sign) - 1e-5).all()


def test_the_sign_matters_to_layer_cam_only(network64, images64):
    normal = -np.ones(len(images64))
    for method in ("grad_cam", "hires_cam"):
        signed = cam.gradient_map(network64, images64, "relu0a", method, normal)
        np.testing.assert_allclose(signed, cam.gradient_map(network64, images64, "relu0a", method), atol=1e-6)
    against = cam.gradient_map(network64, images64, "relu0a", "layer_cam", normal)
    toward = cam.gradient_map(network64, images64, "relu0a", "layer_cam")
    assert min(against.min(), toward.min()) >= 0 and min(against.max(), toward.max()) > 1e-3
    np.testing.assert_allclose(
        toward - against, cam.gradient_map(network64, images64, "relu0a", "hires_cam"), atol=1e-5
    )


def test_hires_cam_adds_up_to_the_logit_at_every_layer_where_nothing_above_is_offset(network64, images64):
    logits = cam.evidence(network64, images64).logits  # of a fresh network: no bias, normalisations without offset
    assert np.abs(logits).min() > 1e-2
    for layer in ("conv0a", "relu0a", "pool0", "norm1b"):
        found = cam.gradient_map(network64, images64, layer, "hires_cam")
        np.testing.assert_allclose(found.sum(axis=(1, 2)), logits, atol=1e-4, err_msg=layer)
        spread = cam.gradient_map(network64, images64, layer, "grad_cam").sum(axis=(1, 2))
        assert np.abs(spread - logits).max() > 1e-2, layer


def test_grad_cam_is_hot_where_the_logit_does_not_look_and_hires_cam_is_not(pooled):
    model = pooled(0.0)
    changed = IMAGE.copy()
    changed[0, 1] -= 1  # a whole row that no window's largest value is in
    logit = cam.evidence(model, IMAGE).logits
    assert logit == pytest.approx([9 + 8 + 8 + 7])
    assert cam.evidence(model, changed).logits == pytest.approx(logit)
    # Four of 16 gradients are 1, the others 0: the channel's weight is 1/4 in every cell, looked at or not.
    np.testing.assert_allclose(cam.gradient_map(model, IMAGE, "early", "grad_cam"), IMAGE / 4)
    np.testing.assert_allclose(cam.gradient_map(model, IMAGE, "early", "hires_cam"), LARGEST)
    np.testing.assert_allclose(cam.gradient_map(model, IMAGE, "early", "layer_cam"), LARGEST)


def test_grad_cam_is_blank_where_the_logit_looks_and_hires_cam_is_not(pooled):
    model = pooled(4.0)
    assert cam.evidence(model, IMAGE).logits == pytest.approx([32 - 2 - 3 - 1 - 3])
    # Image and negative weigh 1/4 each, and cancel.
    np.testing.assert_allclose(cam.gradient_map(model, IMAGE, "early", "grad_cam"), np.zeros((1, 4, 4)))
    np.testing.assert_allclose(cam.gradient_map(model, IMAGE, "early", "hires_cam"), LARGEST - SMALLEST)


@pytest.mark.parametrize("method", list(cam.METHODS))
def test_the_images_of_a_batch_are_kept_apart(network64, images64, method):
    sign = np.array([1.0, -1, 1, -1, -1])
    together = cam.gradient_map(network64, images64, "relu0a", method, sign)
    alone = [
        cam.gradient_map(network64, image[None], "relu0a", method, one[None])
        for image, one in zip(images64, sign, strict=True)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    np.testing.assert_allclose(
        together, cam.gradient_map(network64, images64, "relu0a", method, sign, batch_size=2), atol=1e-5
    )
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_an_unknown_layer_or_method_is_named_with_the_known_ones(network64, images64):
    with pytest.raises(InputError, match="no layer 'conv9'.*relu0a.*features"):
        cam.gradient_map(network64, images64, layer="conv9")
    with pytest.raises(InputError, match="method 'score_cam'; there are grad_cam, hires_cam, layer_cam"):
        cam.gradient_map(network64, images64, method="score_cam")


P3 = TrainParameters(image_size=64, width=4, seed=3)
ONE_TO_FOUR = np.array([[[1.0, 2], [3, 4]]])


@pytest.fixture(scope="module")
def trained():
    """As if trained: away from its first weights, and with statistics and offsets of its own."""
    built = network.build(P3)
    rng = np.random.default_rng(0)
    for layer in built.layers:
        moved = [rng.normal(size=w.shape) if w.ndim > 1 else rng.random(w.shape) for w in layer.get_weights()]
        layer.set_weights([w + 0.3 * by for w, by in zip(layer.get_weights(), moved, strict=True)])
    return built


@pytest.fixture(scope="module")
def blocks():
    coarse = np.random.default_rng(1).integers(0, 256, (6, 16, 16))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def table(trained, blocks):
    return cam.parameter_randomisation(trained, blocks, seed=5)


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


def test_the_cascade_goes_from_the_logit_down_to_the_first_convolution(table, trained):
    convolutions = [layer.name for layer in trained.layers if layer.name.startswith("conv")]
    assert list(table.index) == ["none", "logit", *reversed(convolutions)]
    assert table.columns.tolist() == ["signed", "absolute", "signed_left_out", "absolute_left_out"]


def test_the_maps_fall_apart_as_weights_are_drawn_anew(table):
    assert table.loc["none"].tolist() == [1, 1, 0, 0]
    later = table.iloc[1:]
    assert (later[["signed", "absolute"]].abs() < 0.9).all(axis=None)
    assert (later.loc["conv0a", ["signed", "absolute"]].abs() < 0.4).all()  # one draw each: about 0, never quite
    assert (later[["signed_left_out", "absolute_left_out"]] == 0).all(axis=None)


def test_the_network_is_left_as_it_was(trained, blocks):
    before = [w.copy() for w in trained.get_weights()]
    cam.parameter_randomisation(trained, blocks[:2], seed=5)
    for was, now in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_the_same_seed_gives_the_same_table_and_another_does_not(trained, blocks, table):
    pd.testing.assert_frame_equal(cam.parameter_randomisation(trained, blocks, seed=5), table, atol=1e-5)
    other = cam.parameter_randomisation(trained, blocks, seed=6)
    assert (other["signed"] - table["signed"]).iloc[1:].abs().max() > 1e-3


def test_the_seed_of_the_training_does_not_draw_the_first_weights_again(blocks):
    found = cam.parameter_randomisation(network.build(P3), blocks, seed=P3.seed)
    assert (found["signed"].iloc[1:] < 0.99).all()


def test_a_normalisation_is_drawn_anew_with_its_convolution(trained):
    rows = cam.parameter_randomisation(trained, np.zeros((1, 64, 64), np.uint8), seed=5).index
    convolutions = [layer.name for layer in trained.layers if layer.name.startswith("conv")]
    assert rows.tolist() == ["none", "logit", *reversed(convolutions)]


def test_constant_maps_are_left_out_and_counted():
    maps = np.concatenate([ONE_TO_FOUR, np.zeros((1, 2, 2)), [[[1.0, -1], [1, -1]]]])
    row = cam._agreement_row(maps, maps)  # the third is constant once its sign is gone
    assert row == {"signed": 1, "absolute": 1, "signed_left_out": 1, "absolute_left_out": 2}
    nothing = cam._agreement_row(maps, np.zeros_like(maps))
    assert np.isnan([nothing["signed"], nothing["absolute"]]).all() and nothing["signed_left_out"] == 3
