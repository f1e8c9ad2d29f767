"""Classification metrics with patient-bootstrap intervals, and thresholds chosen on validation data.

Positive is label 1 (PNEUMONIA); an image is called positive when its probability is at least the threshold.

Where to call a film PNEUMONIA: thresholds from validation films or a known prevalence, and what each gives.

Do probabilities mean what they say? Reliability, its summary figures, and probabilities repaired on validation data.

Of the films given a probability near 0.8, about 80 % should be pneumonia. A calibration is fitted on the validation
split and applied to test: on the split that it was fitted on, it looks better than it is.

A network trained with class weights or balanced sampling learns at a prevalence of 0.5, whatever the data's.
Temperature scaling cannot mend that, Platt scaling does: its intercept moves the probabilities to the prevalence of
validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError
from cnn_xray.statistics import (
    REPLICATES,
    Comparison,
    Patients,
    bootstrap_weights,
    cluster_mean,
    compare,
    estimate,
    sample_and_replicates,
)

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


def metrics_with_intervals(
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


def auc_difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> Comparison:
    """AUC on one set of images less that on another (label, logit, patient), patients of both drawn together."""
    both = pd.concat([first, second])
    weights = sample_and_replicates(both["patient"], seed)
    cut = len(first)
    aucs = [
        weighted_auc(part["label"].to_numpy(), part["logit"].to_numpy(), own)
        for part, own in ((first, weights[:, :cut]), (second, weights[:, cut:]))
    ]
    difference = aucs[0] - aucs[1]
    return compare(difference[0], difference[1:], both["patient"])


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


LOCKED = "0.5"  # where a network trained on balanced classes is undecided: nothing to choose
SENSITIVITY = 0.95
ADVISED = f"validation, {SENSITIVITY:.0%} sensitivity"


def thresholds(validation: pd.DataFrame, learned_prevalence: float, new_prevalence: float) -> dict[str, float]:
    """Name → threshold on the probability, from the validation films (columns label, probability).

    0.5; Youden's and that of 95 % sensitivity on validation; 0.5 corrected for the prevalence of the films to come,
    which somebody has to know. ``learned_prevalence`` is the one that the probabilities speak of
    (`calibration.prior_shift`). Raises InputError when validation lacks a class.
    """
    labels, probabilities = validation["label"], validation["probability"]
    return {
        LOCKED: 0.5,
        "validation, Youden": youden_threshold(labels, probabilities),
        ADVISED: sensitivity_threshold(labels, probabilities, SENSITIVITY),
        f"0.5 for a prevalence of {new_prevalence:.3g}": prior_corrected_threshold(learned_prevalence, new_prevalence),
    }


def metrics_at_thresholds(films: pd.DataFrame, chosen: dict[str, float]) -> pd.DataFrame:
    """The metrics of films (columns label, probability) at each threshold: index ``threshold at``."""
    rows = {
        name: {"threshold": threshold, **classification_metrics(films["label"], films["probability"], threshold)}
        for name, threshold in chosen.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold at")


def learned_prevalence(balance: str, labels: pd.Series) -> float:
    """The prevalence that a network learns: 0.5 when training makes the classes equal, else that of its labels."""
    return float(labels.mean()) if balance == "none" else 0.5


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


def temperature_scaling(logits: ArrayLike, labels: ArrayLike) -> Calibration:
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


def platt_scaling(logits: ArrayLike, labels: ArrayLike) -> Calibration:
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


def prior_corrected_threshold(train_prevalence: float, new_prevalence: float) -> float:
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


def reliability_bins(
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
    y, p = _checked_probabilities(labels, probabilities, patients)
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
    y, p = _checked_probabilities(labels, probabilities, patients)
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


def _checked_probabilities(
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
