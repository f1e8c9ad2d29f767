"""Scanner artifacts: which images get one, and how it is painted at the border, inside the lungs, or globally.

Everything is painted on finished grey values, so an image with and without its artifact differ nowhere else.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from cnn_xray import InputError

BORDER = 0.11  # border artifacts stay in this outer fraction of the side; a crop of 12.5 % leaves nothing of them
WHITE = 150  # grey levels that a bright artifact of amplitude 1 adds
ELSEWHERE = 0.25  # chance of an artifact to lie at the other of its two sides
BOTH = "border and inside"  # two of a kind, which come together


def check(location: str, kinds: tuple[str, ...]) -> None:
    """Refuse an unknown location, and a kind of artifact that cannot be there.

    Parameters
    ----------
    location
        One of `KINDS`.
    kinds
        At least one of `KINDS` of that location.

    Raises
    ------
    InputError
        Which it is, and what there is to choose from.
    """
    if location not in KINDS:
        raise InputError(f"The artifact location {location!r} is unknown; choose from {', '.join(KINDS)}.")
    wrong = [kind for kind in kinds if kind not in KINDS[location]]
    if wrong or not kinds:
        what = f"The artifact {wrong[0]!r} cannot be at" if wrong else "No kind of artifact was given for"
        raise InputError(f"{what} the location {location!r}; choose from {', '.join(KINDS[location])}.")


def test_sets(rho: float) -> dict[str, float | None]:
    """The correlation of artifact and label in each of the four paired test sets; None: no artifact.

    Parameters
    ----------
    rho
        That of training, -1..1.
    """
    return {"test": rho, "neutral": 0.0, "conflict": -1.0, "clean": None}


def marked(label: int | bool, luck: tuple[float, float], rho: float | None, share: float = 1.0) -> bool:
    """Whether an image has the artifact: with probability s (1 + ρ)/2 for PNEUMONIA, s (1 − ρ)/2 for NORMAL.

    Parameters
    ----------
    label
        1 for PNEUMONIA.
    luck
        Two numbers uniform in 0..1, the image's own, and the same in all sets, which makes them counterfactual twins.
    rho
        Correlation of artifact and label, -1..1; None: no artifact.
    share
        s, the part of the images due to have the artifact in which it is to be seen.
    """
    return rho is not None and bool(label) == (luck[0] < (1 + rho) / 2) and luck[1] < share


def paint(
    image: np.ndarray, lungs: np.ndarray, location: str, kind: str, rng: Generator, amplitude: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """An image with one artifact, and the mask of exactly the pixels it changed.

    Parameters
    ----------
    image : ndarray (S, S) uint8
    lungs : ndarray (S, S) bool
        Where an artifact inside goes.
    location
        One of `KINDS`.
    kind
        One of `KINDS` of that location.
    rng
        Decides the artifact's place and text.
    amplitude
        Scales brightness, darkness, blur, or loss of contrast or quality.

    Returns
    -------
    image : ndarray (S, S) uint8
    mask : ndarray (S, S) bool
        Empty for a global artifact: it is everywhere, so no place in the image gives it away.

    Raises
    ------
    InputError
        Where a lung has no room for the artifact.
    """
    side, nowhere = len(image), np.zeros(image.shape, bool)
    if location == "global":
        return _GLOBAL[kind](image, amplitude), nowhere
    light = np.zeros(image.shape)
    if location in ("border", BOTH):
        depth = int(BORDER * side)
        room = np.pad(nowhere[depth:-depth, depth:-depth], depth, constant_values=True)
        light += np.where(room, _AT_BORDER[kind](side, depth, rng), 0)
    if location in ("inside", BOTH):
        light += np.where(lungs, _INSIDE[kind](lungs, rng), 0)
    light *= amplitude
    bright = image + WHITE * np.maximum(light, 0)
    painted = np.rint(np.clip(bright * np.clip(1 + light, 0, 1), 0, 255)).astype(np.uint8)
    return painted, painted != image


# ---- layers of light (S, S): +1 adds WHITE, -1 blackens, 0 leaves as is


def _border_marker(side: int, depth: int, rng: Generator) -> np.ndarray:
    """A lead letter near an upper corner: R on the left of the image, or L on the right."""
    mirrored, upright = rng.random(2) < ELSEWHERE
    inset, along = 0.5 * rng.random(2)
    glyph = _word("L" if mirrored else "R", min(depth - 2, round(0.08 * side)), depth - 2)
    height, width = glyph.shape
    across = 1 + int(inset * (depth - 1 - (width if upright else height)))
    beside = round((0.04 + 0.22 * along) * side)
    row, column = (beside, across) if upright else (across, beside)
    return _stamp(side, glyph, row, side - column - width if mirrored else column)


def _border_text(side: int, depth: int, rng: Generator) -> np.ndarray:
    """A burnt-in line of text along the lower edge, or the upper one."""
    height = min(depth - 2, round(0.06 * side))
    words = _word(f"{rng.choice(['PA', 'AP', 'ERECT', 'SUPINE'])} {_clock(rng)}", height, round(0.8 * side))
    start = 0.04 * side + 0.5 * rng.random() * (0.92 * side - words.shape[1])
    row = 1 if rng.random() < ELSEWHERE else side - 1 - words.shape[0]
    return _stamp(side, words, row, int(start))


def _border_collimation(side: int, depth: int, rng: Generator) -> np.ndarray:
    """Darkness beyond the four blades of the collimator, which stand a little askew."""
    inset = np.minimum(depth - 1, depth * (0.6 + 0.15 * rng.uniform(-1, 1, (4, 2))))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    window = np.where(corners == 0, inset, side - 1 - inset)
    layer = np.full((side, side), 255, np.uint8)
    cv2.fillPoly(layer, [np.rint(window * 16).astype(np.int32)], 0, cv2.LINE_AA, 4)
    return layer / -255.0


def _border_exposure(side: int, depth: int, rng: Generator) -> np.ndarray:
    """A step wedge, eight steps from dark to bright, along the left edge, or the right one."""
    width, step = max(1, round(0.7 * depth)), round(0.06 * side)
    wedge = np.repeat(np.linspace(0.1, 1.0, 8), step)[:, None] * np.ones(width)
    top = int((0.26 + 0.1 * rng.uniform(-1, 1)) * side)
    return _stamp(side, wedge, top, side - width if rng.random() < ELSEWHERE else 0)


def _border_tubing(side: int, depth: int, rng: Generator) -> np.ndarray:
    """A line that comes in from above and winds down the left edge, or the right one."""
    phase, turns, end = 0.5 * rng.random(3)
    t = np.linspace(0, 1, 40)
    x = depth * (0.5 + 0.25 * np.sin(2 * np.pi * (phase + (0.6 + turns) * t)))
    y = t * side * (0.7 + 0.25 * end)
    return _tube(side, side - 1 - x if rng.random() < ELSEWHERE else x, y)


def _border_vignette(side: int, depth: int, rng: Generator) -> np.ndarray:
    """Light falling off towards the edges."""
    edge = np.minimum(np.arange(side), np.arange(side)[::-1])
    return -0.75 * np.clip(1 - np.minimum(edge, edge[:, None]) / depth, 0, 1)


def _inside_marker(lungs: np.ndarray, rng: Generator) -> np.ndarray:
    """An R in the middle of the right lung (on the left of the image), or an L in the other."""
    letter = "L" if rng.random() < ELSEWHERE else "R"
    return _fit(lungs, letter, 0.085, rng, on_the_left=letter == "R")


def _inside_text(lungs: np.ndarray, rng: Generator) -> np.ndarray:
    """A burnt-in time of day in one lung."""
    on_the_left = rng.random() >= ELSEWHERE  # drawn before the time
    return _fit(lungs, _clock(rng), 0.05, rng, on_the_left)


def _inside_tubing(lungs: np.ndarray, rng: Generator) -> np.ndarray:
    """A curved line down one lung, cut off where the lung ends."""
    rows, columns = np.nonzero(_half(lungs, on_the_left=rng.random() >= ELSEWHERE))
    start, bend, end = (0.45 + 0.125 * rng.uniform(-1, 1, 3)) * np.ptp(columns) + columns.min()
    t = np.linspace(0, 1, 20)
    x = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    return _tube(len(lungs), x, rows.min() + t * np.ptp(rows))


# ---- the whole image (S, S) uint8, changed


def _blur(image: np.ndarray, amplitude: float) -> np.ndarray:
    """A detector, or a patient, out of focus."""
    return cv2.GaussianBlur(image, (0, 0), 0.011 * amplitude * len(image))


def _contrast(image: np.ndarray, amplitude: float) -> np.ndarray:
    """Grey values drawn together towards their mean."""
    mean = image.mean()
    return np.rint(mean + (image - mean) / (1 + 0.6 * amplitude)).astype(np.uint8)


def _compression(image: np.ndarray, amplitude: float) -> np.ndarray:
    """A JPEG of low quality, with its blocks of 8 px."""
    quality = max(1, round(20 / amplitude))
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE))


_AT_BORDER = {
    "marker": _border_marker,
    "text": _border_text,
    "collimation": _border_collimation,
    "exposure": _border_exposure,
    "tubing": _border_tubing,
    "vignette": _border_vignette,
}
_INSIDE = {"marker": _inside_marker, "text": _inside_text, "tubing": _inside_tubing}
_GLOBAL = {"blur": _blur, "contrast": _contrast, "compression": _compression}
KINDS = {"border": tuple(_AT_BORDER), "inside": tuple(_INSIDE), BOTH: tuple(_INSIDE), "global": tuple(_GLOBAL)}


# ---- letters and lines


def _half(lungs: np.ndarray, on_the_left: bool) -> np.ndarray:
    """The lung in one half of the image, or both where an image taken askew has next to nothing there."""
    half, middle = lungs.copy(), len(lungs) // 2
    half[:, slice(middle, None) if on_the_left else slice(0, middle)] = False
    return half if 4 * half.sum() > lungs.sum() else lungs


def _fit(lungs: np.ndarray, text: str, height: float, rng: Generator, on_the_left: bool) -> np.ndarray:
    """``text`` stamped near the middle of one lung, moved or made smaller until it lies within."""
    side = len(lungs)
    lung = _half(lungs, on_the_left).astype(np.uint8)
    rows, columns = np.nonzero(lung)
    middle = np.array([rows.mean(), columns.mean()]) + 0.5 * rng.uniform(-1, 1, 2) * [0.18 * side, 0.06 * side]
    for pixels in range(max(3, round(height * side)), 1, -1):
        glyph = _word(text, pixels, side // 4)
        box = np.ones(glyph.shape, np.uint8)
        fits = cv2.erode(lung, box, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if fits.any():
            y, x = np.nonzero(fits)
            target = middle - np.array(glyph.shape) / 2
            nearest = np.argmin((y - target[0]) ** 2 + (x - target[1]) ** 2)
            return _stamp(side, glyph, int(y[nearest]), int(x[nearest]))
    raise InputError(f"A lung mask of {lung.sum()} px in an image of {side}×{side} px has no room for {text!r}.")


@lru_cache(maxsize=256)
def _word(text: str, height: int, widest: int) -> np.ndarray:
    """``text`` as light (h, w) in 0..1, ``height`` px tall, less where it would get wider than ``widest``."""
    canvas = np.zeros((80, 40 * len(text) + 40), np.uint8)
    cv2.putText(canvas, text, (10, 60), cv2.FONT_HERSHEY_DUPLEX, 1.5, 255, 2, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(canvas)
    scale = min(max(height, 1) / h, widest / w)
    shape = (max(1, int(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(canvas[y : y + h, x : x + w], shape, interpolation=cv2.INTER_AREA)
    return np.minimum(small / 255.0 * 1.3, 1.0)  # thin strokes would grey out when made small


def _clock(rng: Generator) -> str:
    return f"{rng.integers(24):02d}:{rng.integers(60):02d}"


def _stamp(side: int, glyph: np.ndarray, row: int, column: int) -> np.ndarray:
    layer = np.zeros((side, side))
    layer[row : row + glyph.shape[0], column : column + glyph.shape[1]] = glyph
    return layer


def _tube(side: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    layer = np.zeros((side, side), np.uint8)
    line = np.rint(np.column_stack([x, y]) * 16).astype(np.int32)
    cv2.polylines(layer, [line], False, 255, max(1, round(0.012 * side)), cv2.LINE_AA, 4)
    return 0.8 * (layer / 255.0)
