"""Soft masks of the regions that are exchanged, hidden or made neutral: rings, the lung box, all but the lungs.

A mask is float32 in 0..1 on the canvas that the network sees: 1 in the region, 0 outside, and a linear seam between
(the feather), so that no sharp edge is drawn where two films meet.
"""

from __future__ import annotations

import cv2
import numpy as np

from cnn_xray.errors import InputError
from cnn_xray.view import FRAME, shrunk

SEAM = 0.25  # width of the feather, as a fraction of the ring's width
IN_BOX = 0.5  # of the training films: the box holds every pixel that is lung in at least so many


def outer_ring(size: int, width: float) -> np.ndarray:
    """The outer ``width`` (fraction of the side, 0..0.5) of every side, whole; the seam lies inwards: (size, size)."""
    return 1 - box(size, shrunk(FRAME, width * (1 + SEAM)), width * SEAM)


def inner_ring(size: int, width: float) -> np.ndarray:
    """The next ring inwards, from ``width`` to twice that, with a seam on both sides: (size, size).

    Raises `InputError` where two rings of this width, with their seams, meet in the middle of the film.
    """
    if 2 * width * (1 + SEAM) > 0.5:
        raise InputError(
            f"ring is {width:g}, and a second ring of this width has no room on the film; try a ring up to 0.2."
        )
    return outer_ring(size, 2 * width) * (1 - outer_ring(size, width))


def box(size: int, window: tuple[float, float, float, float], seam: float = 0.0) -> np.ndarray:
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


def outside(areas: np.ndarray, seam: float) -> np.ndarray:
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
