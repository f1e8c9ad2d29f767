"""Layers that Keras lacks: one random affine map in one interpolation, blur and sharpening, gamma, mirrored padding.

Keras has flip, rotation, shift and zoom as layers of their own, but every one resamples: four in a row blur the
training images, so that the sharper test images look like another scanner. (Imports Keras; import this file inside
functions only.)

The Conv2D / global-average-pooling network, from scratch, with its augmentation inside.

conv → … → GAP → dropout → one Dense logit, so that the logit is a sum over the cells of the last feature map
(`cnn_xray.evidence`). Functional, flat, every layer named. Each film is standardised to mean 0 and variance 1 first,
so its overall exposure is no cue, and jitter of brightness and contrast acts only by what it saturates.
"""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

from cnn_xray import backend
from cnn_xray.parameters import TrainParameters

keras = backend.start()
layers, ops = keras.layers, keras.ops
Layer: Any = layers.Layer

UNMOVED = 0.25  # share of the films that are at most mirrored, so that films as they are stay familiar


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomAffine(Layer):
    """Draws one affine map an image, in training only; images (N, H, W, C) float keep their shape.

    ``flip``: mirror left and right every second time; ``rotation``: largest angle, degrees; ``shift``: largest move,
    fraction of the side; ``zoom`` and ``aspect_jitter``: largest |natural log| of the scale and of the ratio of
    width to height. ``fill`` says what is seen beyond the edge: ``constant`` (black) or ``reflect``.
    """

    def __init__(
        self,
        flip: bool = True,
        rotation: float = 0.0,
        shift: float = 0.0,
        zoom: float = 0.0,
        aspect_jitter: float = 0.0,
        fill: str = "constant",
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "flip": flip, "rotation": rotation, "shift": shift, "zoom": zoom,
            "aspect_jitter": aspect_jitter, "fill": fill, "seed": seed,
        }  # fmt: skip
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        if not training:
            return images
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        transforms = self.transforms(self.draw(count), height, width)
        moved = ops.image.affine_transform(
            images, transforms, interpolation="bilinear", fill_mode=self.options["fill"], fill_value=0.0
        )
        return ops.reshape(moved, ops.shape(images))

    def draw(self, count: Any) -> dict[str, Any]:
        """Random amounts for ``count`` images, each (count,): mirror ±1, angle (rad, anticlockwise), moves, sizes."""

        def uniform(limit: float) -> Any:
            return keras.random.uniform((count,), -limit, limit, seed=self.generator) if limit else ops.zeros((count,))

        o = self.options
        moved = ops.cast(keras.random.uniform((count,), seed=self.generator) > UNMOVED, "float32")
        mirror = ops.where(uniform(1.0) < 0, -1.0, 1.0) if o["flip"] else ops.ones((count,))
        angle = moved * uniform(o["rotation"] * 3.141592653589793 / 180)
        zoom, aspect = moved * uniform(o["zoom"]), moved * uniform(o["aspect_jitter"])
        return {
            "mirror": mirror, "angle": angle, "x": moved * uniform(o["shift"]), "y": moved * uniform(o["shift"]),
            "log_width": zoom + aspect / 2, "log_height": zoom - aspect / 2,
        }  # fmt: skip

    @staticmethod
    def transforms(drawn: dict[str, Any], height: int, width: int) -> Any:
        """(count, 8) projective coefficients that map positions of the output to the input, about the centre."""
        cosine, sine = ops.cos(drawn["angle"]), ops.sin(drawn["angle"])
        across, down = drawn["mirror"] * ops.exp(-drawn["log_width"]), ops.exp(-drawn["log_height"])
        a, b = across * cosine, -across * sine
        c, d = down * sine, down * cosine
        x0, y0 = (width - 1) / 2, (height - 1) / 2
        right = x0 - a * x0 - b * y0 + drawn["x"] * width
        below = y0 - c * x0 - d * y0 + drawn["y"] * height
        nothing = ops.zeros_like(a)
        return ops.stack([a, b, right, c, d, below, nothing, nothing], axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomSharpness(Layer):
    """Blurs one half of the images and sharpens the other, in training only; (N, H, W, 1) float keep their shape.

    ``blur``: largest standard deviation of the Gaussian, px; each image has its own. ``sharpen``: largest amount a of
    unsharp masking, x + a (x − blurred x), with a Gaussian of 1 px. (Keras' own blur stops at 1 px.)
    """

    def __init__(self, blur: float = 0.0, sharpen: float = 0.0, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.options = {"blur": blur, "sharpen": sharpen, "seed": seed}
        self.generator = keras.random.SeedGenerator(seed)
        self.reach = int(2 * max(blur, 1.0 if sharpen else 0.0) + 1)

    def call(self, images: Any, training: bool = False) -> Any:
        if not training:
            return images
        drawn = keras.random.uniform((ops.shape(images)[0],), -1.0, 1.0, seed=self.generator)
        amount = ops.maximum(-drawn, 0.0) * self.options["sharpen"]
        sigma = ops.where(drawn > 0, drawn * self.options["blur"], 1.0 if self.options["sharpen"] else 0.0)
        blurred = self.blur(images, ops.maximum(sigma, 1e-3))
        sharpened = images + amount[:, None, None, None] * (images - blurred)
        return ops.reshape(ops.where(drawn[:, None, None, None] > 0, blurred, sharpened), ops.shape(images))

    def blur(self, images: Any, sigma: Any) -> Any:
        """Images (N, H, W, 1) blurred by Gaussians of ``sigma`` (N,) px each; mirrored at the edge."""
        reach = self.reach
        offsets = ops.arange(-reach, reach + 1, dtype="float32")
        weights = ops.exp(-0.5 * (offsets[:, None] / sigma[None, :]) ** 2)
        weights = weights / ops.sum(weights, axis=0)  # (2 reach + 1, N)
        side_by_side = ops.transpose(images, (3, 1, 2, 0))  # one film a channel, so that each has its own kernel
        padded = ops.pad(side_by_side, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        down = ops.depthwise_conv(padded, weights[:, None, :, None])
        across = ops.depthwise_conv(down, weights[None, :, :, None])
        return ops.transpose(across, (3, 1, 2, 0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomGamma(Layer):
    """Raises grey values 0..1 to a random power, in training only; images (N, H, W, C) float keep their shape.

    ``gamma``: largest |natural log| of the exponent. Unlike brightness and contrast it bends the grey scale, which
    standardisation cannot undo.
    """

    def __init__(self, gamma: float, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.options = {"gamma": gamma, "seed": seed}
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        if not training:
            return images
        limit = self.options["gamma"]
        exponent = ops.exp(keras.random.uniform((ops.shape(images)[0], 1, 1, 1), -limit, limit, seed=self.generator))
        return ops.power(ops.clip(images, 0.0, 1.0), exponent)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}


@keras.saving.register_keras_serializable(package="cnn_xray")
class ReflectionPadding(Layer):
    """Mirrors images (N, H, W, C) at their edges by ``before`` and ``after`` px, in both directions."""

    def __init__(self, before: int, after: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.before, self.after = before, after

    def call(self, images: Any) -> Any:
        sides = (self.before, self.after)
        return ops.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "before": self.before, "after": self.after}


SMALLEST_MAP = 14  # cells a side of the last feature map: an outer one-cell ring is then a quarter of it
FEATURES = "features"  # name of the layer that gives the last feature map
LOGIT = "logit"
ERASED = (0.02, 0.15)  # area of an erased patch, fraction of the film's


def build(p: TrainParameters) -> Any:
    """An untrained model: images (N, S, S, 1) of grey values 0..255 → logits (N, 1); 1 = PNEUMONIA.

    Pooling halves the map between blocks as long as it keeps at least 14 × 14 cells; the augmentation layers act
    in training only.
    """
    keras.utils.set_random_seed(p.seed)
    p = p.resolved()
    size = p.side
    pools = max(1, int(math.log2(size / SMALLEST_MAP)))
    image = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = _augment(p, x)
    x = layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False, dtype="float32", name="standardise")(x)
    for block in range(pools):
        filters = p.width * min(2**block, 4)
        convolutions = 1 if block == 0 else p.depth if block == pools - 1 else p.depth - 1
        for conv in string.ascii_lowercase[:convolutions]:
            kernel, stride = (5, 2) if block == 0 else (3, 1)
            padding = "same"
            if p.padding == "reflect":
                around = kernel - stride + (-x.shape[1]) % stride  # what "same" adds to both sides together
                x = ReflectionPadding(around // 2, around - around // 2, name=f"pad{block}{conv}")(x)
                padding = "valid"
            x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name=f"conv{block}{conv}")(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"norm{block}{conv}")(x)
            x = layers.ReLU(name=f"relu{block}{conv}")(x)
        if block < pools - 1:
            x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Identity(name=FEATURES)(x)
    x = layers.GlobalAveragePooling2D(dtype="float32", name="gap")(x)
    x = layers.Dropout(p.dropout, name="dropout")(x)
    logit = layers.Dense(1, dtype="float32", name=LOGIT)(x)
    return keras.Model(image, logit, name="cnn_xray")


def load(file: Path) -> Any:
    """A model as it was saved, with its own layers known to Keras."""
    return keras.saving.load_model(file, compile=False)


def _augment(p: TrainParameters, x: Any) -> Any:
    """Random affine map, then brightness, contrast, gamma, sharpness and erased patches, on 0..1."""
    seed = 1000 * p.seed
    x = RandomAffine(
        p.flip, p.rotation, p.shift, p.zoom, p.aspect_jitter, p.fill, seed=seed + 1, name="affine", dtype="float32"
    )(x)
    if p.brightness:
        x = layers.RandomBrightness(p.brightness, value_range=(0, 1), seed=seed + 2, name="brightness")(x)
    if p.contrast:
        x = layers.RandomContrast(p.contrast, value_range=(0, 1), seed=seed + 3, name="contrast")(x)
    if p.gamma:
        x = RandomGamma(p.gamma, seed=seed + 5, name="gamma", dtype="float32")(x)
    if p.blur or p.sharpen:
        x = RandomSharpness(p.blur * p.side, p.sharpen, seed=seed + 4, name="sharpness", dtype="float32")(x)
    if p.erasing:
        share = (p.erasing, p.erasing)  # a single number would be the upper end of a range
        options = {"scale": ERASED, "fill_value": 0.5, "value_range": (0, 1), "dtype": "float32"}
        x = layers.RandomErasing(share, **options, seed=seed + 6, name="erasing")(x)
    return x
