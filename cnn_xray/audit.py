"""What can be told without looking at the lungs: the size-only probe.

Is the network still good where image size cannot help it?

When the label can be told from a confounder alone (the size probe's log-odds: a propensity score, Rosenbaum & Rubin
1983), a high AUC does not say that the network saw a lung. So it is scored again among films that the confounder
hardly tells apart: within strata of it, and on matched pairs. Each score stands beside the confounder's own AUC on the
same films, because strata and pairs leave some of it over: that, not 0.5, is what a network with no eye for lungs can
reach.

Near-duplicates across splits: the same film twice, found by perceptual hash and confirmed by correlation.

Chest films are all alike, so one number does not do. Measured on the 5,856 Kermany films at 224 px:

- A 64-bit hash cannot tell them apart: films of different children come as near as 0–4 bits (dHash 0, pHash
  4). With 255 bits an exact copy has distance 0, and the nearest two films in test and in training have 44.
- Copies of one film: at most 18 bits after changed brightness, gamma, blur or JPEG quality 30; 44 after a
  shift of 1 % of the width; median 40 and 99 % within 56 after 2 %. The two ranges overlap from 44 on.
  MAX_DISTANCE = 64 takes the copies along, and 213 candidates between test and training that are not one
  film.
- These are told apart by fine structure (ribs, vessels), without the coarse layout that all chests share. The
  correlation of different films stays below 0.63 (that of the phantom's, which are smoother, reaches 0.90);
  99 % of the copies above are at 0.93 or more. Hence MIN_CORRELATION = 0.92.

Not found: films mirrored, turned by 2° or magnified by 3 %. Found only in part: with a large new marker,
shifted by 3 % or by 2 % both ways, or compressed hard after they had been made small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError
from cnn_xray.data import FITTING
from cnn_xray.metrics import auc_with_interval, weighted_auc
from cnn_xray.statistics import Estimate, Patients, bootstrap_weights, estimate, sample_and_replicates

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


_UNKNOWN = -1
_RIDGE_PENALTIES = np.logspace(-2, 6, 17)
_CONSTANT = 1e-9  # a standard deviation below this is rounding: log 400/200 − log 200/100 is not quite 0


@dataclass(frozen=True)
class StratifiedAuc:
    """The score and the confounder within strata of the confounder.

    auc, confounder_auc: pair-weighted over the strata, of the score and of the confounder itself. table: one row a
    stratum, from low to high confounder; index ``stratum`` from 1, columns confounder_low, confounder_high (range),
    n_positive, n_negative, auc, low, high, confounder_auc. strata: (N,) int64, the stratum of every row, −1 where the
    confounder is unknown. unknown: such rows. note: a sentence when the number needs one, or "".
    """

    auc: Estimate
    confounder_auc: Estimate
    table: pd.DataFrame
    strata: NDArray[np.int64]
    unknown: int
    note: str


@dataclass(frozen=True)
class MatchedAuc:
    """The score and the confounder on images matched by the confounder.

    auc, confounder_auc: on the matched images alone, of the score and of the confounder itself (balance: about 0.5).
    matches: (P, 2) int64, the row of the positive and of the negative of each pair. left_out: rows of known confounder
    without a partner. unknown: rows without a confounder. note: a sentence when the number needs one, or "".
    """

    auc: Estimate
    confounder_auc: Estimate
    matches: NDArray[np.int64]
    left_out: int
    unknown: int
    note: str

    @property
    def pairs(self) -> int:
        return len(self.matches)


@dataclass(frozen=True)
class ShapeProbe:
    """How much of the films' shape can be read off the features: R² on the test rows, at most 1, possibly negative.

    r2: of shape itself. r2_within_class: of what shape varies by within a class. n_train: rows fitted on.
    unknown_train, unknown_test: rows left out because their shape is unknown. note: a sentence when a number needs
    one, or "".
    """

    r2: Estimate
    r2_within_class: Estimate
    n_train: int
    unknown_train: int
    unknown_test: int
    note: str


def log_odds(probabilities: ArrayLike) -> NDArray[np.float64]:
    """log p/(1 − p), the scale on which to stratify and match; NaN (unknown) stays NaN.

    probabilities: any shape, in [0, 1]. Rounded to nine decimals, so that films of one size, whose probabilities differ
    in the last bit, tie; 0 and 1 become the largest finite log-odds (about ±36). Raises InputError outside [0, 1].
    """
    p = np.asarray(probabilities, np.float64)
    wrong = (p < 0) | (p > 1)
    if wrong.any():
        raise InputError(f"Probabilities must lie in 0..1: one is {p[wrong][0]:g} ({int(wrong.sum())} such).")
    p = np.clip(p, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    return np.round(np.log(p) - np.log1p(-p), 9)


def stratified_auc(
    labels: ArrayLike, scores: ArrayLike, confounder: ArrayLike, patients: Patients, strata: int = 5, seed: int = 0
) -> StratifiedAuc:
    """Concordance over the (positive, negative) pairs within one stratum of the confounder, score ties counted half.

    labels: (N,) in {0, 1}. scores: (N,) finite, probabilities or logits. confounder: (N,), NaN where unknown (left out
    and counted). strata: number of quantile bins; equal values stay together, so there are fewer bins where there are
    fewer values. The bins are cut once, before patients are resampled. Five bins of a strong continuous confounder
    leave much of it inside (of an AUC of .90 about .60): read auc beside confounder_auc, and try more bins.

    Pair weights n₊n₋ make it the probability that a pair drawn from one stratum is ordered correctly. The
    covariate-adjusted AUC of Janes & Pepe (2009, Biometrika 96:371–382) averages the same stratum AUCs by the
    positives n₊ instead, which leans on strata that hold hardly any negatives; the table has what it takes.

    NaN, with a note, when no stratum has both classes; ``Estimate.n`` counts the images of strata that have. Raises
    InputError on other labels, scores that are not finite, an infinite confounder, a missing patient, unequal lengths
    and fewer than one stratum.
    """
    if strata < 1:
        raise InputError(f"{strata} strata were asked for: at least one is needed.")
    y, s, c, names = _checked(labels, scores, confounder, patients)
    known = np.isfinite(c)
    stratum = np.full(len(y), _UNKNOWN)
    stratum[known] = _quantile_bins(c[known], strata)
    weights = sample_and_replicates(names[known], seed)
    rows: list[dict[str, float]] = []
    informative = np.zeros(len(y), bool)
    wins, confounder_wins, pairs = np.zeros((3, len(weights)))
    for number in range(stratum.max() + 1):
        here = stratum == number
        w = weights[:, here[known]].astype(np.float64)
        auc, confounder_auc = weighted_auc(y[here], s[here], w), weighted_auc(y[here], c[here], w)
        n_positive, n_negative = w @ (y[here] == 1), w @ (y[here] == 0)
        pairs += n_positive * n_negative
        wins += np.nan_to_num(auc) * n_positive * n_negative
        confounder_wins += np.nan_to_num(confounder_auc) * n_positive * n_negative
        informative |= here & (n_positive[0] * n_negative[0] > 0)
        e = _estimate(auc, names[here])
        rows.append(
            {"confounder_low": c[here].min(), "confounder_high": c[here].max(), "n_positive": n_positive[0]}
            | {"n_negative": n_negative[0], "auc": e.value, "low": e.low, "high": e.high}
            | {"confounder_auc": float(confounder_auc[0])}
        )
    with np.errstate(invalid="ignore"):
        overall, confounder_overall = wins / pairs, confounder_wins / pairs
    note = _missing(y[known])
    if not note and not informative.any():
        note = "No stratum has images of both classes: the confounder alone tells them apart, so the AUC is undefined."
    elif not note and len(rows) == 1 and strata > 1:
        note = "All images have the same confounder, so there is nothing to adjust for."
    return StratifiedAuc(
        _estimate(overall, names[informative]),
        _estimate(confounder_overall, names[informative]),
        _strata_table(rows),
        stratum,
        int((~known).sum()),
        note,
    )


def matched_auc(
    labels: ArrayLike, scores: ArrayLike, confounder: ArrayLike, patients: Patients, caliper: float = 0.2, seed: int = 0
) -> MatchedAuc:
    """AUC on positives and negatives matched one to one by the confounder, without replacement.

    labels, scores, confounder, patients: as in stratified_auc. caliper: the farthest apart that two partners may be, in
    standard deviations of the confounder; 0.2 on the log-odds of the propensity score is Austin's (2011, Pharm Stat
    10:150–161). The standard deviation is that within class (root of the mean of the two variances), which the distance
    between the classes does not widen. Partners are never of one patient.

    Of all matchings the one with the most pairs is taken, and of these one with the least total distance (an optimal
    assignment). The most pairs means that where positives lie higher, partners use the caliper up in one direction:
    confounder_auc shows what is left; a narrower caliper makes it smaller. Between equally good matchings ``seed``
    decides, not the order of the rows. The bootstrap draws patients, with the matching held fixed.

    NaN, with a note, when nothing can be matched. Raises InputError as stratified_auc does, and on a caliper that is
    negative or NaN.
    """
    if not caliper >= 0:
        raise InputError(f"The caliper is {caliper}: it must be 0 or more standard deviations.")
    y, s, c, names = _checked(labels, scores, confounder, patients)
    known = np.isfinite(c)
    matches, note = np.zeros((0, 2), np.int64), _missing(y[known])
    if not note:
        rng = np.random.default_rng(seed)
        positives, negatives = (rng.permutation(np.flatnonzero(known & (y == label))) for label in (1, 0))
        width = caliper * math.sqrt((c[positives].var() + c[negatives].var()) / 2)
        matches = _matches(positives, negatives, c, names, width)
        if not len(matches):
            note = (
                f"No positive has a negative of another patient within {caliper:g} standard deviations of its "
                "confounder, so nothing can be matched."
            )
    rows = matches.ravel()
    score_auc = confounder_auc = np.full(2, np.nan)
    if len(rows):
        weights = sample_and_replicates(names[rows], seed)
        score_auc, confounder_auc = (weighted_auc(y[rows], values[rows], weights) for values in (s, c))
    return MatchedAuc(
        _estimate(score_auc, names[rows]),
        _estimate(confounder_auc, names[rows]),
        matches,
        int(known.sum()) - len(rows),
        int((~known).sum()),
        note,
    )


def shape_probe(
    features_train: ArrayLike,
    shape_train: ArrayLike,
    features_test: ArrayLike,
    shape_test: ArrayLike,
    labels_train: ArrayLike,
    labels_test: ArrayLike,
    patients_test: Patients,
    seed: int = 0,
) -> ShapeProbe:
    """Ridge regression of the films' shape on the network's pooled features: does the network know the shape?

    features_train, features_test: (N, K) finite. shape_train, shape_test: (N,) log aspect ratio, or any continuous
    nuisance; NaN where unknown (left out and counted). labels_train, labels_test: (N,) in {0, 1}. patients_test: (N,).
    Fit on rows that the network was not trained on (validation), score on test. Features are standardised, the penalty
    is chosen by leave-one-out on the training rows (Hoerl & Kennard 1970; Golub et al. 1979).

    Shape goes with the label, so a network that knows the label alone knows some shape. Within class the model is
    therefore fitted on features and shape less their class means, and on the test rows prediction and shape are centred
    by class too: a constant error between the splits counts against r2 and not against r2_within_class, which can hence
    be the larger. The bootstrap draws test patients, with the fit held fixed.

    NaN, with a note, where shape does not vary (phantom films are all square). Knowing is not using: a feature can
    carry the shape and the last layer ignore it. Raises InputError on other labels, features that are not finite, an
    infinite shape and unequal lengths.
    """
    x_train, shape, y_train, known_train = _checked_features(features_train, shape_train, labels_train, "training")
    x_test, truth, y_test, known_test = _checked_features(features_test, shape_test, labels_test, "test")
    names = _names(patients_test)
    if len(names) != len(known_test) or x_train.shape[1] != x_test.shape[1]:
        raise InputError(
            "The probe needs a patient for each test image and the same features in both splits: "
            f"got {len(names)} patients for {len(known_test)} images, features {x_train.shape} and {x_test.shape}."
        )
    names = names[known_test]
    weights = sample_and_replicates(names, seed).astype(np.float64)
    one_class = np.zeros(len(truth), np.int64)
    r2 = within = np.full(2, np.nan)
    note = ""
    if not len(shape) or not len(truth):
        note = f"No {'test' if len(shape) else 'training'} image has a known shape, so the probe cannot be run."
    elif _constant(shape) or _constant(truth):
        note = f"All {'training' if _constant(shape) else 'test'} images have the same shape: nothing to read off."
    else:
        error = truth - _ridge(x_train, shape, x_test)
        r2 = _explained(weights @ error**2, _squares(truth, one_class, weights), weights)
        centred = _centred(shape, y_train)
        if _constant(centred) or _constant(_centred(truth, y_test)):
            note = "Within a class all images have the same shape, so only the overall figure is defined."
        else:
            error = truth - _ridge(_centred(x_train, y_train), centred, x_test)
            squares = _squares(truth, y_test, weights)
            within = _explained(_squares(error, y_test, weights), squares, weights)
    return ShapeProbe(
        _estimate(r2, names),
        _estimate(within, names),
        len(shape),
        int((~known_train).sum()),
        int((~known_test).sum()),
        note,
    )


def _checked(
    labels: ArrayLike, scores: ArrayLike, confounder: ArrayLike, patients: Patients
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Labels, scores, confounder and patient names, all (N,), or an InputError that says what is wrong."""
    y, s, c = _numbers(labels, "Labels"), _numbers(scores, "Scores"), _numbers(confounder, "The confounder")
    names = _names(patients)
    if not len(y) or not y.shape == s.shape == c.shape == names.shape:
        given = f"labels {y.shape}, scores {s.shape}, confounder {c.shape}, patients {names.shape}"
        raise InputError(
            f"Each image needs a label, a score, a confounder and a patient, and there must be one: got {given}."
        )
    _refuse(~np.isfinite(s), s, "Scores must be finite (NaN means a model that diverged)")
    _refuse(np.isinf(c), c, "The confounder must be finite, or NaN where unknown (log_odds keeps it finite)")
    return _checked_labels(y), s, c, names


