"""What an attention metric is compared with: the same measurement where the border can mean nothing.

A uniform map is the wrong null for a padded CNN, because zero padding moves evidence at the edge by itself
(Alsallakh et al. 2021, arXiv 2010.02178). So each figure stands beside a constant image, networks with random
weights, and the same image with its ring made neutral.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import attention, evidence, network
from cnn_xray.dataset import Dataset
from cnn_xray.parameters import TrainParameters
from cnn_xray.regions import blend, outer_ring
from cnn_xray.view import area_mean, ring

RANDOM_NETWORKS = 3


def neutral_film(data: Dataset) -> np.ndarray:
    """The mean of the two classes' mean training images, (S, S) float32: the ring that every neutralised film gets."""
    rows = data.rows("train")
    labels = data.table["label"].to_numpy()[rows]
    means = [data.pixels[rows[labels == label]].mean(axis=0, dtype=np.float64) for label in (0, 1)]
    return np.mean(means, axis=0).astype(np.float32)


def neutralise(images: np.ndarray, neutral: np.ndarray, width: float) -> np.ndarray:
    """``images`` (N, S, S) uint8 with their outer ring replaced by that of ``neutral`` (S, S), seam feathered.

    The ring is ``width`` of each side, replaced whole; over the next quarter of ``width`` inwards the two are blended
    linearly. Every film gets the same ring, so the ring tells no film from another.
    """
    return blend(images, neutral, outer_ring(images.shape[1], width))


def attention_beside_nulls(model: Any, p: TrainParameters, data: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """Attention metrics of images and of every null, long: path, label, patient, arm and `attention.measure`'s columns.

    Arms: ``image``; ``neutralised ring`` and ``constant image`` (one grey), explaining what was explained on the image
    itself; ``randomised weights`` (mean over three fresh networks, each explaining its own decision); ``uniform``.
    """
    images = data.pixels[rows]
    table = data.table.iloc[rows].reset_index(drop=True)
    neutral = neutral_film(data)
    real = evidence.closed_form(model, images)
    shape = real.maps.shape[1:]
    border = ring(p.ring, shape)
    lungs = None if data.lungs is None else area_mean(data.lungs[rows], shape)
    artifacts = None if data.artifacts is None else area_mean(data.artifacts[rows], shape)

    def measured(maps: np.ndarray, sign: np.ndarray) -> pd.DataFrame:
        return attention.measure(maps, sign, border, lungs, artifacts)

    sign = evidence.signs(real.logits, p.explain)
    arms = {"image": measured(real.maps, sign)}
    arms["neutralised ring"] = measured(evidence.closed_form(model, neutralise(images, neutral, p.ring)).maps, sign)
    flat = np.full((1, *images.shape[1:]), round(float(neutral.mean())), np.uint8)
    constant = evidence.closed_form(model, flat)
    arms["constant image"] = measured(np.repeat(constant.maps, len(rows), axis=0), sign)
    random = []
    for extra in range(1, RANDOM_NETWORKS + 1):
        fresh = network.build(p.model_copy(update={"seed": p.seed + 1_000_000 * extra}))
        found = evidence.closed_form(fresh, images)
        random.append(measured(found.maps, evidence.signs(found.logits, p.explain)))
    arms["randomised weights"] = pd.concat(random).groupby(level=0).mean()
    arms["uniform"] = attention.uniform(border, len(rows), lungs, artifacts)
    return pd.concat(
        [
            pd.concat([table[["path", "label", "patient"]].assign(arm=arm), frame], axis=1)
            for arm, frame in arms.items()
        ],
        ignore_index=True,
    )
