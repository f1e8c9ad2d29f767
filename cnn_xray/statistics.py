"""Patient-cluster bootstrap: how far a number would move had other patients been filmed; and tests.

Images of one patient are not independent, so patients are drawn, not images (Efron & Tibshirani 1993, ch. 8;
Field & Welsh 2007). Drawing a patient twice counts each of its images twice: a replicate is a row of image
weights, and any weighted statistic (``sample_weight`` in scikit-learn) gives its bootstrap replicate.

The tests ``delong``, ``mcnemar`` and ``signed_rank`` take their rows as independent: one image a patient, or one
number a patient. With several images a patient, ``bootstrap_p`` on the replicates above is the test to use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cnn_xray import InputError

REPLICATES = 2000
UNDEFINED = 0.05  # share of replicates without a value beyond which an interval says nothing
_Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
_EXACT = 50  # differences up to which the signed-rank distribution is enumerated, as in scipy.stats.wilcoxon
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


@dataclass(frozen=True)
class Comparison(Estimate):
    """An Estimate with its test against "no effect".

    p: two-sided. se: standard error, where the method has one. effect: effect size in -1..1, where the method
    has one. Each is NaN where undefined or absent.
    """

    p: float
    se: float = math.nan
    effect: float = math.nan


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


def sample_and_replicates(patients: Patients, seed: int = 0) -> NDArray[np.int16]:
    """`bootstrap_weights` with the sample itself (all ones) as row 0, so that value and replicates share their code.

    Returns (1 + REPLICATES, N) int16.
    """
    drawn = bootstrap_weights(patients, REPLICATES, seed)
    return np.vstack([np.ones((1, drawn.shape[1]), np.int16), drawn])


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
    width 0. They are NaN as well where the value is, even if some replicates are defined.
    """
    known = pd.Series(patients).nunique() > 1 and not math.isnan(value)
    low, high = interval(replicates) if known else (math.nan, math.nan)
    return Estimate(float(value), low, high, len(patients))


def compare(value: float, replicates: ArrayLike, patients: Patients, null: float = 0.0) -> Comparison:
    """`estimate` with `bootstrap_p` against ``null``; p is NaN with fewer than two patients.

    Interval and p are NaN as well where more than 5 % of the replicates are undefined: those left over would be chosen
    by the very thing that is asked.
    """
    undefined = 1 - np.isfinite(np.asarray(replicates, np.float64)).mean()
    if undefined > UNDEFINED:
        return Comparison(float(value), math.nan, math.nan, len(patients), math.nan)
    p = bootstrap_p(value, replicates, null) if pd.Series(patients).nunique() > 1 else math.nan
    return Comparison(**vars(estimate(value, replicates, patients)), p=p)


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


def delong(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike | None = None) -> Comparison:
    """AUC against 0.5, or the difference of two AUCs (a − b) on the same images against 0.

    DeLong, DeLong & Clarke-Pearson 1988, from midranks (Sun & Xu 2014, IEEE Signal Process. Lett. 21:1389).

    labels: (N,) in {0, 1}. scores_a, scores_b: (N,), higher for label 1, on any scale; ties count half. Returns
    the AUC or difference with its standard error and the normal interval and p, the interval clipped to what
    is possible. All NaN when a class is absent; a class with one image gives the value alone. A standard error
    of 0 gives no interval either, and p = 1 when there is no effect, else NaN: with perfect separation the
    method has nothing to go by, and p = 0 would be claimed of four images too. Raises InputError on other
    labels, NaN scores and unequal lengths.
    """
    from scipy.stats import rankdata  # imported late, as below: half a second

    y, *scores = _columns(*([labels, scores_a] if scores_b is None else [labels, scores_a, scores_b]))
    if not np.isin(y, (0, 1)).all() or np.isnan(scores).any():
        raise InputError("DeLong's test needs labels 0 or 1 and a score for each image: a label or score is not.")
    positive = y == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Comparison(math.nan, math.nan, math.nan, len(y), math.nan)
    # Halves of whole numbers, so exact: the negatives each positive beats, and the positives each negative loses to.
    beats, loses = np.zeros(m), np.zeros(n)
    for sign, score in zip((1, -1), scores, strict=False):
        ranks = rankdata(score)
        beats += sign * (ranks[positive] - rankdata(score[positive]))
        loses += sign * (m - ranks[~positive] + rankdata(score[~positive]))
    value = float(beats.mean() / n)
    lowest, null = (0.0, 0.5) if scores_b is None else (-1.0, 0.0)
    se = math.nan
    if m > 1 and n > 1:
        se = math.sqrt(beats.var(ddof=1) / n**2 / m + loses.var(ddof=1) / m**2 / n)
    if not se > 0:
        return Comparison(value, math.nan, math.nan, len(y), 1.0 if se == 0 and value == null else math.nan, se)
    low, high = max(value - _Z * se, lowest), min(value + _Z * se, 1.0)
    return Comparison(value, low, high, len(y), math.erfc(abs(value - null) / se / math.sqrt(2)), se)


