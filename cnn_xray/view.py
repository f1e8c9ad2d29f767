"""How an image becomes a square canvas (crop, aspect ratio, size), and the way back into its original frame.

Positions are fractions: of the *original frame* (0..1 from left to right and from top to bottom, whatever the
file was squashed to) and of the *canvas* the network sees. A placement is one axis-aligned rectangle in each;
content of the ``window`` fills the ``target``, and everything else on the canvas is padding (black).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

FRAME = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Placement:
    """Which part of the original frame lies where on the canvas, each as (left, top, right, bottom) fractions."""

    window: tuple[float, float, float, float]
    target: tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """What is cut from every image and how it is brought to ``size`` × ``size`` pixels.

    ``crop`` is the fraction cut from each of the four sides (0 <= crop < 0.5). ``aspect`` says what happens to an
    image that is not square: ``squash`` distorts it, ``letterbox`` pads it, ``square`` keeps the centre square
    of its short side.
    """

    crop: float = 0.0
    aspect: str = "squash"
    size: int = 128

    def place(self, file_size: tuple[int, int], original_size: tuple[float, float] | None = None) -> Placement:
        """Placement for a file of ``file_size`` (width, height) px whose film measured ``original_size``.

        A file that was squashed before it reached us is treated in its original proportions when they are
        given. Edges are rounded to whole pixels of the file and of the canvas first, so that the fractions
        returned are those that were really cut.
        """
        width, height = original_size or file_size
        left, top = self.crop, self.crop
        if self.aspect == "square":
            inner = min(width, height) * (1 - 2 * self.crop)
            left, top = (1 - inner / width) / 2, (1 - inner / height) / 2
        window = (*_whole_pixels(left, file_size[0]), *_whole_pixels(top, file_size[1]))
        x0, x1, y0, y1 = window
        target = FRAME
        if self.aspect == "letterbox":
            true_width, true_height = (x1 - x0) * width, (y1 - y0) * height
            longest = max(true_width, true_height)
            u0, u1 = _whole_pixels((1 - true_width / longest) / 2, self.size)
            v0, v1 = _whole_pixels((1 - true_height / longest) / 2, self.size)
            target = (u0, v0, u1, v1)
        return Placement((x0, y0, x1, y1), target)

    def apply(self, pixels: np.ndarray, placement: Placement) -> np.ndarray:
        """The canvas, uint8 (size, size), of one decoded image ``pixels`` (H, W) uint8."""
        height, width = pixels.shape
        x0, y0, x1, y1 = np.round(np.multiply(placement.window, (width, height, width, height))).astype(int)
        u0, v0, u1, v1 = np.round(np.multiply(placement.target, self.size)).astype(int)
        cut = pixels[y0:y1, x0:x1]
        shrinks = cut.shape[0] >= v1 - v0 and cut.shape[1] >= u1 - u0
        canvas = np.zeros((self.size, self.size), np.uint8)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        canvas[v0:v1, u0:u1] = cv2.resize(cut, (int(u1 - u0), int(v1 - v0)), interpolation=interpolation)
        return canvas


def _whole_pixels(margin: float, size: int) -> tuple[float, float]:
    """Both edges, as fractions, of what a symmetric ``margin`` leaves of ``size`` pixels (at least one)."""
    cut = min(round(margin * size), (size - 1) // 2)
    return cut / size, 1 - cut / size


def to_frame(maps: np.ndarray, placements: list[Placement], shape: tuple[int, int]) -> np.ndarray:
    """Carry maps (N, h, w) on the canvas back into the original frame: (N, *shape) float32.

    Every frame cell gets the area-weighted mean of the map cells that cover it; what lies outside the window
    counts as zero. Padding of a letterbox has no place in the frame and is dropped.
    """
    framed = np.empty((len(maps), *shape), np.float32)
    for i, (one, place) in enumerate(zip(maps, placements, strict=True)):
        rows = _overlap(_edges(shape[0]), _cell_edges(one.shape[0], place, axis=1))
        columns = _overlap(_edges(shape[1]), _cell_edges(one.shape[1], place, axis=0))
        framed[i] = rows @ one @ columns.T
    return framed


def _edges(cells: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, cells + 1)


def _cell_edges(cells: int, place: Placement, axis: int) -> np.ndarray:
    """Frame positions of the edges of the canvas cells, clipped to the window."""
    start, stop = place.window[axis], place.window[axis + 2]
    first, last = place.target[axis], place.target[axis + 2]
    shown = np.clip((_edges(cells) - first) / (last - first), 0.0, 1.0)
    return start + shown * (stop - start)


def _overlap(cells: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(len(cells)-1, len(parts)-1): the fraction of each cell's length that each part covers; 0 for empty cells."""
    low = np.maximum(cells[:-1, None], parts[None, :-1])
    high = np.minimum(cells[1:, None], parts[None, 1:])
    length = np.diff(cells)[:, None]
    return np.divide(np.clip(high - low, 0, None), length, out=np.zeros(low.shape), where=length > 0)


def area_mean(areas: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of pixel areas (N, H, W) over each cell of a coarser grid: (N, *shape) float32, exact at any ratio."""
    rows = _overlap(_edges(shape[0]), _edges(areas.shape[1])).astype(np.float32)
    columns = _overlap(_edges(shape[1]), _edges(areas.shape[2])).astype(np.float32)
    return np.einsum("ai,nij,bj->nab", rows, areas.astype(np.float32), columns, optimize=True)


def rectangle(window: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each cell of a grid that lies in ``window`` (left, top, right, bottom): (*shape) float32."""
    rows = np.diff(np.clip(_edges(shape[0]), window[1], window[3])) * shape[0]
    columns = np.diff(np.clip(_edges(shape[1]), window[0], window[2])) * shape[1]
    return np.outer(rows, columns).astype(np.float32)


def shrunk(window: tuple[float, float, float, float], width: float) -> tuple[float, float, float, float]:
    """What is left of ``window`` without the outer ``width`` (fraction of its own sides) on every side."""
    x0, y0, x1, y1 = window
    across, down = width * (x1 - x0), width * (y1 - y0)
    return x0 + across, y0 + down, x1 - across, y1 - down


def ring(width: float, shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each cell of a grid that lies in the outer ring: (*shape) float32.

    ``width`` is the fraction of the canvas taken from each side, so the ring covers 1 - (1 - 2 width)² of it.
    """
    return 1 - rectangle(shrunk(FRAME, width), shape)
