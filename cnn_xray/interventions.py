"""Class-crossed transplant: does the decision follow a region of the film when it is exchanged between classes?

Into film i a region of film j is pasted, j from the other class (cross) or from the same one, never of the same
patient. The same-class arm undergoes the same surgery, so what the seam does cancels. With Δz the change of the
logit and s = +1 for NORMAL, −1 for PNEUMONIA:

    τ_i = s_i (mean Δz cross − mean Δz same),      R = mean τ / (mean z | PNEUMONIA − mean z | NORMAL)

R is the share of the network's own class difference that moves with the region: 1 for the whole film, 0 for a
region that tells it nothing. A film without a donor in either arm has no τ_i and counts in neither part of R.

Occlusion: what the decision loses when the ring is hidden, beside equal areas inside.

What is hidden must be painted with something, and every paint is a film of its own that the network never saw
(Hooker et al. 2019, arXiv 1806.10758); so there are three, and the interior undergoes the same. A drop says that the
area matters for this film, not that it tells the classes apart: for that see the class-crossed transplant.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import sparse

from cnn_xray import InputError, geometry
from cnn_xray.data import CLASSES, Dataset
from cnn_xray.geometry import FRAME, SEAM, blend, shrunk
from cnn_xray.statistics import Comparison, compare, estimate, paired_difference, sample_and_replicates
from cnn_xray.training import predict

_CHUNK = 512  # composites held at a time
REGIONS = ("outer ring", "ring outside the lungs", "inner ring", "outside the lungs", "lung box")
_ARMS = {"cross": True, "same": False}


def donor_pairs(labels: np.ndarray, patients: np.ndarray, count: int, seed: int) -> pd.DataFrame:
    """Who gives to whom: one row a pair, columns recipient, donor (row numbers), cross (bool).

    labels (N,) in {0, 1}, patients (N,). Every film gets ``count`` donors of the other class and as many of its own,
    fewer where there are not so many films of other patients, none where there is none. Within a class every film gives
    about equally often, which keeps a few odd donors from deciding the figure.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    rng = np.random.default_rng(seed)
    pairs = []
    for give in (0, 1):
        pool = np.flatnonzero(labels == give)
        for take in (0, 1):
            turns = np.zeros(len(pool), int)
            for taker in rng.permutation(np.flatnonzero(labels == take)):
                allowed = patients[pool] != patients[taker]
                order = np.lexsort((rng.random(len(pool)), turns, ~allowed))[: min(count, allowed.sum())]
                turns[order] += 1
                pairs += [(taker, giver, give != take) for giver in pool[order]]
    table = pd.DataFrame(pairs, columns=["recipient", "donor", "cross"])
    table = table.astype({"recipient": int, "donor": int, "cross": bool})  # also where there is no pair at all
    return table.sort_values(["recipient", "cross"], kind="stable", ignore_index=True)


def region_mask(region: str, data: Dataset, width: float) -> tuple[np.ndarray, bool]:
    """The soft mask (S, S) of one of `REGIONS`, and whether the lungs of recipient and donor are spared.

    ``width`` is that of a ring, fraction of the side. Raises `InputError` for a region that these films do not have.
    """
    size = data.view.size
    if region not in REGIONS:
        raise InputError(f"There is no region {region!r}; choose one of {', '.join(REGIONS)}.")
    spared = region in ("ring outside the lungs", "outside the lungs")
    if data.lungs is None and (spared or region == "lung box"):
        raise InputError(f"The region {region!r} needs lung masks, and these data have none.")
    if region == "outside the lungs":
        return np.ones((size, size), np.float32), spared
    if region == "lung box":
        assert data.lungs is not None
        return geometry.soft_box(size, geometry.lung_box(data.lungs[data.rows("train")]), width * geometry.SEAM), spared
    ring = (geometry.soft_inner_border if region == "inner ring" else geometry.soft_border)(size, width)
    if ring.max() < 1:
        raise InputError(f"ring is {width:g}: the {region} of a film of {size} px has no whole pixel; try a wider one.")
    return ring, spared