def _checked_features(
    features: ArrayLike, shape: ArrayLike, labels: ArrayLike, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Features, shape and labels of the rows of known shape, and which rows these are; or an InputError."""
    x = np.asarray(features, np.float64)
    values, y = _numbers(shape, "Shapes"), _numbers(labels, "Labels")
    if x.ndim != 2 or not len(x) == len(values) == len(y):
        given = f"features {x.shape}, shape {values.shape}, labels {y.shape}"
        raise InputError(f"Each {split} image needs a row of features, a shape and a label: got {given}.")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise InputError(f"Features must be finite: {split} row {np.flatnonzero(bad)[0]} is not ({bad.sum()} such).")
    _refuse(np.isinf(values), values, "Shapes must be finite, or NaN where unknown")
    known = np.isfinite(values)
    return x[known], values[known], _checked_labels(y)[known], known


def _numbers(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """(N,) float64, or an InputError."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers: {error}.") from error
    if numbers.ndim != 1:
        raise InputError(f"{what} must be one number an image: got {numbers.shape}.")
    return numbers


def _checked_labels(y: NDArray[np.float64]) -> NDArray[np.int64]:
    _refuse((y != 0) & (y != 1), y, "Labels must be 0 or 1")
    return y.astype(np.int64)


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.float64], rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise InputError(f"{rule}: row {rows[0]} has {values[rows[0]]:g} ({len(rows)} such).")


