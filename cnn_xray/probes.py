"""What can be told without looking at the lungs: the size-only probe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray.scores import auc_with_interval
from cnn_xray.statistics import Estimate

_SIDES = ("original_width", "original_height")


@dataclass(frozen=True)
class SizeProbe:
    """What the size-only probe found.

    probabilities: (N,) float64 of label 1, one a row of the test table, NaN where the size is unknown. auc:
    on the test rows of known size, or NaN. n_train: images it was fitted on. unknown_train, unknown_test:
    images left out because their size is unknown. note: a sentence when the number needs one (no size known,
    all sizes equal), or "".
    """

    probabilities: NDArray[np.float64]
    auc: Estimate
    n_train: int
    unknown_train: int
    unknown_test: int
    note: str


def size_only_probe(train: pd.DataFrame, test: pd.DataFrame, seed: int = 0) -> SizeProbe:
    """Logistic regression on log W, log H, log W/H and log W·H of the original image: no pixel is read.

    train, test: rows of the manifest table (label, patient, original_width, original_height); fit on train
    and validation together. ``seed`` is that of the patient bootstrap; the fit itself is deterministic. An
    AUC well above 0.5 says that the label is available from how the films were cut, before any lung is seen.
    Rows whose size is unknown are left out and counted. Sizes that are all equal give the AUC 0.5 that they
    earn; no sizes, NaN.
    """
    x_train, x_test = _features(train), _features(test)
    known_train, known_test = np.isfinite(x_train).all(axis=1), np.isfinite(x_test).all(axis=1)
    x_train, fitted = x_train[known_train], train[known_train]
    probabilities = np.full(len(test), np.nan)
    auc, note = Estimate(math.nan, math.nan, math.nan, int(known_test.sum())), ""
    if not known_train.any() or not known_test.any():
        where = "training" if not known_train.any() else "test"
        note = f"No {where} image has a known original size, so the probe cannot be run."
    elif fitted["label"].nunique() < 2:
        note = "Training images of known size are all of one class, so the probe cannot be fitted."
    else:
        if (x_train == x_train[0]).all():
            note = "All training images have the same original size, so it cannot tell the classes apart."
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x_train, fitted["label"].to_numpy(int))
        probabilities[known_test] = model.predict_proba(x_test[known_test])[:, 1]
        scored = test[known_test]
        auc = auc_with_interval(scored["label"], probabilities[known_test], scored["patient"], seed=seed)
        if math.isnan(auc.value):
            note = "Test images of known size are all of one class, so the AUC is undefined."
    return SizeProbe(probabilities, auc, len(fitted), int((~known_train).sum()), int((~known_test).sum()), note)


def median_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Median original width and height (pixels) and aspect ratio W/H of each split and class.

    Index (split, label); columns n (images of known size), original_width, original_height, aspect_ratio.
    """
    sizes = table[["split", "label"]].copy()
    for name in _SIDES:
        sizes[name] = table[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    sizes["aspect_ratio"] = sizes["original_width"] / sizes["original_height"]
    groups = sizes.groupby(["split", "label"])
    medians = groups.median()
    medians.insert(0, "n", groups["aspect_ratio"].count())
    return medians


def _features(table: pd.DataFrame) -> NDArray[np.float64]:
    """(N, 4): log W, log H, log W/H, log W·H; NaN where a side is unknown or not positive."""
    sides = table[list(_SIDES)].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    w, h = np.log(np.where(sides > 0, sides, np.nan)).T
    return np.stack([w, h, w - h, w + h], axis=1)
