"""Do the maps depend on what was learnt? Cascading weight randomisation, and agreement between two sets of maps.

A map that survives when the weights are drawn anew shows the film and the architecture, not what the network learnt
(Adebayo et al. 2018, arXiv 1810.03292).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cnn_xray import backend, evidence

OFFSET = 10_000_000  # added to the seed: the one that the network was trained with would draw its first weights again


def agreement(maps_a: np.ndarray, maps_b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation over the cells of two sets of maps (N, h, w), image by image: (N,) in −1..1.

    Ties share their mean rank. NaN where one of the two maps is constant or has a NaN.
    """
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (maps_a, maps_b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size != 0)


def cascade(model: Any, images: np.ndarray, seed: int) -> pd.DataFrame:
    """Agreement of closed-form maps with their own as weights are drawn anew, from the logit down to the first layer.

    ``images`` (N, S, S) uint8. One row a step, named by the layer that it adds to those redrawn: ``none``, ``logit``,
    then the convolutions from last to first, each with its normalisation. Columns: ``signed`` and ``absolute``, the
    mean over images of `agreement` with the original map and of |map| with |original map|; ``signed_left_out`` and
    ``absolute_left_out``, the number of images without one because a map is constant. ``model`` stays as it is.

    Every row is one draw, which all images share: repeat with other seeds, for a single ``logit`` row lies anywhere in
    −1..1. The last row is a network with random weights: what remains there is owed to film and architecture alone.
    """
    keras = backend.start(seed + OFFSET)
    copy = keras.models.clone_model(model)  # with a fresh network's weights
    fresh = {layer.name: layer.get_weights() for layer in copy.layers}
    for layer in model.layers:
        copy.get_layer(layer.name).set_weights(layer.get_weights())
    original = evidence.closed_form(copy, images).maps
    rows = {"none": _compare(original, original)}
    for group in reversed(_groups(model)):
        for name in group:
            copy.get_layer(name).set_weights(fresh[name])
        rows[group[0]] = _compare(original, evidence.closed_form(copy, images).maps)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("redrawn")


def _groups(model: Any) -> list[list[str]]:
    """Names of the layers with weights from the first to the logit, each normalisation with the layer before it."""
    keras = backend.start()
    groups: list[list[str]] = []
    for layer in model.layers:
        if groups and isinstance(layer, keras.layers.BatchNormalization):
            groups[-1].append(layer.name)
        elif layer.weights:
            groups.append([layer.name])
    return groups


def _compare(original: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """A row of `cascade` for the maps (N, h, w) of one step."""
    found = {"signed": agreement(original, maps), "absolute": agreement(np.abs(original), np.abs(maps))}
    means = {name: float(pd.Series(values).mean()) for name, values in found.items()}  # over what is not NaN
    return means | {f"{name}_left_out": int(np.isnan(values).sum()) for name, values in found.items()}
