"""Classification metrics with patient-bootstrap intervals, and thresholds chosen on validation data.

Positive is label 1 (PNEUMONIA); an image is called positive when its probability is at least the threshold.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from cnn_xray.errors import InputError
from cnn_xray.statistics import REPLICATES, Comparison, Patients, bootstrap_weights, compare, estimate

METRICS = (
    "accuracy", "sensitivity", "specificity", "precision", "npv", "f1",
    "balanced_accuracy", "auc", "pr_auc", "brier",
)  # fmt: skip
_NEED_BOTH_CLASSES = ("precision", "npv", "f1", "balanced_accuracy", "auc", "pr_auc")
_CHUNK = 250  # replicates at a time: keeps the working arrays in cache, and memory flat for large test sets


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """The ten metrics of METRICS, by scikit-learn.

    labels: (N,) in {0, 1}. probabilities: (N,) in [0, 1]. ``pr_auc`` is average precision (a step sum, no
    interpolation); ``brier`` the mean squared error of the probability. NaN, never a silent 0, where
    undefined: sensitivity without positives, specificity without negatives, precision (npv) when nothing is
    called positive (negative), and these two, F1, balanced accuracy, AUC and PR-AUC when a class is absent.
    Raises InputError on other labels, probabilities that are NaN or outside [0, 1], and unequal lengths.
    """
    y, p = _checked(labels, probabilities)
    called = (p >= threshold).astype(int)
    nan = {"zero_division": np.nan}
    both = 0 < y.sum() < len(y)
    values = {
        "accuracy": metrics.accuracy_score(y, called),
        "sensitivity": metrics.recall_score(y, called, **nan),
        "specificity": metrics.recall_score(y, called, pos_label=0, **nan),
        "precision": metrics.precision_score(y, called, **nan),
        "npv": metrics.precision_score(y, called, pos_label=0, **nan),
        "f1": metrics.f1_score(y, called, **nan),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, called) if both else math.nan,
        "auc": metrics.roc_auc_score(y, p) if both else math.nan,
        "pr_auc": metrics.average_precision_score(y, p) if both else math.nan,
        "brier": np.mean((p - y) ** 2),
    }
    if not both:
        values |= dict.fromkeys(_NEED_BOTH_CLASSES, math.nan)
    return {name: float(values[name]) for name in METRICS}


def with_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Patients,
    threshold: float = 0.5,
    n: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Every metric with its 95 % patient-bootstrap interval.

    patients: (N,). Returns a table, index ``metric`` (the names in METRICS), columns value, low, high; low
    and high are NaN with fewer than two patients. The threshold stays fixed: the interval is that of a locked
    model. Raises InputError as classification_metrics does.
    """
    y, p = _checked(labels, probabilities, patients)
    values = classification_metrics(y, p, threshold)
    replicates = _replicates(y, p, threshold, bootstrap_weights(patients, n, seed))
    rows = {name: estimate(values[name], replicates[name], patients) for name in METRICS}
    table = pd.DataFrame({name: [e.value, e.low, e.high] for name, e in rows.items()}, index=["value", "low", "high"])
    return table.T.rename_axis("metric")


def auc_with_interval(
    labels: ArrayLike, probabilities: ArrayLike, patients: Patients, n: int = REPLICATES, seed: int = 0
) -> Comparison:
    """Area under the ROC curve with its interval, p against 0.5; NaN when a class is absent.

    Raises as classification_metrics does.
    """
    y, p = _checked(labels, probabilities, patients)
    replicates = weighted_auc(y, p, bootstrap_weights(patients, n, seed))
    return compare(classification_metrics(y, p)["auc"], replicates, patients, null=0.5)


