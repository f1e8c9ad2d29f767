"""Where the attribution lies, beside what a border without meaning would get, and in the original frame.

H (N, h, w) is the non-negative evidence for what is explained, B the border, L the lung mask, Ω all cells of the map.
Areas are fractions of each cell (exact overlap), so nothing is upsampled. A uniform map is the wrong null for a padded
CNN, because zero padding moves evidence at the edge by itself (Alsallakh et al. 2021, arXiv 2010.02178): so each figure
stands beside that of a constant image, of untrained networks, and of the same image with a neutral border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cnn_xray.cam import Evidence, explained_heat, explained_sign
from cnn_xray.geometry import Placement, View, area_mean, blend, border_cells, rectangle, shrunk, soft_border

TOP = 0.1  # fraction of the cells that artifact sensitivity calls hot
LOG2_LIMIT = 6.0  # of the density ratio, so that an empty border has a mean
GRID = (112, 112)  # cells of the original frame on which maps of different windows are compared
FINE = (10_000, 10_000)  # px of an imagined file, so that no crop is rounded
Explainer = Callable[[np.ndarray], Evidence]  # images (N, S, S) uint8 → evidence
Areas = np.ndarray | None  # (N, h, w), the fraction of each cell that lies in an area, where there is one


def border_fraction(heat: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Border attention fraction ΣH[B] / ΣH[Ω], (N,); NaN for a map of zeros. Uniform: |B| / |Ω|.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    border : ndarray (h, w)
        Fraction of each cell that lies in the border.
    """
    return ratio((heat * border).sum(axis=(1, 2)), heat.sum(axis=(1, 2)))


