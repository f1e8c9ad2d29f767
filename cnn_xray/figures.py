"""Every figure. Each function takes arrays or tables and returns a matplotlib figure; nothing is computed here.

Colours mean one thing throughout: blue NORMAL, orange PNEUMONIA; evidence maps run from blue (speaks for NORMAL) to
red (speaks for PNEUMONIA) on one symmetric scale for all maps of a figure.
"""

from __future__ import annotations

from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix, precision_recall_curve, roc_curve

from cnn_xray.data import CLASSES

NAMES = {label: name for name, label in CLASSES.items()}
COLOURS = {"NORMAL": "#2b6ca3", "PNEUMONIA": "#d9822b"}
GREY = "#777777"
EVIDENCE = "RdBu_r"
CONDITIONS = {"before": "before\ncropping", "masked": "border\nmasked", "after": "after\ncropping"}

sns.set_theme(context="notebook", style="ticks", font_scale=0.85)


def class_balance(table: pd.DataFrame) -> Figure:
    """Images of each class in each split; ``table`` has label and split."""
    counts = pd.crosstab(table["split"], table["label"].map(NAMES)).reindex(table["split"].unique())
    figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
    counts.plot.barh(ax=axes, color=[COLOURS[str(name)] for name in counts], width=0.75)
    for bars in axes.containers:
        axes.bar_label(cast(BarContainer, bars), padding=3, fmt="{:,.0f}", color=GREY)
    axes.set(xlabel="images", ylabel="", xlim=(0, counts.to_numpy().max() * 1.15))
    axes.invert_yaxis()
    axes.legend(title="", frameon=False)
    sns.despine(figure)
    return figure


def original_sizes(table: pd.DataFrame) -> Figure:
    """Width against height of every film, by class; ``table`` has original_width, original_height (px) and label."""
    known = table.dropna(subset=["original_width", "original_height"])
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for value, name in NAMES.items():
        part = known[known["label"] == value]
        axes.scatter(
            part["original_width"].astype(float), part["original_height"].astype(float), s=6, alpha=0.35,
            color=COLOURS[name], label=f"{name} ({len(part):,})", linewidths=0,
        )  # fmt: skip
    axes.set(xlabel="original width (px)", ylabel="original height (px)")
    for mark in axes.legend(frameon=False, markerscale=3).legend_handles:
        cast(Artist, mark).set_alpha(1)
    sns.despine(figure)
    return figure


def contact_sheet(
    images: np.ndarray, titles: list[str], columns: int = 6, outlines: dict[str, np.ndarray] | None = None
) -> Figure:
    """Films (N, S, S) uint8 side by side; ``outlines`` maps a colour to masks (N, S, S) drawn as contours."""
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 1.95 * rows), layout="constrained", squeeze=False
    )
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i >= len(images):
            continue
        axes.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        axes.set_title(titles[i], fontsize=8)
        for colour, masks in (outlines or {}).items():
            if masks[i].any():
                axes.contour(masks[i], levels=[0.5], colors=[colour], linewidths=0.9)
    return figure


