"""The figures that the verdict on the border rests on, from a finished run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import confounding, dataset, experiment, parts, transplant
from cnn_xray.dataset import Dataset
from cnn_xray.errors import InputError
from cnn_xray.manifest import CLASSES
from cnn_xray.parameters import ProbeParameters, TrainParameters
from cnn_xray.probes import size_only_probe
from cnn_xray.records import Run
from cnn_xray.scores import auc_with_interval, weighted_auc
from cnn_xray.statistics import Comparison, compare, sample_and_replicates, signed_rank
from cnn_xray.training import predict

COUNTERFACTUAL = "conflict"  # the set whose artifact is on the wrong class


def check(p: ProbeParameters, data: Dataset) -> None:
    """Raise `InputError`, before anything is trained, for test films or a ring that leave the tests without an answer.

    That is a test split of one class, and a ring that covers no pixel of a film as networks or probes see it.
    """
    labels = data.table["label"].iloc[data.rows("test")]
    if labels.nunique() < 2:
        seen = [list(CLASSES)[label] for label in labels.unique()]
        raise InputError(
            f"The test split of {data.name} has {len(labels)} films, all {' '.join(seen) or 'unreadable'}; the tests "
            "compare the classes, so it needs films of both."
        )
    size = min(data.view.size, p.probe().side)
    parts.kept(np.zeros((1, size, size), np.uint8), "ring", p.ring, None, np.arange(1))


def border_figures(run: Run, p: ProbeParameters, data: Dataset) -> dict[str, Comparison]:
    """The verdict's figures by question (`verdict.QUESTIONS`) for a run of ``p`` on ``data``.

    With lung masks, the border is the ring *outside the lungs*: a ring may hold lung, above all after cropping,
    and disease is no shortcut. Then three probes are trained unless they are recorded: on that ring, on all
    outside the lungs, and on what lies between ring and lungs; *The border's own* is what the ring adds to the
    latter. Without masks of both classes in every split there is one probe, on the whole ring, and *The border's
    own* is missing. *Harmful* is the AUC lost on the set whose artifact is on the wrong class, else on
    size-matched films, where there are such.
    """
    parts_seen = ("ring_outside_lungs", "outside_lungs", "between")
    views = {part: _loaded(p.probe(keep=part)) for part in parts_seen} if data.lungs is not None else {}
    found = {}
    if views and all(views.values()):
        ring, outside, between = (experiment.run(p.probe(keep=part), view) for part, view in views.items())
        found["Available"] = available(ring, p.seed)
        found["Used"] = used(run.model(), p, data, "ring outside the lungs")
        found["The border's own"] = auc_lost(_tested(outside), _tested(between), p.seed)
    else:
        found["Available"] = available(experiment.run(p.probe(keep="ring")), p.seed)
        found["Used"] = used(run.model(), p, data, "outer ring")
    found["Displayed"] = displayed(run)
    harmed = harmful(run, p, data)
    return found if harmed is None else found | {"Harmful": harmed}


def harmful(run: Run, p: ProbeParameters, data: Dataset) -> Comparison | None:
    """AUC lost on the set with the artifact on the wrong class, else on films matched by size; None without either."""
    test = _tested(run)
    if COUNTERFACTUAL in set(run.predictions["split"]):
        return auc_lost(test, _tested(run, COUNTERFACTUAL), p.seed)
    films = data.table.iloc[data.rows("test")]
    size = size_only_probe(data.table.iloc[data.rows("train", "val")], films, seed=p.seed)
    odds = confounding.log_odds(size.probabilities)
    known = odds[np.isfinite(odds)]
    if not len(known) or np.ptp(known) == 0:
        return None
    matched = confounding.matched_auc(films["label"], test["logit"], odds, films["patient"], seed=p.seed)
    return auc_lost(test, test.iloc[matched.matches.ravel()], p.seed) if matched.pairs else None


def available(probe: Run, seed: int = 0) -> Comparison:
    """Test AUC of a probe with its interval by patient; p against 0.5."""
    test = _tested(probe)
    return auc_with_interval(test["label"], test["probability"], test["patient"], seed=seed)


def used(model: Any, p: ProbeParameters, data: Dataset, region: str) -> Comparison:
    """R of a region on the test films (`transplant.reliance`)."""
    rows = data.rows("test")
    test = data.table.iloc[rows]
    labels, patients = test["label"].to_numpy(), test["patient"].to_numpy()
    pairs = transplant.donors(labels, patients, p.donors, p.seed)
    exchanged = transplant.exchange(model, data, rows, pairs, region, p.ring)
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
    weights = sample_and_replicates(both["patient"], seed)
    cut = len(with_shortcut)
    aucs = [
        weighted_auc(part["label"].to_numpy(), part["logit"].to_numpy(), own)
        for part, own in ((with_shortcut, weights[:, :cut]), (without, weights[:, cut:]))
    ]
    difference = aucs[0] - aucs[1]
    return compare(difference[0], difference[1:], both["patient"])


def _loaded(p: TrainParameters) -> Dataset | None:
    """The films of a probe, or None where too few have the lung mask that it needs."""
    try:
        return dataset.load(p)
    except InputError:
        return None


def _tested(run: Run, split: str = "test") -> pd.DataFrame:
    return run.predictions[run.predictions["split"] == split]
