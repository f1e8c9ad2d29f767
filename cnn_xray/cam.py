"""Which cell of the last feature map speaks for which class: the exact evidence map, Grad-CAM and relatives.

Every map belongs to a Keras model that ends in a feature map, global average pooling and one Dense logit; this
project's network is one such. With A the last feature map, N = h·w its cells and w, b the weights of the logit z, the
*evidence* of cell u is c_u = (1/N) Σ_k w_k A_k(u), and z = b + Σ_u c_u exactly (class activation map, Zhou et al. 2016,
arXiv 1512.04150). Maps are raw and signed: positive cells speak for PNEUMONIA, negative ones for NORMAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cnn_xray import InputError, backend

REDRAWN = 10_000_000  # added to the seed: the one that the network was trained with would draw its first weights again


@dataclass(frozen=True)
class Evidence:
    """``maps`` (N, h, w) float32 in logits, ``logits`` (N,) float32 and ``bias``: logit = maps.sum() + bias."""

    maps: np.ndarray
    logits: np.ndarray
    bias: float

    def residual(self) -> np.ndarray:
        """|Σc + b − z| of every image (N,): zero up to rounding when the decomposition is exact."""
        return np.abs(self.maps.sum(axis=(1, 2), dtype=np.float64) + self.bias - self.logits)


def evidence_model(model: Any) -> Any:
    """Build the model that returns ``(evidence map (N, h, w), logit (N, 1))`` in one forward pass.

    Parameters
    ----------
    model
        Keras model.

    Raises
    ------
    InputError
        Where the model does not end in a feature map, global average pooling and one Dense logit.
    """
    keras = backend.start()
    features, head = _last_feature_map(model).output, model.layers[-1]
    weights = np.asarray(keras.ops.convert_to_numpy(head.kernel), np.float32)
    cells = features.shape[1] * features.shape[2]
    share = keras.ops.matmul(keras.ops.cast(features, "float32"), weights / cells)[..., 0]
    return keras.Model(model.input, [share, model.output], name="evidence")


def evidence(model: Any, images: np.ndarray) -> Evidence:
    """Exact evidence maps in closed form, at the cost of one forward pass.

    Parameters
    ----------
    model
        Keras model that ends in a feature map, global average pooling and one Dense logit.
    images : ndarray (N, S, S) uint8

    References
    ----------
    Zhou et al. 2016, arXiv 1512.04150; equal to HiResCAM here, Draelos and Carin 2020, arXiv 2011.08891.
    """
    maps, logits = evidence_model(model).predict(**backend.feed(images), verbose=0)
    bias = float(backend.start().ops.convert_to_numpy(model.layers[-1].bias)[0])
    return Evidence(np.asarray(maps, np.float32), np.asarray(logits[:, 0], np.float32), bias)


def explained_sign(logits: np.ndarray, explain: str) -> np.ndarray:
    """s of every image (N,): +1 throughout for ``pneumonia``; by the decision at logit 0 for ``predicted``.

    Parameters
    ----------
    logits : ndarray (N,)
    explain : {"predicted", "pneumonia"}
        What is explained.
    """
    return np.ones(len(logits)) if explain == "pneumonia" else np.where(logits > 0, 1.0, -1.0)


def explained_heat(maps: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """H = max(0, s·c), the evidence for what is explained; ``sign`` (N,) is +1 (PNEUMONIA) or −1 (NORMAL).

    Parameters
    ----------
    maps : ndarray (N, h, w)
        Signed evidence.
    sign : ndarray (N,)
        +1 PNEUMONIA, −1 NORMAL.
    """
    return np.maximum(0, maps * sign[:, None, None])


def grad_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Σ_k mean_u G_k(u) · A_k: (N, h, w), signed (Selvaraju et al. 2017, arXiv 1610.02391, before its ReLU).

    ``activations`` and ``gradient`` are (N, h, w, K). One weight a channel for all cells, so a cell can be hot that
    the logit does not depend on; the cells do not add up to the logit, except at the last feature map.

    Parameters
    ----------
    activations, gradient : ndarray (N, h, w, K)
        A, and G = ∂z/∂A.
    """
    return np.einsum("nhwk,nk->nhw", activations, gradient.mean(axis=(1, 2)), optimize=True)


