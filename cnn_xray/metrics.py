"""How good a classifier is: metrics by patient bootstrap, thresholds, and whether probabilities mean what they say.

Positive is label 1 (PNEUMONIA); an image is called positive when its probability is at least the threshold. What is
chosen or fitted (a threshold, a calibration) is so on validation images and applied to test: on the images that it was
chosen on, it looks better than it is.

Of the images given a probability near 0.8, about 80 % should be positive. A network trained with class weights or
balanced sampling learns at a prevalence of 0.5, whatever the data's. Temperature scaling cannot mend that, Platt
scaling does: its intercept moves the probabilities to the prevalence of validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError
from cnn_xray.statistics import Comparison, checked_columns, cluster_mean, compare, estimate, sample_and_replicates

LOCKED = "0.5"  # where a network trained on balanced classes is undecided: nothing to choose
SENSITIVITY = 0.95
ADVISED = f"validation, {SENSITIVITY:.0%} sensitivity"
BINS = 15
FOLDS = 5
_SMALLEST_SLOPE = 1e-3  # of a temperature scaling: a temperature of 1000
_EPS = np.finfo(np.float64).eps
_CHUNK = 250  # replicates at a time: keeps the working arrays in cache, and memory flat for large test sets


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Ten metrics by name: at the threshold, of the ranking (auc, pr_auc), of the probabilities (brier).

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    probabilities : array_like (N,)
        Of label 1, in 0..1.
    threshold : float
        The lowest probability that is called positive.

    Returns
    -------
    dict of str to float
        ``pr_auc`` is average precision (a step sum, no interpolation); ``brier`` the mean squared error of the
        probability. NaN, never a silent 0, where undefined: sensitivity without positives, specificity without
        negatives, precision (npv) when nothing is called positive (negative), and these two, F1, balanced accuracy,
        AUC and PR-AUC when a class is absent.

    Raises
    ------
    InputError
        On other labels, probabilities that are NaN or outside 0..1, unequal lengths, no image.
    """
    y, p = checked_columns(labels=labels, probabilities=probabilities)
    return {name: float(value[0]) for name, value in _metrics(y, p, threshold, np.ones((1, len(y)))).items()}


