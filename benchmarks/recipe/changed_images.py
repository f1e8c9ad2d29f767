"""Films given the look of the other class: does the decision follow proportions, sharpness or exposure themselves?

A film is cut to the proportions, blurred or sharpened to the sharpness, or bent in its grey scale to the mean grey that
it would have in the other class. Mainly that property changes; a cut also takes the edge of the film with it and
magnifies a little, and an exponent changes contrast too. Size cannot be changed at the network's resolution except
through sharpness, and contrast alone is taken away by the network's standardisation: they have no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from cnn_xray import InputError
from cnn_xray.data import Dataset
from cnn_xray.geometry import View
from cnn_xray.stress import laplacian_sharpness, properties

CHANGED = ("proportions", "sharpness", "exposure")
REFERENCE_SIDE = 128  # px at which sharpness is measured, whatever the size of the network's films
BLURS = np.linspace(0.3, 4.0, 15)  # standard deviations tried, px of the frame
SHARPENINGS = np.geomspace(0.1, 6.0, 15)  # amounts of unsharp masking tried, with a Gaussian of 1 px
EXPONENTS = np.exp(np.linspace(-1.5, 1.5, 31))  # of the grey scale tried


def of_other_class(values: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """For each film the value that has the same rank in the other class as its own has in its class: (N,) float.

    ``values`` (N,) float, ``labels`` (N,) in {0, 1}. The two distributions change places. Raises InputError when a
    class is missing.
    """
    v, y = np.asarray(values, np.float64), np.asarray(labels)
    if set(np.unique(y)) != {0, 1}:
        raise InputError("Properties can be exchanged between classes only where there are films of both.")
    new = np.empty(len(v))
    for label in (0, 1):
        inside = y == label
        new[inside] = np.quantile(v[~inside], (rankdata(v[inside]) - 0.5) / inside.sum())
    return new


def of_own_class(values: ArrayLike, labels: ArrayLike, seed: int) -> NDArray[np.float64]:
    """For each film the value of another, drawn without replacement from its own class: (N,) float.

    The null of `of_other_class`: films change about as much, and the property still goes with the class as it did.
    """
    v, y = np.asarray(values, np.float64), np.asarray(labels)
    new, rng = np.empty(len(v)), np.random.default_rng(seed)
    for label in np.unique(y):
        new[y == label] = rng.permutation(v[y == label])
    return new


def changed(
    frames: Dataset, rows: NDArray[np.intp], view: View, null_seed: int | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Property → the films ``rows`` in ``view``, with that property as in the other class: (n, S, S) uint8.

    With ``null_seed`` it is as in another film of the same class instead (`of_own_class`). ``frames`` are whole films
    squashed into a square (``View(0, "squash", F)``), among which classes are compared. A film that becomes wider loses
    top and bottom, one that becomes narrower its flanks; sharpness is changed by a Gaussian or by unsharp masking,
    exposure by an exponent of the grey scale, whichever of those tried comes nearest. A property that is the same on
    all films has no entry. Raises InputError as `of_other_class`, and without rows.
    """
    if not len(rows):
        raise InputError("There are no films to change: none is held out.")
    known = properties(frames).assign(sharpness=[sharpness(film) for film in frames.pixels])
    differ = [name for name in CHANGED if known[name].nunique() > 1]
    labels = frames.table["label"]
    if null_seed is None:
        wanted = {name: of_other_class(known[name], labels) for name in differ}
    else:
        wanted = {name: of_own_class(known[name], labels, null_seed) for name in differ}
    found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in differ}
    for row in rows:
        film, log_ratio = frames.pixels[row], float(known["proportions"].iloc[row])
        for name in differ:
            new, shown = float(wanted[name][row]), log_ratio
            if name == "proportions":
                look, shown = _cut(film, new - log_ratio), new
            elif name == "sharpness":
                look = _nearest(_sharper_and_softer(film), sharpness, new)
            else:
                look = _nearest(_brighter_and_darker(film), np.mean, new)
            place = view.place((look.shape[1], look.shape[0]), (float(np.exp(shown)), 1.0))
            found[name].append(view.apply(look, place))
    return {name: np.stack(films) for name, films in found.items()}


def sharpness(film: NDArray[np.uint8]) -> float:
    """Log of the standard deviation of the Laplacian of one film (F, F), seen at REFERENCE_SIDE px."""
    small = cv2.resize(film, (REFERENCE_SIDE, REFERENCE_SIDE), interpolation=cv2.INTER_AREA)
    return laplacian_sharpness(small)


def _cut(film: NDArray[np.uint8], wider: float) -> NDArray[np.uint8]:
    """The middle of a film, so that the log of width to height grows by ``wider``."""
    height, width = film.shape
    rows, columns = round(height * np.exp(-max(wider, 0.0))), round(width * np.exp(min(wider, 0.0)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return film[top : top + rows, left : left + columns]


def _sharper_and_softer(film: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    soft = cv2.GaussianBlur(film, (0, 0), 1.0)
    sharper = [cv2.addWeighted(film, 1 + amount, soft, -amount, 0) for amount in SHARPENINGS]
    return [film, *sharper, *(cv2.GaussianBlur(film, (0, 0), sigma) for sigma in BLURS)]


def _brighter_and_darker(film: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    greys = np.arange(256) / 255
    return [np.round(255 * greys**exponent).astype(np.uint8)[film] for exponent in EXPONENTS]


def _nearest(
    looks: list[NDArray[np.uint8]], measure: Callable[[NDArray[np.uint8]], Any], wanted: float
) -> NDArray[np.uint8]:
    """Of the films that were tried the one whose measure comes nearest to what is wanted."""
    return min(looks, key=lambda film: abs(measure(film) - wanted))