def _names(patients: Patients) -> NDArray[Any]:
    """Patients as text, (N,): what the bootstrap tells them apart by."""
    column = pd.Series(patients)
    if column.isna().any():
        bootstrap_weights(column)  # raises the house's sentence about missing patients
    return column.to_numpy(dtype=str)


def _missing(y: NDArray[np.int64]) -> str:
    """Why nothing can be compared among the images of known confounder, or ""."""
    if not len(y):
        return "No image has a known confounder, so there is nothing to compare."
    return "" if 0 < y.sum() < len(y) else "Images of known confounder are all of one class, so the AUC is undefined."


def _estimate(values: NDArray[np.float64], patients: NDArray[Any]) -> Estimate:
    """Of (1 + n,) numbers, the observed one first."""
    return estimate(float(values[0]), values[1:], patients)


def _quantile_bins(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """(N,) number of the quantile bin, from 0 without gaps; equal values share a bin, at most ``bins`` of them."""
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) <= bins:
        return codes
    middle = (rankdata(values) - 0.5) / len(values)  # ties share their mean rank
    return np.unique((middle * bins).astype(np.int64), return_inverse=True)[1]


def _strata_table(rows: list[dict[str, float]]) -> pd.DataFrame:
    columns = ["confounder_low", "confounder_high", "n_positive", "n_negative", "auc", "low", "high", "confounder_auc"]
    table = pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="stratum"), dtype=np.float64)
    return table.astype({"n_positive": np.int64, "n_negative": np.int64})