def log2_density_ratio(heat: np.ndarray, border: np.ndarray, rest: np.ndarray | None = None) -> np.ndarray:
    """log2 of the mean heat in the border over the mean heat in the rest (default: all else), (N,). Uniform: 0.

    Kept within ±6: beyond 64 to 1 the ratio says only that one side is empty. NaN for a map of zeros.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    border, rest : ndarray (h, w) or (N, h, w)
        Fractions of each cell; ``rest`` by default all but the border.
    """
    rest = 1 - border if rest is None else rest
    density = ratio((heat * border).sum(axis=(1, 2)), border.sum(axis=(-2, -1)))
    elsewhere = ratio((heat * rest).sum(axis=(1, 2)), rest.sum(axis=(-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log2(density) - np.log2(elsewhere), -LOG2_LIMIT, LOG2_LIMIT)


def signed_border_evidence(maps: np.ndarray, border: np.ndarray) -> np.ndarray:
    """S_B = Σ_B c_u, the logits that the border contributes, (N,); always defined. No border evidence: 0.

    Parameters
    ----------
    maps : ndarray (N, h, w)
        Signed evidence, logits.
    border : ndarray (h, w)
        Fraction of each cell that lies in the border.
    """
    return (maps * border).sum(axis=(1, 2))


def mass_accuracy(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy ΣH[L] / ΣH[Ω], (N,); NaN for a map of zeros or an empty area. Uniform: |L| / |Ω|.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    area : ndarray (N, h, w)
        Fraction of each cell that lies in it.

    References
    ----------
    CLEVR-XAI, Arras et al. 2020, arXiv 2003.07258.
    """
    mass = ratio((heat * area).sum(axis=(1, 2)), heat.sum(axis=(1, 2)))
    return np.where(area.sum(axis=(1, 2)) > 0, mass, np.nan)


def enrichment(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy over its uniform value |L| / |Ω|, (N,). Uniform: 1.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    area : ndarray (N, h, w)
        Fraction of each cell that lies in it.
    """
    return ratio(mass_accuracy(heat, area), area.mean(axis=(1, 2)))


def rank_accuracy(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Relevance rank accuracy |top-|L| cells ∩ L| / |L|, (N,). Uniform: |L| / |Ω|.

    The number of top cells is |L| in cells, rounded; NaN for a map of zeros or an area under half a cell.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    area : ndarray (N, h, w)
        Fraction of each cell that lies in it.

    References
    ----------
    CLEVR-XAI, Arras et al. 2020, arXiv 2003.07258.
    """
    ranked, size = _hottest_first(heat, area), area.reshape(len(area), -1).sum(axis=1)
    count = np.round(size).astype(int)
    caught = np.take_along_axis(ranked.cumsum(axis=1), np.maximum(count, 1)[:, None] - 1, axis=1)[:, 0]
    return np.where(count > 0, ratio(np.minimum(caught, size), size), np.nan)


def pointing_game(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """How much of the hottest cell lies in L, (N,) in 0..1; NaN for a map of zeros or no area. Uniform: |L| / |Ω|.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    area : ndarray (N, h, w)
        Fraction of each cell that lies in it.

    References
    ----------
    Zhang et al. 2018, IJCV 126:1084; on chest radiographs: Saporta et al. 2022 (CheXlocalize).
    """
    return np.where(area.any(axis=(1, 2)), _hottest_first(heat, area)[:, 0], np.nan)


def artifact_sensitivity(heat: np.ndarray, artifact: np.ndarray) -> np.ndarray:
    """Share of a planted artifact that the hottest tenth of the cells covers, (N,). Uniform: 0.1.

    Parameters
    ----------
    heat : ndarray (N, h, w)
        Evidence for what is explained, not negative.
    artifact : ndarray (N, h, w)
        Fraction of each cell that lies in it.
    """
    ranked = _hottest_first(heat, artifact)
    count = max(1, round(TOP * ranked.shape[1]))
    return ratio(ranked[:, :count].sum(axis=1), artifact.reshape(ranked.shape).sum(axis=1))


def _hottest_first(heat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """How much of each cell lies in the area, from the hottest cell on (N, h·w); NaN for a map of zeros."""
    flat, part = heat.reshape(len(heat), -1), area.reshape(len(area), -1)
    ranked = np.take_along_axis(part, np.argsort(-flat, axis=1, kind="stable"), axis=1)
    return np.where(flat.any(axis=1, keepdims=True), ranked, np.nan)


def attention_metrics(
    maps: np.ndarray, sign: np.ndarray, border: np.ndarray, lungs: Areas = None, artifacts: Areas = None
) -> pd.DataFrame:
    """Every metric of signed maps, one row an image.

    Parameters
    ----------
    maps : ndarray (N, h, w)
        Signed evidence, logits.
    sign : ndarray (N,)
        What is explained, +1 PNEUMONIA or −1 NORMAL.
    border : ndarray (h, w)
        Fraction of each cell that lies in the border.
    lungs, artifacts : ndarray (N, h, w), optional
        Fractions of each cell. Their columns are NaN for rows without such an area.
    """
    heat = explained_heat(maps, sign)
    lungs, artifacts = (np.zeros_like(heat) if areas is None else areas for areas in (lungs, artifacts))
    return pd.DataFrame(
        {
            "border_attention_fraction": border_fraction(heat, border),
            "log2_border_density_ratio": log2_density_ratio(heat, border),
            "signed_border_evidence": signed_border_evidence(maps, border),
            "lung_attention_fraction": mass_accuracy(heat, lungs),
            "lung_enrichment": enrichment(heat, lungs),
            "relevance_rank_accuracy": rank_accuracy(heat, lungs),
            "pointing_game": pointing_game(heat, lungs),
            "artifact_sensitivity": artifact_sensitivity(heat, artifacts),
            "zero_map": (heat.sum(axis=(1, 2)) == 0).astype(float),
        }
    )


def uniform_metrics(border: np.ndarray, rows: int, lungs: Areas = None, artifacts: Areas = None) -> pd.DataFrame:
    """What `attention_metrics` expects of a map that is the same everywhere; one row an image.

    Signed border evidence is the exception: its 0 means no border evidence. The ranking metrics of a constant map would
    depend on the order of its cells; theirs are what random maps have on average.

    Parameters
    ----------
    border : ndarray (h, w)
        Fraction of each cell that lies in the border.
    rows
        Number of images.
    lungs, artifacts : ndarray (N, h, w), optional
        Fractions of each cell.
    """
    found = attention_metrics(np.ones((rows, *border.shape)), np.ones(rows), border, lungs, artifacts)
    found[["log2_border_density_ratio", "signed_border_evidence"]] = 0.0
    found["relevance_rank_accuracy"] = found["pointing_game"] = found["lung_attention_fraction"]
    found.loc[found["artifact_sensitivity"].notna(), "artifact_sensitivity"] = TOP
    return found


def neutral_image(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the two classes' mean images, (S, S) float32: give it training images (N, S, S) and their labels (N,).

    Parameters
    ----------
    images : ndarray (N, S, S) uint8
        Of the training split.
    labels : ndarray (N,)
        0 NORMAL, 1 PNEUMONIA.
    """
    means = [images[labels == label].mean(axis=0, dtype=np.float64) for label in (0, 1)]
    return np.mean(means, axis=0).astype(np.float32)


def neutralised(images: np.ndarray, neutral: np.ndarray, width: float) -> np.ndarray:
    """``images`` (N, S, S) uint8 with their border replaced by that of ``neutral`` (S, S), seam feathered.

    The border is ``width`` of each side, replaced whole; over the next quarter of ``width`` inwards the two are blended
    linearly. Every image gets the same border, so the border tells no image from another.

    Parameters
    ----------
    images : ndarray (N, S, S) uint8
    neutral : ndarray (S, S)
        Where the border is taken from.
    width
        Of the border, fraction of the side.
    """
    return blend(images, neutral, soft_border(images.shape[1], width))


def metrics_beside_nulls(
    explainer: Explainer,
    untrained: Sequence[Explainer],
    images: np.ndarray,
    neutral: np.ndarray,
    width: float,
    explain: str = "predicted",
    lungs: Areas = None,
    artifacts: Areas = None,
) -> pd.DataFrame:
    """`attention_metrics` of images and of every null: one row an image and arm, column ``arm`` first.

    Parameters
    ----------
    explainer, untrained
        From images to `Evidence`: the network's, and those of networks with random weights.
    images : ndarray (N, S, S) uint8
    neutral : ndarray (S, S)
        The border that the neutralised images get (`neutral_image`).
    width
        Of the border, fraction of the side.
    explain : {"predicted", "pneumonia"}
    lungs, artifacts : ndarray (N, S, S) bool, optional

    Returns
    -------
    DataFrame
        Arms: ``image``; ``neutralised border`` and ``constant image`` (one grey), explaining what was explained on the
        image itself; ``randomised weights`` (mean over the untrained networks, each explaining its own decision);
        ``uniform``. Index: the number of the image.
    """
    real = explainer(images)
    border = border_cells(width, real.maps.shape[1:])
    areas = [None if masks is None else area_mean(masks, real.maps.shape[1:]) for masks in (lungs, artifacts)]
    sign = explained_sign(real.logits, explain)
    flat = np.full((1, *images.shape[1:]), round(float(neutral.mean())), np.uint8)
    maps = {"image": real.maps, "neutralised border": explainer(neutralised(images, neutral, width)).maps}
    maps["constant image"] = np.repeat(explainer(flat).maps, len(images), axis=0)
    arms = {arm: attention_metrics(of_arm, sign, border, *areas) for arm, of_arm in maps.items()}
    random = [one(images) for one in untrained]
    of_random = [attention_metrics(one.maps, explained_sign(one.logits, explain), border, *areas) for one in random]
    arms["randomised weights"] = pd.concat(of_random).groupby(level=0).mean()
    arms["uniform"] = uniform_metrics(border, len(images), *areas)
    return pd.concat(arms, names=["arm"]).reset_index("arm")


def lung_loss(lungs: np.ndarray, sizes: np.ndarray, crops: Sequence[float], aspect: str) -> pd.DataFrame:
    """How much lung each crop cuts away; one row a crop, index ``crop``, columns median and percentile_95 (0..1).

    Parameters
    ----------
    lungs : ndarray (N, F, F) bool
        Masks of whole images (squashed, uncropped), none of them empty.
    sizes : ndarray (N, 2)
        Original width and height, px; NaN where unknown.
    crops
        Fractions cut from each side.
    aspect
        As in `geometry.View`.
    """
    found = {}
    for crop in crops:
        kept = np.empty(len(lungs))
        for i, (lung, size) in enumerate(zip(lungs, sizes, strict=True)):
            original = None if np.isnan(size).any() else (float(size[0]), float(size[1]))
            window = View(crop, aspect).place(FINE, original).window
            kept[i] = (lung * rectangle(window, lung.shape)).sum() / lung.sum()
        found[crop] = {"median": np.median(1 - kept), "percentile_95": np.quantile(1 - kept, 0.95)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("crop")


def window_metrics(
    framed: np.ndarray, sign: np.ndarray, windows: Sequence[Placement], lungs: Areas, width: float
) -> pd.DataFrame:
    """Figures of framed maps relative to the windows that the *cropped* network sees; one row an image.

    Parameters
    ----------
    framed : ndarray (N, *GRID)
        Signed maps in the original frame, of any network.
    sign : ndarray (N,)
        What is explained, +1 PNEUMONIA or −1 NORMAL.
    windows
        Placements of the cropped network.
    lungs : ndarray (N, *GRID), optional
        Fractions of each cell.
    width
        Of the window's outer band, fraction of its side.

    Returns
    -------
    DataFrame
        ``heat_outside_window``: share of all heat that lies outside; zero by construction for the cropped network.
        ``inner_border_log2_density_ratio``: heat density in the window's outer band against the rest of the window.
        ``lung_enrichment_in_window``: share of the window's heat in the lungs over the lungs' share of the window. NaN
        where there is no heat or no lung.
    """
    heat = explained_heat(framed, sign)
    inside = np.stack([rectangle(place.window, heat.shape[1:]) for place in windows])
    core = np.stack([rectangle(shrunk(place.window, width), heat.shape[1:]) for place in windows])
    within = heat * inside
    lungs = np.zeros_like(heat) if lungs is None else lungs * inside
    share = ratio(lungs.sum(axis=(1, 2)), inside.sum(axis=(1, 2)))
    found = pd.DataFrame({"heat_outside_window": mass_accuracy(heat, 1 - inside)})
    found["inner_border_log2_density_ratio"] = log2_density_ratio(within, inside - core, core)
    found["lung_enrichment_in_window"] = ratio(mass_accuracy(within, lungs), share)
    return found


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is zero.

    Parameters
    ----------
    part, whole : array_like
        That broadcast together.
    """
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
