"""Run records: ``runs/<id>/`` with run.json, model.keras, history.csv, predictions.csv; attention.csv if tested."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_xray import backend, network

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
        return network.load(self.folder / "model.keras")


def find(folder: Path) -> Run | None:
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


def table(runs: list[Run]) -> pd.DataFrame:
    """One row a run: id, parameters and metrics, the table that reports carry as runs.csv."""
    return pd.DataFrame([{"run": run.id, **run.record["parameters"], **run.record["metrics"]} for run in runs])
