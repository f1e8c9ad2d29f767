"""Swaps in training: what a training image takes from another patient's, so that the network cannot lean on it.

The test of reliance pastes a region of one image into another (`interventions`). Here the same is done to training
images: in a share of them the border, or everything outside the lungs, comes from a donor whose class is a fair coin.
The label stays. What lies there then tells less of the class, and a network that leans on it loses by it.

Composites are made anew each time an image comes, before the augmentation moves them, with regions and seams of random
widths, so that no one seam gives a composite away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from cnn_xray import InputError, backend
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
    is swapped; ``seam``, its width; both fractions of the side. Without swaps nothing and None. With ``consistency``
    the second half of each batch is swapped throughout.

    Parameters
    ----------
    order : ndarray (epochs, steps, batch) int
        Rows of the training images as they come.
    p
        ``swap``, ``swap_share``, ``consistency`` and seed.
    labels, patients : ndarray (N,)
        Of the training images.
    lungs : ndarray (N, S, S) bool, optional
        Of the training images; those without any neither take nor give what lies outside the lungs.

    Raises
    ------
    InputError
        As `check_lungs`, for swaps outside the lungs.
    """
    if p.swap == "none":
        return {}, None
    keras = backend.start()
    able = check_lungs(labels, lungs) if p.swap == "outside_lungs" else np.ones(len(labels), bool)
    rng = np.random.default_rng([p.chance, 1])
    normal, pneumonia = (rng.choice(np.flatnonzero(able & (labels == label)), order.shape) for label in (0, 1))
    donors = np.where(rng.random(order.shape) < 0.5, normal, pneumonia)
    batch = order.shape[-1]
    share = (np.arange(batch) >= batch // 2).astype(float) if p.consistency else np.full(batch, p.swap_share)
    another = np.asarray(patients)[order] != np.asarray(patients)[donors]
    chosen = np.all([rng.random(order.shape) < share, able[order], another], axis=0)
    reach = np.where(chosen, rng.uniform(*(BORDERS if p.swap == "border" else DILATIONS), order.shape), -1)
    seam = rng.uniform(*SEAMS, order.shape)
    plan = {"donors": donors, "reach": reach.astype(np.float32), "seam": seam.astype(np.float32)}
    if p.swap == "border" or lungs is None:
        return plan, lambda take, images, rows, donors, **how: border_swapped(
            take(images, rows), take(images, donors), **how
        )
    far = keras.ops.convert_to_tensor(np.stack([_steps_from(lung) for lung in lungs]))

    def swapped(take: Any, images: Any, rows: Any, donors: Any, reach: Any, seam: Any) -> Any:
        own, theirs = ((take(images, who), take(far, who)) for who in (rows, donors))
        return outside_swapped(own[0], theirs[0], own[1], theirs[1], reach, seam)

    return plan, swapped


def check_lungs(labels: np.ndarray, lungs: np.ndarray | None) -> np.ndarray:
    """Which training images have a lung mask, (N,) bool.

    Parameters
    ----------
    labels : ndarray (N,)
    lungs : ndarray (N, S, S) bool, optional

    Raises
    ------
    InputError
        Where there is none in one of the classes.
    """
    able = np.zeros(len(labels), bool) if lungs is None else np.any(lungs, axis=(1, 2))
    if len(np.unique(labels[able])) < 2:
        have = f"{able.sum()} of {len(able)} training images have a lung mask, not of both classes"
        raise InputError(f"swap is 'outside_lungs', but {have}. Without masks, swap the border.")
    return able


def border_swapped(images: Any, donors: Any, reach: Any, seam: Any) -> Any:
    """Images with the border of donors, whole up to ``reach``, with the seam inwards: float32 (B, S, S, 1).

    Parameters
    ----------
    images, donors
        (B, S, S, 1) grey values 0..255, of the back end.
    reach, seam
        (B,) fractions of the side; ``reach`` below 0: the image as it is.
    """
    from keras import ops

    centres = (ops.arange(images.shape[1], dtype="float32") + 0.5) / images.shape[1]
    edge = ops.minimum(centres, 1 - centres)
    from_edge = ops.minimum(edge[:, None], edge[None, :])[None, ..., None]
    return _blended(images, donors, (reach + seam)[:, None, None, None] - from_edge, reach, seam)


def outside_swapped(images: Any, donors: Any, far: Any, donors_far: Any, reach: Any, seam: Any) -> Any:
    """Images with all that lies outside the lungs of both from donors, the seam outwards: float32 (B, S, S, 1).

    Parameters
    ----------
    images, donors
        (B, S, S, 1) grey values 0..255, of the back end.
    far, donors_far
        (B, S, S) uint8, distance from the lungs of either, in steps of FARTHEST / STEPS.
    reach, seam
        (B,) fractions of the side by which lungs are dilated, and that the seam takes; ``reach`` below 0: the image as
        it is.
    """
    from keras import ops

    nearer = ops.cast(ops.minimum(far, donors_far), "float32")[..., None] * (FARTHEST / STEPS)
    return _blended(images, donors, nearer - reach[:, None, None, None], reach, seam)


def _blended(images: Any, donors: Any, depth: Any, reach: Any, seam: Any) -> Any:
    """``donors`` where the depth in the region is at least the seam, ``images`` where it is at most 0."""
    from keras import ops

    images, donors = (ops.cast(one, "float32") for one in (images, donors))
    mask = ops.clip(depth / seam[:, None, None, None], 0.0, 1.0)
    return images + ops.where(reach[:, None, None, None] < 0, 0.0, mask) * (donors - images)


def _steps_from(lung: np.ndarray) -> np.ndarray:
    """(S, S) uint8: distance from the lung, in steps."""
    distance = cv2.distanceTransform((~lung).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / len(lung)
    return np.round(np.clip(distance / FARTHEST, 0, 1) * STEPS).astype(np.uint8)
