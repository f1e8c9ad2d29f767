"""Swaps in training: what a training image takes from another patient's, so that the network leans less on it.

The test of reliance pastes a region of one image into another (`interventions`). Here the same is done to training
images: in a share of them the border, or everything outside the lungs, comes from a donor whose class is a fair coin.
The label stays. What lies there then tells less of the class, and a network that leans on it loses by it. (Where the
donor's class agrees with the label more often, `TrainParameters.swap_agrees`, the surgery is the same and the cue
stays: the control that tells the one from the other.)

Composites are made anew each time an image comes, before the augmentation moves them, with regions and seams of random
widths, so that no one seam gives a composite away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from cnn_xray import InputError, backend, geometry
from cnn_xray.parameters import TrainParameters

BORDERS = (0.04, 0.22)  # width of a swapped border, fraction of the side
DILATIONS = (0.0, 0.08)  # of the lungs, before all outside them is swapped; fraction of the side
SEAMS = (0.01, 0.06)  # width of the seam, fraction of the side
STEPS = 255  # of a distance that is kept in one byte
FARTHEST = 0.25  # fraction of the side that they reach to, beyond the largest dilation with its seam
Plan = dict[str, np.ndarray]  # by name, of each image in each step: (epochs, steps, batch)


def planned(
    order: np.ndarray, p: TrainParameters, labels: np.ndarray, patients: np.ndarray, lungs: np.ndarray | None
) -> tuple[Plan, Callable[..., Any] | None]:
    """Who gives what to whom in each step, and the function that does it (`backend.feed_training`).

    ``donors``, rows of training images; ``reach``, width of the border or dilation of the lungs, below 0 where nothing
    is swapped; ``seam``, its width; both fractions of the side; ``moves``, which bring the donor's lungs to where the
    image's are, if that is asked for. Without swaps nothing and None. With ``consistency`` the second half of each
    batch is swapped throughout.

    Parameters
    ----------
    order : ndarray (epochs, steps, batch) int
        Rows of the training images as they come.
    p
        ``swap``, ``swap_share``, ``swap_agrees``, ``swap_levels``, ``swap_aligned``, ``consistency`` and seed.
    labels, patients : ndarray (N,)
        Of the training images.
    lungs : ndarray (N, S, S) bool, optional
        Of the training images; those without any neither take nor give what lies outside the lungs.

    Raises
    ------
    InputError
        As `check_lungs`, for swaps outside the lungs.
    """
    plan, change = _planned(order, p, labels, patients, lungs) if p.swap != "none" else ({}, None)
    if p.evidence_penalty:
        check_lungs(labels, lungs, "evidence_penalty is above 0")
        shown = np.asarray(lungs, np.uint8)[..., None] * 255

        def with_lungs(take: Any, images: Any, rows: Any, **step: Any) -> Any:
            from keras import ops

            seen = change(take, images, rows, **step) if change else take(images, rows)
            return ops.concatenate([ops.cast(seen, "float32"), ops.cast(take(shown, rows), "float32")], axis=-1)

        return plan, with_lungs
    return plan, change


def _planned(
    order: np.ndarray, p: TrainParameters, labels: np.ndarray, patients: np.ndarray, lungs: np.ndarray | None
) -> tuple[Plan, Callable[..., Any]]:
    keras = backend.start()
    able = check_lungs(labels, lungs) if p.swap == "outside_lungs" else np.ones(len(labels), bool)
    rng = np.random.default_rng([p.chance, 1])
    normal, pneumonia = (rng.choice(np.flatnonzero(able & (labels == label)), order.shape) for label in (0, 1))
    agrees = np.where(np.asarray(labels)[order] == 0, p.swap_agrees, 1 - p.swap_agrees)
    donors = np.where(rng.random(order.shape) < agrees, normal, pneumonia)
    batch = order.shape[-1]
    share = (np.arange(batch) >= batch // 2).astype(float) if p.consistency else np.full(batch, p.swap_share)
    another = np.asarray(patients)[order] != np.asarray(patients)[donors]
    chosen = np.all([rng.random(order.shape) < share, able[order], another], axis=0)
    reach = np.where(chosen, rng.uniform(*(BORDERS if p.swap == "border" else DILATIONS), order.shape), -1)
    seam = rng.uniform(*SEAMS, order.shape)
    plan = {"donors": donors, "reach": reach.astype(np.float32), "seam": seam.astype(np.float32)}
    far = None
    if p.swap == "outside_lungs" and lungs is not None:
        far = keras.ops.convert_to_tensor(_steps_from(lungs)[..., None])
    if p.swap_aligned and lungs is not None:
        boxes = _boxes(lungs)
        plan["moves"] = _moves(boxes[order], boxes[donors])

    @backend.compiled
    def composed(own: Any, theirs: Any, reach: Any, seam: Any, moves: Any) -> Any:
        if moves is not None:
            theirs = [_moved(one, moves) for one in theirs]
        both = zip(own, theirs, strict=True)
        if far is None:
            return border_swapped(*next(both), reach, seam, p.swap_levels)
        return outside_swapped(*next(both), *next(both), reach, seam, p.swap_levels)

    def swapped(take: Any, images: Any, rows: Any, donors: Any, reach: Any, seam: Any, moves: Any = None) -> Any:
        own, theirs = ([take(one, who) for one in (images, far) if one is not None] for who in (rows, donors))
        return composed(own, theirs, reach, seam, moves)

    return plan, swapped


def check_lungs(labels: np.ndarray, lungs: np.ndarray | None, why: str = "swap is 'outside_lungs'") -> np.ndarray:
    """Which training images have a lung mask, (N,) bool.

    Parameters
    ----------
    labels : ndarray (N,)
    lungs : ndarray (N, S, S) bool, optional
    why
        They are needed, in words.

    Raises
    ------
    InputError
        Where there is none in one of the classes.
    """
    able = np.zeros(len(labels), bool) if lungs is None else np.any(lungs, axis=(1, 2))
    if len(np.unique(labels[able])) < 2:
        have = f"{able.sum()} of {len(able)} training images have a lung mask, not of both classes"
        raise InputError(f"{why}, but {have}. Without masks, swap the border.")
    return able


def suited(p: TrainParameters, labels: np.ndarray, lungs: np.ndarray | None) -> TrainParameters:
    """How these images can be trained on: without lung masks of both classes the recipe ``swap`` swaps the border.

    Parameters
    ----------
    p
        Of a training.
    labels : ndarray (N,)
    lungs : ndarray (N, S, S) bool, optional
    """
    if p.recipe == "swap" and p.swap == "outside_lungs":
        try:
            check_lungs(labels, lungs)
        except InputError:
            return p.model_copy(update={"swap": "border"})
    return p


def border_swapped(images: Any, donors: Any, reach: Any, seam: Any, levels: bool = False) -> Any:
    """Images with the border of donors, whole up to ``reach``, with the seam inwards: float32 (B, S, S, 1).

    Parameters
    ----------
    images, donors
        (B, S, S, 1) grey values 0..255, of the back end.
    reach, seam
        (B,) fractions of the side; ``reach`` below 0: the image as it is.
    levels
        Whether the donor's grey level is made that of the image at the seam.
    """
    from keras import ops

    centres = (ops.arange(images.shape[1], dtype="float32") + 0.5) / images.shape[1]
    edge = ops.minimum(centres, 1 - centres)
    from_edge = ops.minimum(edge[:, None], edge[None, :])[None, ..., None]
    return _blended(images, donors, (reach + seam)[:, None, None, None] - from_edge, reach, seam, levels)


def outside_swapped(
    images: Any, donors: Any, far: Any, donors_far: Any, reach: Any, seam: Any, levels: bool = False
) -> Any:
    """Images with all that lies outside the lungs of both from donors, the seam outwards: float32 (B, S, S, 1).

    Parameters
    ----------
    images, donors
        (B, S, S, 1) grey values 0..255, of the back end.
    far, donors_far
        (B, S, S, 1) distance from the lungs of either, in steps of FARTHEST / STEPS.
    reach, seam
        (B,) fractions of the side by which lungs are dilated, and that the seam takes; ``reach`` below 0: the image as
        it is.
    levels
        Whether the donor's grey level is made that of the image at the seam.
    """
    from keras import ops

    nearer = ops.minimum(*(ops.cast(one, "float32") for one in (far, donors_far))) * (FARTHEST / STEPS)
    return _blended(images, donors, nearer - reach[:, None, None, None], reach, seam, levels)


def _blended(images: Any, donors: Any, depth: Any, reach: Any, seam: Any, levels: bool) -> Any:
    """``donors`` where the depth in the region is at least the seam, ``images`` where it is at most 0."""
    from keras import ops

    images, donors = (ops.cast(one, "float32") for one in (images, donors))
    mask = ops.clip(depth / seam[:, None, None, None], 0.0, 1.0)
    if levels:
        at_seam = mask * (1 - mask)
        apart, weight = (ops.sum(one, (1, 2, 3), keepdims=True) for one in (at_seam * (images - donors), at_seam))
        donors = ops.clip(donors + apart / ops.maximum(weight, 1e-6), 0, 255)
    return images + ops.where(reach[:, None, None, None] < 0, 0.0, mask) * (donors - images)


def _boxes(lungs: np.ndarray) -> np.ndarray:
    """(N, 4): centre and size of the box about the lungs, x and y, px; of the whole image where there are none."""
    whole = np.ones(lungs.shape[1:], np.uint8)
    boxes = [cv2.boundingRect(lung.astype(np.uint8) if lung.any() else whole) for lung in lungs]
    corners, sizes = np.split(np.array(boxes, np.float32), 2, axis=1)
    return np.concatenate([corners + (sizes - 1) / 2, sizes], axis=1)


def _moves(boxes: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """(…, 4): scale and offset, x and y, from positions in an image to those in its donor, by the boxes of both."""
    scale = donors[..., 2:] / boxes[..., 2:]
    return np.concatenate([scale, donors[..., :2] - scale * boxes[..., :2]], axis=-1)


def _moved(images: Any, moves: Any) -> Any:
    """Images (B, S, S, 1) as float32, each pixel from where `_moves` says, at the edge from the nearest."""
    from keras import ops

    (across, down, right, below), nothing = (moves[:, i] for i in range(4)), ops.zeros_like(moves[:, 0])
    transforms = ops.stack([across, nothing, right, nothing, down, below, nothing, nothing], axis=1)
    return ops.image.affine_transform(ops.cast(images, "float32"), transforms, "bilinear", "nearest")


def _steps_from(lungs: np.ndarray) -> np.ndarray:
    """Distance from the lungs (N, S, S), in steps, uint8."""
    return np.round(np.clip(geometry.distance_from(lungs) / FARTHEST, 0, 1) * STEPS).astype(np.uint8)
