"""From parameters to a finished run: trained, scored and explained once, then read from its record."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import evidence, network, nulls, records, training
from cnn_xray.dataset import Dataset, load
from cnn_xray.manifest import TEST_SPLITS
from cnn_xray.parameters import PHANTOM, TrainParameters
from cnn_xray.records import Run
from cnn_xray.scores import classification_metrics
from cnn_xray.storage import atomic_folder, resolve

METHOD = 2  # counts changes of the network or of a measurement that make older records incomparable


def run(p: TrainParameters, data: Dataset | None = None) -> Run:
    """The run of these parameters on these data (``load(p)`` unless given): reused if recorded, else trained.

    The record appears in ``p.runs`` whole or not at all; ``p.rerun`` trains again and replaces it.
    """
    p = p.resolved()
    data = data or load(p)
    folder = resolve(p.runs) / run_id(p, data)
    found = records.find(folder)
    if found and not p.rerun:
        print(f"{found.id}: recorded already, reused", flush=True)
        return found
    print(f"{folder.name}: training on {len(data.rows('train')):,} images", flush=True)
    with atomic_folder(folder, replace=True) as unfinished:
        _execute(p, data, unfinished)
    return Run(folder)


def identity(p: TrainParameters) -> dict[str, Any]:
    """The parameters that make one run differ from another on the same data."""
    elsewhere = {"data", "runs", "rerun", "on_bad_image", "recipe"}  # what the recipe fills in is kept
    kept = [name for name in TrainParameters.model_fields if name not in elsewhere and not name.startswith("phantom_")]
    planted = p.data != PHANTOM and p.rho is not None
    return {name: getattr(p, name) for name in kept if planted or not name.startswith("artifact_")}


def run_id(p: TrainParameters, data: Dataset) -> str:
    """Readable name of a run, unique to its parameters, its data's content and the method's version."""
    what = json.dumps([METHOD, identity(p), data.fingerprint], sort_keys=True)
    mark = hashlib.blake2b(what.encode(), digest_size=4).hexdigest()
    named = [data.name] if p.data != PHANTOM else []
    named += [f"{p.artifact_location}-rho{p.rho:g}"] if p.rho is not None else []
    seen = [p.keep] * (p.keep != "all") + [p.labels] * (p.labels != "true")
    return "-".join([*named, f"{p.image_size}px", f"crop{p.crop:g}", *seen, f"seed{p.seed}", mark])


def _execute(p: TrainParameters, data: Dataset, folder: Path) -> None:
    labels = data.table["label"].to_numpy()
    train, validation = data.rows("train"), data.rows("val")
    environment = records.environment()
    begun = time.perf_counter()
    model = network.build(p)
    history = training.fit(model, p, (data.pixels[train], labels[train]), (data.pixels[validation], labels[validation]))
    seconds = time.perf_counter() - begun
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)

    scored = data.rows("val", *TEST_SPLITS)
    explained = evidence.closed_form(model, data.pixels[scored])
    logits = explained.logits if p.tta == "none" else training.predict(model, data.pixels[scored], tta=p.tta)
    predictions = data.table.iloc[scored][["path", "label", "split", "patient"]].assign(
        logit=logits, probability=training.probability(logits)
    )
    predictions.to_csv(folder / "predictions.csv", index=False)
    attention = {}
    if len(data.rows("test")):
        attended = nulls.attention_beside_nulls(model, p, data, data.rows("test"))
        attended.to_csv(folder / "attention.csv", index=False)
        attention = _attention_means(attended)

    names = [name for name in TrainParameters.model_fields if name.startswith(("phantom_", "artifact_"))]
    phantom = {name: getattr(p, name) for name in names}
    record = {
        "parameters": {"data": data.name, **identity(p), **(phantom if p.data == PHANTOM else {})},
        "metrics": {
            **_scores(predictions),
            **attention,
            "largest_evidence_residual": float(explained.residual().max()),
            "network_parameters": int(model.count_params()),
            "epochs_trained": len(history),
            "best_epoch": int(history.loc[history["best"], "epoch"].iloc[0]),
            "train_seconds": seconds,
            "train_images_per_second": len(train) * len(history) / seconds,
        },
        "seed": p.seed,
        "data_fingerprint": data.fingerprint,
        "images": {split: int(count) for split, count in data.table["split"].value_counts().items()},
        "notes": list(data.notes),
        **environment,
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1, default=float))


def _scores(predictions: pd.DataFrame) -> dict[str, float]:
    """``val_auc``, and every metric of each test set as ``test_auc``, ``conflict_auc``, ``test_accuracy``, …"""
    scores: dict[str, float] = {}
    for split, part in predictions.groupby("split", sort=False):
        found = classification_metrics(part["label"].to_numpy(), part["probability"].to_numpy())
        kept = ["auc"] if split == "val" else list(found)
        scores.update({f"{split}_{name}": found[name] for name in kept})
    return scores


def _attention_means(attended: pd.DataFrame) -> dict[str, float]:
    """Means over the test images of each attention metric, as ``test_lung_enrichment``, …"""
    real = attended[attended["arm"] == "image"]
    metrics = real.drop(columns=["path", "label", "patient", "arm"]).astype(float).mean()
    return {f"test_{name}": value for name, value in metrics.items() if not np.isnan(value)}