def hires_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Σ_k G_k ⊙ A_k: (N, h, w), signed, in logits (Draelos and Carin 2020, arXiv 2011.08891).

    A cell that the logit does not depend on is zero. Where all above the layer is linear, ReLU or max-pooling, the
    cells add up to the logit less what the offsets above contribute (those of the normalisations and of the logit).

    Parameters
    ----------
    activations, gradient : ndarray (N, h, w, K)
        A, and G = ∂z/∂A.
    """
    return np.einsum("nhwk,nhwk->nhw", activations, gradient, optimize=True)


def layer_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """max(0, Σ_k max(0, G_k) ⊙ A_k): (N, h, w), never negative (Jiang et al. 2021, IEEE TIP 30:5875).

    ``gradient`` is that of what is explained: of z for PNEUMONIA, of −z for NORMAL. Behind a ReLU (A ≥ 0), HiResCAM
    is the map of z less the map of −z.

    Parameters
    ----------
    activations, gradient : ndarray (N, h, w, K)
        A, and the gradient of what is explained: of z for PNEUMONIA, of −z for NORMAL.
    """
    return np.maximum(0, hires_cam(activations, np.maximum(0, gradient)))


METHODS = {"grad_cam": grad_cam, "hires_cam": hires_cam, "layer_cam": layer_cam}


def gradient_map(
    model: Any,
    images: np.ndarray,
    layer: str = "",
    method: str = "grad_cam",
    sign: np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Maps (N, h, w) float32 at any layer with a feature map, on the layer's own grid.

    At the last feature map Grad-CAM and HiResCAM equal `evidence` with a factor of exactly 1. At an earlier layer they
    part: Grad-CAM spreads its weights over cells that the logit does not depend on.

    Parameters
    ----------
    model
        Keras model with one logit.
    images : ndarray (N, S, S) uint8
    layer
        Name of the layer; empty for the last feature map.
    method : {"grad_cam", "hires_cam", "layer_cam"}
    sign : ndarray (N,), optional
        What is explained, +1 PNEUMONIA (the default) or −1 NORMAL. Matters to ``layer_cam`` alone, whose map is
        already the heat; the signed methods stay signed for PNEUMONIA, and `explained_heat` makes heat of them.
    batch_size
        Images a forward and backward pass.

    Raises
    ------
    InputError
        For an unknown method, and for a layer that does not exist or has no map.
    """
    keras = backend.start()
    activations = (checked_layer(model, layer) if layer else _last_feature_map(model)).output
    if method not in METHODS:
        raise InputError(f"There is no map by the method {method!r}; there are {', '.join(METHODS)}.")
    sign = np.ones(len(images)) if sign is None or method != "layer_cam" else sign
    below, above = keras.Model(model.input, activations), keras.Model(activations, model.output)
    maps = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = below(images[part, ..., None], training=False)
        values = np.asarray(keras.ops.convert_to_numpy(batch), np.float32)
        gradient = backend.gradient(above, batch) * sign[part, None, None, None].astype(np.float32)
        maps.append(METHODS[method](values, gradient))
    return np.concatenate(maps)


def checked_layer(model: Any, layer: str) -> Any:
    """Return the layer of this name; raises `InputError` where there is none or it has no feature map.

    Parameters
    ----------
    model
        Keras model.
    layer
        Name of the layer.
    """
    known = {one.name: one for one in model.layers[1:] if len(one.output.shape) == 4}
    if layer not in known:
        raise InputError(f"The network has no layer {layer!r} with a feature map; it has {', '.join(known)}.")
    return known[layer]


def rank_agreement(maps_a: np.ndarray, maps_b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation over the cells of two sets of maps (N, h, w), image by image: (N,) in −1..1.

    Ties share their mean rank. NaN where one of the two maps is constant or has a NaN.

    Parameters
    ----------
    maps_a, maps_b : ndarray (N, h, w)
        Of the same images.
    """
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (maps_a, maps_b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size != 0)


def parameter_randomisation(model: Any, images: np.ndarray, seed: int) -> pd.DataFrame:
    """Model parameter randomisation test: how far maps change as weights are drawn anew, from the logit down.

    A map that survives shows the image and the architecture, not what the network learned. Every row is one draw, which
    all images share: repeat with other seeds, for a single ``logit`` row lies anywhere in −1..1. In the last row all
    weights are random: what remains there is owed to image and architecture alone. ``model`` stays as it is.

    Parameters
    ----------
    model
        Keras model as in `evidence`.
    images : ndarray (N, S, S) uint8
    seed
        Of the draw.

    Returns
    -------
    DataFrame
        One row a step, index ``redrawn``: ``none``, ``logit``, then the convolutions from last to first, each with its
        normalisation. Columns ``signed`` and ``absolute``: the mean over images of `rank_agreement` with the original
        map, and of |map| with |original map|; ``signed_left_out`` and ``absolute_left_out``: the images without one
        because a map is constant.

    References
    ----------
    Adebayo et al. 2018, arXiv 1810.03292.
    """
    keras = backend.start(seed + REDRAWN)
    copy = keras.models.clone_model(model)  # with a fresh network's weights
    fresh = {layer.name: layer.get_weights() for layer in copy.layers}
    copy.set_weights(model.get_weights())
    original = evidence(copy, images).maps
    rows = {"none": _agreement_row(original, original)}
    weighted = [layer for layer in copy.layers if layer.weights]
    for layer in reversed(weighted):
        layer.set_weights(fresh[layer.name])
        if layer is weighted[0] or not isinstance(layer, keras.layers.BatchNormalization):  # else with the one before
            rows[layer.name] = _agreement_row(original, evidence(copy, images).maps)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("redrawn")


def _agreement_row(original: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    found = {"signed": rank_agreement(original, maps), "absolute": rank_agreement(np.abs(original), np.abs(maps))}
    table = pd.DataFrame(found)
    return {**table.mean(), **table.isna().sum().add_suffix("_left_out")}  # the mean over what is not NaN


def _last_feature_map(model: Any) -> Any:
    """The layer whose output is pooled, of a model that ends in global average pooling and one Dense logit."""
    layers = backend.start().layers
    pooling = [place for place, one in enumerate(model.layers) if isinstance(one, layers.GlobalAveragePooling2D)]
    head = model.layers[-1]
    if len(pooling) != 1 or not isinstance(head, layers.Dense) or head.units != 1:
        raise InputError("An exact evidence map needs a network that ends in global average pooling and one logit.")
    return model.layers[pooling[0] - 1]
