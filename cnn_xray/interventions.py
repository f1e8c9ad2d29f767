"""Swap or hide a region of the image, to see whether the decision moves with it.

Everything here asks a ``score``, any function from images (N, S, S) uint8 to logits (N,), so that another's classifier
can be asked as well as the network of this project.

*Border swap* (class-crossed; for objects before backgrounds Xiao et al. 2020, arXiv 2006.09994): into image i a region
of image j is pasted, j from the other class (cross) or from the same one, never of the same patient. The same-class
arm undergoes the same surgery, so what the seam does on average cancels. With Δz the change of the logit and s = +1
for NORMAL, −1 for PNEUMONIA:

    τ_i = s_i (mean Δz cross − mean Δz same),     R = ½ (τ_NORMAL + τ_PNEUMONIA) / (mean z PNEUMONIA − mean z NORMAL)

with τ of a class the mean over its images. R, the reliance ratio, is the share of the network's own class difference
that moves with the region: 1 for the whole image, 0 for a region that tells it nothing. Classes count alike, whatever
their numbers: a seam may show more between classes than within one, and as far as that moves the logits of both classes
alike, it enters the two τ with opposite signs and cancels. What it does to one class more than to the other stays.

*Occlusion* paints a region over. Every paint makes an image that the network never saw (Hooker et al. 2019, arXiv
1806.10758); so there are three, and random regions of the same area undergo the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import cv2
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError, geometry
from cnn_xray.attention import neutral_image
from cnn_xray.data import CLASSES, Dataset
from cnn_xray.geometry import SEAM, blend
from cnn_xray.metrics import weighted_auc
from cnn_xray.parameters import DataParameters
from cnn_xray.statistics import Comparison, compare, estimate, paired_difference, sample_and_replicates

Score = Callable[[np.ndarray], np.ndarray]  # images (N, S, S) uint8 → logits (N,)
CHUNK = 512  # composites made, or images hidden, at a time
ANYWHERE = "random regions"  # of the border's area: a yardstick of how much an area counts
REGIONS = ("border", "border outside the lungs", "inner border", "outside the lungs", "lung box", ANYWHERE)
SURGERIES = ("hard seam", "lungs dilated", "blurred donor", "flat donor")  # other ways to swap a region
DILATED = 0.12  # fraction of the side by which lungs are dilated
ARMS = {"cross": True, "same": False}
FILLS = ("mean", "blur", "noise")
PLACES = {"border": slice(1), ANYWHERE: slice(1, None)}  # of all that is hidden, the border first
POSITIONS = 4  # random regions that are hidden, the same for all images
BLUR = 0.1  # standard deviation of the blur, fraction of the side


def donor_pairs(
    labels: np.ndarray, patients: np.ndarray, count: int, seed: int, like: np.ndarray | None = None, within: float = 0
) -> pd.DataFrame:
    """Who gives to whom: one row a pair, columns recipient, donor (row numbers), cross (bool).

    Every image gets ``count`` donors of the other class and as many of its own, fewer where there are not so many
    images of other patients that may give. Within a class every image gives about equally often, which keeps a few odd
    donors from deciding the figure.

    Parameters
    ----------
    labels : ndarray (N,)
        0 NORMAL, 1 PNEUMONIA.
    patients : ndarray (N,)
    count
        Donors of each class an image.
    seed
        Of the draw.
    like : ndarray (N,), optional
        Something in which donor and recipient may differ by ``within`` at most, such as size; NaN is like nothing.
    within
        How far.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    rng = np.random.default_rng(seed)
    pairs = []
    for give, take in product((0, 1), repeat=2):
        pool = np.flatnonzero(labels == give)
        turns = np.zeros(len(pool), int)
        for taker in rng.permutation(np.flatnonzero(labels == take)):
            allowed = patients[pool] != patients[taker]
            if like is not None:
                allowed &= np.abs(like[pool] - like[taker]) <= within
            order = np.lexsort((rng.random(len(pool)), turns, ~allowed))[: min(count, allowed.sum())]
            turns[order] += 1
            pairs += [(taker, giver, give != take) for giver in pool[order]]
    table = pd.DataFrame(pairs, columns=["recipient", "donor", "cross"])
    table = table.astype({"recipient": int, "donor": int, "cross": bool})  # also where there is no pair at all
    return table.sort_values(["recipient", "cross"], kind="stable", ignore_index=True)