def weighted_auc(labels: NDArray[Any], probabilities: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """AUC of every replicate: a weighted Mann–Whitney statistic, ties counted half.

    Equals scikit-learn's ``roc_auc_score(sample_weight=w)`` for each row w, in one pass over all.

    labels, probabilities: (N,). weights: (n, N) >= 0. Returns (n,), NaN where a class has no weight.
    """
    y, p = np.asarray(labels), np.asarray(probabilities)
    return np.concatenate([_rank_metrics(*_by_score(y, p, w))[0] for w in _chunks(weights)])


def youden_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The threshold that maximises Youden's J = sensitivity + specificity − 1 (Youden 1950).

    Choose it on validation data: on test data it is an oracle. Of several equal maxima the highest counts.
    The threshold lies midway between the lowest probability called positive and the next lower one, so that
    it changes no decision here and leaves room on both sides elsewhere. Raises InputError when a class is
    absent.
    """
    y, p = _checked(labels, probabilities)
    if not 0 < y.sum() < len(y):
        raise InputError("Youden's threshold needs images of both classes: choose another split.")
    fpr, tpr, scores = metrics.roc_curve(y, p, drop_intermediate=False)
    # The first point of the curve, at infinity, calls nothing positive and is no usable threshold.
    return _midway(p, scores[1:][np.argmax((tpr - fpr)[1:])])


def sensitivity_threshold(labels: ArrayLike, probabilities: ArrayLike, target: float = 0.95) -> float:
    """The highest threshold at which sensitivity on these images is at least ``target`` (0 < target <= 1).

    With P positives the ⌈target·P⌉ most probable of them must be called positive; the threshold lies midway
    between the last of these and the next lower probability of any image, as in youden_threshold. Choose it
    on validation data. Raises InputError without positives or for an impossible target.
    """
    y, p = _checked(labels, probabilities)
    if not 0 < target <= 1:
        raise InputError(f"The target sensitivity is {target}: it must be above 0 and at most 1.")
    positives = np.sort(p[y == 1])[::-1]
    if not len(positives):
        raise InputError("A threshold for a given sensitivity needs images of label 1: there are none.")
    needed = math.ceil(target * len(positives) - 1e-9)  # 0.55 × 100 is 55.00000000000001 in floating point
    return _midway(p, positives[needed - 1])


def _midway(probabilities: NDArray[np.float64], score: float) -> float:
    lower = probabilities[probabilities < score]
    if not len(lower):
        return float(score)
    middle = (score + lower.max()) / 2
    return float(middle if middle > lower.max() else score)  # neighbouring floats have no number between them


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, patients: Patients | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels as int64 and probabilities as float64, both (N,), or an InputError that names the bad row."""
    try:
        y = np.asarray(labels, np.float64)
        p = np.asarray(probabilities, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Labels and probabilities must be numbers without gaps: {error}.") from error
    if y.ndim != 1 or y.shape != p.shape or not len(y) or (patients is not None and len(patients) != len(y)):
        given = f"labels {y.shape}, probabilities {p.shape}"
        given += "" if patients is None else f", patients ({len(patients)},)"
        raise InputError(f"Scores need a label, a probability and a patient for each image, at least one: got {given}.")
    wrong = np.flatnonzero((y != 0) & (y != 1))
    if len(wrong):
        raise InputError(f"Labels must be 0 or 1: row {wrong[0]} has {y[wrong[0]]:g} ({len(wrong)} such).")
    wrong = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if len(wrong):
        raise InputError(
            f"Probabilities must lie in 0..1: row {wrong[0]} has {p[wrong[0]]:g} ({len(wrong)} such); "
            "NaN means a model that diverged, other numbers a logit without its sigmoid."
        )
    return y.astype(np.int64), p


def _chunks(weights: NDArray[Any]) -> list[NDArray[Any]]:
    return [weights[start : start + _CHUNK] for start in range(0, len(weights), _CHUNK)]


def _by_score(
    y: NDArray[Any], p: NDArray[Any], weights: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of positives and of negatives at each distinct probability, highest first: two (n, G) arrays."""
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    w = weights[:, order].astype(np.float64)
    positive = w * (y[order] == 1)
    return np.add.reduceat(positive, starts, axis=1), np.add.reduceat(w - positive, starts, axis=1)


def _rank_metrics(
    pos: NDArray[np.float64], neg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and average precision of each row of (n, G) class weights by falling probability; NaN without a
    class."""
    true_positive, false_positive = pos.cumsum(axis=1), neg.cumsum(axis=1)
    n_pos, n_neg = true_positive[:, -1], false_positive[:, -1]
    # A negative scored lower than a group loses against its positives; one in the same group counts half.
    beaten = (pos * (n_neg[:, None] - false_positive + neg / 2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = beaten / (n_pos * n_neg)
        precision = np.nan_to_num(true_positive / (true_positive + false_positive))
        average_precision = (pos * precision).sum(axis=1) / np.where(n_neg > 0, n_pos, 0)
    absent = (n_pos == 0) | (n_neg == 0)
    return np.where(absent, np.nan, auc), np.where(absent, np.nan, average_precision)


def _replicates(
    y: NDArray[Any], p: NDArray[Any], threshold: float, weights: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """The metrics of classification_metrics for every row of (n, N) image weights: name -> (n,)."""
    called = p >= threshold
    cells = np.stack([(y == 1) & called, (y == 1) & ~called, (y == 0) & called, (y == 0) & ~called], axis=1)
    columns = np.c_[cells, (p - y) ** 2]
    sums = np.concatenate([w.astype(np.float64) @ columns for w in _chunks(weights)])
    tp, fn, fp, tn, squared = sums.T
    total = tp + fn + fp + tn
    ranks = [_rank_metrics(*_by_score(y, p, w)) for w in _chunks(weights)]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "accuracy": (tp + tn) / total,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            "auc": np.concatenate([auc for auc, _ in ranks]),
            "pr_auc": np.concatenate([average_precision for _, average_precision in ranks]),
            "brier": squared / total,
        }
    absent = (tp + fn == 0) | (tn + fp == 0)
    return {k: np.where(absent, np.nan, v) if k in _NEED_BOTH_CLASSES else v for k, v in values.items()}
