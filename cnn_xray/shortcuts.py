"""The figures that the verdict on the border rests on, from a finished run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import experiment, transplant
from cnn_xray.dataset import Dataset
from cnn_xray.parameters import ProbeParameters
from cnn_xray.records import Run
from cnn_xray.scores import auc_with_interval, weighted_auc
from cnn_xray.statistics import REPLICATES, Comparison, bootstrap_weights, compare, signed_rank
from cnn_xray.training import predict

COUNTERFACTUAL = "conflict"  # the set whose artifact is on the wrong class


def border_figures(run: Run, p: ProbeParameters, data: Dataset) -> dict[str, Comparison]:
    """The verdict's figures by question (`verdict.QUESTIONS`) for a run of ``p`` on ``data``.

    Trains two probes unless they are recorded: one that sees the outer ring alone, and one that sees what lies between
    ring and lungs. *The border's own* is there only with lung masks, *Harmful* only with a test set whose artifact is
    on the wrong class.
    """
    ring = experiment.run(p.probe(keep="ring"))
    found = {"Available": available(ring, p.seed), "Used": used(run.model(), p, data), "Displayed": displayed(run)}
    if data.lungs is not None:
        between = experiment.run(p.probe(keep="between"))
        found["The border's own"] = auc_lost(_tested(ring), _tested(between), p.seed)
    if COUNTERFACTUAL in set(run.predictions["split"]):
        found["Harmful"] = auc_lost(_tested(run), _tested(run, COUNTERFACTUAL), p.seed)
    return found


def available(probe: Run, seed: int = 0) -> Comparison:
    """Test AUC of a probe with its interval by patient; p against 0.5."""
    test = _tested(probe)
    return auc_with_interval(test["label"], test["probability"], test["patient"], seed=seed)


def used(model: Any, p: ProbeParameters, data: Dataset) -> Comparison:
    """R of the outer ring on the test films (`transplant.reliance`)."""
    rows = data.rows("test")
    test = data.table.iloc[rows]
    labels, patients = test["label"].to_numpy(), test["patient"].to_numpy()
    pairs = transplant.donors(labels, patients, p.donors, p.seed)
    exchanged = transplant.exchange(model, data, rows, pairs, "outer ring", p.ring)
    return transplant.reliance(exchanged, labels, predict(model, data.pixels[rows]), patients, p.seed)["R"]


def displayed(run: Run) -> Comparison:
    """log2 border density of the films less that with the ring neutralised, a mean a patient.

    Hodges–Lehmann estimate with its interval, p by Wilcoxon's signed-rank test.
    """
    arms = run.attention.pivot(index=["path", "patient"], columns="arm", values="log2_border_density_ratio")
    contrast = arms["image"] - arms["neutralised ring"]
    return signed_rank(contrast.groupby("patient").mean())


def auc_lost(with_shortcut: pd.DataFrame, without: pd.DataFrame, seed: int = 0) -> Comparison:
    """AUC on one set of films less that on another (rows of predictions), patients of both drawn together."""
    both = pd.concat([with_shortcut, without])
    weights = bootstrap_weights(both["patient"], REPLICATES, seed)
    weights = np.vstack([np.ones(len(both)), weights])
    cut = len(with_shortcut)
    aucs = [
        weighted_auc(part["label"].to_numpy(), part["logit"].to_numpy(), own)
        for part, own in ((with_shortcut, weights[:, :cut]), (without, weights[:, cut:]))
    ]
    difference = aucs[0] - aucs[1]
    return compare(difference[0], difference[1:], both["patient"])


def _tested(run: Run, split: str = "test") -> pd.DataFrame:
    return run.predictions[run.predictions["split"] == split]
