"""The data's own leaks: what gives the label away without a look at the lungs, and what is in two splits at once.

*Size*: a logistic regression on width and height alone. When the label can be told from such a confounder (its log-odds
are a propensity score, Rosenbaum & Rubin 1983), a high AUC does not say that a network saw a lung. So the network is
scored again among images that the confounder hardly tells apart: within strata of it, and on matched pairs. Each score
stands beside the confounder's own AUC on the same images, because strata and pairs leave some of it over: that, not
0.5, is what a network with no eye for lungs can reach.

*Near-duplicates*: the same image in two splits, found by perceptual hash and confirmed by correlation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError
from cnn_xray.data import FITTING, Dataset
from cnn_xray.metrics import auc_with_interval, equal_bins, weighted_auc
from cnn_xray.statistics import Estimate, Patients, checked_columns, estimate, sample_and_replicates

Floats = NDArray[np.float64]
STRATA = 5
MAX_DISTANCE = 64  # bits of 255; see near_duplicates
MIN_CORRELATION = 0.92
_SIDES = ["original_width", "original_height"]
_CONSTANT = 1e-9  # a spread below this is rounding: log 400/200 − log 200/100 is not quite 0
_THUMBNAIL = 64  # pixels a side of what is hashed and correlated
_FREQUENCIES = 16  # the hash keeps the 16 × 16 lowest
_SHIFT = 4  # pixels of the thumbnail (6 % of the width) by which two images may be displaced
_SCALE = 1.5  # pixels; structure coarser than this is the layout that every chest has
_BATCH = 512  # pairs that are correlated at once


@dataclass(frozen=True)
class SizeProbe:
    """What the size-only probe found.

    Attributes
    ----------
    probabilities : ndarray (N,) float64
        Of label 1, one a row of the test table, NaN where the size is unknown.
    auc : Estimate
        On the test rows of known size, or NaN.
    n_train : int
        Images that it was fitted on.
    unknown_train, unknown_test : int
        Images left out because their size is unknown.
    note : str
        A sentence when the number needs one, or "".
    """

    probabilities: Floats
    auc: Estimate
    n_train: int
    unknown_train: int
    unknown_test: int
    note: str


@dataclass(frozen=True)
class AdjustedAuc:
    """A score and the confounder on images that the confounder hardly tells apart.

    Attributes
    ----------
    auc, confounder_auc : Estimate
        Of the score and of the confounder itself.
    table : DataFrame
        The strata or the pairs that they rest on.
    """

    auc: Estimate
    confounder_auc: Estimate
    table: pd.DataFrame


@dataclass(frozen=True)
class ShapeProbe:
    """How much of the images' shape can be read off the features.

    Attributes
    ----------
    r2 : Estimate
        Of shape itself: R² on the test rows, at most 1, possibly negative.
    r2_within_class : Estimate
        Of what shape varies by within a class.
    """

    r2: Estimate
    r2_within_class: Estimate


@dataclass(frozen=True)
class NearDuplicates:
    """What a search for images in two splits found.

    Attributes
    ----------
    pairs : DataFrame
        One row a near-duplicate, nearest first: split_a, split_b, path_a, path_b, distance (bits of 255), correlation
        (−1..1).
    counts : DataFrame
        One row a pair of splits: split_a, split_b, nearest (smallest distance of any pair, duplicate or not),
        candidates (pairs within the distance), near_duplicates (those confirmed).
    """

    pairs: pd.DataFrame
    counts: pd.DataFrame


def size_only_probe(train: pd.DataFrame, test: pd.DataFrame, seed: int = 0) -> SizeProbe:
    """Logistic regression on log W, log H, log W/H and log W·H of the original image: no pixel is read.

    An AUC well above 0.5 says that the label is available from how the images were cut, before any lung is seen.

    Parameters
    ----------
    train, test : DataFrame
        Columns label, patient, original_width, original_height (px); fit on train and validation together.
    seed : int
        Of the patient bootstrap; the fit itself is deterministic.

    Returns
    -------
    SizeProbe
        Sizes that are all equal give the AUC 0.5 that they earn; no sizes, NaN.
    """
    x_train, x_test = _log_sizes(train), _log_sizes(test)
    known_train, known_test = np.isfinite(x_train).all(axis=1), np.isfinite(x_test).all(axis=1)
    fitted, scored = train[known_train], test[known_test]
    probabilities, auc, note = np.full(len(test), np.nan), Estimate(math.nan, n=len(scored)), ""
    if fitted.empty or scored.empty:
        note = f"No {'training' if fitted.empty else 'test'} image has a known original size: the probe cannot be run."
    elif fitted["label"].nunique() < 2 or scored["label"].nunique() < 2:
        note = "Images of known size are all of one class, in training or on test: the probe cannot be run."
    else:
        if not np.ptp(x_train[known_train], axis=0).any():
            note = "All training images have the same original size, so it cannot tell the classes apart."
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x_train[known_train], fitted["label"].to_numpy(int))
        probabilities[known_test] = model.predict_proba(x_test[known_test])[:, 1]
        auc = auc_with_interval(scored["label"], probabilities[known_test], scored["patient"], seed=seed)
    return SizeProbe(probabilities, auc, len(fitted), int((~known_train).sum()), int((~known_test).sum()), note)


def median_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Median original width and height (px) and aspect ratio W/H of each split and class.

    Parameters
    ----------
    table : DataFrame
        Columns split, label, original_width, original_height (px, <NA> if unknown).

    Returns
    -------
    DataFrame
        Index (split, label); columns n (images of known size), original_width, original_height, aspect_ratio.
    """
    sizes = table[["split", "label"]].join(table[_SIDES].astype("Float64").astype(np.float64))
    sizes["aspect_ratio"] = sizes["original_width"] / sizes["original_height"]
    groups = sizes.groupby(["split", "label"])
    medians = groups.median()
    medians.insert(0, "n", groups["aspect_ratio"].count())
    return medians


