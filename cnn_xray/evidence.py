"""Evidence maps: the exact closed form of a conv → GAP → Dense network.

Maps are raw and signed, in logit units: positive cells speak for PNEUMONIA, negative ones for NORMAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_xray import backend
from cnn_xray.network import FEATURES, LOGIT


@dataclass(frozen=True)
class Evidence:
    """``maps`` (N, h, w) float32 in logit units, ``logits`` (N,) float32 and ``bias``: logit = maps.sum() + bias."""

    maps: np.ndarray
    logits: np.ndarray
    bias: float

    def residual(self) -> np.ndarray:
        """|Σc + b − z| of every image (N,): zero up to rounding when the decomposition is exact."""
        return np.abs(self.maps.sum(axis=(1, 2), dtype=np.float64) + self.bias - self.logits)


def mapper(model: Any) -> Any:
    """A model with the same input that returns ``(evidence map (N, h, w), logit (N, 1))`` in one forward pass.

    With A the last feature map, N = h·w its cells and w, b the weights of the Dense logit, the evidence of cell u is
    c_u = (1/N) Σ_k w_k A_k(u), and z = b + Σ_u c_u (class activation map, Zhou et al. 2016, arXiv 1512.04150; equal to
    HiResCAM here, Draelos and Carin 2020, arXiv 2011.08891).
    """
    keras = backend.start()
    features = model.get_layer(FEATURES).output
    weights = np.asarray(keras.ops.convert_to_numpy(model.get_layer(LOGIT).kernel), np.float32)
    cells = features.shape[1] * features.shape[2]
    evidence = keras.ops.matmul(keras.ops.cast(features, "float32"), weights / cells)[..., 0]
    return keras.Model(model.input, [evidence, model.output], name="evidence")


def closed_form(model: Any, images: np.ndarray, batch_size: int = 64) -> Evidence:
    """Exact evidence maps of ``images`` (N, S, S) uint8, at the cost of one forward pass."""
    keras = backend.start()
    maps, logits = mapper(model).predict(**backend.feed(images, batch_size=batch_size), verbose=0)
    bias = float(keras.ops.convert_to_numpy(model.get_layer(LOGIT).bias)[0])
    return Evidence(np.asarray(maps, np.float32), np.asarray(logits[:, 0], np.float32), bias)


def explained(maps: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """H = max(0, s·c): the evidence for what is explained. ``sign`` (N,) is +1 (PNEUMONIA) or −1 (NORMAL)."""
    return np.maximum(0, maps * sign[:, None, None])


def signs(logits: np.ndarray, explain: str) -> np.ndarray:
    """s for every image (N,): +1 throughout for ``pneumonia``; by the decision at logit 0 for ``predicted``."""
    return np.ones(len(logits)) if explain == "pneumonia" else np.where(logits > 0, 1.0, -1.0)
