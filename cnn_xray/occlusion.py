"""Occlusion: what the decision loses when the ring is hidden, beside equal areas inside.

What is hidden must be painted with something, and every paint is a film of its own that the network never saw
(Hooker et al. 2019, arXiv 1806.10758); so there are three, and the interior undergoes the same. A drop says that the
area matters for this film, not that it tells the classes apart: for that see the class-crossed transplant.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cnn_xray import regions
from cnn_xray.dataset import Dataset
from cnn_xray.regions import SEAM, blend
from cnn_xray.statistics import paired_difference
from cnn_xray.training import predict
from cnn_xray.view import FRAME, shrunk

FILLS = ("mean", "blur", "noise")
PLACES = ("ring", "interior")
POSITIONS = 4  # of the interior square
BLUR = 0.1  # standard deviation of the blur, fraction of the side
CHUNK = 128  # films at a time, each in 1 + POSITIONS composites


def occlude(model: Any, data: Dataset, rows: np.ndarray, width: float, seed: int) -> pd.DataFrame:
    """What each film's decision loses under every fill in every place; one row a film × fill × place.

    Columns: film (its number within ``rows``), path, label, fill, place, drop, flip. ``drop`` = s (z − z occluded) in
    logits, with s = +1 where the film itself is decided as PNEUMONIA (z > 0), else −1: positive where the evidence for
    the decision went away. ``flip``: whether the decision changed, 0 or 1. Fills: ``mean``, the film's own mean grey;
    ``blur``, the film itself without its detail; ``noise``, Gaussian with the film's mean and standard deviation,
    clipped. ``interior`` is the mean over `squares`, NaN where they have no room.
    """
    size, films = data.view.size, data.pixels[rows]
    hidden = [regions.outer_ring(size, width), *squares(size, width, seed)]
    rng = np.random.default_rng(seed)
    z = predict(model, films)
    occluded = np.empty((len(FILLS), len(hidden), len(films)), np.float32)
    for start in range(0, len(films), CHUNK):
        part = slice(start, start + CHUNK)
        for fill, paint in _paints(films[part], rng).items():
            composites = np.concatenate([blend(films[part], paint, mask) for mask in hidden])
            occluded[FILLS.index(fill), :, part] = predict(model, composites).reshape(len(hidden), -1)
    drop = np.where(z > 0, 1, -1) * (z - occluded)
    flip = ((occluded > 0) != (z > 0)).astype(float)
    table = data.table.iloc[rows][["path", "label"]].reset_index(names="film")
    table["film"] = np.arange(len(films))
    return pd.concat(
        [
            table.assign(fill=fill, place=place, drop=_mean(drop[i, own]), flip=_mean(flip[i, own]))
            for i, fill in enumerate(FILLS)
            for place, own in zip(PLACES, (slice(1), slice(1, None)), strict=True)
        ],
        ignore_index=True,
    )


def summary(occluded: pd.DataFrame, patients: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """One row a fill: what hiding the ring costs beside hiding as much of the interior.

    patients (N,): of the films that were numbered. Columns: ring, interior (mean drop, logits); difference, low, high
    (ring − interior within film, interval by patient); flips ring, flips interior (share of decisions); n (films
    with both) and undefined (films without).
    """
    rows = {}
    for fill in FILLS:
        wide = occluded[occluded["fill"] == fill].pivot(index="film", columns="place", values=["drop", "flip"])
        patient = np.asarray(patients)[wide.index]
        difference = paired_difference(wide["drop", "ring"], wide["drop", "interior"], patient, seed=seed)
        rows[fill] = {
            **{place: wide["drop", place].mean() for place in PLACES},
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            **{f"flips {place}": wide["flip", place].mean() for place in PLACES},
            "n": difference.n,
            "undefined": len(wide) - difference.n,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("fill")


def squares(size: int, width: float, seed: int) -> list[np.ndarray]:
    """Soft masks of `POSITIONS` squares, each of the area of `regions.outer_ring`, at random places inside its edge.

    The seam is that of the ring, so nowhere do ring and square hide more than the whole film. Empty where the ring,
    half its seam included, is more than half of the film (``width`` above about 0.13): no such square has room.
    """
    seam, left = width * SEAM, shrunk(FRAME, width * (1 + SEAM))
    room = left[2] - left[0]
    area = 1 - _frustum(room, seam)
    side = math.sqrt(area - seam**2 / 3) - seam  # so that _frustum(side, seam) is the area
    if side > room:
        return []
    corners = left[0] + np.random.default_rng(seed).random((POSITIONS, 2)) * (room - side)
    return [regions.box(size, (x, y, x + side, y + side), seam) for x, y in corners]


def _frustum(side: float, seam: float) -> float:
    """Area of a soft square: 1 on ``side``, falling to 0 over ``seam`` on every side; fraction of the film."""
    return side**2 + 2 * side * seam + 4 / 3 * seam**2


def _paints(films: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What films (n, S, S) are painted over with, by fill: (n, S, S) or (n, 1, 1)."""
    mean, spread = (getattr(films, name)(axis=(1, 2), keepdims=True) for name in ("mean", "std"))
    blurred = np.stack([cv2.GaussianBlur(film, (0, 0), BLUR * films.shape[1]) for film in films])
    noise = np.clip(mean + spread * rng.standard_normal(films.shape, np.float32), 0, 255)
    return dict(zip(FILLS, (mean, blurred, noise), strict=True))


def _mean(values: np.ndarray) -> np.ndarray | float:
    """Mean over the places (k, N) → (N,); NaN where there is none."""
    return values.mean(axis=0) if len(values) else math.nan