def region_mask(region: str, data: Dataset, width: float) -> tuple[np.ndarray, bool]:
    """The soft mask (S, S) of one of `REGIONS`, and whether the lungs of recipient and donor are spared.

    Of random regions, which lie elsewhere in every image (`composites`), it is that of the region whose area they have:
    the border, with lung masks the border outside the lungs. Raises `InputError` for a region these images do not have.

    Parameters
    ----------
    region
        One of `REGIONS`, as such or with one of `SURGERIES`: ``border, hard seam``.
    data
        The images; their training split decides the lung box.
    width
        Of the border, fraction of the side.
    """
    size = data.view.size
    region, _, surgery = region.partition(", ")
    if region not in REGIONS or surgery not in ("", *SURGERIES):
        raise InputError(f"There is no region {region!r}; choose one of {', '.join(REGIONS)}.")
    if region == ANYWHERE:
        region = "border" if data.lungs is None else "border outside the lungs"
    spared = region in ("border outside the lungs", "outside the lungs")
    if data.lungs is None and (spared or region == "lung box"):
        raise InputError(f"The region {region!r} needs lung masks, and these data have none.")
    if region == "outside the lungs":
        return np.ones((size, size), np.float32), spared
    if region == "lung box" and data.lungs is not None:
        return geometry.soft_box(size, geometry.lung_box(data.lungs[data.rows("train")]), width * SEAM), spared
    mask = (geometry.soft_inner_border if region == "inner border" else geometry.soft_border)(size, width)
    if mask.max() < 1:
        raise InputError(f"border is {width:g}: the {region} of an image of {size} px has no whole pixel; try a wider.")
    return mask, spared


def regions_of(data: Dataset, width: float, split: str = "test") -> list[str]:
    """Those of `REGIONS` that the images of a split have: some need lung masks, or room for a whole pixel.

    Parameters
    ----------
    data
        The images.
    width
        Of the border, fraction of the side.
    split
        The images.
    """
    found = []
    for region in REGIONS:
        with suppress(InputError):
            _, spared = region_mask(region, data, width)
            if not spared or data.lungs is None or data.lungs[data.rows(split)].any():
                found.append(region)
    return found


def composites(data: Dataset, recipients: np.ndarray, donors: np.ndarray, region: str, width: float) -> np.ndarray:
    """Images (n, S, S) uint8: row ``recipients[i]`` of the data with the region of row ``donors[i]`` pasted in.

    Where the region spares the lungs, these are the lungs of either image. Random regions lie elsewhere in each
    recipient, at the same place for all its donors, and have the area that the border, or the border outside the lungs,
    has in that very pair. Raises as `region_mask`.

    Of `SURGERIES`, the ``hard seam`` has no width where it spares the lungs, the lungs are ``dilated`` by DILATED, the
    donor comes ``blurred`` (BLUR), or ``flat``: as its mean grey in the region.

    Parameters
    ----------
    data
        The images.
    recipients, donors : ndarray (n,) int
        Row numbers.
    region
        One of `REGIONS`, as such or with one of `SURGERIES`.
    width
        Of the border, fraction of the side.
    """
    whole, spared = region_mask(region, data, width)
    region, _, surgery = region.partition(", ")
    seam, reach = width * SEAM * (surgery != "hard seam"), DILATED * (surgery == "lungs dilated")
    made = np.empty((len(recipients), *whole.shape), np.uint8)
    images, number = np.unique([recipients, donors], return_inverse=True)  # what is made of an image is made once
    number = number.reshape(2, -1)
    far = geometry.distance_from(data.lungs[images]) if spared and data.lungs is not None else None
    pixels = data.pixels[images]
    giving = _blurred(pixels) if surgery == "blurred donor" else pixels
    for start in range(0, len(recipients), CHUNK):
        part, mask = slice(start, start + CHUNK), whole
        taker, giver = number[:, part]
        if far is not None:
            mask = mask * geometry.soft_outside(np.minimum(far[taker], far[giver]), seam, reach)
        if region == ANYWHERE:
            areas = np.broadcast_to(mask.mean(axis=(-2, -1)), len(taker))
            mask = geometry.random_regions(data.view.size, areas, recipients[part])
        given = giving[giver]
        if surgery == "flat donor":
            weights = np.broadcast_to(mask, given.shape) + np.float32(1e-9)  # also where nothing is pasted
            given = np.average(given, axis=(1, 2), weights=weights, keepdims=True)
        made[part] = blend(pixels[taker], given, mask)
    return made


def pairs_with(region: str, data: Dataset, rows: np.ndarray, pairs: pd.DataFrame, width: float) -> pd.DataFrame:
    """The pairs whose images have the region: where it spares the lungs, those with a lung mask.

    Parameters
    ----------
    region
        One of `REGIONS`.
    data, rows
        The images, by their row numbers in ``data``.
    pairs
        `donor_pairs`, which number the images within ``rows``.
    width
        Of the border, fraction of the side.
    """
    if not region_mask(region, data, width)[1] or data.lungs is None:
        return pairs
    has = data.lungs[rows].any(axis=(1, 2))
    return pairs[has[pairs["recipient"]] & has[pairs["donor"]]]


