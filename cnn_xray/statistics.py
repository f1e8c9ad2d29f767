"""Intervals: over patients by a cluster bootstrap (had others been examined), and over trainings (had others been run).

Images of one patient are not independent, so patients are drawn, not images (Efron & Tibshirani 1993, ch. 8;
Field & Welsh 2007). Drawing a patient twice counts each of its images twice: a replicate is a row of image
weights, and any weighted statistic (``sample_weight`` in scikit-learn) gives its bootstrap replicate.

``hodges_lehmann`` takes its rows as independent: one number a patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cnn_xray import InputError

REPLICATES = 2000
UNDEFINED = 0.05  # share of replicates without a value beyond which an interval says nothing
_Z = float(stats.norm.ppf(0.975))  # the normal quantile of a two-sided 95 % interval
_EXACT = 50  # differences up to which the signed-rank distribution is enumerated, as in scipy.stats.wilcoxon
_RULES: dict[str, tuple[Callable[..., Any], str]] = {  # by the first word of a column's name
    "labels": (lambda v: np.isin(v, (0, 1)), "must be 0 or 1"),
    "probabilities": (lambda v: (v >= 0) & (v <= 1), "must lie in 0..1 (a logit needs its sigmoid; NaN: diverged)"),
    "scores": (np.isfinite, "must be finite (NaN means a model that diverged)"),
    "confounder": (lambda v: ~np.isinf(v), "must be finite, or NaN where unknown"),
    "patients": (pd.notna, "must be known for every image (where they are not, a name of its own each)"),
}
Patients = Sequence[Any] | NDArray[Any] | pd.Series


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    ``str(e)`` gives ``0.94 [0.92, 0.96]``; ``f"{e:.3f}"`` formats each of the three numbers with ``.3f``.

    Attributes
    ----------
    value : float
        NaN where undefined.
    low, high : float
        Bounds of the 95 % interval; NaN where undefined, and where one patient alone gives none.
    n : int
        The number of images that the value rests on.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    def __format__(self, spec: str) -> str:
        """Value and bounds, each formatted by ``spec`` (``.2f`` where it is empty)."""
        texts = (format(number, spec or ".2f") for number in (self.value, self.low, self.high))
        value, low, high = (text.replace("-", "−") for text in texts)
        bounds = "no interval" if math.isnan(self.low) else f"{low}, {high}"
        return "undefined" if math.isnan(self.value) else f"{value} [{bounds}]"

    def __str__(self) -> str:
        """Value and bounds with two decimals."""
        return format(self, "")


@dataclass(frozen=True)
class Comparison(Estimate):
    """An Estimate with its test against "no effect".

    Attributes
    ----------
    p : float
        Two-sided; NaN where undefined.
    """

    p: float = math.nan


def checked_columns(*, least: int = 1, **columns: ArrayLike | Patients) -> list[NDArray[Any]]:
    """Columns that describe the same images, in the order given, after each has met the rule of its name.

    Parameters
    ----------
    least : int
        The number of images that there must be.
    **columns : array_like (N,)
        The first word of a name is its rule: ``labels`` (0 or 1), ``probabilities`` (0..1), ``scores``
        (finite), ``confounder`` (finite, or NaN where unknown), ``patients`` (any value, none missing). By any
        other name: numbers, NaN and infinity among them.

    Returns
    -------
    list of ndarray (N,)
        Patients as text, anything else as float64.

    Raises
    ------
    InputError
        Where a column is not (N,) or breaks its rule; names column and row.
    """
    checked: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        try:
            checked[name] = np.asarray(values, object if name == "patients" else np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name.capitalize()} must be numbers without gaps: {error}.") from error
    shapes = [column.shape for column in checked.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] < least:
        given = ", ".join(f"{name} {column.shape}" for name, column in checked.items())
        raise InputError(f"Each image needs one of each, and {least} image or more is needed: got {given}.")
    for name, column in checked.items():
        kept, rule = _RULES.get(name.split("_")[0], (np.isreal, ""))
        rows = np.flatnonzero(~kept(column))
        if len(rows):
            raise InputError(f"{name.capitalize()} {rule}: row {rows[0]} has {column[rows[0]]} ({len(rows)} such).")
    return [column.astype(str) if name == "patients" else column for name, column in checked.items()]


def bootstrap_weights(patients: Patients, n: int = REPLICATES, seed: int = 0) -> NDArray[np.int16]:
    """Image weights of ``n`` bootstrap replicates, patients drawn with replacement.

    Parameters
    ----------
    patients : array_like (N,)
        The patient of every image.
    n : int
        Replicates.
    seed : int
        A patient's draws depend on the seed and on the set of patients alone, not on row order, so two models
        scored on the same images are resampled together.

    Returns
    -------
    ndarray (n, N) int16
        How often that image's patient was drawn; usable as ``sample_weight``.

    Raises
    ------
    InputError
        Where a patient is missing, or there is none.
    """
    (column,) = checked_columns(patients=patients)
    names, codes = np.unique(column, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return drawn.astype(np.int16)[:, codes]


def sample_and_replicates(patients: Patients, seed: int = 0) -> NDArray[np.int16]:
    """`bootstrap_weights` below the sample itself (all ones), so that value and replicates share their code.

    Parameters
    ----------
    patients : array_like (N,)
        The patient of every image.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray (1 + REPLICATES, N) int16
        Image weights, those of the sample first.
    """
    return np.insert(bootstrap_weights(patients, REPLICATES, seed), 0, 1, axis=0)


def interval(replicates: ArrayLike) -> tuple[float, float]:
    """95 % percentile interval of bootstrap replicates.

    Parameters
    ----------
    replicates : array_like
        Those not finite (an AUC when one class was never drawn) are left out.

    Returns
    -------
    low, high : float
        NaN when no replicate is finite.
    """
    finite = _finite(replicates)
    low, high = np.quantile(finite, (0.025, 0.975)) if len(finite) else (math.nan, math.nan)
    return float(low), float(high)


def bootstrap_p(value: float, replicates: ArrayLike, null: float = 0.0) -> float:
    """Two-sided p of ``null`` from bootstrap replicates, by inverting the percentile interval.

    Twice the smaller share of replicates on either side of ``null``, one counted on each side besides, at most 1;
    so never below 2 / (replicates + 1).

    Parameters
    ----------
    value : float
        What the replicates are replicates of.
    replicates : array_like
        Those not finite are left out.
    null : float
        The value that is tested.

    Returns
    -------
    float
        NaN where no replicate is finite or ``value`` is NaN.

    References
    ----------
    Davison & Hinkley 1997, Bootstrap Methods and their Application, ch. 4.
    """
    finite = _finite(replicates)
    if math.isnan(value) or not len(finite):
        return math.nan
    fewer = int(min((finite <= null).sum(), (finite >= null).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(finite) + 1))


def estimate(value: float, replicates: ArrayLike, patients: Patients) -> Estimate:
    """Put a value and its bootstrap replicates together.

    With fewer than two patients every replicate is the same draw: the bounds are NaN, not a false interval of
    width 0. They are NaN as well where the value is, even if some replicates are defined.

    Parameters
    ----------
    value : float
        On the images as they are.
    replicates : array_like
        The same of each bootstrap replicate.
    patients : array_like (N,)
        Those of the images that the value rests on.

    Returns
    -------
    Estimate
        With the 95 % percentile interval.
    """
    known = pd.Series(patients).nunique() > 1 and not math.isnan(value)
    low, high = interval(replicates) if known else (math.nan, math.nan)
    return Estimate(float(value), low, high, len(patients))


def compare(value: float, replicates: ArrayLike, patients: Patients, null: float = 0.0) -> Comparison:
    """`estimate` with `bootstrap_p` against ``null``.

    Interval and p are NaN where more than 5 % of the replicates are undefined too: those left over would be chosen
    by the very thing that is asked.

    Parameters
    ----------
    value : float
        On the images as they are.
    replicates : array_like
        The same of each bootstrap replicate.
    patients : array_like (N,)
        Those of the images that the value rests on.
    null : float
        The value that is tested.

    Returns
    -------
    Comparison
        Interval and p are NaN with fewer than two patients.
    """
    found = estimate(value, replicates, patients)
    if math.isnan(found.low) or 1 - np.isfinite(replicates).mean() > UNDEFINED:
        return Comparison(found.value, n=found.n)
    return Comparison(**vars(found), p=bootstrap_p(value, replicates, null))


def cluster_mean(values: ArrayLike, patients: Patients, n: int = REPLICATES, seed: int = 0) -> Estimate:
    """Mean over images with its patient-cluster bootstrap interval.

    Parameters
    ----------
    values : array_like (N,)
        Images whose value is not finite are left out, and only the patients that remain are resampled.
    patients : array_like (N,)
        The patient of every image.
    n : int
        Replicates.
    seed : int
        Of the draws.

    Returns
    -------
    Estimate
        Its ``n`` counts the images that have a value.

    Raises
    ------
    InputError
        Where the lengths differ or a patient is missing.
    """
    numbers, names = checked_columns(least=0, values=values, patients=patients)
    keep = np.isfinite(numbers)
    numbers, names = numbers[keep], names[keep]
    if not len(numbers):
        return Estimate(math.nan)
    weights = bootstrap_weights(names, n, seed).astype(np.float64)
    # A replicate that drew many-image patients weighs more images than N, so it is divided by its own weight.
    return estimate(float(numbers.mean()), weights @ numbers / weights.sum(axis=1), names)


def paired_difference(a: ArrayLike, b: ArrayLike, patients: Patients, seed: int = 0) -> Estimate:
    """Mean of ``a − b`` within image, with its patient-cluster bootstrap interval.

    Parameters
    ----------
    a, b : array_like (N,)
        The same images under two conditions; those undefined in either are left out (listwise).
    patients : array_like (N,)
        The patient of every image.
    seed : int
        Of the draws.

    Returns
    -------
    Estimate
        Its ``n`` counts the images that have both values.

    Raises
    ------
    InputError
        Where the lengths differ or a patient is missing.
    """
    first, second, names = checked_columns(least=0, a=a, b=b, patients=patients)
    with np.errstate(invalid="ignore"):  # inf − inf is NaN and left out like any other undefined pair
        return cluster_mean(first - second, names, seed=seed)


def over_trainings(values: ArrayLike) -> Estimate:
    """Mean of one figure of several trainings with its 95 % interval (Student's t); no bounds with fewer than two.

    Parameters
    ----------
    values : array_like (n,)
        One a training; those not finite are left out.
    """
    found = _finite(values)
    value = float(found.mean()) if len(found) else math.nan
    half = stats.t.ppf(0.975, len(found) - 1) * stats.sem(found) if len(found) > 1 else math.nan
    return Estimate(value, float(value - half), float(value + half), len(found))


def pooled(estimates: Sequence[Estimate]) -> Comparison:
    """Mean of one figure of several trainings, judged on the same images, with an interval over trainings and patients.

    The half-width is the root of two squares: that of the t-interval of the mean over trainings, and the mean
    half-width of the single intervals, which is over patients. As all trainings meet the same patients, the second does
    not shrink with their number. The spread of the trainings holds some of the patients' chance already, so the
    interval is on the safe side.

    Parameters
    ----------
    estimates : sequence of Estimate
        One a training.

    Returns
    -------
    Comparison
        Without p. That of a single training is its own; no bounds where a training has none.
    """
    values, half = np.array([(one.value, (one.high - one.low) / 2) for one in estimates]).T
    value, n = float(values.mean()), min(one.n for one in estimates)
    if len(values) == 1:
        return Comparison(value, estimates[0].low, estimates[0].high, n)
    width = math.hypot(over_trainings(values).high - value, half.mean())
    return Comparison(value, value - width, value + width, n)


def hodges_lehmann(differences: ArrayLike) -> Estimate:
    """Hodges–Lehmann estimate of paired differences: the median of the Walsh averages (dᵢ + dⱼ) / 2, i ≤ j.

    The interval lies between two of them and is distribution-free, that of Wilcoxon's signed-rank test, exact up to 50
    differences, then by the normal rank. Memory grows with N²: 3,000 differences take about 150 MB.

    Parameters
    ----------
    differences : array_like (N,)
        Those not finite are left out.

    Returns
    -------
    Estimate
        ``n`` counts the finite differences; without any all else is NaN, and fewer than 6 give no interval.

    Raises
    ------
    InputError
        On anything but numbers in one dimension.

    References
    ----------
    Hollander & Wolfe 1999, Nonparametric Statistical Methods, § 3.2.
    """
    d = _finite(*checked_columns(least=0, differences=differences))
    if not len(d):
        return Estimate(math.nan)
    i, j = np.triu_indices(len(d))
    walsh = np.sort((d[i] + d[j]) / 2)
    depth = _walsh_depth(len(d))
    low, high = (float(walsh[depth - 1]), float(walsh[-depth])) if depth else (math.nan, math.nan)
    return Estimate(float(np.median(walsh)), low, high, len(d))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64).ravel()
    return numbers[np.isfinite(numbers)]


def _walsh_depth(n: int) -> int:
    """How far in from both ends of the sorted Walsh averages the 95 % bounds lie; 0 when n is too small."""
    if n > _EXACT:
        # The largest rank sum that the normal approximation rejects on the low side, plus one.
        return math.floor(n * (n + 1) / 4 - _Z * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)) + 1
    chance = np.ones(1)  # of each value of W⁺: every rank is in it or not, evens
    for rank in range(1, n + 1):
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    return int(np.sum(chance.cumsum() <= 0.025))
