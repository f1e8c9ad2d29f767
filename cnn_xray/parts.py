"""Films of which only a part is left: what a probe may see, so that its AUC says what that part gives away."""

from __future__ import annotations

import numpy as np

from cnn_xray.errors import InputError
from cnn_xray.regions import box, lung_box
from cnn_xray.view import FRAME, shrunk

GREY = 128  # of the ring or centre that is taken away: the same on every film, so it tells nothing
BLACK, WHITE = 0, 255
NEED_LUNGS = ("ring_outside_lungs", "outside_box", "outside_lungs", "between", "outline")


def kept(pixels: np.ndarray, part: str, width: float, lungs: np.ndarray | None, train: np.ndarray) -> np.ndarray:
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
    if part in ("ring", "centre"):
        centre = box(size, shrunk(FRAME, width)) > 0
        if centre.all() or not centre.any():
            covered, choose = ("no pixel", "wider") if centre.all() else ("every pixel", "narrower")
            raise InputError(f"ring is {width:g}, which is {covered} of a film of {size} px; choose a {choose} ring.")
        return np.where(centre == (part == "centre"), pixels, np.uint8(GREY))
    assert lungs is not None
    if part == "outside_box":
        return np.where(box(size, lung_box(lungs[train])) > 0, np.uint8(BLACK), pixels)
    black = np.where(lungs, np.uint8(BLACK), pixels)
    if part == "ring_outside_lungs":  # grey over black, so that no outline is seen further in
        return kept(black, "ring", width, None, train)
    if part == "between":  # black over grey, so that the outline is that of outside_lungs
        return np.where(lungs, np.uint8(BLACK), kept(pixels, "centre", width, None, train))
    if part == "outside_lungs":
        return black
    return np.where(lungs, np.uint8(WHITE), np.uint8(BLACK))
