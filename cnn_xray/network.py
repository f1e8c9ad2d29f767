"""The Conv2D / global-average-pooling network, from scratch, with its augmentation inside.

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

SMALLEST_MAP = 14  # cells a side of the last feature map: an outer one-cell ring is then a quarter of it
FEATURES = "features"  # name of the layer that gives the last feature map
LOGIT = "logit"
ERASED = (0.02, 0.15)  # area of an erased patch, fraction of the film's


def build(p: TrainParameters) -> Any:
    """An untrained model: images (N, S, S, 1) of grey values 0..255 → logits (N, 1); 1 = PNEUMONIA.

    Pooling halves the map between blocks as long as it keeps at least 14 × 14 cells; the augmentation layers act
    in training only.
    """
    keras, p = backend.start(p.seed), p.resolved()
    from cnn_xray.layers import ReflectionPadding

    layers = keras.layers
    size = p.side
    pools = max(1, int(math.log2(size / SMALLEST_MAP)))
    image = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = _augment(keras, p, x)
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
    keras = backend.start()
    from cnn_xray import layers  # noqa: F401  (registers the layers)

    return keras.saving.load_model(file, compile=False)


def _augment(keras: Any, p: TrainParameters, x: Any) -> Any:
    """Random affine map, then brightness, contrast, gamma, sharpness and erased patches, on 0..1."""
    from cnn_xray.layers import RandomAffine, RandomGamma, RandomSharpness

    layers, seed = keras.layers, 1000 * p.seed
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