def mean_films(normal: np.ndarray, pneumonia: np.ndarray) -> Figure:
    """Mean film of each class, (S, S) in grey values, and their difference on a symmetric scale."""
    figure, grid = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axes, film, name in zip(grid, (normal, pneumonia), COLOURS, strict=False):
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"mean {name}", fontsize=9)
    difference = pneumonia - normal
    limit = float(np.abs(difference).max()) or 1.0
    drawn = grid[2].imshow(difference, cmap=EVIDENCE, vmin=-limit, vmax=limit)
    grid[2].set_title("PNEUMONIA − NORMAL", fontsize=9)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=grid[2]).set_label("grey values (of 255)", fontsize=8)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Loss and validation AUC by epoch, with the epoch that was kept."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(history["epoch"], history["loss"], color="black", label="training (augmented)")
    left.plot(history["epoch"], history["val_loss"], color=GREY, linestyle="--", label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(history["epoch"], history["val_auc"], color=GREY, linestyle="--", label="validation AUC")
    kept = history[history["best"]]
    right.plot(kept["epoch"], kept["val_auc"], "o", color="black", label="epoch kept")
    right.set(xlabel="epoch", ylabel="validation AUC")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    sns.despine(figure)
    return figure


def discrimination(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Figure:
    """Confusion matrix, ROC and precision–recall curve of (N,) labels and probabilities, the threshold marked."""
    figure, (matrix, roc, pr) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    decided = probabilities >= threshold
    counts = confusion_matrix(labels, decided, labels=[0, 1])
    ConfusionMatrixDisplay(counts, display_labels=list(COLOURS)).plot(ax=matrix, cmap="Greys", colorbar=False)
    matrix.set(xlabel=f"predicted at {threshold:.2g}", ylabel="true")
    matrix.set_yticks([0, 1], list(COLOURS), rotation=90, va="center")
    false_positive, true_positive, _ = roc_curve(labels, probabilities)
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    roc.plot(false_positive, true_positive, color="black")
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    pr.plot(recall, precision, color="black")
    pr.axhline(labels.mean(), color=GREY, linestyle=":", label="chance")
    (tn, fp), (fn, tp) = counts
    roc.plot(fp / (fp + tn), tp / (tp + fn), "o", color=COLOURS["PNEUMONIA"], label=f"threshold {threshold:.2g}")
    pr.plot(tp / (tp + fn), tp / max(1, tp + fp), "o", color=COLOURS["PNEUMONIA"], label=f"threshold {threshold:.2g}")
    roc.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC", aspect="equal")
    pr.set(xlabel="sensitivity (recall)", ylabel="precision", title="precision–recall", aspect="equal", ylim=(0, 1.05))
    roc.legend(frameon=False, loc="lower right")
    pr.legend(frameon=False, loc="lower left")
    return figure


def intervals(table: pd.DataFrame, xlabel: str, null: float | None = None, null_label: str = "") -> Figure:
    """Dots with intervals, one line a row of ``table`` (columns value, low, high; the index names the lines)."""
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


def evidence_maps(
    images: np.ndarray,
    columns: dict[str, np.ndarray],
    row_titles: list[str],
    lungs: np.ndarray | None = None,
    windows: dict[str, list[tuple[float, float, float, float]]] | None = None,
    films: dict[str, np.ndarray] | None = None,
    unit: str = "logits per cell",
) -> Figure:
    """Films (N, S, S) and, beside each, the signed maps (N, h, w) of every column, all on one symmetric colour scale.

    ``lungs`` (N, S, S) are outlined. ``windows`` gives, for a column, the part of the film (left, top, right, bottom
    fractions) that its network saw; the rest is hatched. ``films`` gives, for a column, the films under its maps
    where they are not ``images``.
    """
    limit = max(float(np.quantile(np.abs(maps), 0.995)) for maps in columns.values()) or 1.0
    names = ["film", *columns]
    size = (2.5 * len(names) + 0.8, 2.45 * len(images))
    figure, grid = plt.subplots(len(images), len(names), figsize=size, layout="constrained", squeeze=False)
    for row, lines in enumerate(grid):
        for axes, name in zip(lines, names, strict=True):
            below = (films or {}).get(name, images)
            _film(axes, below[row], None if lungs is None else lungs[row])
            if row == 0:
                axes.set_title(name, fontsize=9)
            if name == "film":
                axes.set_ylabel(row_titles[row], fontsize=8)
                continue
            _overlay(axes, columns[name][row], images.shape[1], limit)
            if windows and name in windows:
                _outside(axes, windows[name][row], images.shape[1])
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), EVIDENCE),
        ax=grid,
        shrink=min(0.8, 2 / len(images)),
        pad=0.01,
        extend="both",
    )
    bar.set_label(f"evidence ({unit}): < 0 NORMAL, > 0 PNEUMONIA", fontsize=8)
    return figure


def _film(axes: Axes, image: np.ndarray, lung: np.ndarray | None) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if lung is not None and lung.any():
        axes.contour(lung, levels=[0.5], colors=["#7ad17a"], linewidths=0.8)


def _overlay(axes: Axes, one: np.ndarray, size: int, limit: float) -> None:
    """Cells as they are, each as opaque as it is strong: the film stays visible where there is no evidence."""
    strength = np.clip(np.abs(one) / limit, 0, 1) ** 0.7 * 0.85
    axes.imshow(
        one, cmap=EVIDENCE, vmin=-limit, vmax=limit, alpha=strength, extent=(-0.5, size - 0.5, size - 0.5, -0.5),
        interpolation="nearest",
    )  # fmt: skip


