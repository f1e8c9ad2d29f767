"""Layers that Keras lacks: one random affine map in one interpolation, blur and sharpening, gamma, mirrored padding.

Keras has flip, rotation, shift and zoom as layers of their own, but every one resamples: four in a row blur the
training images, so that the sharper test images look like another scanner. (Imports Keras; import this file inside
functions only.)
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

UNMOVED = 0.25  # share of the films that are at most mirrored, so that films as they are stay familiar


@keras.saving.register_keras_serializable(package="cnn_xray")
class RandomAffine(keras.layers.Layer):
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
class RandomSharpness(keras.layers.Layer):
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
class RandomGamma(keras.layers.Layer):
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
class ReflectionPadding(keras.layers.Layer):
    """Mirrors images (N, H, W, C) at their edges by ``before`` and ``after`` px, in both directions."""

    def __init__(self, before: int, after: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.before, self.after = before, after

    def call(self, images: Any) -> Any:
        sides = (self.before, self.after)
        return ops.pad(images, ((0, 0), sides, sides, (0, 0)), mode="reflect")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "before": self.before, "after": self.after}
