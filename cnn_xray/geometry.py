"""How an image becomes a square canvas (crop, aspect ratio, size), and the way back into its original frame.

Positions are fractions: of the *original frame* (0..1 from left to right and from top to bottom, whatever the
file was squashed to) and of the *canvas* the network sees. A placement is one axis-aligned rectangle in each;
content of the ``window`` fills the ``target``, and everything else on the canvas is padding (black).

Soft masks of the regions that are exchanged, hidden or made neutral: rings, the lung box, all but the lungs.

A mask is float32 in 0..1 on the canvas that the network sees: 1 in the region, 0 outside, and a linear seam between
(the feather), so that no sharp edge is drawn where two films meet.

Films of which only a part is left: what a probe may see, so that its AUC says what that part gives away.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cnn_xray import InputError

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
        rows = _cell_overlap(_edges(shape[0]), _cell_edges(one.shape[0], place, axis=1))
        columns = _cell_overlap(_edges(shape[1]), _cell_edges(one.shape[1], place, axis=0))
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


def _cell_overlap(cells: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(len(cells)-1, len(parts)-1): the fraction of each cell's length that each part covers; 0 for empty cells."""
    low = np.maximum(cells[:-1, None], parts[None, :-1])
    high = np.minimum(cells[1:, None], parts[None, 1:])
    length = np.diff(cells)[:, None]
    return np.divide(np.clip(high - low, 0, None), length, out=np.zeros(low.shape), where=length > 0)


def area_mean(areas: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of pixel areas (N, H, W) over each cell of a coarser grid: (N, *shape) float32, exact at any ratio."""
    rows = _cell_overlap(_edges(shape[0]), _edges(areas.shape[1])).astype(np.float32)
    columns = _cell_overlap(_edges(shape[1]), _edges(areas.shape[2])).astype(np.float32)
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


def border_cells(width: float, shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each cell of a grid that lies in the outer ring: (*shape) float32.

    ``width`` is the fraction of the canvas taken from each side, so the ring covers 1 - (1 - 2 width)² of it.
    """
    return 1 - rectangle(shrunk(FRAME, width), shape)


SEAM = 0.25  # width of the feather, as a fraction of the ring's width
IN_BOX = 0.5  # of the training films: the box holds every pixel that is lung in at least so many


def soft_border(size: int, width: float) -> np.ndarray:
    """The outer ``width`` (fraction of the side, 0..0.5) of every side, whole; the seam lies inwards: (size, size)."""
    return 1 - soft_box(size, shrunk(FRAME, width * (1 + SEAM)), width * SEAM)


def soft_inner_border(size: int, width: float) -> np.ndarray:
    """The next ring inwards, from ``width`` to twice that, with a seam on both sides: (size, size).

    Raises `InputError` where two rings of this width, with their seams, meet in the middle of the film.
    """
    if 2 * width * (1 + SEAM) > 0.5:
        raise InputError(
            f"ring is {width:g}, and a second ring of this width has no room on the film; try a ring up to 0.2."
        )
    return soft_border(size, 2 * width) * (1 - soft_border(size, width))


def soft_box(size: int, window: tuple[float, float, float, float], seam: float = 0.0) -> np.ndarray:
    """A rectangle (left, top, right, bottom; fractions), whole, with a ``seam`` outwards: (size, size)."""
    centres = (np.arange(size) + 0.5) / size
    across = np.maximum(window[0] - centres, centres - window[2])
    down = np.maximum(window[1] - centres, centres - window[3])
    return _fall(np.maximum(down[:, None], across[None, :]), seam)


def lung_box(lungs: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest rectangle that holds every pixel which is lung in at least half of the masks (N, S, S) bool.

    Empty masks do not count. Returns (left, top, right, bottom) fractions. Raises `InputError` when there is no such
    pixel.
    """
    having = lungs[lungs.any(axis=(1, 2))]
    often = having.sum(axis=0) >= max(1, IN_BOX * len(having))
    if not often.any():
        raise InputError("No pixel is lung in half of the films, so there is no lung box: check the lung masks.")
    rows, columns = np.flatnonzero(often.any(axis=1)), np.flatnonzero(often.any(axis=0))
    size = len(often)
    return columns[0] / size, rows[0] / size, (columns[-1] + 1) / size, (rows[-1] + 1) / size


def soft_outside(areas: np.ndarray, seam: float) -> np.ndarray:
    """All but the given areas (N, S, S) bool, with a seam (fraction of the side) outwards from them: (N, S, S)."""
    size = areas.shape[1]
    far = [cv2.distanceTransform((~area).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for area in areas]
    return 1 - _fall(np.array(far, np.float32).reshape(areas.shape) / size, seam)


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``above`` where the mask is 1, ``below`` where it is 0: uint8 films of the shape of ``below`` (N, S, S)."""
    return np.round(below * (1 - mask) + above * mask).astype(np.uint8)


def _fall(distance: np.ndarray, seam: float) -> np.ndarray:
    """1 at distances up to 0, falling linearly to 0 at ``seam``."""
    if seam <= 0:
        return (distance <= 0).astype(np.float32)
    return np.clip(1 - distance / seam, 0, 1).astype(np.float32)


GREY = 128  # of the ring or centre that is taken away: the same on every film, so it tells nothing
BLACK, WHITE = 0, 255
NEED_LUNGS = ("border_outside_lungs", "outside_lung_box", "outside_lungs", "between", "lung_outline")


def part_alone(pixels: np.ndarray, part: str, width: float, lungs: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Films (N, S, S) uint8 of which only ``part`` is left.

    ``ring``: the outer ``width`` (fraction of the side) of every side, the rest grey; ``ring_outside_lungs``: the same
    with the lungs in it black; ``centre``: all but that ring;
    ``outside_box``: a box over the lungs painted black, the same on every film (from the ``train`` rows' masks);
    ``outside_lungs``: each film's own lungs painted black, which leaves their outline; ``outline``: that outline
    alone, white on black; ``between``: what is neither ring (grey) nor lungs (black). ``lungs`` (N, S, S) bool. Raises
    `InputError` where lung masks are needed and missing, and for a ring that covers no pixel or all of them.
    """
    size = pixels.shape[1]
    if part in NEED_LUNGS and lungs is None:
        raise InputError(f"keep is {part!r}, which needs lung masks, and these data have none.")
    if part in ("border", "centre"):
        centre = soft_box(size, shrunk(FRAME, width)) > 0
        if centre.all() or not centre.any():
            covered, choose = ("no pixel", "wider") if centre.all() else ("every pixel", "narrower")
            raise InputError(f"ring is {width:g}, which is {covered} of a film of {size} px; choose a {choose} ring.")
        return np.where(centre == (part == "centre"), pixels, np.uint8(GREY))
    assert lungs is not None
    if part == "outside_lung_box":
        return np.where(soft_box(size, lung_box(lungs[train])) > 0, np.uint8(BLACK), pixels)
    black = np.where(lungs, np.uint8(BLACK), pixels)
    if part == "border_outside_lungs":  # grey over black, so that no outline is seen further in
        return part_alone(black, "border", width, None, train)
    if part == "between":  # black over grey, so that the outline is that of outside_lungs
        return np.where(lungs, np.uint8(BLACK), part_alone(pixels, "centre", width, None, train))
    if part == "outside_lungs":
        return black
    return np.where(lungs, np.uint8(WHITE), np.uint8(BLACK))
