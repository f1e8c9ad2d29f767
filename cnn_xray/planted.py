"""Artifacts planted into real films on the fly: a known shortcut in unknown data, with its counterfactual test sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnn_xray import artifacts
from cnn_xray.errors import InputError


@dataclass(frozen=True)
class Planted:
    """M films after planting, one a row: ``source`` (M,) the row each was made from; ``films`` (M, S, S) uint8;
    ``changed`` (M, S, S) bool, the pixels of the artifact; ``split`` (M,) the set each belongs to.
    """

    source: np.ndarray
    films: np.ndarray
    changed: np.ndarray
    split: np.ndarray


def plant(
    films: np.ndarray,
    table: pd.DataFrame,
    lungs: np.ndarray | None,
    rho: float,
    location: str,
    kinds: tuple[str, ...],
    amplitude: float,
    seed: int,
) -> Planted:
    """Whole films (N, S, S) uint8 with an artifact that correlates with the label by ``rho`` (-1..1).

    Training and validation rows of ``table`` (split, label) stay one row each; every row of split ``test`` becomes four
    (`artifacts.test_sets`). ``lungs`` (N, S, S) bool say where an artifact ``inside`` goes. Nothing is written to disk.
    Raises `InputError` for an artifact inside the lungs of films without masks.
    """
    if location == "inside" and (lungs is None or not lungs.any(axis=(1, 2)).all()):
        raise InputError("artifact_location is 'inside', which needs a lung mask for every film.")
    source, made, changed, split = [], [], [], []
    for row, (label, where) in enumerate(zip(table["label"], table["split"], strict=True)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))
        luck, kind = rng.random(), kinds[rng.integers(len(kinds))]
        lung = np.zeros(films[row].shape, bool) if lungs is None else lungs[row]
        painted, where_painted = artifacts.paint(films[row], lung, location, kind, rng, amplitude)
        for name, correlation in (artifacts.test_sets(rho) if where == "test" else {where: rho}).items():
            has = artifacts.marked(label, luck, correlation)
            source.append(row)
            made.append(painted if has else films[row])
            changed.append(where_painted if has else np.zeros_like(where_painted))
            split.append(name)
    return Planted(np.array(source), np.stack(made), np.stack(changed), np.array(split))
