"""The Conv2D / global-average-pooling network, from scratch, with its augmentation inside.

conv → … → GAP → dropout → one Dense logit, so that the logit is a sum over the cells of the last feature map (`cam`).
Functional, flat, every layer named. Each image is standardised to mean 0 and variance 1 first, so its overall exposure
is hardly a cue, and jitter of brightness and contrast acts by little but what it saturates. (Keras adds .001 to the
variance of values 0..1: an image whose standard deviation is 24 of 255 grey values keeps one of .96.)

Two layers of augmentation are ours, because Keras lacks them: its flip, rotation, shift and zoom each resample, and
four in a row blur the training images, so that the sharper test images look like another scanner; its blur stops at
1 px.

This file imports Keras: import it inside functions only.
"""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

from cnn_xray import backend, geometry
from cnn_xray.parameters import TrainParameters, halvings

keras = backend.start()
layers, ops = keras.layers, keras.ops
Layer: Any = layers.Layer

UNMOVED = 0.25  # share of the images that are at most mirrored, so that images as they are stay familiar
ERASED = (0.02, 0.15)  # area of an erased patch, fraction of the image's


def build(p: TrainParameters, policy: str = "float32", for_training: bool = False) -> Any:
    """Build an untrained model: images (N, S, S, 1) of grey values 0..255 → logits (N, 1).

    Pooling halves the map between blocks as long as it keeps at least 14 × 14 cells; the augmentation layers act
    in training only.

    Parameters
    ----------
    p
        Size, width, depth, padding, dropout, augmentation and seed.
    policy
        Keras' dtype policy of the layers between standardisation and pooling; weights are float32 in each.
    for_training
        Whether there is an evidence penalty, where the recipe has one; a second channel of the images, 0 and 255, then
        says in training where the lungs are.
    """
    keras.utils.set_random_seed(p.chance)
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return _built(p.resolved(), p.evidence_penalty * for_training)
    finally:
        keras.config.set_dtype_policy(usual)


def in_float32(model: Any, p: TrainParameters) -> Any:
    """The same network with the same weights, computing in float32 throughout: what is measured and saved.

    Parameters
    ----------
    model
        Of `build`.
    p
        The parameters it was built with.
    """
    exact = build(p)
    exact.set_weights(model.get_weights())
    return exact


def _built(p: TrainParameters, penalty: float) -> Any:
    image = keras.Input((p.side, p.side, None if penalty else 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling", dtype="float32")(image)
    moves = {name: getattr(p, name) for name in RandomAffine.defaults}
    x = moved = RandomAffine(**moves, seed=1000 * p.chance + 1, name="affine", dtype="float32")(x)
    x = _augmented(p, layers.Reshape((p.side, p.side, 1))(moved[..., :1]) if penalty else moved)
    x = layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False, dtype="float32", name="standardise")(x)
    blocks = halvings(p.side)
    for block in range(blocks):
        convolutions = 1 if block == 0 else p.depth if block == blocks - 1 else p.depth - 1
        for letter in string.ascii_lowercase[:convolutions]:
            x = _convolution(p, x, f"{block}{letter}", p.width * min(2**block, 4), first=block == 0)
        if block < blocks - 1:
            x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Identity(name="features")(x)
    last = {"units": 1, "dtype": "float32", "name": "logit"}
    if penalty:
        logit = layers.Dense(**last)
        x = EvidencePenalty(penalty, lambda: logit.kernel, name="evidence_penalty", dtype="float32")(x, moved[..., 1:])
    x = layers.GlobalAveragePooling2D(dtype="float32", name="gap")(x)
    x = layers.Dropout(p.dropout, name="dropout")(x)
    logit = logit if penalty else layers.Dense(**last)  # made here, as ever: the order decides the random weights
    return keras.Model(image, logit(x), name="cnn_xray")


def load(file: Path) -> Any:
    """Load a model as it was saved.

    Parameters
    ----------
    file
        Written by ``model.save``.
    """
    return keras.saving.load_model(file, compile=False)


def _convolution(p: TrainParameters, x: Any, name: str, filters: int, first: bool) -> Any:
    kernel, stride = (5, 2) if first else (3, 1)
    if p.padding == "reflect":
        around = kernel - stride  # what "same" adds to both sides together
        sides = (around // 2, around - around // 2)
        x = ops.pad(x, ((0, 0), sides, sides, (0, 0)), mode="reflect")
    padding = "valid" if p.padding == "reflect" else "same"
    x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name=f"conv{name}")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"norm{name}")(x)
    return layers.ReLU(name=f"relu{name}")(x)


