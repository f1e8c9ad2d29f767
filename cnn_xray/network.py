"""The Conv2D / global-average-pooling network, from scratch, with its augmentation inside.

conv → … → GAP → dropout → one Dense logit, so that the logit is a sum over the cells of the last feature map
(`cnn_xray.evidence`). Functional, flat, every layer named. Each film is standardised to mean 0 and variance 1 first,
so its overall exposure is no cue, and jitter of brightness and contrast acts only by what it saturates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cnn_xray import backend
from cnn_xray.parameters import TrainParameters

SMALLEST_MAP = 14  # cells a side of the last feature map: an outer one-cell ring is then a quarter of it
FEATURES = "features"  # name of the layer that gives the last feature map
LOGIT = "logit"


def build(p: TrainParameters) -> Any:
    """An untrained model: images (N, S, S, 1) of grey values 0..255 → logits (N, 1); 1 = PNEUMONIA.

    Pooling halves the map between blocks as long as it keeps at least 14 × 14 cells; the augmentation layers act
    in training only.
    """
    keras = backend.start(p.seed)
    layers = keras.layers
    size = p.side
    pools = max(1, int(math.log2(size / SMALLEST_MAP)))
    image = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = _augment(keras, p, x)
    x = layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False, dtype="float32", name="standardise")(x)
    for block in range(pools):
        filters = p.channels * min(2**block, 4)
        convolutions = 1 if block == 0 else 3 if block == pools - 1 else 2
        for conv in "abc"[:convolutions]:
            stem = {"kernel_size": 5, "strides": 2} if block == 0 else {"kernel_size": 3}
            x = layers.Conv2D(filters, padding="same", use_bias=False, name=f"conv{block}{conv}", **stem)(x)
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
    from cnn_xray import augmentation  # noqa: F401  (registers the layer)

    return keras.saving.load_model(file, compile=False)


def _augment(keras: Any, p: TrainParameters, x: Any) -> Any:
    """Random flip, rotation, shift, zoom and aspect ratio, then brightness, contrast and blur, on 0..1."""
    from cnn_xray.augmentation import RandomAffine, RandomBlur

    layers, seed = keras.layers, 1000 * p.seed
    x = RandomAffine(
        p.flip, p.rotation, p.shift, p.zoom, p.aspect_jitter, p.fill, seed=seed + 1, name="affine", dtype="float32"
    )(x)
    if p.brightness:
        x = layers.RandomBrightness(p.brightness, value_range=(0, 1), seed=seed + 2, name="brightness")(x)
    if p.contrast:
        x = layers.RandomContrast(p.contrast, value_range=(0, 1), seed=seed + 3, name="contrast")(x)
    if p.blur:
        x = RandomBlur(p.blur * p.side, seed=seed + 4, name="blur", dtype="float32")(x)
    return x