def composites(data: Dataset, recipients: np.ndarray, donors: np.ndarray, region: str, width: float) -> np.ndarray:
    """Films (n, S, S) uint8: row ``recipients[i]`` of the data with the region of row ``donors[i]`` pasted in.

    Where the region spares the lungs, these are the lungs of either film. Raises as `masks`.
    """
    mask, spared = region_mask(region, data, width)
    if spared:
        assert data.lungs is not None
        mask = mask * geometry.soft_outside(data.lungs[recipients] | data.lungs[donors], width * geometry.SEAM)
    return blend(data.pixels[recipients], data.pixels[donors], mask)


def swapped(
    model: Any, data: Dataset, rows: np.ndarray, pairs: pd.DataFrame, region: str, width: float
) -> pd.DataFrame:
    """The pairs with what the transplant did: label and patient of both, z, and z of the composite (``composite``).

    ``pairs`` number the films within ``rows``; where the region spares the lungs, pairs with a film without a lung
    mask are left out. Composites are made and scored in batches. Raises as `masks`.
    """
    if region_mask(region, data, width)[1]:
        assert data.lungs is not None
        has = data.lungs[rows].any(axis=(1, 2))
        pairs = pairs[has[pairs["recipient"]] & has[pairs["donor"]]]
    taker, giver = pairs["recipient"].to_numpy(), pairs["donor"].to_numpy()
    composite = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        composite[part] = predict(model, composites(data, rows[taker[part]], rows[giver[part]], region, width))
    labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
    return pairs.assign(
        recipient_label=labels[taker],
        recipient_patient=patients[taker],
        donor_label=labels[giver],
        donor_patient=patients[giver],
        z=predict(model, data.pixels[rows])[taker],
        composite=composite,
    ).reset_index(drop=True)


