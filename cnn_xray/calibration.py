"""Do probabilities mean what they say? Reliability, its summary figures, and probabilities repaired on validation data.

Of the films given a probability near 0.8, about 80 % should be pneumonia. A calibration is fitted on the validation
split and applied to test: on the split that it was fitted on, it looks better than it is.

A network trained with class weights or balanced sampling learns at a prevalence of 0.5, whatever the data's.
Temperature scaling cannot mend that, Platt scaling does: its intercept moves the probabilities to the prevalence of
validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cnn_xray.errors import InputError
from cnn_xray.statistics import Patients, cluster_mean, estimate, sample_and_replicates

BINS = 15
_WIDEST = math.log(1000)  # of log T, either way
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Calibration:
    """A probability from a logit: sigmoid(slope · z + intercept). After temperature scaling the slope is 1 / T."""

    slope: float
    intercept: float

    def probability(self, logits: ArrayLike) -> NDArray[np.float64]:
        """(N,) float64 in [0, 1], of (N,) logits; NaN stays NaN."""
        return expit(self.slope * np.asarray(logits, np.float64) + self.intercept)


def temperature(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Temperature scaling (Guo et al. 2017): the T > 0 with the least log loss of sigmoid(z / T). Keeps the ranking.

    logits: (N,) finite. labels: (N,) in {0, 1}. Returns slope 1 / T, intercept 0. The targets are Platt's (see
    `platt`), where Guo et al. have 0 and 1: the same but for about one film a class, and T stays above 0 when
    validation data are separated perfectly (±z, n films a class: T = z / log(n + 1)). T lies in 0.001..1000; it comes
    near 1000 where logits are no better than chance, and all probabilities are then about 0.5. Raises InputError on
    other labels, a single class, logits that are not finite and unequal lengths.
    """
    z, target = _to_fit(logits, labels)

    def log_loss(log_t: float) -> float:
        scaled = z / math.exp(log_t)
        return float(np.mean(np.logaddexp(0, scaled) - target * scaled))

    found = minimize_scalar(log_loss, bounds=(-_WIDEST, _WIDEST), method="bounded", options={"xatol": 1e-8})
    return Calibration(math.exp(-found.x), 0.0)