def _augmented(p: TrainParameters, x: Any) -> Any:
    """Random brightness, contrast, sharpness and erased patches, on 0..1; what stays hidden."""
    seed, whole = 1000 * p.chance, {"value_range": (0, 1), "dtype": "float32"}
    if p.brightness:
        x = layers.RandomBrightness(p.brightness, **whole, seed=seed + 2, name="brightness")(x)
    if p.contrast:
        x = layers.RandomContrast(p.contrast, **whole, seed=seed + 3, name="contrast")(x)
    if p.blur or p.sharpen:
        amounts = {"blur": p.blur * p.side, "sharpen": p.sharpen}
        x = RandomSharpness(**amounts, seed=seed + 4, name="sharpness", dtype="float32")(x)
    if p.erasing:
        share = (p.erasing, p.erasing)  # a single number would be the upper end of a range
        patch = {"scale": ERASED, "fill_value": 0.5}
        x = layers.RandomErasing(share, **patch, **whole, seed=seed + 6, name="erasing")(x)
    if p.keep == "without_border":
        width = geometry.border_pixels(p.side, p.border)
        x = layers.Cropping2D(width, dtype="float32", name="inside")(x)
        x = layers.ZeroPadding2D(width, dtype="float32", name="hidden_border")(x)
    return x


