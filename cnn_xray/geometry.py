"""Where things are: how an image becomes a square canvas, the way back into its frame, and masks of its regions.

Positions are fractions: of the *original frame* (0..1 from left to right and from top to bottom, whatever the file
was squashed to) and of the *canvas* the network sees. A window is (left, top, right, bottom).

A soft mask is float32 in 0..1 on the canvas: 1 in the region, 0 outside, and a linear seam between, so that no sharp
edge is drawn where two images meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from cnn_xray import InputError

Window = tuple[float, float, float, float]

FRAME = (0.0, 0.0, 1.0, 1.0)
SEAM = 0.25  # width of the seam, as a fraction of the border's width
PATCH = 0.08  # of random regions: standard deviation of the blur of their field, fraction of the side
PATCHY_SEAM = 0.1  # of random regions: fraction of the image that lies in their seam
LUNG_MARGIN = 0.03  # about lungs that are cut out, fraction of the side
GREY, BLACK, WHITE = np.uint8(128), np.uint8(0), np.uint8(255)  # instead of what is taken away, on every image
NEED_LUNGS = ("border_outside_lungs", "outside_lung_box", "outside_lungs", "between", "lung_outline")


@dataclass(frozen=True)
class Placement:
    """Which part of the original frame lies where on the canvas.

    The content of ``window`` (fractions of the frame) fills ``target`` (of the canvas); the rest of the canvas is
    padding (black).
    """

    window: Window
    target: Window


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
        """Placement of one image, its edges rounded to whole pixels: the fractions are those that are really cut.

        Parameters
        ----------
        file_size
            Width and height of the file, px.
        original_size
            Width and height of the image before the file was squashed, px: it is treated in these proportions.
            None: as the file.
        """
        width, height = original_size or file_size
        left = top = self.crop
        if self.aspect == "square":
            inner = min(width, height) * (1 - 2 * self.crop)
            left, top = (1 - inner / width) / 2, (1 - inner / height) / 2
        x0, x1 = _whole_pixels(left, file_size[0])
        y0, y1 = _whole_pixels(top, file_size[1])
        if self.aspect != "letterbox":
            return Placement((x0, y0, x1, y1), FRAME)
        true_width, true_height = (x1 - x0) * width, (y1 - y0) * height
        longest = max(true_width, true_height)
        u0, u1 = _whole_pixels((1 - true_width / longest) / 2, self.size)
        v0, v1 = _whole_pixels((1 - true_height / longest) / 2, self.size)
        return Placement((x0, y0, x1, y1), (u0, v0, u1, v1))

    def apply(self, pixels: np.ndarray, placement: Placement) -> np.ndarray:
        """The canvas, uint8 (size, size), of one image.

        Parameters
        ----------
        pixels : ndarray (H, W) uint8
        placement
            Of this image in this view.
        """
        x0, y0, x1, y1 = np.round(np.multiply(placement.window, pixels.shape[::-1] * 2)).astype(int)
        u0, v0, u1, v1 = np.round(np.multiply(placement.target, self.size)).astype(int)
        cut = pixels[y0:y1, x0:x1]
        shrinks = cut.shape[0] >= v1 - v0 and cut.shape[1] >= u1 - u0
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        canvas = np.zeros((self.size, self.size), np.uint8)
        canvas[v0:v1, u0:u1] = cv2.resize(cut, (int(u1 - u0), int(v1 - v0)), interpolation=interpolation)
        return canvas


def _whole_pixels(margin: float, size: int) -> tuple[float, float]:
    """Both edges, as fractions, of what a symmetric ``margin`` leaves of ``size`` pixels (at least one)."""
    cut = min(round(margin * size), (size - 1) // 2)
    return cut / size, 1 - cut / size


# ---- maps on grids of cells, weighted by exact areas


def to_frame(maps: np.ndarray, placements: list[Placement], shape: tuple[int, int]) -> np.ndarray:
    """Maps on the canvas, carried back into the original frame: (N, *shape) float32.

    Every frame cell gets the area-weighted mean of the map cells that cover it; what lies outside the window
    counts as zero. Padding of a letterbox has no place in the frame and is dropped.

    Parameters
    ----------
    maps : ndarray (N, h, w)
    placements
        Of the N images.
    shape
        Rows and columns of the grid in the frame.
    """
    framed = np.empty((len(maps), *shape), np.float32)
    for i, (one, place) in enumerate(zip(maps, placements, strict=True)):
        rows = _cell_overlap(_edges(shape[0]), _edges_in_frame(one.shape[0], place, axis=1))
        columns = _cell_overlap(_edges(shape[1]), _edges_in_frame(one.shape[1], place, axis=0))
        framed[i] = rows @ one @ columns.T
    return framed


def area_mean(areas: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of pixel areas over each cell of a coarser grid: (N, *shape) float32, exact at any ratio.

    Parameters
    ----------
    areas : ndarray (N, H, W)
    shape
        Rows and columns of the grid.
    """
    rows = _cell_overlap(_edges(shape[0]), _edges(areas.shape[1])).astype(np.float32)
    columns = _cell_overlap(_edges(shape[1]), _edges(areas.shape[2])).astype(np.float32)
    return np.einsum("ai,nij,bj->nab", rows, areas.astype(np.float32), columns, optimize=True)


