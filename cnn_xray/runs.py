"""Run records: ``runs/<id>/`` with run.json, model.keras, history.csv, predictions.csv; attention.csv if tested.

From parameters to a finished run: trained, scored and explained once, then read from its record.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import attention, backend, cam, training
from cnn_xray.data import TEST_SPLITS, Dataset, load_dataset
from cnn_xray.metrics import classification_metrics
from cnn_xray.parameters import PHANTOM, TrainParameters
from cnn_xray.storage import atomic_folder, resolve

PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "scikit-learn", "pandas", "scipy")


@dataclass(frozen=True)
class Run:
    """A finished run. A folder appears under its final name only when everything in it is written."""

    folder: Path

    @property
    def id(self) -> str:
        """The readable id, which is the folder's name."""
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json: ``parameters`` and ``metrics`` (flat), seed, versions, data fingerprint, commit, device."""
        return json.loads((self.folder / "run.json").read_text())

    @property
    def metrics(self) -> dict[str, float]:
        """The run's metrics by name, e.g. ``test_auc``."""
        return self.record["metrics"]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row an image of every split but train: path, label, split, patient, logit, probability."""
        return pd.read_csv(self.folder / "predictions.csv")

    @cached_property
    def attention(self) -> pd.DataFrame:
        """Attention metrics of the test images and of every null (`nulls.attention_beside_nulls`)."""
        return pd.read_csv(self.folder / "attention.csv")

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch (`training.fit`)."""
        return pd.read_csv(self.folder / "history.csv")

    def model(self) -> Any:
        """The trained network."""
        from cnn_xray import network

        return network.load(self.folder / "model.keras")


def find_run(folder: Path) -> Run | None:
    """The finished run in ``folder``, or None."""
    return Run(folder) if (folder / "run.json").is_file() else None


def environment() -> dict[str, Any]:
    """Package versions, git commit, device and thread counts of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except ModuleNotFoundError:
            continue
    return {"versions": versions, "git_commit": _git_commit(), **backend.device()}


def _git_commit() -> str:
    """The commit of the code, with ``-dirty`` when the working tree differs from it; ``unknown`` outside git."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def runs_table(runs: list[Run]) -> pd.DataFrame:
    """One row a run: id, parameters and metrics, the table that reports carry as runs.csv."""
    return pd.DataFrame([{"run": run.id, **run.record["parameters"], **run.record["metrics"]} for run in runs])


METHOD = 2  # counts changes of the network or of a measurement that make older records incomparable


def run_of(p: TrainParameters, data: Dataset | None = None) -> Run:
    """The run of these parameters on these data (``load(p)`` unless given): reused if recorded, else trained.

    The record appears in ``p.runs`` whole or not at all; ``p.rerun`` trains again and replaces it.
    """
    p = p.resolved()
    data = data or load_dataset(p)
    folder = resolve(p.runs) / run_id(p, data)
    found = find_run(folder)
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
    surroundings = environment()
    begun = time.perf_counter()
    from cnn_xray import network

    model = network.build(p)
    history = training.fit(model, p, (data.pixels[train], labels[train]), (data.pixels[validation], labels[validation]))
    seconds = time.perf_counter() - begun
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)

    scored = data.rows("val", *TEST_SPLITS)
    explained = cam.evidence(model, data.pixels[scored])
    logits = explained.logits if p.tta == "none" else training.predict(model, data.pixels[scored], tta=p.tta)
    predictions = data.table.iloc[scored][["path", "label", "split", "patient"]].assign(
        logit=logits, probability=training.probability(logits)
    )
    predictions.to_csv(folder / "predictions.csv", index=False)
    attended_means: dict[str, float] = {}
    if len(data.rows("test")):
        attended = attention.metrics_beside_nulls(model, p, data, data.rows("test"))
        attended.to_csv(folder / "attention.csv", index=False)
        attended_means = _attention_means(attended)

    names = [name for name in TrainParameters.model_fields if name.startswith(("phantom_", "artifact_"))]
    phantom = {name: getattr(p, name) for name in names}
    record = {
        "parameters": {"data": data.name, **identity(p), **(phantom if p.data == PHANTOM else {})},
        "metrics": {
            **_scores(predictions),
            **attended_means,
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
        **surroundings,
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
