"""Attention before and after a crop, compared in the original frame on the same images.

A cropped network cannot show heat where it has no pixels, so the heat outside its window is zero by construction.
What is not: the heat along the window's *new* edge, and the heat in the lungs within the window, both of which the
uncropped network has as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import attention, evidence
from cnn_xray.dataset import Dataset
from cnn_xray.errors import InputError
from cnn_xray.evidence import Evidence, explained
from cnn_xray.parameters import DataParameters
from cnn_xray.view import Placement, View, rectangle, shrunk, to_frame

GRID = (112, 112)  # cells of the original frame on which maps of different windows are compared
FINE = (10_000, 10_000)  # px of an imagined file, so that no crop is rounded
BY_CONSTRUCTION = ("heat_outside_window",)  # after cropping
NOT_BY_CONSTRUCTION = ("inner_ring_log2_density_ratio", "lung_enrichment_in_window")


def lung_loss(frame: Dataset, crops: tuple[float, ...], aspect: str, rows: np.ndarray) -> pd.DataFrame:
    """How much lung each crop cuts away; one row a crop, index ``crop``, columns median and percentile_95 (0..1).

    ``frame`` shows whole films (squashed, uncropped) with lung masks; images without one are left out.
    """
    if frame.lungs is None:
        raise InputError("The loss of lung needs lung masks, and these data have none.")
    rows = rows[frame.lungs[rows].any(axis=(1, 2))]
    sizes = frame.table[["original_width", "original_height"]].astype(float).to_numpy()
    found = {}
    for crop in crops:
        kept = np.empty(len(rows))
        for i, row in enumerate(rows):
            original = None if np.isnan(sizes[row]).any() else (sizes[row][0], sizes[row][1])
            window = View(crop, aspect).place(FINE, original).window
            lung = frame.lungs[row]
            kept[i] = (lung * rectangle(window, lung.shape)).sum() / lung.sum()
        found[crop] = {"median": np.median(1 - kept), "percentile_95": np.quantile(1 - kept, 0.95)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("crop")


def framed_maps(model: Any, data: Dataset, rows: np.ndarray, images: np.ndarray | None = None) -> Evidence:
    """Evidence of a network with its maps in the original frame, (n, *GRID) in logits per map cell.

    Explained are the ``rows`` of ``data``, or ``images`` (n, S, S) uint8 put in their places.
    """
    found = evidence.closed_form(model, data.pixels[rows] if images is None else images)
    framed = to_frame(found.maps, [data.placements[row] for row in rows], GRID)
    return Evidence(framed, found.logits, found.bias)


def seen_windows(data: Dataset, rows: np.ndarray, p: DataParameters) -> list[tuple[float, float, float, float]]:
    """What of each film the network sees other than plain grey: the window, less a masked border."""
    masked = p.ring if p.keep == "centre" else 0.0
    return [shrunk(data.placements[row].window, masked) for row in rows]


def measure(
    framed: np.ndarray, sign: np.ndarray, windows: list[Placement], lungs: np.ndarray | None, ring: float
) -> pd.DataFrame:
    """Figures of framed maps (N, *GRID) relative to the cropped network's ``windows``; one row an image.

    ``heat_outside_window``: share of all heat that lies outside; zero by construction for the cropped network.
    ``inner_ring_log2_density_ratio``: heat density in the window's outer ``ring`` against the rest of the window.
    ``lung_enrichment_in_window``: share of the window's heat in the lungs over the lungs' share of the window.
    ``lungs`` (N, *GRID) are fractions of each cell. NaN where there is no heat or no lung.
    """
    heat = explained(framed, sign)
    inside = np.stack([rectangle(place.window, heat.shape[1:]) for place in windows])
    core = np.stack([rectangle(shrunk(place.window, ring), heat.shape[1:]) for place in windows])
    within = heat * inside
    rows = {
        "heat_outside_window": attention.mass_accuracy(heat, 1 - inside),
        "inner_ring_log2_density_ratio": attention.log2_density_ratio(within, inside - core, core),
    }
    lungs = np.zeros_like(heat) if lungs is None else lungs * inside
    share = attention.ratio(lungs.sum(axis=(1, 2)), inside.sum(axis=(1, 2)))
    rows["lung_enrichment_in_window"] = attention.ratio(attention.mass_accuracy(within, lungs), share)
    return pd.DataFrame(rows)