def log_odds(probabilities: ArrayLike) -> Floats:
    """log p/(1 − p), the scale on which to stratify and match.

    Parameters
    ----------
    probabilities : array_like
        In 0..1, NaN where unknown.

    Returns
    -------
    ndarray float64
        NaN stays NaN. Rounded to nine decimals, so that images of one size, whose probabilities differ in the last
        bit, tie; 0 and 1 become the largest finite log-odds (about ±36).
    """
    eps = np.finfo(np.float64).eps
    return np.round(logit(np.clip(np.asarray(probabilities, np.float64), eps, 1 - eps)), 9)


def stratified_auc(
    labels: ArrayLike, scores: ArrayLike, confounder: ArrayLike, patients: Patients, seed: int = 0
) -> AdjustedAuc:
    """Concordance over the (positive, negative) pairs within one of five strata of the confounder.

    Strata are quantile bins; equal values stay together, so there are fewer bins where there are fewer values. They are
    cut once, before patients are resampled. Five bins of a strong continuous confounder leave much of it inside (of an
    AUC of .90 about .60): read auc beside confounder_auc. Pair weights n₊n₋ make it the probability that a pair drawn
    from one stratum is ordered correctly; the covariate-adjusted AUC averages the same stratum AUCs by the positives n₊
    instead, which leans on strata that hold hardly any negatives.

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    scores : array_like (N,)
        Finite, probabilities or logits; ties count half.
    confounder : array_like (N,)
        NaN where unknown: left out.
    patients : array_like (N,)
        The patient of every image.
    seed : int
        Of the bootstrap.

    Returns
    -------
    AdjustedAuc
        Pair-weighted over the strata. NaN when no stratum has both classes; ``Estimate.n`` counts the images of strata
        that have. ``table``: one row a stratum, from low to high confounder: index ``stratum`` from 1; columns
        confounder_low, confounder_high (range), n_positive, n_negative, auc, low, high, confounder_auc.

    Raises
    ------
    InputError
        On other labels, scores that are not finite, an infinite confounder, a missing patient, unequal lengths.

    References
    ----------
    Janes & Pepe 2009, Biometrika 96:371 (covariate-adjusted AUC).
    """
    y, s, c, names = checked_columns(labels=labels, scores=scores, confounder=confounder, patients=patients)
    known = np.isfinite(c)
    y, s, c, names = y[known], s[known], c[known], names[known]
    if len(set(y)) < 2:
        return AdjustedAuc(Estimate(math.nan), Estimate(math.nan), pd.DataFrame())
    stratum, weights = equal_bins(c, STRATA), sample_and_replicates(names, seed).astype(np.float64)
    rows, wins, pairs = [], np.zeros((2, len(weights))), np.zeros(len(weights))
    for number in range(stratum.max() + 1):
        here = stratum == number
        own, positive = weights[:, here], y[here]
        aucs = np.stack([weighted_auc(positive, values[here], own) for values in (s, c)])
        own_pairs = (own @ positive) * (own @ (1 - positive))
        wins += np.nan_to_num(aucs) * own_pairs
        pairs += own_pairs
        e, counts = _estimate(aucs[0], names[here]), (int(positive.sum()), int((1 - positive).sum()))
        rows.append((c[here].min(), c[here].max(), *counts, e.value, e.low, e.high, aucs[1, 0]))
    columns = ["confounder_low", "confounder_high", "n_positive", "n_negative", "auc", "low", "high", "confounder_auc"]
    table = pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="stratum"))
    informative = table["auc"].notna().to_numpy()[stratum]
    with np.errstate(invalid="ignore"):
        auc, confounder_auc = (_estimate(won / pairs, names[informative]) for won in wins)
    return AdjustedAuc(auc, confounder_auc, table)


