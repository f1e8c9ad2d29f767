"""Figures that are used more than once. Each function takes arrays or tables and returns a matplotlib figure.

Colours mean one thing throughout: blue NORMAL, orange PNEUMONIA; evidence maps run from blue (speaks for NORMAL) to
red (speaks for PNEUMONIA) on one symmetric scale for all maps of a figure.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnn_xray.data import CLASSES
from cnn_xray.geometry import Window

NAMES = {label: name for name, label in CLASSES.items()}
COLOURS = {"NORMAL": "#2b6ca3", "PNEUMONIA": "#d9822b"}
GREY = "#777777"
LUNG = "black"
EVIDENCE = "RdBu_r"

sns.set_theme(context="notebook", style="ticks", font_scale=0.85)


def contact_sheet(
    images: np.ndarray, titles: list[str], columns: int = 6, outlines: dict[str, np.ndarray] | None = None
) -> Figure:
    """Images side by side.

    Parameters
    ----------
    images : ndarray (N, S, S) uint8
    titles
        One an image.
    columns
        Images a row.
    outlines
        Colour → masks (N, S, S) drawn as contours.
    """
    rows = -(-len(images) // columns)
    size = (1.75 * columns, 1.95 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(images):
            _image(axes, images[i], {colour: masks[i] for colour, masks in (outlines or {}).items()})
            axes.set_title(titles[i], fontsize=8)
    return figure


def intervals(table: pd.DataFrame, xlabel: str, null: float | None = None, null_label: str = "") -> Figure:
    """Dots with intervals, one line a row.

    Parameters
    ----------
    table
        Columns value, low, high; the index names the lines.
    xlabel
        Of the values, with their unit.
    null
        Where a vertical line is drawn.
    null_label
        What that line is.
    """
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.36 * len(table)), layout="constrained")
    places = np.arange(len(table))
    errors = np.abs(table[["low", "high"]].to_numpy(float).T - table["value"].to_numpy(float))
    axes.errorbar(table["value"], places, xerr=np.nan_to_num(errors), fmt="o", color="black", capsize=3, markersize=5)
    if null is not None:
        axes.axvline(null, color=GREY, linestyle=":", label=null_label)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.set(xlabel=xlabel, ylim=(len(table) - 0.5, -0.5))
    sns.despine(figure, left=True)
    axes.tick_params(left=False)
    return figure


def bars(values: dict[str, float], null: float | None = None) -> Figure:
    """A few numbers as bars, small.

    Parameters
    ----------
    values
        By name, from the top.
    null
        Where a vertical line is drawn.
    """
    figure, axes = plt.subplots(figsize=(2.6, 1.6), layout="constrained")
    axes.barh(list(values), list(values.values()), color=[GREY] * (len(values) - 1) + [COLOURS["PNEUMONIA"]])
    if null is not None:
        axes.axvline(null, color="black", linestyle=":")
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.1 * max(values.values()), 2 * (null or 0), 1e-9))  # of an AUC to 1, however small it is
    sns.despine(figure, left=True)
    axes.tick_params(left=False, labelsize=13)
    return figure


def evidence_maps(
    images: np.ndarray,
    columns: dict[str, np.ndarray],
    row_titles: list[str],
    lungs: np.ndarray | None = None,
    windows: dict[str, list[Window]] | None = None,
    below: dict[str, np.ndarray] | None = None,
    unit: str = "logits per cell",
) -> Figure:
    """Images and, beside each, the signed maps of every column, all on one symmetric colour scale.

    Parameters
    ----------
    images : ndarray (N, S, S) uint8
    columns
        Title → signed maps (N, h, w), in ``unit``.
    row_titles
        One an image.
    lungs : ndarray (N, S, S), optional
        Outlined.
    windows
        Title → the part of each image that its network saw; the rest is hatched.
    below
        Title → the images (N, S, S) under its maps, where they are not ``images``.
    unit
        Of the maps, for the colour bar.
    """
    limit = max(float(np.quantile(np.abs(maps), 0.995)) for maps in columns.values()) or 1.0
    names = ["image", *columns]
    size = (2.5 * len(names) + 0.8, 2.45 * len(images))
    figure, grid = plt.subplots(len(images), len(names), figsize=size, layout="constrained", squeeze=False)
    for row, lines in enumerate(grid):
        for axes, name in zip(lines, names, strict=True):
            _image(axes, (below or {}).get(name, images)[row], {} if lungs is None else {LUNG: lungs[row]})
            if row == 0:
                axes.set_title(name, fontsize=9)
            if name == "image":
                axes.set_ylabel(row_titles[row], fontsize=8)
                continue
            _overlay(axes, columns[name][row], images.shape[1], limit)
            if windows and name in windows:
                _hatch_outside(axes, windows[name][row], images.shape[1])
    scale, shrink = ScalarMappable(Normalize(-limit, limit), EVIDENCE), min(0.8, 2 / len(images))
    bar = figure.colorbar(scale, ax=grid, shrink=shrink, pad=0.01, extend="both")
    between = "\n" if len(images) == 1 else " "  # one row is not as high as the label is long
    bar.set_label(f"evidence ({unit}):{between}< 0 NORMAL, > 0 PNEUMONIA", fontsize=8)
    return figure


def _image(axes: Axes, image: np.ndarray, outlines: dict[str, np.ndarray]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)
    for colour, mask in outlines.items():
        if mask.any():  # dashes on white: seen on light and dark, and in grey print
            axes.contour(mask, levels=[0.5], colors=["white"], linewidths=1.4)
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9, linestyles="dashed")


def _overlay(axes: Axes, one: np.ndarray, size: int, limit: float) -> None:
    """Cells as they are, each as opaque as it is strong: the image stays visible where there is no evidence."""
    strength = np.clip(np.abs(one) / limit, 0, 1) ** 0.7 * 0.85
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    axes.imshow(one, cmap=EVIDENCE, vmin=-limit, vmax=limit, alpha=strength, extent=extent, interpolation="nearest")


def _hatch_outside(axes: Axes, window: Window, size: int) -> None:
    x0, y0, x1, y1 = np.multiply(window, size) - 0.5
    low, high = -0.5, size - 0.5
    sides = [(low, low, high, y0), (low, y1, high, high), (low, y0, x0, y1), (x1, y0, high, y1)]
    look: dict[str, Any] = {"facecolor": "#000000aa", "edgecolor": "#bbbbbb", "hatch": "///", "linewidth": 0}
    for left, top, right, bottom in sides:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **look))
