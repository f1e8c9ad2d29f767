"""Images given the look of the other class: does the decision follow proportions, sharpness or exposure themselves?

An image is cut to the proportions, blurred or sharpened to the sharpness, or bent in its grey scale to the mean grey
that it would have in the other class. Mainly that property changes; a cut also takes the edge of the image with it and
magnifies a little, and an exponent changes contrast too. Size cannot be changed at the network's resolution except
through sharpness, and contrast alone is taken away by the network's standardisation: they have no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pandas as pd
from image_properties import image_properties, laplacian_sharpness
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError
from cnn_xray.data import FITTING, FRAME_SIDE, Dataset, load_dataset
from cnn_xray.geometry import View
from cnn_xray.metrics import auc_difference
from cnn_xray.parameters import DataParameters

CHANGED = ("proportions", "sharpness", "exposure")
REFERENCE_SIDE = 128  # px at which sharpness is measured, whatever the size of the network's images
BLURS = np.linspace(0.3, 4.0, 15)  # standard deviations tried, px of the frame
SHARPENINGS = np.geomspace(0.1, 6.0, 15)  # amounts of unsharp masking tried, with a Gaussian of 1 px
EXPONENTS = np.exp(np.linspace(-1.5, 1.5, 31))  # of the grey scale tried


def values_of_other_class(values: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """For each image the value that has the same rank in the other class as its own has in its class: (N,) float.

    The two distributions change places.

    Parameters
    ----------
    values : array_like (N,) float
    labels : array_like (N,)
        0 or 1.

    Raises
    ------
    InputError
        Where a class is missing.
    """
    v, y = np.asarray(values, np.float64), np.asarray(labels)
    if set(np.unique(y)) != {0, 1}:
        raise InputError("Properties can be swapped between classes only where there are images of both.")
    new = np.empty(len(v))
    for label in (0, 1):
        inside = y == label
        new[inside] = np.quantile(v[~inside], (rankdata(v[inside]) - 0.5) / inside.sum())
    return new


def values_of_own_class(values: ArrayLike, labels: ArrayLike, seed: int) -> NDArray[np.float64]:
    """For each image the value of another, drawn without replacement from its own class: (N,) float.

    The null of `values_of_other_class`: images change about as much, and the property still goes with the class.

    Parameters
    ----------
    values : array_like (N,) float
    labels : array_like (N,)
    seed
        Of the drawing.
    """
    v, y = np.asarray(values, np.float64), np.asarray(labels)
    new, rng = np.empty(len(v)), np.random.default_rng(seed)
    for label in np.unique(y):
        new[y == label] = rng.permutation(v[y == label])
    return new


def whole_frames(p: DataParameters) -> Dataset:
    """The images of the training patients as `changed_images` takes them: whole, squashed into a square.

    Parameters
    ----------
    p
        The data, and the least size of the square.
    """
    return load_dataset(p, View(0.0, "squash", max(FRAME_SIDE, p.side)), FITTING)


def changed_images(
    frames: Dataset, rows: NDArray[np.intp], view: View, null_seed: int | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Property → images in which that property is as in the other class: (n, S, S) uint8.

    An image that becomes wider loses top and bottom, one that becomes narrower its flanks; sharpness is changed by a
    Gaussian or by unsharp masking, exposure by an exponent of the grey scale, whichever of those tried comes nearest.

    Parameters
    ----------
    frames
        Of `whole_frames`, among which the classes are compared.
    rows : ndarray (n,) int
        The images to change.
    view
        In which they are returned.
    null_seed
        With it the property is as in another image of the *same* class (`values_of_own_class`).

    Returns
    -------
    dict
        A property of CHANGED that is the same on all images has no entry.

    Raises
    ------
    InputError
        Without rows, and where a class is missing.
    """
    if not len(rows):
        raise InputError("There are no images to change: none is held out.")
    known = image_properties(frames).assign(sharpness=[sharpness_seen(image) for image in frames.pixels])
    differ = [name for name in CHANGED if known[name].nunique() > 1]
    labels = frames.table["label"]
    if null_seed is None:
        wanted = {name: values_of_other_class(known[name], labels) for name in differ}
    else:
        wanted = {name: values_of_own_class(known[name], labels, null_seed) for name in differ}
    found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in differ}
    for row in rows:
        image, log_ratio = frames.pixels[row], float(known["proportions"].iloc[row])
        for name in differ:
            new, shown = float(wanted[name][row]), log_ratio
            if name == "proportions":
                look, shown = _cut(image, new - log_ratio), new
            elif name == "sharpness":
                look = _nearest(_sharper_and_softer(image), sharpness_seen, new)
            else:
                look = _nearest(_brighter_and_darker(image), np.mean, new)
            place = view.place((look.shape[1], look.shape[0]), (float(np.exp(shown)), 1.0))
            found[name].append(view.apply(look, place))
    return {name: np.stack(images) for name, images in found.items()}


def auc_lost(
    score: Callable[[NDArray[np.uint8]], NDArray[Any]],
    other: dict[str, NDArray[np.uint8]],
    own: dict[str, NDArray[np.uint8]],
    table: pd.DataFrame,
    seed: int = 0,
) -> pd.DataFrame:
    """What a classifier loses by the properties themselves: one row a property.

    Parameters
    ----------
    score
        Images (n, S, S) uint8 → logits (n,).
    other, own
        Of `changed_images`, with the property as in the other class and, the null, as in another image of its own.
    table
        label and patient of the images, one row an image.
    seed
        Of the patient bootstrap.

    Returns
    -------
    DataFrame
        changed, null: AUC of ``other`` and of ``own``; lost: null − changed (`statistics.Comparison`).
    """
    rows = {}
    for name in other:
        changed, null = (table.assign(logit=score(images[name])) for images in (other, own))
        aucs = (roc_auc_score(one["label"], one["logit"]) for one in (changed, null))
        rows[name] = (*aucs, auc_difference(null, changed, seed))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["changed", "null", "lost"])


def sharpness_seen(image: NDArray[np.uint8]) -> float:
    """Sharpness of an image as seen at REFERENCE_SIDE px (`image_properties.laplacian_sharpness`).

    Parameters
    ----------
    image : ndarray (F, F) uint8
    """
    return laplacian_sharpness(cv2.resize(image, (REFERENCE_SIDE, REFERENCE_SIDE), interpolation=cv2.INTER_AREA))


def _cut(image: NDArray[np.uint8], wider: float) -> NDArray[np.uint8]:
    """The middle of an image, so that the log of width to height grows by ``wider``."""
    height, width = image.shape
    rows, columns = round(height * np.exp(-max(wider, 0.0))), round(width * np.exp(min(wider, 0.0)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def _sharper_and_softer(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    sharper = [cv2.addWeighted(image, 1 + amount, soft, -amount, 0) for amount in SHARPENINGS]
    return [image, *sharper, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in BLURS)]


def _brighter_and_darker(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    greys = np.arange(256) / 255
    return [np.round(255 * greys**exponent).astype(np.uint8)[image] for exponent in EXPONENTS]


def _nearest(
    looks: list[NDArray[np.uint8]], measure: Callable[[NDArray[np.uint8]], Any], wanted: float
) -> NDArray[np.uint8]:
    """Of the images that were tried the one whose measure comes nearest to what is wanted."""
    return min(looks, key=lambda image: abs(measure(image) - wanted))