def _outside(axes: Axes, window: tuple[float, float, float, float], size: int) -> None:
    x0, y0, x1, y1 = np.multiply(window, size) - 0.5
    low, high = -0.5, size - 0.5
    for x, y, width, height in (
        (low, low, high - low, y0 - low), (low, y1, high - low, high - y1),
        (low, y0, x0 - low, y1 - y0), (x1, y0, high - x1, y1 - y0),
    ):  # fmt: skip
        axes.add_patch(
            Rectangle((x, y), width, height, facecolor="#000000aa", edgecolor="#bbbbbb", hatch="///", linewidth=0)
        )


def mean_maps(maps: dict[str, np.ndarray]) -> Figure:
    """Mean signed maps (h, w), one panel each, on one symmetric colour scale."""
    limit = max(float(np.abs(one).max()) for one in maps.values()) or 1.0
    figure, grid = plt.subplots(1, len(maps), figsize=(2.9 * len(maps) + 0.8, 3), layout="constrained", squeeze=False)
    for axes, (name, one) in zip(grid.flat, maps.items(), strict=True):
        axes.imshow(one, cmap=EVIDENCE, vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=9)
    scale = ScalarMappable(Normalize(-limit, limit), EVIDENCE)
    figure.colorbar(scale, ax=grid, pad=0.01).set_label("mean evidence (logits per cell)", fontsize=8)
    return figure


def cascade(table: pd.DataFrame) -> Figure:
    """Agreement of maps with the original as weights are redrawn, layer by layer from the logit down, a line a draw.

    ``table``: index ``redrawn``, columns signed, absolute (Spearman's correlation) and draw (`sanity.cascade`).
    """
    figure, grid = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    steps = list(dict.fromkeys(table.index))
    for axes, (column, title) in zip(grid, {"signed": "signed maps", "absolute": "absolute maps"}.items(), strict=True):
        for _, one in table.groupby("draw"):
            axes.plot(range(len(steps)), one[column].reindex(steps), color=GREY, alpha=0.5, linewidth=1)
        mean = table.groupby(level=0)[column].mean().reindex(steps)
        axes.plot(range(len(steps)), mean, "o-", color="black", markersize=4, label="mean of the draws")
        axes.axhline(0, color=GREY, linestyle=":", linewidth=1)
        axes.set_xticks(range(len(steps)), steps, rotation=45, ha="right")
        axes.set(xlabel="weights redrawn from the logit down to", ylim=(-1.05, 1.05))
        axes.set_title(title, fontsize=9)
    grid[0].set_ylabel("Spearman correlation\nwith the original map")
    grid[0].legend(frameon=False)
    sns.despine(figure)
    return figure


