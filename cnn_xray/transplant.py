"""Class-crossed transplant: does the decision follow a region of the film when it is exchanged between classes?

Into film i a region of film j is pasted, j from the other class (cross) or from the same one, never of the same
patient. The same-class arm undergoes the same surgery, so what the seam does cancels. With Δz the change of the
logit and s = +1 for NORMAL, −1 for PNEUMONIA:

    τ_i = s_i (mean Δz cross − mean Δz same),      R = mean τ / (mean z | PNEUMONIA − mean z | NORMAL)

R is the share of the network's own class difference that moves with the region: 1 for the whole film, 0 for a
region that tells it nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import regions
from cnn_xray.dataset import Dataset
from cnn_xray.errors import InputError
from cnn_xray.regions import blend
from cnn_xray.statistics import REPLICATES, Estimate, bootstrap_p, bootstrap_weights, estimate
from cnn_xray.training import predict

CHUNK = 2048  # composites held at a time
REGIONS = ("outer ring", "inner ring", "outside the lungs", "lung box")


def donors(labels: np.ndarray, patients: np.ndarray, count: int, seed: int) -> pd.DataFrame:
    """Who gives to whom: one row a pair, columns recipient, donor (row numbers), cross (bool).

    labels (N,) in {0, 1}, patients (N,). Every film gets ``count`` donors of the other class and as many of its own,
    fewer where there are not so many films of other patients, none where there is none. Within a class every film gives
    about equally often, which keeps a few odd donors from deciding the figure.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for give in (0, 1):
        pool = np.flatnonzero(labels == give)
        for take in (0, 1):
            takers = np.flatnonzero(labels == take)
            turns = np.zeros(len(pool), int)
            for taker in rng.permutation(takers):
                allowed = patients[pool] != patients[taker]
                order = np.lexsort((rng.random(len(pool)), turns, ~allowed))[: min(count, allowed.sum())]
                turns[order] += 1
                pairs += [(taker, pool[one], give != take) for one in order]
    return pd.DataFrame(pairs, columns=["recipient", "donor", "cross"]).sort_values(
        ["recipient", "cross"], kind="stable"
    )


def masks(region: str, data: Dataset, width: float) -> np.ndarray | None:
    """The soft mask of a region, (S, S), or None where it is each pair's own (``outside the lungs``).

    ``width`` is that of a ring, fraction of the side. Raises `InputError` for a region that these films do not have.
    """
    size = data.view.size
    if region == "outer ring":
        return regions.outer_ring(size, width)
    if region == "inner ring":
        return regions.inner_ring(size, width)
    if data.lungs is None:
        raise InputError(f"The region {region!r} needs lung masks, and these data have none.")
    if region == "lung box":
        return regions.box(size, regions.lung_box(data.lungs[data.rows("train")]), width * regions.SEAM)
    return None


def exchange(
    model: Any, data: Dataset, rows: np.ndarray, pairs: pd.DataFrame, region: str, width: float
) -> pd.DataFrame:
    """The pairs with what the transplant did: label and patient of both, z, and z of the composite (``composite``).

    ``pairs`` number the films within ``rows``. For ``outside the lungs`` all is exchanged but the lungs of either
    film, and pairs with a film without a lung mask are left out. Composites are made and scored in batches.
    """
    mask = masks(region, data, width)
    table = data.table.iloc[rows]
    films = data.pixels[rows]
    if mask is None:
        assert data.lungs is not None
        has = data.lungs[rows].any(axis=(1, 2))
        pairs = pairs[has[pairs["recipient"]] & has[pairs["donor"]]]
    z = predict(model, films)
    found = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), CHUNK):
        part = pairs.iloc[start : start + CHUNK]
        taker, giver = part["recipient"].to_numpy(), part["donor"].to_numpy()
        own = mask
        if own is None:
            own = regions.outside(data.lungs[rows[taker]] | data.lungs[rows[giver]], width * regions.SEAM)
        found[start : start + CHUNK] = predict(model, blend(films[taker], films[giver], own))
    labels, patients = table["label"].to_numpy(), table["patient"].to_numpy()
    columns = {}
    for who in ("recipient", "donor"):
        numbers = pairs[who].to_numpy()
        columns |= {f"{who}_label": labels[numbers], f"{who}_patient": patients[numbers]}
    return pairs.assign(**columns, z=z[pairs["recipient"].to_numpy()], composite=found).reset_index(drop=True)


