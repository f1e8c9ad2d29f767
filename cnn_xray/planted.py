"""Artifacts planted into real films on the fly: a known shortcut in unknown data, with its counterfactual test sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from cnn_xray import artifacts
from cnn_xray.errors import InputError


class Planted(NamedTuple):
    """One film after planting: the ``row`` it was made from, the ``split`` it belongs to, and whether it is ``marked``.

    ``film`` (S, S) uint8; ``changed`` (S, S) bool, the pixels of the artifact (none for a global one).
    """

    row: int
    split: str
    marked: bool
    film: np.ndarray
    changed: np.ndarray


def plant(
    films: np.ndarray,
    table: pd.DataFrame,
    lungs: np.ndarray | None,
    rho: float,
    location: str,
    kinds: tuple[str, ...],
    amplitude: float,
    seed: int,
) -> Iterator[Planted]:
    """Whole films (N, S, S) uint8, one after the other, with an artifact that correlates with the label by ``rho``.

    Training and validation rows of ``table`` (split, label) stay one film each; every row of split ``test`` becomes
    four (`artifacts.test_sets`). ``rho`` is -1..1; ``lungs`` (N, S, S) bool say where an artifact ``inside`` goes.
    Nothing is written to disk. Raises `InputError` for an artifact inside the lungs of films without masks, and for
    data that have one of those four test sets besides ``test`` already.
    """
    nowhere = 0 if location != "inside" else len(films) if lungs is None else (~lungs.any(axis=(1, 2))).sum()
    if nowhere:
        raise InputError(f"artifact_location is 'inside', but {nowhere} of {len(films)} films have no lung mask.")
    taken = set(table["split"]) & set(artifacts.test_sets(rho)) - {"test"}
    if taken:
        raise InputError(
            f"These data have the test set {', '.join(sorted(taken))}, which planting an artifact would make from "
            "test: give artifact_rho for data with no test set but test."
        )
    for row, (label, split) in enumerate(zip(table["label"], table["split"], strict=True)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))
        luck, kind = rng.random(), kinds[rng.integers(len(kinds))]
        lung = np.zeros(films[row].shape, bool) if lungs is None else lungs[row]
        painted, changed = artifacts.paint(films[row], lung, location, kind, rng, amplitude)
        for name, correlation in (artifacts.test_sets(rho) if split == "test" else {split: rho}).items():
            if artifacts.marked(label, luck, correlation):
                yield Planted(row, name, True, painted, changed)
            else:
                yield Planted(row, name, False, films[row], np.zeros_like(changed))