def matched_auc(
    labels: ArrayLike, scores: ArrayLike, confounder: ArrayLike, patients: Patients, caliper: float = 0.2, seed: int = 0
) -> AdjustedAuc:
    """AUC on positives and negatives matched one to one by the confounder, without replacement.

    Partners are never of one patient. Of all matchings the one with the most pairs is taken, and of these one with the
    least total distance (an optimal assignment). The most pairs means that where positives lie higher, partners use the
    caliper up in one direction: confounder_auc shows what is left; a narrower caliper makes it smaller. The bootstrap
    draws patients, with the matching held fixed.

    Parameters
    ----------
    labels, scores, confounder, patients : array_like (N,)
        As of `stratified_auc`.
    caliper : float
        The farthest apart that two partners may be, in standard deviations of the confounder: that within class (root
        of the mean of the two variances), which the distance between the classes does not widen. 0.2 on the log-odds
        of the propensity score is Austin's.
    seed : int
        Of the bootstrap; between equally good matchings it decides, not the order of the rows.

    Returns
    -------
    AdjustedAuc
        On the matched images alone (balanced: the confounder's AUC is about 0.5); NaN when nothing can be matched.
        ``table``: one row a pair, columns positive and negative, the rows of its images.

    Raises
    ------
    InputError
        As `stratified_auc`, and on a caliper that is negative or NaN.

    References
    ----------
    Austin 2011, Pharm. Stat. 10:150.
    """
    if not caliper >= 0:
        raise InputError(f"The caliper is {caliper}: it must be 0 or more standard deviations.")
    y, s, c, names = checked_columns(labels=labels, scores=scores, confounder=confounder, patients=patients)
    known = np.isfinite(c)
    rng = np.random.default_rng(seed)
    positives, negatives = (rng.permutation(np.flatnonzero(known & (y == label))) for label in (1, 0))
    matches = pd.DataFrame({"positive": [], "negative": []}, dtype=np.int64)
    if len(positives) and len(negatives):
        width = caliper * math.sqrt((c[positives].var() + c[negatives].var()) / 2)
        distance = np.abs(c[positives][:, None] - c[negatives])
        allowed = (distance <= width) & (names[positives][:, None] != names[negatives])
        # One forbidden pair costs more than all allowed ones can together, so none is taken that could be spared.
        forbidden = (min(distance.shape) + 1) * width or 1.0
        first, second = linear_sum_assignment(np.where(allowed, distance, forbidden))
        matches = pd.DataFrame({"positive": positives[first], "negative": negatives[second]})[allowed[first, second]]
    matches = matches.sort_values("positive", ignore_index=True)
    rows = matches.to_numpy().ravel()
    if not len(rows):
        return AdjustedAuc(Estimate(math.nan), Estimate(math.nan), matches)
    weights = sample_and_replicates(names[rows], seed)
    auc, confounder_auc = (_estimate(weighted_auc(y[rows], v[rows], weights), names[rows]) for v in (s, c))
    return AdjustedAuc(auc, confounder_auc, matches)