def _edges(cells: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, cells + 1)


def _edges_in_frame(cells: int, place: Placement, axis: int) -> np.ndarray:
    """Frame positions of the edges of the canvas cells, clipped to the window."""
    (start, stop), (first, last) = place.window[axis::2], place.target[axis::2]
    shown = np.clip((_edges(cells) - first) / (last - first), 0.0, 1.0)
    return start + shown * (stop - start)


def _cell_overlap(cells: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(len(cells)-1, len(parts)-1): the fraction of each cell's length that each part covers."""
    shared = np.minimum(cells[1:, None], parts[None, 1:]) - np.maximum(cells[:-1, None], parts[None, :-1])
    return np.clip(shared, 0, None) / np.diff(cells)[:, None]


def rectangle(window: Window, shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each cell of a grid that lies in a window: (*shape) float32.

    Parameters
    ----------
    window
        Left, top, right and bottom, fractions of the grid's sides.
    shape
        Rows and columns of the grid.
    """
    rows = np.diff(np.clip(_edges(shape[0]), window[1], window[3])) * shape[0]
    columns = np.diff(np.clip(_edges(shape[1]), window[0], window[2])) * shape[1]
    return np.outer(rows, columns).astype(np.float32)


def shrunk(window: Window, width: float) -> Window:
    """What is left of a window without its border.

    Parameters
    ----------
    window
        Left, top, right and bottom.
    width
        Of the border, as a fraction of the window's own sides, 0..0.5.
    """
    x0, y0, x1, y1 = window
    across, down = width * (x1 - x0), width * (y1 - y0)
    return x0 + across, y0 + down, x1 - across, y1 - down


def border_cells(width: float, shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each cell of a grid that lies in the border: (*shape) float32.

    Parameters
    ----------
    width
        Fraction of the canvas taken from each side, 0..0.5: the border covers 1 - (1 - 2 width)² of it.
    shape
        Rows and columns of the grid.
    """
    return 1 - rectangle(shrunk(FRAME, width), shape)


def border_pixels(size: int, width: float) -> int:
    """Pixels of the border on each side of an image: those whose centre lies in it.

    Parameters
    ----------
    size
        Side of the image, px.
    width
        Of the border, fraction of the side.
    """
    return max(0, math.ceil(size * width - 0.5))


# ---- soft masks of the regions that are exchanged, hidden or made neutral


def soft_border(size: int, width: float) -> np.ndarray:
    """The border, whole, with its seam inwards: (size, size) float32.

    Parameters
    ----------
    size
        Side of the canvas, px.
    width
        Fraction of the side, 0..0.5.
    """
    return 1 - soft_box(size, shrunk(FRAME, width * (1 + SEAM)), width * SEAM)


def soft_inner_border(size: int, width: float) -> np.ndarray:
    """The band within the border, from ``width`` to twice that, with a seam on both sides: (size, size) float32.

    Parameters
    ----------
    size
        Side of the canvas, px.
    width
        Fraction of the side.

    Raises
    ------
    InputError
        Where both bands, with their seams, meet in the middle of the image.
    """
    if 2 * width * (1 + SEAM) > 0.5:
        why = "and a second band of this width has no room in the image"
        raise InputError(f"border is {width:g}, {why}; try a border up to 0.2.")
    return soft_border(size, 2 * width) * (1 - soft_border(size, width))


def soft_box(size: int, window: Window, seam: float = 0.0) -> np.ndarray:
    """A rectangle, whole, with its seam outwards: (size, size) float32.

    Parameters
    ----------
    size
        Side of the canvas, px.
    window
        Left, top, right and bottom, fractions of the canvas.
    seam
        Its width, as a fraction of the side.
    """
    centres = (np.arange(size) + 0.5) / size
    across = np.maximum(window[0] - centres, centres - window[2])
    down = np.maximum(window[1] - centres, centres - window[3])
    return _fall(np.maximum(down[:, None], across[None, :]), seam)


def random_regions(size: int, areas: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Regions of given areas at random places, as many patches as chance makes, with a seam: (N, size, size) float32.

    Every pixel is as likely to lie in one as any other: the field that is cut at a quantile has no edge (it continues
    on the opposite side). Equal seeds give the same field, so the smaller of two regions lies within the larger.

    Parameters
    ----------
    size
        Side of the canvas, px.
    areas : ndarray (N,)
        Mean of each mask, 0..1; exact from half of PATCHY_SEAM to 1 less that.
    seeds : ndarray (N,) int
    """
    ranks = {}
    for seed in np.unique(seeds):
        field = np.random.default_rng(seed).standard_normal((size, size), np.float32)
        field = gaussian_filter(field, PATCH * size, mode="wrap")
        ranks[seed] = ((rankdata(field).reshape(size, size) - 0.5) / size**2).astype(np.float32)  # uniform in 0..1
    above = np.stack([ranks[seed] for seed in seeds]) - (1 - np.asarray(areas, np.float32)[:, None, None])
    return np.clip(above / np.float32(PATCHY_SEAM) + np.float32(0.5), 0, 1)


def distance_from(areas: np.ndarray) -> np.ndarray:
    """Distance of every pixel from an area, fraction of the side, 0 within it: (N, S, S) float32.

    Parameters
    ----------
    areas : ndarray (N, S, S) bool
        From an empty one everything is far.
    """
    far = [cv2.distanceTransform((~area).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for area in areas]
    return np.array(far, np.float32).reshape(areas.shape) / areas.shape[1]


def soft_outside(distance: np.ndarray, seam: float, reach: float = 0.0) -> np.ndarray:
    """All but some areas, with the seam outwards from them: (N, S, S) float32.

    Parameters
    ----------
    distance : ndarray (N, S, S)
        From the areas (`distance_from`); from two of them it is the smaller of both.
    seam
        Its width, as a fraction of the side.
    reach
        By which the areas are dilated, fraction of the side.
    """
    return 1 - _fall(distance - reach, seam)


def _fall(distance: np.ndarray, seam: float) -> np.ndarray:
    """1 at distances up to 0, falling linearly to 0 at ``seam``."""
    if seam <= 0:
        return (distance <= 0).astype(np.float32)
    return np.clip(1 - distance / seam, 0, 1).astype(np.float32)


def lung_box(lungs: np.ndarray) -> Window:
    """The smallest window that holds every pixel which is lung in at least half of the masks.

    Parameters
    ----------
    lungs : ndarray (N, S, S) bool
        Empty masks do not count.

    Raises
    ------
    InputError
        When there is no such pixel.
    """
    having = lungs[lungs.any(axis=(1, 2))]
    often = having.sum(axis=0) >= max(1, len(having) / 2)
    if not often.any():
        raise InputError("No pixel is lung in half of the images, so there is no lung box: check the lung masks.")
    return box_about(often)


def box_about(area: np.ndarray, margin: float = 0.0) -> Window:
    """The smallest window that holds an area and a margin about it, in whole pixels; NaN where there is none.

    Parameters
    ----------
    area : ndarray (S, S) bool
    margin
        Fraction of the side.
    """
    if not area.any():
        return (math.nan,) * 4
    size, reach = len(area), round(margin * len(area))
    x, y, width, height = cv2.boundingRect(area.astype(np.uint8))
    ends = np.clip([x - reach, y - reach, x + width + reach, y + height + reach], 0, size) / size
    return (ends[0], ends[1], ends[2], ends[3])


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Images of ``above`` where the mask is 1 and of ``below`` where it is 0: (N, S, S) uint8.

    Parameters
    ----------
    below, above : ndarray (N, S, S) uint8
    mask : ndarray (S, S) or (N, S, S), 0..1
    """
    return np.round(below * (1 - mask) + above * mask).astype(np.uint8)


def part_alone(pixels: np.ndarray, part: str, width: float, lungs: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Images of which only one part is left, so that a probe's AUC says what that part gives away: (N, S, S) uint8.

    ``border``: the rest is grey; ``border_outside_lungs``: the same with the lungs in it black; ``without_border``:
    all but the border, which is black like what lies beyond the edge of a moved image (the network hides it again after
    its augmentation, for a frame that moves along would show how far an image was stretched); ``outside_lung_box``: a
    box over the lungs painted black, the same on every image; ``outside_lungs``: each image's own lungs painted black,
    which leaves their outline; ``lung_outline``: that outline alone, white on black; ``between``: what is neither
    border (grey) nor lungs (black).

    Parameters
    ----------
    pixels : ndarray (N, S, S) uint8
    part
        One of those above.
    width
        Of the border, fraction of the side.
    lungs : ndarray (N, S, S) bool, optional
    train : ndarray (n,) int
        Rows whose masks decide where the box lies.

    Raises
    ------
    InputError
        Where lung masks are needed and missing, and for a border that covers no pixel or all of them.
    """
    size = pixels.shape[1]
    if part in NEED_LUNGS and lungs is None:
        raise InputError(f"keep is {part!r}, which needs lung masks, and these data have none.")
    lungs = np.zeros(pixels.shape, bool) if lungs is None else lungs
    if part == "outside_lung_box":
        return np.where(soft_box(size, lung_box(lungs[train])) > 0, BLACK, pixels)
    if part == "outside_lungs":
        return np.where(lungs, BLACK, pixels)
    if part == "lung_outline":
        return np.where(lungs, WHITE, BLACK)
    centre = soft_box(size, shrunk(FRAME, width)) > 0
    if centre.all() or not centre.any():
        covered, choose = ("no pixel", "wider") if centre.all() else ("every pixel", "narrower")
        raise InputError(f"border is {width:g}, which is {covered} of an image of {size} px; choose a {choose} border.")
    if part == "border_outside_lungs":  # grey over black, so that no outline is seen further in
        pixels = np.where(lungs, BLACK, pixels)
    if part == "without_border":
        return np.where(centre, pixels, BLACK)
    alone = np.where(centre == (part == "between"), pixels, GREY)
    return np.where(lungs, BLACK, alone) if part == "between" else alone  # black over grey: all of the outline