def mcnemar(a_right: ArrayLike, b_right: ArrayLike) -> Comparison:
    """Difference in the share of images that a and b get right (a − b), with McNemar's exact test (1947).

    a_right, b_right: (N,) bool, the same images. p is binomial on the images that only one gets right, 1 when
    there are none. No interval: statsmodels has none for paired shares; ``paired_difference`` has the
    patients'. NaN without images. Raises InputError on values that are not bool (or 0 and 1) and unequal
    lengths.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar

    a, b = _columns(a_right, b_right)
    if not np.isin([a, b], (0, 1)).all():
        raise InputError("McNemar's test needs right or wrong, True or False, for each image: got other values.")
    if not len(a):
        return Comparison(math.nan, math.nan, math.nan, 0, math.nan)
    table = [[np.sum((a == i) & (b == j)) for j in (1, 0)] for i in (1, 0)]
    p = float(exact_mcnemar(table, exact=True).pvalue)
    return Comparison(float(np.sum(a - b) / len(a)), math.nan, math.nan, len(a), p)


def signed_rank(differences: ArrayLike) -> Comparison:
    """Hodges–Lehmann estimate of paired differences, with Wilcoxon's signed-rank test against 0.

    differences: (N,) float; those not finite are left out (``n`` counts the rest). Returns the median of the
    Walsh averages (dᵢ + dⱼ) / 2, i <= j, with the distribution-free interval between two of them (Hollander &
    Wolfe 1999, § 3.2; exact up to 50 differences, then the normal rank) and p by ``scipy.stats.wilcoxon``.
    ``effect`` is the matched-pairs rank-biserial correlation (W⁺ − W⁻) / (W⁺ + W⁻) (Kerby 2014). Zeros count in
    the estimate and interval but, after Wilcoxon, not in p and effect: all zero is p = 1, effect NaN. Fewer
    than 6 differences give no 95 % interval; without any, all is NaN. Memory grows with N²: 3,000 differences
    take about 150 MB. Raises InputError on anything but numbers in one dimension.
    """
    from scipy import stats

    (d,) = _columns(differences)
    d = d[np.isfinite(d)]
    if not len(d):
        return Comparison(math.nan, math.nan, math.nan, 0, math.nan)
    i, j = np.triu_indices(len(d))
    walsh = np.sort((d[i] + d[j]) / 2)
    depth = _walsh_depth(len(d))
    low, high = (float(walsh[depth - 1]), float(walsh[-depth])) if depth else (math.nan, math.nan)
    moved = d[d != 0]
    p, effect = 1.0, math.nan
    if len(moved):
        p = float(stats.wilcoxon(moved).pvalue)
        ranks = stats.rankdata(np.abs(moved))
        effect = float(np.sum(np.sign(moved) * ranks) / ranks.sum())
    return Comparison(float(np.median(walsh)), low, high, len(d), p, effect=effect)


def holm(p_values: Mapping[str, float] | pd.Series | ArrayLike) -> pd.Series:
    """Holm's (1979) adjusted p-values of one family of tests, in the order and under the names given.

    p_values: name -> p, a Series, or (K,). NaN, a test that could not be made, stays NaN and does not count in
    the family. Raises InputError on a p outside 0..1 and on more than one dimension.
    """
    from statsmodels.stats.multitest import multipletests

    try:
        given = dict(p_values) if isinstance(p_values, Mapping) else p_values
        adjusted = pd.Series(given).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Holm's correction needs one p-value a test: {error}.") from error
    made = adjusted.notna().to_numpy()
    if not adjusted[made].between(0, 1).all():
        raise InputError("Holm's correction needs p-values in 0..1: at least one is not.")
    if made.any():
        adjusted[made] = multipletests(adjusted[made], method="holm")[1]
    return adjusted


def bootstrap_p(value: float, replicates: ArrayLike, null: float = 0.0) -> float:
    """Two-sided p of ``null`` from bootstrap replicates, by inverting the percentile interval.

    Twice the smaller share of replicates on either side of ``null``, one counted on each side besides (Davison
    & Hinkley 1997, ch. 4), at most 1; so never below 2 / (replicates + 1). replicates: any shape, those not
    finite are left out. NaN when none is left or ``value``, what they are replicates of, is NaN.
    """
    finite = np.asarray(replicates, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if math.isnan(value) or not len(finite):
        return math.nan
    fewer = int(min((finite <= null).sum(), (finite >= null).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(finite) + 1))


def _walsh_depth(n: int) -> int:
    """How far in from both ends of the sorted Walsh averages the 95 % bounds lie; 0 when n is too small."""
    if n > _EXACT:
        # The largest rank sum that the normal approximation rejects on the low side, plus one.
        return math.floor(n * (n + 1) / 4 - _Z * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)) + 1
    chance = np.ones(1)  # of each value of W⁺: every rank is in it or not, evens
    for rank in range(1, n + 1):
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    return int(np.sum(chance.cumsum() <= 0.025))


def _columns(*arrays: ArrayLike) -> list[NDArray[np.float64]]:
    """Each as (N,) float64, all of one length, or an InputError."""
    try:
        columns = [np.asarray(array, np.float64) for array in arrays]
    except (TypeError, ValueError) as error:
        raise InputError(f"A test needs numbers without gaps: {error}.") from error
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        raise InputError(f"A test needs one number an image: got {', '.join(str(c.shape) for c in columns)}.")
    return columns