def swap_effects(
    score: Score, data: Dataset, rows: np.ndarray, pairs: pd.DataFrame, region: str, width: float
) -> pd.DataFrame:
    """Swap a region in every pair and score the composites.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    data, rows
        The images, by their row numbers in ``data``.
    pairs
        `donor_pairs`, which number the images within ``rows``; those without the region are left out (`pairs_with`).
    region
        One of `REGIONS`.
    width
        Of the border, fraction of the side.

    Returns
    -------
    DataFrame
        The pairs with label and patient of both (``recipient_label``, …), ``z`` of the recipient and of the
        ``composite``, logits.

    Raises
    ------
    InputError
        As `region_mask`.
    """
    pairs = pairs_with(region, data, rows, pairs, width)
    taker, giver = pairs["recipient"].to_numpy(), pairs["donor"].to_numpy()
    made = composites(data, rows[taker], rows[giver], region, width)
    composite = score(made) if len(made) else np.zeros(0)  # nobody can give: no network predicts of nothing
    known = data.table.iloc[rows][["label", "patient"]].reset_index(drop=True)
    pairs = pairs.join(known.add_prefix("recipient_"), on="recipient").join(known.add_prefix("donor_"), on="donor")
    return pairs.assign(z=score(data.pixels[rows])[taker], composite=composite).reset_index(drop=True)


def swap(
    score: Score,
    p: DataParameters,
    data: Dataset,
    region: str,
    donors: int,
    split: str = "test",
    like: np.ndarray | None = None,
    within: float = 0,
) -> tuple[pd.DataFrame, dict[str, Comparison]]:
    """Swap a region of every image of a split: `swap_effects`, and the figures of `reliance`.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p, data
        Border and seed, and the images.
    region
        One of `REGIONS`.
    donors
        How many of each class an image gets.
    split
        The images.
    like, within
        Which of them may give to which (`donor_pairs`).
    """
    rows = data.rows(split)
    labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
    pairs = donor_pairs(labels, patients, donors, p.seed, like, within)
    swapped = swap_effects(score, data, rows, pairs, region, p.border)
    logits = swapped.groupby("recipient")["z"].first().reindex(range(len(rows)))  # the others have no part in R
    return swapped, reliance(swapped, labels, logits.to_numpy(), patients, p.seed)


def swap_conflict(swapped: pd.DataFrame, seed: int = 0) -> Comparison:
    """AUC with every region from an image of the same class, less that with every region from the other class.

    What a bias-conflicting test set shows where none was planted: how much is lost where the region goes with the wrong
    class. 0 for a network that ignores the region and its seam. A seam that shows more between classes than within one
    costs AUC too; it does not cancel here as in R. Recipients and donors are both resampled, as in `reliance`.

    Parameters
    ----------
    swapped
        `swap_effects` of one region.
    seed
        Of the bootstrap by patient.
    """
    pairs, images = len(swapped), swapped.drop_duplicates("recipient")["recipient_patient"]
    drawn = sample_and_replicates(pd.concat([swapped["recipient_patient"], swapped["donor_patient"]]), seed)
    weights = drawn[:, :pairs] * drawn[:, pairs:]
    label, logit, cross = (swapped[name].to_numpy() for name in ("recipient_label", "composite", "cross"))
    same, other = (weighted_auc(label[arm], logit[arm], weights[:, arm]) for arm in (~cross, cross))
    return compare((same - other)[0], (same - other)[1:], images)


def read_inside(swapped: pd.DataFrame, images: int) -> np.ndarray:
    """What the network says of what is left of an image, (N,) logits: the mean over donors of both classes, evenly.

    Parameters
    ----------
    swapped
        `swap_effects` of one region: what lies in it says nothing of the label any more.
    images
        N, of the images that were numbered; NaN for those without donors of both classes.
    """
    means = swapped.groupby(["recipient", "cross"])["composite"].mean().unstack()
    return means.mean(axis=1, skipna=False).reindex(range(images)).to_numpy()