def pair_counts(exchanged: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """What the figures rest on; one row a class of recipients, index NORMAL, PNEUMONIA.

    labels (N,): of the films that were numbered. Columns: ``films``; ``pairs cross``, ``pairs same``; ``films without
    cross``, ``films without same``; ``films without tau``, which lack the one or the other.
    """
    labels = np.asarray(labels)
    given = {
        arm: np.bincount(exchanged["recipient"][exchanged["cross"] == cross], minlength=len(labels))
        for arm, cross in _ARMS.items()
    }
    rows = {}
    for name, label in CLASSES.items():
        own = {arm: number[labels == label] for arm, number in given.items()}
        rows[name] = {
            "films": (labels == label).sum(),
            **{f"pairs {arm}": number.sum() for arm, number in own.items()},
            **{f"films without {arm}": (number == 0).sum() for arm, number in own.items()},
            "films without tau": ((own["cross"] == 0) | (own["same"] == 0)).sum(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def reliance(
    exchanged: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, patients: np.ndarray, seed: int = 0
) -> dict[str, Comparison]:
    """R, τ by class, and the flip rates of `exchange`'s pairs, each with its interval by patient and p against 0.

    labels, logits, patients (N,): of the films that were numbered. Names: ``R``, ``tau NORMAL``, ``tau
    PNEUMONIA`` (logits), and ``flips cross NORMAL``, … (of a film's composites, the share decided otherwise than the
    film itself, mean over films; a share is never below 0, so p is NaN). ``n``: the films that have such a figure.
    A film is recipient and donor, so both are resampled: film i counts w_i times, and donor j within it w_j times (the
    pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1:386), which is on the safe side. NaN where a
    class has no film with both arms, or the network no class difference to share out.
    """
    patients = np.asarray(patients)
    figures = _figures(exchanged, labels, logits, sample_and_replicates(patients, seed).astype(np.float32))
    result = {}
    for name, (found, rests_on) in figures.items():
        if name.startswith("flips"):
            result[name] = Comparison(**vars(estimate(found[0], found[1:], patients[rests_on])), p=math.nan)
        else:
            result[name] = compare(found[0], found[1:], patients[rests_on])
    return result


def _figures(
    found: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every figure of `reliance` for each row of weights (n, N), with the films it rests on: (n,) and (N,) bool."""
    labels, logits = np.asarray(labels), np.asarray(logits, float)
    change = found["composite"] - found["z"]
    flips = (found["composite"] > 0) != (found["z"] > 0)
    moved, flipped = (
        {arm: _over_donors(values, found, found["cross"] == cross, weights) for arm, cross in _ARMS.items()}
        for values in (change, flips)
    )
    tau = np.where(labels == 0, 1, -1) * (moved["cross"] - moved["same"])
    took_part = ~np.isnan(tau[0])
    of_class = {name: labels == label for name, label in CLASSES.items()}
    films = {name: took_part & own for name, own in of_class.items()}
    figures = {f"tau {name}": (_over_films(tau, weights, own), own) for name, own in films.items()}
    for arm, values in flipped.items():
        for name, own in of_class.items():
            rests_on = own & ~np.isnan(values[0])
            figures[f"flips {arm} {name}"] = _over_films(values, weights, rests_on), rests_on
    with np.errstate(invalid="ignore", divide="ignore"):
        total = {name: weights[:, own].sum(axis=1) for name, own in films.items()}
        level = {name: weights[:, own] @ logits[own] / total[name] for name, own in films.items()}
        mean = sum(total[name] * figures[f"tau {name}"][0] for name in CLASSES) / sum(total.values())
        difference = level["PNEUMONIA"] - level["NORMAL"]
        R = np.where(difference > 0, mean / difference, math.nan)
    return {"R": (R, took_part), **figures}


def _over_donors(values: pd.Series, pairs: pd.DataFrame, arm: pd.Series, weights: np.ndarray) -> np.ndarray:
    """Mean of the pairs of one arm within every recipient, donors weighted (n, N): (n, N), NaN without a donor."""
    shape = (weights.shape[1],) * 2
    where = (pairs["recipient"][arm], pairs["donor"][arm])

    def summed(numbers: np.ndarray) -> np.ndarray:
        return (sparse.csr_array((numbers, where), shape=shape) @ weights.T).T

    with np.errstate(invalid="ignore", divide="ignore"):
        return summed(values[arm].to_numpy(np.float32)) / summed(np.ones(int(arm.sum()), np.float32))


def _over_films(values: np.ndarray, weights: np.ndarray, films: np.ndarray) -> np.ndarray:
    """Weighted mean of values (n, N) over some films, those that are NaN in a row left out of it: (n,)."""
    counted = np.where(np.isnan(values[:, films]), 0, weights[:, films])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counted * np.nan_to_num(values[:, films])).sum(axis=1, dtype=float) / counted.sum(axis=1, dtype=float)


FILLS = ("mean", "blur", "noise")
PLACES = ("ring", "interior")
POSITIONS = 4  # of the interior square
BLUR = 0.1  # standard deviation of the blur, fraction of the side
_OCCLUDED_AT_ONCE = 128  # films at a time, each in 1 + POSITIONS composites


def occluded(model: Any, data: Dataset, rows: np.ndarray, width: float, seed: int) -> pd.DataFrame:
    """What each film's decision loses under every fill in every place; one row a film × fill × place.

    Columns: film (its number within ``rows``), path, label, fill, place, drop, flip. ``drop`` = s (z − z occluded) in
    logits, with s = +1 where the film itself is decided as PNEUMONIA (z > 0), else −1: positive where the evidence for
    the decision went away. ``flip``: whether the decision changed, 0 or 1. Fills: ``mean``, the film's own mean grey;
    ``blur``, the film itself without its detail; ``noise``, Gaussian with the film's mean and standard deviation,
    clipped. ``interior`` is the mean over `squares`, NaN where they have no room.
    """
    size, films = data.view.size, data.pixels[rows]
    hidden = [geometry.soft_border(size, width), *interior_squares(size, width, seed)]
    rng = np.random.default_rng(seed)
    z = predict(model, films)
    occluded = np.empty((len(FILLS), len(hidden), len(films)), np.float32)
    for start in range(0, len(films), _OCCLUDED_AT_ONCE):
        part = slice(start, start + _OCCLUDED_AT_ONCE)
        for fill, paint in _paints(films[part], rng).items():
            composites = np.concatenate([blend(films[part], paint, mask) for mask in hidden])
            occluded[FILLS.index(fill), :, part] = predict(model, composites).reshape(len(hidden), -1)
    drop = np.where(z > 0, 1, -1) * (z - occluded)
    flip = ((occluded > 0) != (z > 0)).astype(float)
    table = data.table.iloc[rows][["path", "label"]].reset_index(names="film")
    table["film"] = np.arange(len(films))
    return pd.concat(
        [
            table.assign(
                fill=fill, place=place, drop=_mean_over_places(drop[i, own]), flip=_mean_over_places(flip[i, own])
            )
            for i, fill in enumerate(FILLS)
            for place, own in zip(PLACES, (slice(1), slice(1, None)), strict=True)
        ],
        ignore_index=True,
    )


def occlusion_summary(occluded: pd.DataFrame, patients: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """One row a fill: what hiding the ring costs beside hiding as much of the interior.

    patients (N,): of the films that were numbered. Columns: ring, interior (mean drop, logits); difference, low, high
    (ring − interior within film, interval by patient); flips ring, flips interior (share of decisions); n (films
    with both) and undefined (films without).
    """
    rows = {}
    for fill in FILLS:
        wide = occluded[occluded["fill"] == fill].pivot(index="film", columns="place", values=["drop", "flip"])
        patient = np.asarray(patients)[wide.index]
        difference = paired_difference(wide["drop", "ring"], wide["drop", "interior"], patient, seed=seed)
        rows[fill] = {
            **{place: wide["drop", place].mean() for place in PLACES},
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            **{f"flips {place}": wide["flip", place].mean() for place in PLACES},
            "n": difference.n,
            "undefined": len(wide) - difference.n,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("fill")


def interior_squares(size: int, width: float, seed: int) -> list[np.ndarray]:
    """Soft masks of `POSITIONS` squares, each of the area of `regions.outer_ring`, at random places inside its edge.

    The seam is that of the ring, so nowhere do ring and square hide more than the whole film. Empty where the ring,
    half its seam included, is more than half of the film (``width`` above about 0.13): no such square has room.
    """
    seam, left = width * SEAM, shrunk(FRAME, width * (1 + SEAM))
    room = left[2] - left[0]
    area = 1 - _frustum(room, seam)
    side = math.sqrt(area - seam**2 / 3) - seam  # so that _frustum(side, seam) is the area
    if side > room:
        return []
    corners = left[0] + np.random.default_rng(seed).random((POSITIONS, 2)) * (room - side)
    return [geometry.soft_box(size, (x, y, x + side, y + side), seam) for x, y in corners]


def _frustum(side: float, seam: float) -> float:
    """Area of a soft square: 1 on ``side``, falling to 0 over ``seam`` on every side; fraction of the film."""
    return side**2 + 2 * side * seam + 4 / 3 * seam**2


def _paints(films: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What films (n, S, S) are painted over with, by fill: (n, S, S) or (n, 1, 1)."""
    mean, spread = (getattr(films, name)(axis=(1, 2), keepdims=True) for name in ("mean", "std"))
    blurred = np.stack([cv2.GaussianBlur(film, (0, 0), BLUR * films.shape[1]) for film in films])
    noise = np.clip(mean + spread * rng.standard_normal(films.shape, np.float32), 0, 255)
    return dict(zip(FILLS, (mean, blurred, noise), strict=True))


def _mean_over_places(values: np.ndarray) -> np.ndarray | float:
    """Mean over the places (k, N) → (N,); NaN where there is none."""
    return values.mean(axis=0) if len(values) else math.nan
