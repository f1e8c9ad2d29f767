"""Attention metrics of evidence maps on the map's own grid, with the value each has for a uniform map.

H (N, h, w) is the non-negative evidence for what is explained, B the outer ring, L the lung mask, Ω all cells. Masks
are fractions of each cell (exact area overlap), so nothing is upsampled. Sources: relevance mass and rank accuracy from
CLEVR-XAI (Arras et al. 2020, arXiv 2003.07258); pointing game from Zhang et al. 2018 (IJCV 126); both are used for
chest films by CheXlocalize (Saporta et al. 2022).

What an attention metric is compared with: the same measurement where the border can mean nothing.

A uniform map is the wrong null for a padded CNN, because zero padding moves evidence at the edge by itself
(Alsallakh et al. 2021, arXiv 2010.02178). So each figure stands beside a constant image, networks with random
weights, and the same image with its ring made neutral.

Attention before and after a crop, compared in the original frame on the same images.

A cropped network cannot show heat where it has no pixels, so the heat outside its window is zero by construction.
What is not: the heat along the window's *new* edge, and the heat in the lungs within the window, both of which the
uncropped network has as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import InputError, cam
from cnn_xray.cam import Evidence, explained_heat
from cnn_xray.data import Dataset
from cnn_xray.geometry import Placement, View, area_mean, blend, border_cells, rectangle, shrunk, soft_border, to_frame
from cnn_xray.parameters import DataParameters, TrainParameters

TOP = 0.1  # fraction of the cells that artifact sensitivity calls hot
LOG2_LIMIT = 6.0  # of the density ratio, so that an empty ring has a mean


def border_fraction(heat: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Border attention fraction ΣH[B] / ΣH[Ω], (N,); NaN for a map of zeros. Uniform: |B| / |Ω|."""
    return ratio((heat * ring).sum(axis=(1, 2)), heat.sum(axis=(1, 2)))