def reliance(
    exchanged: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, patients: np.ndarray, seed: int = 0
) -> dict[str, Estimate]:
    """τ by class, R, and the flip rates of `exchange`'s pairs, each with its interval by patient.

    labels, logits, patients (N,): of the films that were numbered. Names: ``R``, ``tau NORMAL``, ``tau
    PNEUMONIA`` (logits), and ``flips cross NORMAL``, … (share of the pairs whose composite is decided otherwise
    than the recipient). A film is recipient and donor, so both are resampled: a pair counts w_i · w_j times (the
    pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1:386), which is on the safe side. NaN where a
    class has no pair, or the network no class difference to share out.
    """
    weights = bootstrap_weights(patients, REPLICATES, seed).astype(np.float32)
    every = np.vstack([np.ones(len(labels), np.float32), weights])  # the first row is the sample itself
    values = _figures(exchanged, np.asarray(labels), np.asarray(logits, float), every)
    return {name: estimate(found[0], found[1:], patients) for name, found in values.items()}


def excess(
    ring: pd.DataFrame, inner: pd.DataFrame, shares: tuple[float, float], labels: np.ndarray, logits: np.ndarray,
    patients: np.ndarray, seed: int = 0,
) -> tuple[Estimate, float]:  # fmt: skip
    """R of the outer ring per share of the film, less that of the inner ring, with interval and two-sided p.

    ``shares``: the part of the film that each region covers. Above 0 the network leans on the border as such;
    around or below 0, what it reads there is read as well (or better) further in, and no crop of the border takes
    it away.
    """
    every = np.vstack([np.ones(len(labels)), bootstrap_weights(patients, REPLICATES, seed)]).astype(np.float32)
    logits = np.asarray(logits, float)
    outer, next_one = (_figures(found, np.asarray(labels), logits, every)["R"] for found in (ring, inner))
    difference = outer / shares[0] - next_one / shares[1]
    return estimate(difference[0], difference[1:], patients), bootstrap_p(difference[0], difference[1:])


def _figures(found: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure of `reliance` for each row of weights (n, N): name → (n,)."""
    taker, giver = found["recipient"].to_numpy(), found["donor"].to_numpy()
    change = (found["composite"] - found["z"]).to_numpy(float)
    flips = ((found["composite"] > 0) != (found["z"] > 0)).to_numpy(float)
    cross = found["cross"].to_numpy(bool)
    sides = {"NORMAL": 0, "PNEUMONIA": 1}
    figures, totals = {}, []
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, label in sides.items():
            of_class = labels[taker] == label
            moved, flipped = {}, {}
            for arm in (True, False):
                pick = of_class & (cross == arm)
                both = weights[:, taker[pick]] * weights[:, giver[pick]]
                total = both.sum(axis=1)
                moved[arm], flipped[arm] = both @ change[pick] / total, both @ flips[pick] / total
            tau = (1 if label == 0 else -1) * (moved[True] - moved[False])
            figures[f"tau {name}"] = tau
            figures[f"flips cross {name}"], figures[f"flips same {name}"] = flipped[True], flipped[False]
            totals.append(weights[:, labels == label].sum(axis=1))
        normal, pneumonia = (weights[:, labels == k] @ logits[labels == k] / totals[k] for k in (0, 1))
        mean = (totals[0] * figures["tau NORMAL"] + totals[1] * figures["tau PNEUMONIA"]) / (totals[0] + totals[1])
        difference = pneumonia - normal
        figures["R"] = np.where(difference > 0, mean / difference, math.nan)
    return {"R": figures.pop("R"), **figures}