def shape_probe(features: Callable[[np.ndarray], np.ndarray], data: Dataset, seed: int = 0) -> ShapeProbe:
    """How much of the images' shape, log W/H, a ridge regression reads off a network's pooled features.

    Knowing is not using: a feature can carry the shape and the last layer ignore it. Fit on validation images, which
    the network was not trained on, scored on test images. Features are standardised, the penalty is chosen by
    leave-one-out.

    Shape goes with the label, so a network that knows the label alone knows some shape. Within class the model is
    therefore fitted on features and shape less their class means, and on the test images prediction and shape are
    centred by class too: a constant error between the splits counts against r2 and not against r2_within_class, which
    can hence be the larger. The bootstrap draws test patients, with the fit held fixed.

    Parameters
    ----------
    features
        Images (N, S, S) uint8 → (N, K) finite.
    data
        The images; those of unknown size are left out.
    seed
        Of the bootstrap.

    Returns
    -------
    ShapeProbe
        NaN where shape is unknown or does not vary (the phantom's images are all square).

    References
    ----------
    Hoerl & Kennard 1970; Golub, Heath & Wahba 1979 (the penalty).
    """
    sides, labels = data.table[_SIDES].astype("Float64").astype(np.float64).to_numpy(), data.table["label"].to_numpy()
    shape = np.log(sides[:, 0] / sides[:, 1])
    fitted, scored = (rows[np.isfinite(shape[rows])] for rows in (data.rows("val"), data.rows("test")))
    if not _varies(shape[fitted]) or not _varies(shape[scored]):
        return ShapeProbe(Estimate(math.nan), Estimate(math.nan))
    x_train, x_test = features(data.pixels[fitted]), features(data.pixels[scored])
    y_train, y_test, truth = labels[fitted], labels[scored], shape[scored]
    names = data.table["patient"].to_numpy()[scored]
    weights = sample_and_replicates(names, seed).astype(np.float64)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 6, 17)))
    error = truth - ridge.fit(x_train, shape[fitted]).predict(x_test)
    r2 = _explained(weights @ error**2, _squares(truth, np.zeros(len(truth)), weights))
    error = truth - ridge.fit(_centred(x_train, y_train), _centred(shape[fitted], y_train)).predict(x_test)
    within = _explained(_squares(error, y_test, weights), _squares(truth, y_test, weights))
    return ShapeProbe(_estimate(r2, names), _estimate(within, names))