def before_after(table: pd.DataFrame, value: str, ylabel: str, chance: float | None = None) -> Figure:
    """One panel a ``group``, one line a seed through its `CONDITIONS`.

    Columns: group (panel), line (colour and legend), seed, condition and ``value``.
    """
    groups = list(table["group"].unique())
    figure, grid = plt.subplots(
        1, len(groups), figsize=(2.6 + 2.4 * len(groups), 3.4), layout="constrained", sharey=True, squeeze=False
    )
    lines = list(table["line"].unique())
    colours = dict(zip(lines, sns.color_palette("colorblind", len(lines)), strict=True))
    for axes, group in zip(grid.flat, groups, strict=True):
        part = table[table["group"] == group]
        for (line, _), one in part.groupby(["line", "seed"], sort=False):
            points = one.set_index("condition")[value].reindex(list(CONDITIONS))
            axes.plot(range(len(CONDITIONS)), points, "o-", color=colours[line], alpha=0.8, markersize=4)
        if chance is not None:
            axes.axhline(chance, color=GREY, linestyle=":", linewidth=1)
        axes.set_xticks(range(len(CONDITIONS)), list(CONDITIONS.values()))
        axes.set(xlim=(-0.25, len(CONDITIONS) - 0.75))
        axes.set_title(group, fontsize=9)
    grid.flat[0].set_ylabel(ylabel)
    handles = [plt.Line2D([], [], color=colours[line], marker="o", label=line) for line in lines]
    if chance is not None:
        handles.append(plt.Line2D([], [], color=GREY, linestyle=":", label="chance"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    sns.despine(figure)
    return figure


def reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Diagrams of `calibration.reliability`, one panel an entry of ``tables``; hollow where a bin has no interval."""
    size = (0.6 + 2.7 * len(tables), 3.7)
    figure, grid = plt.subplots(1, len(tables), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, (name, table) in zip(grid.flat, tables.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="calibrated")
        known, unknown = table[table["low"].notna()], table[table["low"].isna()]
        errors = np.abs(known[["low", "high"]].to_numpy(float).T - known["share_positive"].to_numpy(float))
        axes.errorbar(
            known["mean_probability"], known["share_positive"], yerr=errors, fmt="o", color="black", markersize=5,
            elinewidth=1, capsize=2, label="bin with its interval",
        )  # fmt: skip
        axes.plot(
            unknown["mean_probability"], unknown["share_positive"], "o", color="black", markerfacecolor="white",
            markersize=5, label="bin of one class or one patient: no interval",
        )  # fmt: skip
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal", xlabel="mean predicted probability")
        axes.set_title(f"{name}\n{table['n'].sum():,} films", fontsize=9)
    grid.flat[0].set_ylabel("share that is pneumonia")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(tables)), frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def ablation(table: pd.DataFrame, xlabel: str) -> Figure:
    """Difference of every arm to its base, one line an arm: a dot a seed, a bar at their mean, best arm on top.

    ``table`` (columns arm, seed, difference), one row a network.
    """
    means = table.groupby("arm")["difference"].mean().sort_values(ascending=False)
    places = {arm: place for place, arm in enumerate(means.index)}
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.24 * len(means)), layout="constrained")
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1)
    axes.plot(table["difference"], table["arm"].map(places), "o", color=GREY, alpha=0.6, markersize=4, label="a seed")
    axes.plot(means, list(places.values()), "|", color="black", markersize=11, markeredgewidth=2, label="mean")
    axes.set_yticks(list(places.values()), list(places))
    axes.set(xlabel=xlabel, ylim=(len(means) - 0.5, -0.5))
    axes.legend(frameon=False, loc="lower right")
    sns.despine(figure, left=True)
    axes.tick_params(left=False)
    return figure


def operating_points(seeds: dict[int, pd.DataFrame], points: pd.DataFrame) -> Figure:
    """ROC curve of every seed (films with label, probability) with its thresholds on it.

    ``points`` (columns seed, threshold at, sensitivity, specificity): one marker a kind of threshold.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for films in seeds.values():
        false_positive, true_positive, _ = roc_curve(films["label"], films["probability"])
        axes.plot(false_positive, true_positive, color=GREY, alpha=0.5, linewidth=1, drawstyle="steps-post")
    kinds = list(dict.fromkeys(points["threshold at"]))
    for kind, marker, colour in zip(kinds, "osD^vP", sns.color_palette("colorblind"), strict=False):
        part = points[points["threshold at"] == kind]
        axes.plot(1 - part["specificity"], part["sensitivity"], marker, color=colour, markersize=5, label=kind)
    lowest = min(0.9, points["sensitivity"].min() - 0.02)
    axes.set(xlim=(0, max(0.3, (1 - points["specificity"]).max() + 0.02)), ylim=(lowest, 1.005))
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    axes.legend(frameon=False, title="threshold", loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(figure)
    return figure


def foretold(table: pd.DataFrame, judges: dict[str, str], test: str, apart: str) -> Figure:
    """What each judge said against what test says, a panel a judge, a dot an arm.

    ``judges`` maps columns to the words under their axes; ``test`` is the column upwards, and ``apart`` (bool) marks
    the arms that are drawn apart, under the column's name.
    """
    figure, panels = plt.subplots(
        1, len(judges), figsize=(4.2 * len(judges), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (judge, words) in zip(panels[0], judges.items(), strict=True):
        for inside, look in ((False, {"color": "black"}), (True, {"color": "black", "markerfacecolor": "white"})):
            part = table[table[apart] == inside]
            axes.plot(part[judge], part[test], "o", markersize=5, label=apart if inside else "other arms", **look)
        axes.set_xlabel(words)
    panels[0][0].set_ylabel("AUC on the test split")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    sns.despine(figure)
    return figure
