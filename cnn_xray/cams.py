"""Gradient maps of the logit at any layer: Grad-CAM, HiResCAM and LayerCAM.

All three weigh a layer's activations A (N, h, w, K) by the gradient G = ∂z/∂A of the logit, and differ in what they do
to G. At the last feature map, where G_k(u) = w_k/N in every one of the N = h·w cells, Grad-CAM and HiResCAM both equal
`evidence.closed_form` with a factor of exactly 1, and LayerCAM keeps the channels whose weight agrees with what is
explained. At an earlier layer they part: Grad-CAM spreads its weights over cells that the logit does not depend on.

Grad-CAM and HiResCAM are signed as evidence maps are: positive cells speak for PNEUMONIA, negative ones for NORMAL.
LayerCAM is never negative: it shows what speaks for whatever is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_xray import backend
from cnn_xray.errors import InputError
from cnn_xray.network import FEATURES


def grad_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Σ_k mean_u G_k(u) · A_k: (N, h, w), signed (Selvaraju et al. 2017, arXiv 1610.02391, before its ReLU).

    ``activations`` and ``gradient`` are (N, h, w, K). One weight a channel for all cells, so a cell can be hot that
    the logit does not depend on; the cells do not add up to the logit, except at the last feature map.
    """
    return np.einsum("nhwk,nk->nhw", activations, gradient.mean(axis=(1, 2)), optimize=True)


def hires_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Σ_k G_k ⊙ A_k: (N, h, w), signed, in logit units (Draelos and Carin 2020, arXiv 2011.08891).

    A cell that the logit does not depend on is zero. Where all above the layer is linear, ReLU or max-pooling, the
    cells add up to the logit less what the offsets above contribute (those of the normalisations and of the logit).
    """
    return np.einsum("nhwk,nhwk->nhw", activations, gradient, optimize=True)


def layer_cam(activations: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """max(0, Σ_k max(0, G_k) ⊙ A_k): (N, h, w), never negative (Jiang et al. 2021, IEEE TIP 30:5875).

    ``gradient`` is that of what is explained: of z for PNEUMONIA, of −z for NORMAL. Behind a ReLU (A ≥ 0), HiResCAM
    is the map of z less the map of −z.
    """
    return np.maximum(0, hires_cam(activations, np.maximum(0, gradient)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
}


def cam(
    model: Any,
    images: np.ndarray,
    layer: str = FEATURES,
    method: str = "grad_cam",
    sign: np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Maps of ``images`` (N, S, S) uint8 at a named layer by one of `METHODS`: (N, h, w) float32 on the layer's grid.

    ``sign`` (N,) says what is explained, +1 PNEUMONIA (default) or −1 NORMAL (`evidence.signs`). It matters to
    ``layer_cam`` only, whose map is already the heat; the signed methods stay signed for PNEUMONIA, and
    `evidence.explained` makes heat of them. Raises `InputError` for a method that does not exist, and for a layer
    that does not exist or has no map.
    """
    keras = backend.start()
    check_layer(model, layer)
    if method not in METHODS:
        raise InputError(f"There is no map by the method {method!r}; there are {', '.join(METHODS)}.")
    sign = np.ones(len(images)) if sign is None or method != "layer_cam" else sign
    activations = model.get_layer(layer).output
    below, above = keras.Model(model.input, activations), keras.Model(activations, model.output)
    maps = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = below(images[part, ..., None], training=False)
        values = np.asarray(keras.ops.convert_to_numpy(batch), np.float32)
        gradient = backend.gradient(above, batch) * sign[part, None, None, None].astype(np.float32)
        maps.append(METHODS[method](values, gradient))
    return np.concatenate(maps)


def check_layer(model: Any, layer: str) -> None:
    """Raise `InputError` unless ``model`` has a layer of this name with a feature map."""
    known = [one.name for one in model.layers if len(one.output.shape) == 4 and one.name != "image"]
    if layer not in known:
        raise InputError(f"The network has no layer {layer!r} with a feature map; it has {', '.join(known)}.")