def auc_where_size_tells_little(
    labels: ArrayLike, scores: ArrayLike, probe: SizeProbe, patients: Patients, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUC of a network and of size alone where size tells less and less, and the strata.

    Parameters
    ----------
    labels, scores : array_like (N,)
        Of the test images; scores are logits.
    probe
        `size_only_probe` of the same images.
    patients : array_like (N,)
        The patient of every image.
    seed
        Of the bootstrap.

    Returns
    -------
    tuple
        One row a way (all images; within five strata of the size probe's log-odds; matched on them, calipers 0.2 and
        0.05), columns network and size alone (Estimates) and images; and the table of `stratified_auc`. Both are empty
        without sizes that differ.
    """
    odds = log_odds(probe.probabilities)
    if not _varies(odds[np.isfinite(odds)]):
        return pd.DataFrame(), pd.DataFrame()
    whole = AdjustedAuc(auc_with_interval(labels, expit(scores), patients, seed=seed), probe.auc, pd.DataFrame())
    strata = stratified_auc(labels, scores, odds, patients, seed=seed)
    ways = {"all test images": whole, "within five strata of size": strata}
    for far in (0.2, 0.05):
        ways[f"matched on size, caliper {far:g}"] = matched_auc(labels, scores, odds, patients, far, seed)
    rows = [(one.auc, one.confounder_auc, one.auc.n) for one in ways.values()]
    return pd.DataFrame(rows, index=list(ways), columns=["network", "size alone", "images"]), strata.table


def near_duplicates(images: NDArray[np.uint8], table: pd.DataFrame, max_distance: int = MAX_DISTANCE) -> NearDuplicates:
    """Find images that lie, copied or nearly so, in two splits that must not share any.

    Compared are train with val, and both with every test-like split; test-like splits may share images with one another
    (the phantom's are paired). A pair counts when its hash distance is at most ``max_distance`` and its correlation at
    least MIN_CORRELATION. Chest X-rays are all alike, so one number does not do. Measured on the 5,856 Kermany images
    at 224 px:

    - With 255 bits an exact copy has distance 0, and the nearest two images in test and in training have 44. Copies
      have at most 18 after changed brightness, gamma, blur or JPEG quality 30; 44 after a shift of 1 % of the width;
      median 40 and 99 % within 58 after 2 %. The two ranges overlap from 44 on. MAX_DISTANCE = 64 takes the copies
      along, and 213 candidates between test and training that are not one image.
    - These are told apart by fine structure (ribs, vessels), without the coarse layout that all chests share. The
      correlation of different images stays below 0.63 (that of the phantom's, which are smoother, reaches 0.90); 99 %
      of the copies above are at 0.92 or more.

    Not found: images mirrored, turned by 2° or magnified by 3 %. Found only in part: with a large new marker, shifted
    by 3 % or by 2 % both ways, or compressed hard after they had been made small. A blank image is like no other.

    Parameters
    ----------
    images : ndarray (N, H, W) uint8
        Row-aligned with the table.
    table : DataFrame
        Columns path, split.
    max_distance : int
        Bits, of 255.

    Returns
    -------
    NearDuplicates
        Tables without rows where there are no two splits to compare.
    """
    hashes, structure = perceptual_hash(images), fine_structure(images)
    split, path = table["split"].to_numpy(object), table["path"].to_numpy(object)
    fitting = [name for name in FITTING if name in split]
    others = sorted(set(split) - set(FITTING))
    pairs, counts = [], []
    for of_pair in [*combinations(fitting, 2), *product(fitting, others)]:
        rows_a, rows_b = (np.flatnonzero(split == name) for name in of_pair)
        distance = np.rint(cdist(hashes[rows_a], hashes[rows_b], "hamming") * hashes.shape[1]).astype(int)
        i, j = np.nonzero(distance <= max_distance)
        batches = np.array_split(np.stack([rows_a[i], rows_b[j]]), len(i) // _BATCH + 1, axis=1)
        correlation = np.concatenate([shifted_correlation(structure[a], structure[b]) for a, b in batches])
        same = correlation >= MIN_CORRELATION
        counts.append((*of_pair, distance.min(), len(same), same.sum()))
        tested = zip(path[rows_a[i]], path[rows_b[j]], distance[i, j], correlation, strict=True)
        pairs += [(*of_pair, *one) for one, confirmed in zip(tested, same, strict=True) if confirmed]
    found = pd.DataFrame(pairs, columns=["split_a", "split_b", "path_a", "path_b", "distance", "correlation"])
    found = found.sort_values(["distance", "path_a", "path_b"], ignore_index=True)
    counted = pd.DataFrame(counts, columns=["split_a", "split_b", "nearest", "candidates", "near_duplicates"])
    return NearDuplicates(found, counted)


def perceptual_hash(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The 255-bit pHash of every image.

    A bit says whether that low-frequency cosine coefficient lies above the median of all of them. Brightness and
    contrast cancel, since the constant term is left out and only the order of the others counts.

    Parameters
    ----------
    images : ndarray (N, H, W) uint8
        Of any one size.

    Returns
    -------
    ndarray (N, 255) bool
        Compare by the number of differing bits.

    References
    ----------
    Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions.
    """
    coefficients = dctn(_thumbnails(images), axes=(1, 2), norm="ortho")
    low = coefficients[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(images), -1)[:, 1:]
    return low > np.median(low, axis=1, keepdims=True)


def fine_structure(images: NDArray[np.uint8]) -> NDArray[np.complex64]:
    """Spectrum of what a blur takes away from a thumbnail, faded out at its edges, its sum of squares 1.

    Parameters
    ----------
    images : ndarray (N, H, W) uint8
        Of any one size.

    Returns
    -------
    ndarray (N, 64, 33) complex64
        Of thumbnails of 64 × 64 pixels; 0 for an image without structure.
    """
    fade = np.hanning(_THUMBNAIL + 2)[1:-1]
    thumbnails = _thumbnails(images)
    fine = (thumbnails - gaussian_filter(thumbnails, _SCALE, axes=(1, 2))) * np.outer(fade, fade).astype(np.float32)
    size = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
    return rfft2(fine / np.where(size > 0.1, size, np.inf)).astype(np.complex64)  # less is rounding


def shifted_correlation(structure_a: NDArray[np.complex64], structure_b: NDArray[np.complex64]) -> Floats:
    """Correlation of the fine structure of pairs of images, displaced against each other as fits best.

    Parameters
    ----------
    structure_a, structure_b : ndarray (M, 64, 33) complex64
        `fine_structure` of the one and the other of each pair.

    Returns
    -------
    ndarray (M,) float64
        In −1..1: the largest cross-correlation over shifts of up to 4 pixels of the thumbnail (6 %) in steps of half a
        pixel, taken from the spectra by a matrix product. An image without structure has 0 with any.

    References
    ----------
    Guizar-Sicairos, Thurman & Fienup 2008, Opt. Lett. 33:156.
    """
    shifts = np.arange(-_SHIFT, _SHIFT + 0.25, 0.5)
    half = np.where(np.isin(np.arange(_THUMBNAIL // 2 + 1), (0, _THUMBNAIL // 2)), 1, 2)  # the rest is its mirror
    down = np.exp(2j * np.pi * np.outer(shifts, np.fft.fftfreq(_THUMBNAIL))).astype(np.complex64)
    across = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(_THUMBNAIL), shifts)) * half[:, None] / _THUMBNAIL**2
    both = structure_a * structure_b.conj()
    return (down @ (both @ across.astype(np.complex64))).real.max(axis=(1, 2))


def _log_sizes(table: pd.DataFrame) -> Floats:
    """(N, 4): log W, log H, log W/H, log W·H; NaN where a side is unknown or not positive."""
    sides = table[_SIDES].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    w, h = np.log(np.where(sides > 0, sides, np.nan)).T
    return np.stack([w, h, w - h, w + h], axis=1)


def _estimate(values: Floats, patients: NDArray[np.str_]) -> Estimate:
    """Of (1 + n,) numbers, the observed one first."""
    return estimate(float(values[0]), values[1:], patients)


def _varies(values: Floats) -> bool:
    return len(values) > 0 and bool(values.std() > _CONSTANT)


def _centred(values: Floats, labels: Floats) -> Floats:
    """Values, (N,) or (N, K), less the mean of their class."""
    means = pd.DataFrame(values).groupby(labels).transform("mean")
    return values - means.to_numpy().reshape(values.shape)


def _squares(values: Floats, labels: Floats, weights: Floats) -> Floats:
    """Weighted sum of squares about the weighted mean of each class, for every row of (n, N) weights."""
    v, classes = _centred(values, labels), labels[:, None] == np.unique(labels)
    return weights @ v**2 - sum((weights @ (v * of)) ** 2 / np.maximum(weights @ of, 1) for of in classes.T)


def _explained(residual: Floats, total: Floats) -> Floats:
    """1 − residual/total, NaN for a replicate whose shapes are all equal."""
    return 1 - residual / np.where(total > _CONSTANT, total, np.nan)


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 64, 64) by area averaging, in steps of grey."""
    sides = (_THUMBNAIL, _THUMBNAIL)
    return np.stack([cv2.resize(image, sides, interpolation=cv2.INTER_AREA) for image in images]).astype(np.float32)