def log2_density_ratio(heat: np.ndarray, ring: np.ndarray, rest: np.ndarray | None = None) -> np.ndarray:
    """log2 of the mean heat in the ring over the mean heat in the rest (default: all else), (N,). Uniform: 0.

    Kept within ±6: beyond 64 to 1 the ratio says only that one side is empty. NaN for a map of zeros.
    """
    rest = 1 - ring if rest is None else rest
    density = ratio((heat * ring).sum(axis=(1, 2)), ring.sum(axis=(-2, -1)))
    elsewhere = ratio((heat * rest).sum(axis=(1, 2)), rest.sum(axis=(-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log2(density) - np.log2(elsewhere), -LOG2_LIMIT, LOG2_LIMIT)


def signed_border_evidence(maps: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """S_B = Σ_B c_u, the logits that the ring contributes, (N,); always defined. No border evidence: 0."""
    return (maps * ring).sum(axis=(1, 2))


def mass_accuracy(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy ΣH[L] / ΣH[Ω], (N,); NaN for a map of zeros or an empty area. Uniform: |L| / |Ω|."""
    mass = ratio((heat * area).sum(axis=(1, 2)), heat.sum(axis=(1, 2)))
    return np.where(area.sum(axis=(1, 2)) > 0, mass, np.nan)


def enrichment(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy over its uniform value |L| / |Ω|, (N,). Uniform: 1."""
    return ratio(mass_accuracy(heat, area), area.mean(axis=(1, 2)))


def rank_accuracy(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance rank accuracy |top-|L| cells ∩ L| / |L|, (N,). Uniform: |L| / |Ω|.

    The number of top cells is |L| in cells, rounded; NaN for a map of zeros or an area under half a cell.
    """
    flat, part = heat.reshape(len(heat), -1), area.reshape(len(area), -1)
    size = part.sum(axis=1)
    count = np.round(size).astype(int)
    order = np.argsort(-flat, axis=1, kind="stable")
    hits = np.cumsum(np.take_along_axis(part, order, axis=1), axis=1)
    caught = np.take_along_axis(hits, np.maximum(count, 1)[:, None] - 1, axis=1)[:, 0]
    return np.where((flat.sum(axis=1) > 0) & (count > 0), ratio(np.minimum(caught, size), size), np.nan)


def pointing_game(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """How much of the hottest cell lies in L, (N,) in 0..1; NaN for a map of zeros or no area. Uniform: |L| / |Ω|."""
    flat, part = heat.reshape(len(heat), -1), area.reshape(len(area), -1)
    hit = np.take_along_axis(part, flat.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where((flat.sum(axis=1) > 0) & (part.sum(axis=1) > 0), hit, np.nan)


def artifact_sensitivity(heat: np.ndarray, artifact: np.ndarray) -> np.ndarray:
    """Share of a planted artifact that the hottest tenth of the cells covers, (N,). Uniform: 0.1."""
    flat, part = heat.reshape(len(heat), -1), artifact.reshape(len(artifact), -1)
    count = max(1, round(TOP * flat.shape[1]))
    hottest = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    caught = np.take_along_axis(part, hottest, axis=1).sum(axis=1)
    return np.where(flat.sum(axis=1) > 0, ratio(caught, part.sum(axis=1)), np.nan)


def attention_metrics(
    maps: np.ndarray,
    sign: np.ndarray,
    ring: np.ndarray,
    lungs: np.ndarray | None = None,
    artifacts: np.ndarray | None = None,
) -> pd.DataFrame:
    """Every attention metric of signed ``maps`` (N, h, w) float in logit units; one row an image.

    ``sign`` (N,) is +1 where PNEUMONIA is explained and −1 for NORMAL; ``ring`` (h, w) and ``lungs``, ``artifacts``
    (N, h, w) are fractions of each cell. Lung and artifact columns are NaN for rows without such an area.
    """
    heat = explained_heat(maps, sign)
    nothing = np.zeros_like(heat)
    lungs = nothing if lungs is None else lungs
    artifacts = nothing if artifacts is None else artifacts
    return pd.DataFrame(
        {
            "border_attention_fraction": border_fraction(heat, ring),
            "log2_border_density_ratio": log2_density_ratio(heat, ring),
            "signed_border_evidence": signed_border_evidence(maps, ring),
            "lung_attention_fraction": mass_accuracy(heat, lungs),
            "lung_enrichment": enrichment(heat, lungs),
            "relevance_rank_accuracy": rank_accuracy(heat, lungs),
            "pointing_game": pointing_game(heat, lungs),
            "artifact_sensitivity": artifact_sensitivity(heat, artifacts),
            "zero_map": (heat.sum(axis=(1, 2)) == 0).astype(float),
        }
    )


def uniform_metrics(
    ring: np.ndarray, rows: int, lungs: np.ndarray | None = None, artifacts: np.ndarray | None = None
) -> pd.DataFrame:
    """What `measure` expects of a map that is the same everywhere; one row an image.

    Signed border evidence is the exception: its 0 means no border evidence. Not computed from a constant map, whose
    ties would make the ranking metrics depend on the order of the cells.
    """
    none = np.full(rows, np.nan)
    share = none if lungs is None else np.where(lungs.any(axis=(1, 2)), lungs.mean(axis=(1, 2)), np.nan)
    planted = none if artifacts is None else np.where(artifacts.any(axis=(1, 2)), TOP, np.nan)
    return pd.DataFrame(
        {
            "border_attention_fraction": np.full(rows, ring.mean()),
            "log2_border_density_ratio": 0.0,
            "signed_border_evidence": 0.0,
            "lung_attention_fraction": share,
            "lung_enrichment": np.where(np.isnan(share), np.nan, 1.0),
            "relevance_rank_accuracy": share,
            "pointing_game": share,
            "artifact_sensitivity": planted,
            "zero_map": 0.0,
        }
    )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is zero."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


RANDOM_NETWORKS = 3


def neutral_image(data: Dataset) -> np.ndarray:
    """The mean of the two classes' mean training images, (S, S) float32: the ring that every neutralised film gets."""
    rows = data.rows("train")
    labels = data.table["label"].to_numpy()[rows]
    means = [data.pixels[rows[labels == label]].mean(axis=0, dtype=np.float64) for label in (0, 1)]
    return np.mean(means, axis=0).astype(np.float32)


def neutralised(images: np.ndarray, neutral: np.ndarray, width: float) -> np.ndarray:
    """``images`` (N, S, S) uint8 with their outer ring replaced by that of ``neutral`` (S, S), seam feathered.

    The ring is ``width`` of each side, replaced whole; over the next quarter of ``width`` inwards the two are blended
    linearly. Every film gets the same ring, so the ring tells no film from another.
    """
    return blend(images, neutral, soft_border(images.shape[1], width))


def metrics_beside_nulls(model: Any, p: TrainParameters, data: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """Attention metrics of images and of every null, long: path, label, patient, arm and `attention.measure`'s columns.

    Arms: ``image``; ``neutralised ring`` and ``constant image`` (one grey), explaining what was explained on the image
    itself; ``randomised weights`` (mean over three fresh networks, each explaining its own decision); ``uniform``.
    """
    images = data.pixels[rows]
    table = data.table.iloc[rows].reset_index(drop=True)
    neutral = neutral_image(data)
    real = cam.evidence(model, images)
    shape = real.maps.shape[1:]
    border = border_cells(p.ring, shape)
    lungs = None if data.lungs is None else area_mean(data.lungs[rows], shape)
    artifacts = None if data.artifacts is None else area_mean(data.artifacts[rows], shape)

    def measured(maps: np.ndarray, sign: np.ndarray) -> pd.DataFrame:
        return attention_metrics(maps, sign, border, lungs, artifacts)

    sign = cam.explained_sign(real.logits, p.explain)
    arms = {"image": measured(real.maps, sign)}
    arms["neutralised ring"] = measured(cam.evidence(model, neutralised(images, neutral, p.ring)).maps, sign)
    flat = np.full((1, *images.shape[1:]), round(float(neutral.mean())), np.uint8)
    constant = cam.evidence(model, flat)
    arms["constant image"] = measured(np.repeat(constant.maps, len(rows), axis=0), sign)
    random = []
    for extra in range(1, RANDOM_NETWORKS + 1):
        from cnn_xray import network

        fresh = network.build(p.model_copy(update={"seed": p.seed + 1_000_000 * extra}))
        found = cam.evidence(fresh, images)
        random.append(measured(found.maps, cam.explained_sign(found.logits, p.explain)))
    arms["randomised weights"] = pd.concat(random).groupby(level=0).mean()
    arms["uniform"] = uniform_metrics(border, len(rows), lungs, artifacts)
    return pd.concat(
        [
            pd.concat([table[["path", "label", "patient"]].assign(arm=arm), frame], axis=1)
            for arm, frame in arms.items()
        ],
        ignore_index=True,
    )


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
    found = cam.evidence(model, data.pixels[rows] if images is None else images)
    framed = to_frame(found.maps, [data.placements[row] for row in rows], GRID)
    return Evidence(framed, found.logits, found.bias)


def seen_windows(data: Dataset, rows: np.ndarray, p: DataParameters) -> list[tuple[float, float, float, float]]:
    """What of each film the network sees other than plain grey: the window, less a masked border."""
    masked = p.ring if p.keep == "centre" else 0.0
    return [shrunk(data.placements[row].window, masked) for row in rows]


def window_metrics(
    framed: np.ndarray, sign: np.ndarray, windows: list[Placement], lungs: np.ndarray | None, ring: float
) -> pd.DataFrame:
    """Figures of framed maps (N, *GRID) relative to the cropped network's ``windows``; one row an image.

    ``heat_outside_window``: share of all heat that lies outside; zero by construction for the cropped network.
    ``inner_ring_log2_density_ratio``: heat density in the window's outer ``ring`` against the rest of the window.
    ``lung_enrichment_in_window``: share of the window's heat in the lungs over the lungs' share of the window.
    ``lungs`` (N, *GRID) are fractions of each cell. NaN where there is no heat or no lung.
    """
    heat = explained_heat(framed, sign)
    inside = np.stack([rectangle(place.window, heat.shape[1:]) for place in windows])
    core = np.stack([rectangle(shrunk(place.window, ring), heat.shape[1:]) for place in windows])
    within = heat * inside
    rows = {
        "heat_outside_window": mass_accuracy(heat, 1 - inside),
        "inner_ring_log2_density_ratio": log2_density_ratio(within, inside - core, core),
    }
    lungs = np.zeros_like(heat) if lungs is None else lungs * inside
    share = ratio(lungs.sum(axis=(1, 2)), inside.sum(axis=(1, 2)))
    rows["lung_enrichment_in_window"] = ratio(mass_accuracy(within, lungs), share)
    return pd.DataFrame(rows)