def _matches(
    positives: NDArray[np.int64],
    negatives: NDArray[np.int64],
    confounder: NDArray[np.float64],
    names: NDArray[Any],
    width: float,
) -> NDArray[np.int64]:
    """(P, 2) rows of the partners: the most pairs within ``width``, then the least total distance."""
    distance = np.abs(confounder[positives][:, None] - confounder[negatives])
    allowed = (distance <= width) & (names[positives][:, None] != names[negatives])
    # One forbidden pair costs more than all allowed ones can together, so none is taken that could be spared.
    forbidden = (min(distance.shape) + 1) * width or 1.0
    first, second = linear_sum_assignment(np.where(allowed, distance, forbidden))
    found = allowed[first, second]
    matches = np.stack([positives[first[found]], negatives[second[found]]], axis=1)
    return matches[np.argsort(matches[:, 0])]


def _ridge(
    x_train: NDArray[np.float64], shape: NDArray[np.float64], x_test: NDArray[np.float64]
) -> NDArray[np.float64]:
    return make_pipeline(StandardScaler(), RidgeCV(_RIDGE_PENALTIES)).fit(x_train, shape).predict(x_test)


def _centred(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values, (N,) or (N, K), less the mean of their class."""
    centred = values.copy()
    for label in np.unique(labels):
        centred[labels == label] -= values[labels == label].mean(axis=0)
    return centred


def _constant(values: NDArray[np.float64]) -> bool:
    return bool(values.std() < _CONSTANT)


def _squares(
    values: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted sum of squares about the weighted mean of each class, for every row of (n, N) weights."""
    centred, total = _centred(values, labels), np.zeros(len(weights))
    for label in np.unique(labels):
        w, v = weights[:, labels == label], centred[labels == label]
        total += w @ v**2 - (w @ v) ** 2 / np.maximum(w.sum(axis=1), 1)
    return total


def _explained(
    residual: NDArray[np.float64], total: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """1 − residual/total, NaN for a replicate whose shapes are all equal."""
    varies = total > _CONSTANT**2 * weights.sum(axis=1)
    return np.where(varies, 1 - residual / np.where(varies, total, 1), np.nan)


MAX_DISTANCE = 64
MIN_CORRELATION = 0.92
LARGEST_DISTANCE = 96  # 331,000 candidates in the Kermany films: a higher limit tells nothing apart
_SIDE = 64  # pixels of the thumbnail that is hashed and correlated
_BITS = 16  # the hash keeps the 16 × 16 lowest frequencies
_SHIFT = 4  # pixels of the thumbnail (6 % of the width) by which two films may be displaced
_SCALE = 1.5  # pixels; structure coarser than this is the layout that every chest has
_BATCH = 512  # pairs that are correlated at once
_COLUMNS = ("path", "split", "label", "patient")


@dataclass(frozen=True)
class NearDuplicates:
    """What a search found.

    pairs: one row a near-duplicate, nearest first: path_a, split_a, label_a, patient_a, the same with _b,
    distance (bits of 255), correlation (−1..1). counts: one row a pair of splits: split_a, split_b, nearest
    (smallest distance of any pair, whether a duplicate or not), candidates (pairs within the distance),
    near_duplicates (those confirmed).
    """

    pairs: pd.DataFrame
    counts: pd.DataFrame


def near_duplicates(images: NDArray[np.uint8], table: pd.DataFrame, max_distance: int = MAX_DISTANCE) -> NearDuplicates:
    """Find films that lie, copied or nearly so, in two splits that must not share any.

    images: (N, H, W) uint8, row-aligned with the manifest table. Compared are train with val, and both with
    every test-like split; test-like splits may share films with one another (the phantom's are paired). A
    pair counts when its hash distance is at most ``max_distance`` (0..96) and its correlation at least
    MIN_CORRELATION. Raises InputError when images and table do not fit or the distance is out of range.
    """
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(table):
        raise InputError(
            f"Images must be (N, H, W) uint8 with one row of the table each: got {images.shape} "
            f"{images.dtype} and {len(table)} rows."
        )
    if not 0 <= max_distance <= LARGEST_DISTANCE:
        raise InputError(f"The largest hash distance is {max_distance}: it must lie in 0..{LARGEST_DISTANCE}.")
    thumbnails = _thumbnails(images)
    hashes = perceptual_hash(thumbnails)
    split = table["split"].to_numpy(object)
    fitting = [name for name in FITTING if name in split]
    others = sorted(set(split) - set(FITTING))
    described = table.reset_index(drop=True)[list(_COLUMNS)]

    pairs, counts = [], []
    for name_a, name_b in [*combinations(fitting, 2), *((a, b) for a in fitting for b in others)]:
        rows_a, rows_b = np.flatnonzero(split == name_a), np.flatnonzero(split == name_b)
        distance = hash_distances(hashes[rows_a], hashes[rows_b])
        i, j = np.nonzero(distance <= max_distance)
        correlation = shifted_correlation(thumbnails, rows_a[i], rows_b[j])
        same = correlation >= MIN_CORRELATION
        counts.append((name_a, name_b, int(distance.min()), len(same), int(same.sum())))
        i, j = i[same], j[same]
        found = [
            described.loc[rows].add_suffix(end).reset_index(drop=True)
            for rows, end in ((rows_a[i], "_a"), (rows_b[j], "_b"))
        ]
        numbers = {"distance": distance[i, j].astype(np.int64), "correlation": correlation[same]}
        pairs.append(pd.concat([*found, pd.DataFrame(numbers)], axis=1))
    columns = ["split_a", "split_b", "nearest", "candidates", "near_duplicates"]
    if not pairs:
        names = [f"{name}_{side}" for side in "ab" for name in _COLUMNS]
        return NearDuplicates(pd.DataFrame(columns=[*names, "distance", "correlation"]), pd.DataFrame(columns=columns))
    order = ["distance", "path_a", "path_b"]
    joined = pd.concat(pairs, ignore_index=True).sort_values(order, ignore_index=True)
    return NearDuplicates(joined, pd.DataFrame(counts, columns=columns))


def perceptual_hash(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 255-bit pHash of every image (Zauner 2010).

    A bit says whether that low-frequency cosine coefficient lies above the median of all of them.

    images: (N, H, W) uint8. Returns (N, 4) uint64. Brightness and contrast cancel, since the constant term is
    left out and only the order of the others counts.
    """
    coefficients = dctn(_thumbnails(images).astype(np.float32), axes=(1, 2), norm="ortho")
    low = coefficients[:, :_BITS, :_BITS].reshape(len(images), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    # packbits fills the 256th bit with 0 in every hash, so it never adds to a distance.
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)


def hash_distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Hamming distances between two sets of hashes, (Na, 4) and (Nb, 4) uint64: (Na, Nb) uint8, 0..255."""
    distances = np.zeros((len(a), len(b)), np.uint8)
    for word in range(a.shape[1]):  # word by word: no (Na, Nb, 4) array in memory
        distances += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return distances


def shifted_correlation(
    thumbnails: NDArray[np.uint8], rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation of the fine structure of two films, displaced against each other as fits best.

    thumbnails: (N, 64, 64) uint8; rows_a, rows_b: (M,) which to compare. Returns (M,) in −1..1: the largest
    cross-correlation over shifts of up to 4 pixels (6 %) in steps of half a pixel, taken from the spectra by
    a matrix product (Guizar-Sicairos 2008). Equal films give 1, also flat ones; a flat film and any other
    give 0.
    """
    used, place = np.unique(np.concatenate([rows_a, rows_b]), return_inverse=True)
    place_a, place_b = np.split(place, 2)
    spectra = _spectra(thumbnails[used])
    half = np.where(np.isin(np.arange(_SIDE // 2 + 1), (0, _SIDE // 2)), 1, 2)  # the other half is its mirror
    shifts = np.arange(-_SHIFT, _SHIFT + 0.25, 0.5)
    down = np.exp(2j * np.pi * np.outer(shifts, np.fft.fftfreq(_SIDE))).astype(np.complex64)
    across = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(_SIDE), shifts)) * half[:, None] / _SIDE**2
    across = across.astype(np.complex64)
    result = np.empty(len(rows_a))
    for start in range(0, len(rows_a), _BATCH):
        part = slice(start, start + _BATCH)
        product = spectra[place_a[part]] * spectra[place_b[part]].conj()
        result[part] = (down @ (product @ across)).real.max(axis=(1, 2))
        result[part][(thumbnails[rows_a[part]] == thumbnails[rows_b[part]]).all(axis=(1, 2))] = 1
    return result


def _spectra(thumbnails: NDArray[np.uint8]) -> NDArray[np.complex64]:
    """(N, 64, 33): transform of what a blur takes away, faded out at the edges, its sum of squares 1."""
    fade = np.hanning(_SIDE + 2)[1:-1]
    films = thumbnails.astype(np.float32)
    fine = films - gaussian_filter(films, _SCALE, axes=(1, 2))
    fine *= np.outer(fade, fade).astype(np.float32)
    size = np.sqrt(np.square(fine).sum(axis=(1, 2), keepdims=True))
    fine /= np.where(size > 0.1, size, np.inf)  # a flat film has rounding errors, and no structure
    return np.asarray(rfft2(fine), np.complex64)


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 64, 64) uint8, by area averaging."""
    if images.shape[1:] == (_SIDE, _SIDE):
        return np.asarray(images)
    small = np.empty((len(images), _SIDE, _SIDE), np.uint8)
    for row, image in enumerate(images):
        cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), dst=small[row], interpolation=cv2.INTER_AREA)
    return small
