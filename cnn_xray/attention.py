"""Attention metrics of evidence maps on the map's own grid, with the value each has for a uniform map.

H (N, h, w) is the non-negative evidence for what is explained, B the outer ring, L the lung mask, Ω all cells. Masks
are fractions of each cell (exact area overlap), so nothing is upsampled. Sources: relevance mass and rank accuracy from
CLEVR-XAI (Arras et al. 2020, arXiv 2003.07258); pointing game from Zhang et al. 2018 (IJCV 126); both are used for
chest films by CheXlocalize (Saporta et al. 2022).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cnn_xray.evidence import explained

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


def measure(
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
    heat = explained(maps, sign)
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


def uniform(
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
