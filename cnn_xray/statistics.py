"""Patient-cluster bootstrap: how far a number would move had other patients been filmed.

Images of one patient are not independent, so patients are drawn, not images (Efron & Tibshirani 1993, ch. 8;
Field & Welsh 2007). Drawing a patient twice counts each of its images twice: a replicate is a row of image
weights, and any weighted statistic (``sample_weight`` in scikit-learn) gives its bootstrap replicate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cnn_xray.errors import InputError

REPLICATES = 2000
Patients = Sequence[Any] | NDArray[Any] | pd.Series


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    value, low, high: float, NaN where undefined (low and high also where one patient alone gives no
    interval). n: the number of images that the value rests on.

    ``str(e)`` gives ``0.94 [0.92, 0.96]``; ``f"{e:.3f}"`` formats each of the three numbers with ``.3f``.
    """

    value: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        if math.isnan(self.value):
            return "undefined"
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:{spec}} [no interval]"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self, "")


def bootstrap_weights(patients: Patients, n: int = REPLICATES, seed: int = 0) -> NDArray[np.int16]:
    """Image weights of ``n`` bootstrap replicates, patients drawn with replacement.

    patients: (N,) the patient of every image. Returns (n, N) int16: how often that image's patient was drawn;
    usable as ``sample_weight``. A patient's draws depend on the seed and on the set of patients alone, not on
    row order, so two models scored on the same images are resampled together. Raises InputError when a
    patient is missing.
    """
    column = pd.Series(patients)
    if column.isna().any():
        raise InputError(
            f"{int(column.isna().sum())} of {len(column)} images have no patient: fill the patient column "
            "(a name of its own for every image if patients are unknown)."
        )
    if column.empty:
        return np.zeros((n, 0), np.int16)
    names, codes = np.unique(column.to_numpy(dtype=str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return drawn.astype(np.int16)[:, codes]


def interval(replicates: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) of bootstrap replicates.

    replicates: any shape, float; NaN (a replicate on which the statistic is undefined, such as an AUC when
    one class was never drawn) is left out. (NaN, NaN) when no replicate is finite.
    """
    finite = np.asarray(replicates, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(value: float, replicates: ArrayLike, patients: Patients) -> Estimate:
    """Put a value and its bootstrap replicates together; ``patients`` are those of the images it rests on.

    With fewer than two patients every replicate is the same draw: the bounds are NaN, not a false interval of
    width 0.
    """
    low, high = interval(replicates) if pd.Series(patients).nunique() > 1 else (math.nan, math.nan)
    return Estimate(float(value), low, high, len(patients))


def cluster_mean(values: ArrayLike, patients: Patients, n: int = REPLICATES, seed: int = 0) -> Estimate:
    """Mean over images with its patient-cluster bootstrap interval.

    values: (N,) float; images whose value is not finite are left out (``Estimate.n`` counts the rest), and
    only the patients that remain are resampled. patients: (N,). n: replicates. Raises InputError when the
    lengths differ.
    """
    numbers = np.asarray(values, np.float64)
    names = np.asarray(patients, object)
    if numbers.ndim != 1 or numbers.shape != names.shape:
        raise InputError(f"values and patients must have one entry an image: got {numbers.shape}, {names.shape}.")
    keep = np.isfinite(numbers)
    numbers, names = numbers[keep], names[keep]
    if not len(numbers):
        return Estimate(math.nan, math.nan, math.nan, 0)
    weights = bootstrap_weights(names, n, seed).astype(np.float64)
    # A replicate that drew many-image patients weighs more images than N, so it is divided by its own weight.
    return estimate(float(numbers.mean()), weights @ numbers / weights.sum(axis=1), names)


def paired_difference(a: ArrayLike, b: ArrayLike, patients: Patients, n: int = REPLICATES, seed: int = 0) -> Estimate:
    """Mean of ``a − b`` within image, with its patient-cluster bootstrap interval.

    a, b: (N,) float, the same images under two conditions; images undefined in either are left out
    (listwise). Raises InputError when the lengths differ.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise InputError(f"A paired difference needs the same images twice: got {first.shape} and {second.shape}.")
    with np.errstate(invalid="ignore"):  # inf − inf is NaN and left out like any other undefined pair
        return cluster_mean(first - second, patients, n, seed)
