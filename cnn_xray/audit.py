"""The data's own leaks: what gives the label away without a look at the lungs, and what is in two splits at once.

*Size*: a logistic regression on width and height alone. When the label can be told from such a confounder (its log-odds
are a propensity score, Rosenbaum & Rubin 1983), a high AUC does not say that a network saw a lung. So the network is
scored again on pairs of images that the confounder hardly tells apart, and on pairs of any size that are as hard.

*Near-duplicates*: the same image in two splits, found by perceptual hash and confirmed by correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError
from cnn_xray.data import FITTING
from cnn_xray.metrics import auc_with_interval
from cnn_xray.statistics import Estimate, Patients, checked_columns, estimate, sample_and_replicates

Floats = NDArray[np.float64]
CALIPERS = (0.2, 0.05)  # standard deviations; see auc_on_equal_sizes
MAX_DISTANCE = 64  # bits of 255; see near_duplicates
MIN_CORRELATION = 0.92
_SIDES = ["original_width", "original_height"]
_BINS = 20  # of how hard a pair is
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
    """log p/(1 − p), the scale on which to compare sizes.

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


def auc_on_equal_sizes(
    labels: ArrayLike,
    scores: ArrayLike,
    inside: ArrayLike,
    confounder: ArrayLike,
    patients: Patients,
    calipers: Sequence[float] = CALIPERS,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC on the (positive, negative) pairs of equal size, and on pairs of any size that are as hard.

    AUC is the share of pairs that are in order. On pairs of equal size it is lower for two reasons: size cannot help
    there, and such images are harder. The second is taken out by standardisation. ``inside`` says how hard a pair is:
    by how much the positive lies above the negative for a reader that does not see what tells the size. Pairs of any
    size are weighted so that this difference is spread as it is over the pairs of equal size (bins that hold a
    twentieth of these each). What the score still loses from the one to the other is owed to size, or to what goes with
    it and is not inside. A score that is ``inside`` loses nothing.

    A reader that is noisy does not hold hardness equal, and what is left over passes for size: an honest score is
    accused. So the question is asked in reverse as well: how much does ``inside`` lose, where pairs are as hard for the
    score? For a score that reads size beside the inside this is below 0; for an honest one it is not. Size counts where
    the difference lies above 0 and that in reverse below (reverse regression, for noise that does not go with size). A
    score that reads size alone does not show in reverse; its AUC on pairs of equal size is that of size alone.

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    scores : array_like (N,)
        Finite, probabilities or logits; ties count half.
    inside : array_like (N,)
        Scores of the reader that does not see size; images where it is NaN are left out.
    confounder : array_like (N,)
        Log-odds of label 1 by size (`log_odds`); images where it is NaN are left out.
    patients : array_like (N,)
        The patient of every image; the bootstrap draws patients.
    calipers
        The farthest apart that two images of equal size may be, in standard deviations of the confounder: those within
        class (root of the mean of the two variances), which the distance between the classes does not widen.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row a caliper, index ``caliper``: Estimates ``equal size`` and ``any size, as hard``, their ``difference``,
        the one ``in reverse``, ``size alone`` (the confounder's AUC on pairs of equal size: what a network that reads
        size alone can reach), and the number of ``pairs``. NaN where there is no pair.

    Raises
    ------
    InputError
        On other labels, scores that are not finite, an infinite confounder, a missing patient, unequal lengths, a
        caliper that is negative or NaN.

    References
    ----------
    Austin 2011, Pharm. Stat. 10:150 (0.2 standard deviations of the log-odds). Janes & Pepe 2009, Biometrika 96:371
    (AUC with a covariate held fixed). Goldberger 1984, J. Human Resources 19:293 (reverse regression).
    """
    if wrong := [caliper for caliper in calipers if not caliper >= 0]:
        raise InputError(f"The caliper is {wrong[0]}: it must be 0 or more standard deviations.")
    y, s, r, c, names = checked_columns(
        labels=labels, scores=scores, inside=inside, confounder=confounder, patients=patients
    )
    known = np.isfinite(c) & np.isfinite(r)
    y, s, r, c, names = y[known], s[known], r[known], c[known], names[known]
    positive, negative = (np.flatnonzero(y == label) for label in (1, 0))
    weights = sample_and_replicates(names, seed).astype(np.float64) if len(y) else np.ones((1, 0))

    def apart(values: Floats) -> Floats:
        return values[positive][:, None] - values[negative]

    def drawn(pairs: Floats) -> Floats:
        """How many of the pairs each replicate draws."""
        return ((weights[:, positive] @ pairs) * weights[:, negative]).sum(axis=1)

    of_score, of_inside, of_size = ((apart(values) > 0) + (apart(values) == 0) / 2 for values in (s, r, c))

    def as_hard(ordered: Floats, ease: Floats, equal: Floats) -> Floats:
        """Concordance of pairs of any size, weighted so that their ease is spread as over the equal ones."""
        bins, found = np.digitize(ease, np.quantile(ease[equal > 0], np.arange(1, _BINS) / _BINS)), np.zeros(1)
        for here in (bins == number for number in np.unique(bins[equal > 0])):
            found = found + drawn(equal * here) * drawn(ordered * here) / np.maximum(drawn(here), 1)
        return found / drawn(equal)

    rows = []
    for caliper in calipers:
        far = caliper * math.sqrt((c[positive].var() + c[negative].var()) / 2) if of_size.size else 0.0
        equal = (np.abs(apart(c)) <= far).astype(np.float64)
        if not equal.any():
            rows.append((*[Estimate(math.nan)] * 5, 0))
            continue
        with np.errstate(invalid="ignore"):  # a replicate may draw none of the pairs
            score, inner, size = (drawn(one * equal) / drawn(equal) for one in (of_score, of_inside, of_size))
            hard, reverse = as_hard(of_score, apart(r), equal), as_hard(of_inside, apart(s), equal) - inner
        of = names[np.concatenate([positive[equal.any(axis=1)], negative[equal.any(axis=0)]])]
        every = (score, hard, hard - score, reverse, size)  # the observed one first, then replicates
        rows.append((*(estimate(one[0], one[1:], of) for one in every), int(equal.sum())))
    columns = ["equal size", "any size, as hard", "difference", "in reverse", "size alone", "pairs"]
    return pd.DataFrame(rows, columns=columns, index=pd.Index(calipers, name="caliper"))


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


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 64, 64) by area averaging, in steps of grey."""
    sides = (_THUMBNAIL, _THUMBNAIL)
    return np.stack([cv2.resize(image, sides, interpolation=cv2.INTER_AREA) for image in images]).astype(np.float32)