def auc_of_parts(score: Score, data: Dataset, rows: np.ndarray) -> dict[str, float]:
    """AUC on images of which a part alone is their own, the rest the same in all: no image gives to another.

    ``lungs alone``: all else is the mean training image, classes counted alike. ``without lungs``: the lungs are. Their
    outline shows in both, at a hard seam. Images without a lung mask are left out; empty where one class has none.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    data, rows
        The images, by their row numbers in ``data``.
    """
    if data.lungs is None:
        return {}
    rows = rows[data.lungs[rows].any(axis=(1, 2))]
    labels, train = data.table["label"].to_numpy(), data.rows("train")
    if len(np.unique(labels[rows])) < 2:
        return {}
    nobody = neutral_image(data.pixels[train], labels[train])
    parts = {"lungs alone": data.lungs[rows], "without lungs": ~data.lungs[rows]}
    made = {part: np.where(own, data.pixels[rows], nobody).astype(np.uint8) for part, own in parts.items()}
    return {part: float(roc_auc_score(labels[rows], score(images))) for part, images in made.items()}


def pair_counts(swapped: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """What the figures of `reliance` rest on; one row a class of recipients, index NORMAL, PNEUMONIA.

    Columns: ``images``; ``pairs cross``, ``pairs same``; ``images
    without cross``, ``images without same``; ``images without tau``, which lack the one or the other.

    Parameters
    ----------
    swapped
        `swap_effects` of one region.
    labels : ndarray (N,)
        Of the images that were numbered.
    """
    recipients = {arm: swapped["recipient"][swapped["cross"] == cross] for arm, cross in ARMS.items()}
    number = pd.DataFrame({arm: np.bincount(rows, minlength=len(labels)) for arm, rows in recipients.items()})
    lacking = number.eq(0).assign(tau=number.eq(0).any(axis=1))
    counts = number.add_prefix("pairs ").join(lacking.add_prefix("images without "))
    counts.insert(0, "images", 1)
    totals = counts.groupby(np.asarray(labels)).sum()
    return totals.reindex(list(CLASSES.values()), fill_value=0).set_axis(list(CLASSES))


def reliance(
    swapped: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, patients: np.ndarray, seed: int = 0
) -> dict[str, Comparison]:
    """R, τ by class, and flip rates, each with its interval by patient and p against 0.

    An image is recipient and donor, so both are resampled: image i counts w_i times, and donor j within it w_j times
    (the pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1:386), which is on the safe side.

    Parameters
    ----------
    swapped
        `swap_effects` of one region.
    labels, logits, patients : ndarray (N,)
        Of the images that were numbered.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``R``; ``tau NORMAL``, ``tau PNEUMONIA`` (logits); ``flips cross NORMAL``, … (of an image's composites, the
        share decided otherwise than the image itself; a share is never below 0, so p is NaN). NaN where a class has no
        image with both arms, or the network no class difference to share out.
    """
    labels, logits, patients = np.asarray(labels), np.asarray(logits, float), np.asarray(patients)
    weights = sample_and_replicates(patients, seed).astype(np.float32)
    change = swapped["composite"] - swapped["z"]
    flips = (swapped["composite"] > 0) != (swapped["z"] > 0)
    arms = {arm: swapped["cross"] == cross for arm, cross in ARMS.items()}
    moved = {arm: _over_donors(change, swapped, own, weights) for arm, own in arms.items()}
    of_image = {"tau": np.where(labels == 0, 1, -1) * (moved["cross"] - moved["same"])}
    of_image |= {f"flips {arm}": _over_donors(flips, swapped, own, weights) for arm, own in arms.items()}
    figures = {}  # of each row of weights, and the images that they rest on: (n,) and (N,) bool
    for (what, values), (name, label) in product(of_image.items(), CLASSES.items()):
        rests_on = (labels == label) & ~np.isnan(values[0])
        figures[f"{what} {name}"] = _over_images(values, weights, rests_on), rests_on
    (normal, of_normal), (ill, of_ill) = (figures[f"tau {name}"] for name in CLASSES)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = [weights[:, own] @ logits[own] / weights[:, own].sum(axis=1) for own in (of_normal, of_ill)]
        difference = level[1] - level[0]
        R = np.where(difference > 0, (normal + ill) / 2 / difference, math.nan)
    result = {}
    for name, (found, rests_on) in {"R": (R, of_normal | of_ill), **figures}.items():
        asked = (found[0], found[1:], patients[rests_on])
        result[name] = Comparison(**vars(estimate(*asked))) if name.startswith("flips") else compare(*asked)
    return result


def _over_donors(values: pd.Series, pairs: pd.DataFrame, arm: pd.Series, weights: np.ndarray) -> np.ndarray:
    """Mean of the pairs of one arm within every recipient, donors weighted (n, N): (n, N), NaN without a donor."""
    shape = (weights.shape[1],) * 2
    where = (pairs["recipient"][arm], pairs["donor"][arm])

    def summed(numbers: np.ndarray) -> np.ndarray:
        return (sparse.csr_array((numbers, where), shape=shape) @ weights.T).T

    with np.errstate(invalid="ignore", divide="ignore"):
        return summed(values[arm].to_numpy(np.float32)) / summed(np.ones(int(arm.sum()), np.float32))


def _over_images(values: np.ndarray, weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Weighted mean of values (n, N) over some images, those that are NaN in a row left out of it: (n,)."""
    counted = np.where(np.isnan(values[:, images]), 0, weights[:, images])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counted * np.nan_to_num(values[:, images])).sum(axis=1, dtype=float) / counted.sum(axis=1, dtype=float)


def occlusion_effects(score: Score, images: np.ndarray, width: float, seed: int) -> pd.DataFrame:
    """What each image's decision loses under every fill in every place.

    A drop says that the area matters for this image, not that it tells the classes apart: for that see `swap_effects`.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    images : ndarray (N, S, S) uint8
    width
        Of the border, fraction of the side.
    seed
        Of the noise and of the random regions.

    Returns
    -------
    DataFrame
        One row an image × fill × place: ``image`` (its number), ``fill``, ``place``, ``drop``, ``flip``. ``drop`` =
        s (z − z occluded) in logits, with s = +1 where the image itself is decided as PNEUMONIA (z > 0), else −1.
        ``flip``: whether the decision changed, 0 or 1. Fills: ``mean``, the image's own mean grey; ``blur``, the image
        without its detail; ``noise``, Gaussian with the image's mean and standard deviation, clipped. Of the random
        regions, as large as the border with its seam, it is the mean over POSITIONS.
    """
    size = images.shape[1]
    border = geometry.soft_border(size, width)
    seeds = seed * POSITIONS + np.arange(POSITIONS)
    hidden = [border, *geometry.random_regions(size, np.full(POSITIONS, border.mean()), seeds)]
    rng = np.random.default_rng(seed)
    z = score(images)
    occluded = np.empty((len(FILLS), len(hidden), len(images)), np.float32)
    step = CHUNK // (1 + POSITIONS)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        for i, paint in enumerate(_paints(images[part], rng)):
            painted = np.concatenate([blend(images[part], paint, mask) for mask in hidden])
            occluded[i, :, part] = score(painted).reshape(len(hidden), -1)
    drop = np.where(z > 0, 1, -1) * (z - occluded)
    flip = ((occluded > 0) != (z > 0)).astype(float)
    tables = []
    for (i, fill), (place, own) in product(enumerate(FILLS), PLACES.items()):
        means = {"drop": pd.DataFrame(drop[i, own]).mean(), "flip": pd.DataFrame(flip[i, own]).mean()}
        tables.append(pd.DataFrame({"fill": fill, "place": place, **means}))
    return pd.concat(tables).rename_axis("image").reset_index()


def occlusion_summary(occluded: pd.DataFrame, labels: np.ndarray, patients: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """What hiding the border costs beside hiding as much anywhere; one row a fill and class.

    Columns: border, random regions (mean drop, logits); difference, low, high (border − random regions within image,
    interval by patient); flips border, flips random regions (share of decisions); n (images).

    Parameters
    ----------
    occluded
        `occlusion_effects`.
    labels : ndarray (N,)
        Of the images. Classes are kept apart: a fill that looks like one of them moves the other alone.
    patients : ndarray (N,)
        Of the images.
    seed
        Of the bootstrap.
    """
    rows = {}
    for fill, (name, label) in product(FILLS, CLASSES.items()):
        own = occluded[(occluded["fill"] == fill) & (np.asarray(labels)[occluded["image"]] == label)]
        drop, flip = (own.pivot(index="image", columns="place", values=what) for what in ("drop", "flip"))
        patient = np.asarray(patients)[drop.index]
        difference = paired_difference(drop["border"], drop[ANYWHERE], patient, seed=seed)
        found = {"difference": difference.value, "low": difference.low, "high": difference.high}
        rows[fill, name] = {**drop.mean(), **found, **flip.mean().add_prefix("flips "), "n": difference.n}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["fill", "class"])


def _paints(images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """What images (n, S, S) are painted over with, in the order of `FILLS`: (n, S, S) or (n, 1, 1)."""
    mean, spread = (getattr(images, name)(axis=(1, 2), keepdims=True) for name in ("mean", "std"))
    noise = np.clip(mean + spread * rng.standard_normal(images.shape, np.float32), 0, 255)
    return [mean, _blurred(images), noise]


def _blurred(images: np.ndarray) -> np.ndarray:
    """Images (n, S, S) without their detail."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), BLUR * images.shape[1]) for image in images])