def metrics_with_intervals(
    labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, threshold: float = 0.5, seed: int = 0
) -> pd.DataFrame:
    """Every metric of `classification_metrics` with its 95 % patient-bootstrap interval.

    Parameters
    ----------
    labels, probabilities : array_like (N,)
        As of `classification_metrics`.
    patients : array_like (N,)
        The patient of every image.
    threshold : float
        Stays fixed in the bootstrap: the interval is that of a locked model.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Index ``metric``; columns value, low, high, the bounds NaN with fewer than two patients.

    Raises
    ------
    InputError
        As `classification_metrics`, and where a patient is missing.
    """
    y, p, names = checked_columns(labels=labels, probabilities=probabilities, patients=patients)
    found = _metrics(y, p, threshold, sample_and_replicates(names, seed))
    rows = {name: vars(estimate(values[0], values[1:], names)) for name, values in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")[["value", "low", "high"]].rename_axis("metric")


def auc_with_interval(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, seed: int = 0) -> Comparison:
    """Area under the ROC curve with its patient-bootstrap interval and p against 0.5.

    Parameters
    ----------
    labels, probabilities : array_like (N,)
        As of `classification_metrics`.
    patients : array_like (N,)
        The patient of every image.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Comparison
        NaN when a class is absent.

    Raises
    ------
    InputError
        As `metrics_with_intervals`.
    """
    y, p, names = checked_columns(labels=labels, probabilities=probabilities, patients=patients)
    aucs = weighted_auc(y, p, sample_and_replicates(names, seed))
    return compare(aucs[0], aucs[1:], names, null=0.5)


def auc_difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> Comparison:
    """AUC on one set of images less that on another, patients of both drawn together.

    Parameters
    ----------
    first, second : DataFrame
        Columns label, logit, patient.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Comparison
        With p against 0.
    """
    patients = pd.concat([first, second])["patient"]
    weights = sample_and_replicates(patients, seed)
    of_first = weighted_auc(first["label"], first["logit"], weights[:, : len(first)])
    difference = of_first - weighted_auc(second["label"], second["logit"], weights[:, len(first) :])
    return compare(difference[0], difference[1:], patients)


def information_added(
    labels: ArrayLike,
    known: ArrayLike | None,
    added: ArrayLike,
    patients: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Comparison:
    """What a second score tells of the label that a first one does not, in nats an image.

    Two logistic regressions, on the first score and on both, are fitted on four fifths of the patients and scored on
    the last fifth, in turn. What the second score takes off the log loss is the information that it adds (conditional
    mutual information, as far as logistic regressions can use it). It still counts where AUCs saturate near 1. A
    useless score comes out at 0 or slightly below; nothing can add more than the entropy of the labels, 0.69 nats where
    the classes are even.

    Scores may come from several trainings of the same two networks. The value is then the mean over the trainings, and
    the interval draws them anew as well as the patients.

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    known, added : array_like (N,) or (T, N)
        The first and the second score, of every training a row; finite, on any scale. Without a first one: what the
        second tells by itself.
    patients : array_like (N,)
        The patient of every image; all of a patient's images are held out together.
    groups : array_like (N,), optional
        Such as the split: regressions are fitted within each, for a score may mean something else there.
    seed : int
        Of the folds and of the bootstrap.

    Returns
    -------
    Comparison
        With its interval and p against 0; NaN where a class of a group has fewer than five patients.

    Raises
    ------
    InputError
        On other labels, scores that are not finite, unequal lengths.

    References
    ----------
    Cover & Thomas 2006, Elements of Information Theory, ch. 2; Xu et al. 2020, ICLR (usable information).
    """
    second = np.atleast_2d(np.asarray(added, float))
    first = np.zeros_like(second) if known is None else np.atleast_2d(np.asarray(known, float))
    group = np.zeros(second.shape[1]) if groups is None else np.asarray(groups)
    gained = np.empty(second.shape)
    for training, (old, new) in enumerate(zip(first, second, strict=True)):
        y, *x, names = checked_columns(labels=labels, scores_known=old, scores_added=new, patients=patients)
        for rows in (np.flatnonzero(group == one) for one in np.unique(group)):
            if min(len(set(names[rows][y[rows] == label])) for label in (0, 1)) < FOLDS:
                return Comparison(math.nan, n=len(y))
            gained[training, rows] = _gained(y[rows], x[0][rows], x[1][rows], names[rows], seed)
    weights = sample_and_replicates(names, seed)
    drawn = sample_and_replicates(np.arange(len(gained)), seed + 1) / len(gained)  # another stream than the patients'
    found = ((weights @ gained.T) * drawn).sum(axis=1) / weights.sum(axis=1)
    return compare(found[0], found[1:], names)


def _gained(y: NDArray, first: NDArray, second: NDArray, names: NDArray, seed: int) -> NDArray[np.float64]:
    """By how much the second score lowers the log loss of each image held out, nats (N,)."""
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    asked = {"y": y, "groups": names, "cv": folds, "method": "predict_proba"}
    predicted = [cross_val_predict(model, x, **asked) for x in (first[:, None], np.c_[first, second])]
    right = np.log(np.maximum(np.stack(predicted)[:, np.arange(len(y)), y.astype(int)], _EPS))
    return right[1] - right[0]


def weighted_auc(labels: ArrayLike, scores: ArrayLike, weights: NDArray[np.number]) -> NDArray[np.float64]:
    """AUC of every replicate: a weighted Mann–Whitney statistic, ties counted half.

    Equals scikit-learn's ``roc_auc_score(sample_weight=w)`` for each row w, in one pass over all.

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    scores : array_like (N,)
        Higher for label 1, on any scale.
    weights : ndarray (n, N)
        Of every image in each replicate, 0 or more.

    Returns
    -------
    ndarray (n,) float64
        NaN where a class has no weight.
    """
    return _rank_metrics(np.asarray(labels), np.asarray(scores), weights)[0]


def youden_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The threshold that maximises Youden's J = sensitivity + specificity − 1.

    Choose it on validation images: on test images it is an oracle. It lies midway between the lowest probability
    called positive and the next lower one, so that it changes no decision here and leaves room on both sides elsewhere.

    Parameters
    ----------
    labels, probabilities : array_like (N,)
        As of `classification_metrics`.

    Returns
    -------
    float
        Of several equal maxima the highest.

    Raises
    ------
    InputError
        As `classification_metrics`, and when a class is absent.

    References
    ----------
    Youden 1950, Cancer 3:32.
    """
    y, p = checked_columns(labels=labels, probabilities=probabilities)
    _need_both_classes(y, "Youden's threshold")
    fpr, tpr, scores = roc_curve(y, p, drop_intermediate=False)
    # The first point of the curve, at infinity, calls nothing positive and is no usable threshold.
    return _midway(p, scores[1:][np.argmax((tpr - fpr)[1:])])


def sensitivity_threshold(labels: ArrayLike, probabilities: ArrayLike, target: float = SENSITIVITY) -> float:
    """The highest threshold at which sensitivity on these images is at least ``target``.

    With P positives the ⌈target·P⌉ most probable of them must be called positive; the threshold lies midway between
    the last of these and the next lower probability of any image. Choose it on validation images.

    Parameters
    ----------
    labels, probabilities : array_like (N,)
        As of `classification_metrics`.
    target : float
        Above 0, at most 1.

    Returns
    -------
    float
        On the probability.

    Raises
    ------
    InputError
        As `classification_metrics`, when a class is absent, and for an impossible target.
    """
    y, p = checked_columns(labels=labels, probabilities=probabilities)
    if not 0 < target <= 1:
        raise InputError(f"The target sensitivity is {target}: it must be above 0 and at most 1.")
    _need_both_classes(y, "A threshold for a given sensitivity")
    positives = np.sort(p[y == 1])[::-1]
    needed = math.ceil(target * len(positives) - 1e-9)  # 0.55 × 100 is 55.00000000000001 in floating point
    return _midway(p, positives[needed - 1])


def prior_corrected_threshold(train_prevalence: float, new_prevalence: float) -> float:
    """The threshold on a probability learned at one prevalence that equals 0.5 at another.

    If images of one class look alike in both places, only the odds change, by [π′/(1−π′)] / [π/(1−π)]; corrected odds
    are 1 at the probability π(1−π′) / (π(1−π′) + π′(1−π)).

    Parameters
    ----------
    train_prevalence : float
        π, in 0..1, both excluded: the one that the probabilities speak of, not that of the files (`learned_prevalence`;
        validation's after Platt scaling).
    new_prevalence : float
        π′, in 0..1, both excluded: that of the images to come.

    Returns
    -------
    float
        On the probability.

    Raises
    ------
    InputError
        On a prevalence outside.

    References
    ----------
    Saerens, Latinne & Decaestecker 2002, Neural Comput. 14:21.
    """
    for name, value in (("trained at", train_prevalence), ("met now", new_prevalence)):
        if not 0 < value < 1:
            raise InputError(f"The prevalence {name} is {value}: it must lie between 0 and 1, both excluded.")
    return float(expit(logit(train_prevalence) - logit(new_prevalence)))


def learned_prevalence(balance: str, labels: pd.Series) -> float:
    """The prevalence that a network learns: 0.5 when training makes the classes equal, else that of its labels.

    Parameters
    ----------
    balance : str
        weights, sampling or none, as in `TrainParameters`.
    labels : Series of int
        0 or 1, of the images that the network was trained on, or of a sample like them.

    Returns
    -------
    float
        In 0..1.
    """
    return float(labels.mean()) if balance == "none" else 0.5


def thresholds(validation: pd.DataFrame, learned_prevalence: float, new_prevalence: float) -> dict[str, float]:
    """Name → threshold on the probability, all from validation images and a known prevalence.

    Parameters
    ----------
    validation : DataFrame
        Columns label, probability.
    learned_prevalence : float
        The one that the probabilities speak of, in 0..1.
    new_prevalence : float
        That of the images to come, in 0..1, which somebody has to know.

    Returns
    -------
    dict of str to float
        LOCKED (0.5), Youden's, ADVISED (95 % sensitivity), and 0.5 corrected for the new prevalence.

    Raises
    ------
    InputError
        When validation lacks a class, or on a prevalence outside.
    """
    labels, probabilities = validation["label"], validation["probability"]
    found = {LOCKED: 0.5, "validation, Youden": youden_threshold(labels, probabilities)}
    found[ADVISED] = sensitivity_threshold(labels, probabilities)
    corrected = prior_corrected_threshold(learned_prevalence, new_prevalence)
    return found | {f"0.5 for a prevalence of {new_prevalence:.3g}": corrected}


def metrics_at_thresholds(images: pd.DataFrame, chosen: dict[str, float]) -> pd.DataFrame:
    """The metrics of images at each of several thresholds.

    Parameters
    ----------
    images : DataFrame
        Columns label, probability.
    chosen : dict of str to float
        Name → threshold.

    Returns
    -------
    DataFrame
        Index ``threshold at``; column threshold and those of `classification_metrics`.
    """
    judged = (images["label"], images["probability"])
    rows = [{"threshold": threshold, **classification_metrics(*judged, threshold)} for threshold in chosen.values()]
    return pd.DataFrame(rows, index=pd.Index(chosen, name="threshold at"))


@dataclass(frozen=True)
class Calibration:
    """A probability from a logit: sigmoid(slope · z + intercept).

    Attributes
    ----------
    slope : float
        1 / T after temperature scaling.
    intercept : float
        In logits; 0 after temperature scaling.
    """

    slope: float
    intercept: float

    def probability(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probability of label 1.

        Parameters
        ----------
        logits : array_like (N,)
            As they come from the network.

        Returns
        -------
        ndarray (N,) float64
            In 0..1.
        """
        return expit(self.slope * np.asarray(logits, np.float64) + self.intercept)


def temperature_scaling(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Temperature scaling: the T > 0 with the least log loss of sigmoid(z / T). Keeps the ranking.

    The targets are Platt's, as in `platt_scaling`, where Guo et al. have 0 and 1. The same but for about one image a
    class (probabilities differ by up to .003 with 800 images, .0005 with 5,000), and robust where scikit-learn's
    ``CalibratedClassifierCV(method="temperature")`` is not: separated perfectly (±z, n images a class), T is
    z / log(n + 1) and not 0, at which every probability would be 0 or 1.

    Parameters
    ----------
    logits : array_like (N,)
        Finite; of validation images.
    labels : array_like (N,)
        0 or 1.

    Returns
    -------
    Calibration
        T is at most 1000, where logits are no better than chance and all probabilities about 0.5.

    Raises
    ------
    InputError
        On other labels, a single class, logits that are not finite, unequal lengths.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger 2017, ICML.
    """
    fit = _logistic(logits, labels, fit_intercept=False)
    return Calibration(max(fit.slope, _SMALLEST_SLOPE), 0.0)


def platt_scaling(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Platt scaling: the a and b with the least log loss of sigmoid(a z + b), without penalty.

    The targets are Platt's own, (N₊ + 1) / (N₊ + 2) for a positive and 1 / (N₋ + 2) for a negative, so that a stays
    finite when the classes are separated perfectly.

    Parameters
    ----------
    logits : array_like (N,)
        Finite; of validation images.
    labels : array_like (N,)
        0 or 1.

    Returns
    -------
    Calibration
        The slope is negative where logits rank the wrong way round, and 0 where all are equal.

    Raises
    ------
    InputError
        As `temperature_scaling`.

    References
    ----------
    Platt 1999, Advances in Large Margin Classifiers.
    """
    return _logistic(logits, labels, fit_intercept=True)


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, seed: int = 0) -> pd.DataFrame:
    """The points of a reliability diagram: one row a bin, from low to high probability.

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    probabilities : array_like (N,)
        Of label 1, in 0..1; not of the class decided for (so unlike Guo et al. 2017).
    patients : array_like (N,)
        The patient of every image.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        BINS rows that hold equally many images; equal probabilities share one, so there may be fewer. Index ``bin``
        from 1; columns mean_probability, share_positive with its patient-bootstrap interval low, high, and n. low and
        high are NaN with fewer than two patients in the bin, and where its images are all of one class: there every
        replicate is the same, and an interval of width 0 would be false.

    Raises
    ------
    InputError
        As `metrics_with_intervals`.
    """
    y, p, names = checked_columns(labels=labels, probabilities=probabilities, patients=patients)
    number, rows = equal_bins(p, BINS), []
    for b in np.unique(number):
        here = number == b
        share = cluster_mean(y[here], names[here], seed=seed)
        low, high = (share.low, share.high) if 0 < share.value < 1 else (math.nan, math.nan)
        rows.append((p[here].mean(), share.value, low, high, share.n))
    columns = ["mean_probability", "share_positive", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="bin"))


def equal_bins(values: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Number of each image's bin, from 0 without gaps (N,): at most ``bins`` that hold equally many images.

    Equal values share a bin, so there may be fewer.

    Parameters
    ----------
    values : array_like (N,)
        Finite.
    bins : int
        Their number.
    """
    ranks = rankdata(values)  # ties share their mean rank, so row order has no say
    # Twice a rank is a whole number, so nothing is rounded.
    return np.unique((2 * ranks - 1) * bins // (2 * len(ranks)), return_inverse=True)[1]


def calibration_scores(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike, seed: int = 0) -> pd.DataFrame:
    """Brier score, log loss and expected calibration error, each with its 95 % patient-bootstrap interval.

    The ECE is the mean distance of probability and observed share over the bins of `reliability_bins`,
    Σ n_b/N · |mean p − mean y|. It is biased upwards: perfect probabilities have one above 0 too, the more so the fewer
    images. The bins are cut once, as a threshold is locked, so that a replicate varies what was observed in them.
    Replicates of the ECE are biased upwards by about as much as the ECE itself (a mean of distances, to which
    resampling adds noise). So its interval is the basic one: percentiles of 2·value − replicate, none below 0, and
    high at least the value. That undoes only part of the bias: low may lie somewhat above 0 (0.02 with 600 images) for
    perfect probabilities too. Two networks are better compared on Brier score or log loss.

    Parameters
    ----------
    labels, probabilities, patients : array_like (N,)
        As of `reliability_bins`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Index ``metric``: brier, log_loss (nats; a probability is kept 2·10⁻¹⁶ away from 0 and 1, so an image that is
        wrong beyond doubt costs 36), ece; columns value, low, high, the bounds NaN with fewer than two patients.

    Raises
    ------
    InputError
        As `reliability_bins`.

    References
    ----------
    Nixon et al. 2019, CVPR workshops (bins of equal mass); Davison & Hinkley 1997, ch. 5 (the basic interval).
    """
    y, p, names = checked_columns(labels=labels, probabilities=probabilities, patients=patients)
    inside = np.clip(p, _EPS, 1 - _EPS)
    number, weights = equal_bins(p, BINS), sample_and_replicates(names, seed)
    surplus = np.where(number[:, None] == np.unique(number), (p - y)[:, None], 0)  # a bin's sum: n_b (mean p − mean y)
    ece = np.abs(weights @ surplus).sum(axis=1) / weights.sum(axis=1)
    losses = {"brier": (p - y) ** 2, "log_loss": -np.log(np.where(y == 1, inside, 1 - inside))}
    scores = {name: cluster_mean(loss, names, seed=seed) for name, loss in losses.items()}
    scores["ece"] = estimate(float(ece[0]), np.maximum(0, 2 * ece[0] - ece[1:]), names)
    rows = [(e.value, e.low, np.maximum(e.high, e.value)) for e in scores.values()]
    return pd.DataFrame(rows, columns=["value", "low", "high"], index=pd.Index(scores, name="metric"))


def _metrics(y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Name → (n,) metric of every row of (n, N) image weights."""
    called = p >= threshold
    columns = [(y == 1) & called, (y == 1) & ~called, (y == 0) & called, (y == 0) & ~called, (p - y) ** 2]
    tp, fn, fp, tn, squared = np.stack(columns) @ weights.T.astype(np.float64)
    auc, average_precision = _rank_metrics(y, p, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        both = np.where(np.isnan(sensitivity + specificity), np.nan, 1.0)  # what needs both classes is NaN without
        return {
            "accuracy": (tp + tn) / (tp + fn + fp + tn),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": both * tp / (tp + fp),
            "npv": both * tn / (tn + fn),
            "f1": both * 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "auc": auc,
            "pr_auc": both * average_precision,
            "brier": squared / (tp + fn + fp + tn),
        }


def _rank_metrics(y: NDArray[np.number], p: NDArray[np.number], weights: NDArray[np.number]) -> NDArray[np.float64]:
    """(2, n) AUC (NaN without a class) and average precision of each row of (n, N) weights."""
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    found = []
    for start in range(0, len(weights), _CHUNK):
        w = weights[start : start + _CHUNK, order].astype(np.float64)
        of_positives = w * (y[order] == 1)
        # The weight of either class at each distinct probability, and there or above.
        positive, negative = (np.add.reduceat(part, starts, axis=1) for part in (of_positives, w - of_positives))
        true_positive, false_positive = positive.cumsum(axis=1), negative.cumsum(axis=1)
        n_positive, n_negative = true_positive[:, -1], false_positive[:, -1]
        # A negative scored lower than a positive loses against it; one scored the same counts half.
        beaten = (positive * (n_negative[:, None] - false_positive + negative / 2)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.nan_to_num(true_positive / (true_positive + false_positive))
            found.append([beaten / (n_positive * n_negative), (positive * precision).sum(axis=1) / n_positive])
    return np.concatenate(found, axis=1)


def _midway(probabilities: NDArray[np.float64], score: float) -> float:
    lower = probabilities[probabilities < score].max(initial=-math.inf)
    middle = (score + lower) / 2
    return float(middle if middle > lower else score)  # nothing is lower, or no float lies between


def _logistic(logits: ArrayLike, labels: ArrayLike, fit_intercept: bool) -> Calibration:
    """Logistic regression of Platt's targets on the logit, without penalty."""
    z, y = checked_columns(scores=logits, labels=labels)
    _need_both_classes(y, "A calibration")
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))
    scaler = StandardScaler(with_mean=fit_intercept)
    x = scaler.fit_transform(z[:, None])
    # A target between 0 and 1 is one row of either label, weighted.
    model = LogisticRegression(C=np.inf, fit_intercept=fit_intercept, tol=1e-8, max_iter=1000)
    model.fit(np.vstack([x, x]), np.repeat([1, 0], len(z)), sample_weight=np.r_[target, 1 - target])
    slope = float(model.coef_.item() / scaler.scale_.item())
    return Calibration(slope, float(model.intercept_.item() - slope * z.mean()) if fit_intercept else 0.0)


def _need_both_classes(y: NDArray[np.number], what: str) -> None:
    if not 0 < y.sum() < len(y):
        raise InputError(f"{what} needs images of both classes: {int(y.sum())} of {len(y)} are of label 1.")