class EvidencePenalty(Layer):
    """Hands features (N, h, w, K) on, and in training adds weight × mean |evidence| outside the lungs to the loss.

    The evidence of a cell is here its features times the last layer's kernel, in logits: what the logit would be if
    every cell were like this one. Images without lungs add nothing.

    Parameters
    ----------
    weight
        In the loss.
    kernel
        Gives the last layer's, (K, 1).
    **kwargs
        Of every Keras layer.
    """

    def __init__(self, weight: float, kernel: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.weight, self.kernel = weight, kernel

    def call(self, features: Any, lungs: Any, training: bool = False) -> Any:
        if training:
            known = ops.max(lungs, axis=(1, 2), keepdims=True)
            outside = known * (1 - ops.image.resize(lungs, features.shape[1:3], antialias=True))
            evidence = ops.abs(ops.matmul(ops.cast(features, "float32"), self.kernel()))
            self.add_loss(self.weight * ops.sum(outside * evidence) / (ops.sum(outside) + 1e-6))
        return features


class _RandomLayer(Layer):
    """Changes every image of a batch by an amount drawn anew (`changed`), in training only; shapes stay.

    It has options of its own, which are saved with it.
    """

    defaults: dict[str, Any] = {}

    def __init__(self, seed: int = 0, **options: Any):
        own = {name: options.pop(name, default) for name, default in self.defaults.items()}
        super().__init__(**options)
        self.options: dict[str, Any] = own | {"seed": seed}
        self.generator = keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}

    def call(self, images: Any, training: bool = False) -> Any:
        return ops.reshape(self.changed(images), ops.shape(images)) if training else images


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomAffine(_RandomLayer):
    """One affine map an image, in one interpolation; images (N, H, W, C) float.

    ``flip``: mirror left and right every second time; ``rotation``: largest angle, degrees; ``shift``: largest move,
    fraction of the side; ``zoom`` and ``aspect_jitter``: largest |natural log| of the scale and of the ratio of
    width to height. ``fill`` says what is seen beyond the edge: ``constant`` (black) or ``reflect``.
    """

    defaults = {"flip": True, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "aspect_jitter": 0.0, "fill": "constant"}

    def changed(self, images: Any) -> Any:
        transforms = self.transforms(self.drawn(ops.shape(images)[0]), images.shape[1], images.shape[2])
        beyond = {"fill_mode": self.options["fill"], "fill_value": 0.0}
        return ops.image.affine_transform(images, transforms, interpolation="bilinear", **beyond)

    def drawn(self, count: Any) -> dict[str, Any]:
        """Random amounts for ``count`` images, each (count,): mirror ±1, angle (rad, anticlockwise), moves, sizes.

        Parameters
        ----------
        count
            Images in the batch.
        """

        def uniform(limit: float) -> Any:
            return keras.random.uniform((count,), -limit, limit, seed=self.generator) if limit else ops.zeros((count,))

        o = self.options
        moved = ops.cast(keras.random.uniform((count,), seed=self.generator) > UNMOVED, "float32")
        mirror = ops.where(uniform(1.0) < 0, -1.0, 1.0) if o["flip"] else ops.ones((count,))
        angle = moved * uniform(o["rotation"] * math.pi / 180)
        zoom, aspect = moved * uniform(o["zoom"]), moved * uniform(o["aspect_jitter"])
        x, y = moved * uniform(o["shift"]), moved * uniform(o["shift"])
        sizes = {"log_width": zoom + aspect / 2, "log_height": zoom - aspect / 2}
        return {"mirror": mirror, "angle": angle, "x": x, "y": y, **sizes}

    @staticmethod
    def transforms(drawn: dict[str, Any], height: int, width: int) -> Any:
        """(count, 8) projective coefficients that map positions of the output to the input, about the centre.

        Parameters
        ----------
        drawn
            Amounts as of `drawn`.
        height, width
            Of the images, px.
        """
        cosine, sine = ops.cos(drawn["angle"]), ops.sin(drawn["angle"])
        across, down = drawn["mirror"] * ops.exp(-drawn["log_width"]), ops.exp(-drawn["log_height"])
        a, b = across * cosine, -across * sine
        c, d = down * sine, down * cosine
        x0, y0 = (width - 1) / 2, (height - 1) / 2
        right = x0 - a * x0 - b * y0 + drawn["x"] * width
        below = y0 - c * x0 - d * y0 + drawn["y"] * height
        nothing = ops.zeros_like(a)
        return ops.stack([a, b, right, c, d, below, nothing, nothing], axis=1)


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomSharpness(_RandomLayer):
    """Blurs one half of the images and sharpens the other; images (N, H, W, 1) float.

    ``blur``: largest standard deviation of the Gaussian, px; each image has its own. ``sharpen``: largest amount a of
    unsharp masking, x + a (x − blurred x), with a Gaussian of 1 px.
    """

    defaults = {"blur": 0.0, "sharpen": 0.0}

    def changed(self, images: Any) -> Any:
        blur, sharpen = self.options["blur"], self.options["sharpen"]
        drawn = keras.random.uniform((ops.shape(images)[0],), -1.0, 1.0, seed=self.generator)
        amount = ops.maximum(-drawn, 0.0) * sharpen
        sigma = ops.where(drawn > 0, drawn * blur, 1.0 if sharpen else 0.0)
        blurred = self.blurred(images, ops.maximum(sigma, 1e-3), reach=int(2 * max(blur, 1.0 if sharpen else 0.0) + 1))
        sharpened = images + amount[:, None, None, None] * (images - blurred)
        return ops.where(drawn[:, None, None, None] > 0, blurred, sharpened)

    @staticmethod
    def blurred(images: Any, sigma: Any, reach: int) -> Any:
        """Images (N, H, W, 1) blurred by Gaussians of ``sigma`` (N,) px each; mirrored at the edge.

        Parameters
        ----------
        images
            (N, H, W, 1) float.
        sigma
            (N,), px.
        reach
            Of the kernel to either side, px.
        """
        offsets = ops.arange(-reach, reach + 1, dtype="float32")
        weights = ops.exp(-0.5 * (offsets[:, None] / sigma[None, :]) ** 2)
        weights = weights / ops.sum(weights, axis=0)  # (2 reach + 1, N)
        side_by_side = ops.transpose(images, (3, 1, 2, 0))  # one image a channel, so that each has its own kernel
        padded = ops.pad(side_by_side, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        down = ops.depthwise_conv(padded, weights[:, None, :, None])
        across = ops.depthwise_conv(down, weights[None, :, :, None])
        return ops.transpose(across, (3, 1, 2, 0))
