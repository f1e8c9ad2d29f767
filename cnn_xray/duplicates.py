"""Near-duplicates across splits: the same film twice, found by perceptual hash and confirmed by correlation.

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

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dctn, rfft2
from scipy.ndimage import gaussian_filter

from cnn_xray.errors import InputError
from cnn_xray.split import FITTING

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