def platt(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Platt scaling (Platt 1999): the a and b with the least log loss of sigmoid(a z + b), without penalty.

    logits: (N,) finite. labels: (N,) in {0, 1}. The targets are Platt's own, (N₊ + 1) / (N₊ + 2) for a positive and
    1 / (N₋ + 2) for a negative, so that a stays finite when the classes are separated perfectly. a is negative where
    logits rank the wrong way round, and 0 where all are equal. Raises as `temperature` does.
    """
    z, target = _to_fit(logits, labels)
    scaler = StandardScaler()
    x = scaler.fit_transform(z[:, None])
    # A target between 0 and 1 is one row of either label, weighted.
    fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.vstack([x, x]), np.repeat([1, 0], len(z)), sample_weight=np.r_[target, 1 - target]
    )
    slope = float(fit.coef_[0, 0] / scaler.scale_[0])
    return Calibration(slope, float(fit.intercept_[0] - slope * scaler.mean_[0]))


def prior_shift(train_prevalence: float, new_prevalence: float) -> float:
    """The threshold on a probability learnt at one prevalence that equals 0.5 at another (Saerens et al. 2002).

    Each in 0..1, exclusive. If films of one class look alike in both places, only the odds change, by
    [π′/(1−π′)] / [π/(1−π)] with π the prevalence trained at and π′ the new one; corrected odds are 1 at the probability
    π(1−π′) / (π(1−π′) + π′(1−π)).

    train_prevalence is the one that the probabilities speak of, not that of the files: 0.5 after training with class
    weights or balanced sampling (the threshold is then 1 − π′), validation's after `platt`, else that of the training
    films. Raises InputError on a prevalence outside.
    """
    for name, value in (("trained at", train_prevalence), ("met now", new_prevalence)):
        if not 0 < value < 1:
            raise InputError(f"The prevalence {name} is {value}: it must lie between 0 and 1, both excluded.")
    odds = train_prevalence / (1 - train_prevalence) * (1 - new_prevalence) / new_prevalence
    return odds / (1 + odds)


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, patients: Patients, bins: int = BINS, seed: int = 0
) -> pd.DataFrame:
    """The points of a reliability diagram: one row a bin, from low to high probability.

    labels: (N,) in {0, 1}. probabilities: (N,) in [0, 1], of label 1, not of the class decided for (so unlike Guo et
    al. 2017). patients: (N,). Bins hold equally many films, but equal probabilities share one. Index ``bin`` from 1;
    columns mean_probability, share_positive with its patient-bootstrap interval low, high, and n. low and high are NaN
    with fewer than two patients in the bin, and where its films are all of one class: there every replicate is the
    same, and an interval of width 0 would be false. Raises InputError on other labels or probabilities, unequal
    lengths, no film, a missing patient and fewer than one bin.
    """
    y, p = _checked(labels, probabilities, patients)
    names, number = np.asarray(patients, object), _bins(p, bins)
    rows = []
    for b in np.unique(number):
        here = number == b
        share = cluster_mean(y[here], names[here], seed=seed)
        low, high = (share.low, share.high) if 0 < share.value < 1 else (math.nan, math.nan)
        rows.append((p[here].mean(), share.value, low, high, share.n))
    columns = ["mean_probability", "share_positive", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="bin"))


def calibration_scores(
    labels: ArrayLike, probabilities: ArrayLike, patients: Patients, bins: int = BINS, seed: int = 0
) -> pd.DataFrame:
    """Brier score, log loss (nats) and expected calibration error, each with its 95 % patient-bootstrap interval.

    Arguments as of `reliability`. Returns a table, index ``metric``: brier, log_loss, ece; columns value, low, high,
    the bounds NaN with fewer than two patients. In the log loss a probability is kept 2·10⁻¹⁶ away from 0 and 1, as in
    scikit-learn: a film that is wrong beyond doubt costs 36.

    The ECE is the mean distance of probability and observed share over the bins of `reliability`, Σ n_b/N · |mean p −
    mean y| (with bins of equal mass also called adaptive: Nixon et al. 2019). It is biased upwards: perfect
    probabilities have one above 0 too, the more so the fewer films. The bins are cut once, as a threshold is locked, so
    that a replicate varies what was observed in them. Replicates of the ECE are biased upwards by about as much as the
    ECE itself (a mean of distances, to which resampling adds noise). So its interval is the basic one (Davison &
    Hinkley 1997, ch. 5): percentiles of 2·value − replicate, none below 0, and high at least the value. That undoes
    only part of the bias: low may lie somewhat above 0 (0.02 with 600 films) for perfect probabilities too. Two
    networks are better compared on Brier score or log loss. Raises as `reliability` does.
    """
    y, p = _checked(labels, probabilities, patients)
    inside = np.clip(p, _EPS, 1 - _EPS)
    number, weights = _bins(p, bins), sample_and_replicates(patients, seed)
    surplus = np.where(number[:, None] == np.unique(number), (p - y)[:, None], 0)  # a bin's sum: n_b (mean p − mean y)
    ece = np.abs(weights @ surplus).sum(axis=1) / weights.sum(axis=1)
    scores = {
        "brier": cluster_mean((p - y) ** 2, patients, seed=seed),
        "log_loss": cluster_mean(-np.log(np.where(y == 1, inside, 1 - inside)), patients, seed=seed),
        "ece": estimate(float(ece[0]), np.maximum(0, 2 * ece[0] - ece[1:]), patients),
    }
    rows = [(e.value, e.low, np.maximum(e.high, e.value)) for e in scores.values()]
    return pd.DataFrame(rows, columns=["value", "low", "high"], index=pd.Index(scores, name="metric"))


def _bins(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """(N,) number of each film's bin of equal mass, from 0. Equal values share one, so some bins may stay empty."""
    if bins < 1:
        raise InputError(f"{bins} bins were asked for: at least one is needed.")
    # Ties share their mean rank, so row order has no say; twice a rank is a whole number, so nothing is rounded.
    return ((2 * rankdata(p) - 1) * bins // (2 * len(p))).astype(np.int64)


def _to_fit(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits and Platt's targets, both (N,) float64, or an InputError."""
    z, y = _number_each(logits, labels)
    _refuse(~np.isfinite(z), z, "Logits must be finite (NaN means a model that diverged)")
    positives = int(y.sum())
    if not 0 < positives < len(y):
        raise InputError(f"A calibration needs films of both classes: {positives} of {len(y)} are of label 1.")
    return z, np.where(y == 1, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, patients: Patients
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels as int64 and probabilities as float64, both (N,), or an InputError."""
    p, y = _number_each(probabilities, labels)
    _refuse(~((p >= 0) & (p <= 1)), p, "Probabilities must lie in 0..1 (others are logits without their sigmoid)")
    if not len(y) or len(patients) != len(y):
        raise InputError(
            "Calibration is measured on one film at least, each with its patient: "
            f"got {len(y)} films and {len(patients)} patients."
        )
    return y, p


def _number_each(values: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values and labels of the same films, both (N,), the labels in {0, 1}."""
    try:
        v, y = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Calibration needs numbers without gaps: {error}.") from error
    if v.ndim != 1 or v.shape != y.shape:
        raise InputError(f"Calibration needs one number and one label a film: got {v.shape} and {y.shape}.")
    _refuse((y != 0) & (y != 1), y, "Labels must be 0 or 1")
    return v, y.astype(np.int64)


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.float64], rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise InputError(f"{rule}: row {rows[0]} has {values[rows[0]]:g} ({len(rows)} such).")
