"""Films of which only a part is left: what a probe may see, so that its AUC says what that part gives away."""

from __future__ import annotations

import numpy as np

from cnn_xray.errors import InputError
from cnn_xray.regions import blend, box, lung_box
from cnn_xray.view import FRAME, shrunk

GREY = 128  # of the ring or centre that is taken away: the same on every film, so it tells nothing
BLACK, WHITE = 0, 255
NEED_LUNGS = ("outside_box", "outside_lungs", "outline")


def kept(pixels: np.ndarray, part: str, width: float, lungs: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Films (N, S, S) uint8 of which only ``part`` is left.

    ``ring``: the outer ``width`` (fraction of the side) of every side, the rest grey; ``centre``: all but that ring;
    ``outside_box``: a box over the lungs painted black, the same on every film (from the ``train`` rows' masks);
    ``outside_lungs``: each film's own lungs painted black, which leaves their outline; ``outline``: that outline
    alone, white on black. ``lungs`` (N, S, S) bool. Raises `InputError` where lung masks are needed and missing.
    """
    size = pixels.shape[1]
    if part in NEED_LUNGS and lungs is None:
        raise InputError(f"keep is {part!r}, which needs lung masks, and these data have none.")
    if part in ("ring", "centre"):
        centre = box(size, shrunk(FRAME, width))
        return blend(pixels, np.uint8(GREY), centre if part == "ring" else 1 - centre)
    assert lungs is not None
    if part == "outside_box":
        return blend(pixels, np.uint8(BLACK), box(size, lung_box(lungs[train])))
    if part == "outside_lungs":
        return np.where(lungs, np.uint8(BLACK), pixels)
    return np.where(lungs, np.uint8(WHITE), np.uint8(BLACK))
