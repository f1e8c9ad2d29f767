"""Many trainings from one file: every combination checked first, one process a run, finished runs recognised.

A sweep trains networks and measures them on validation images, which is enough to choose among arms. No test image is
read until the file says ``open_test: true``; then the same networks are scored on the test split, without training.
Notebooks that are given the same parameters find the networks recorded.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from joblib import Parallel, delayed, parallel_config

from cnn_xray import InputError, interventions, swaps
from cnn_xray.data import FITTING, load_dataset
from cnn_xray.metrics import classification_metrics
from cnn_xray.parameters import NOTEBOOKS, ProbeParameters, ShortcutParameters, TrainParameters, unknown_name
from cnn_xray.runs import run_of
from cnn_xray.storage import atomic_write
from cnn_xray.training import probability

KEYS = ("notebook", "fixed", "arms", "grid", "seeds", "open_test")
DONE, FAILED = "done", "failed"
REGIONS = ("border", "border outside the lungs", "outside the lungs", interventions.ANYWHERE)


@dataclass(frozen=True)
class Planned:
    """One network of a sweep: its arm, its seed, all that is given, and whether its test images are scored."""

    arm: str
    seed: int
    given: dict[str, Any]
    open_test: bool

    def parameters(self) -> ProbeParameters:
        """Checked; with what the measures need besides."""
        return ShortcutParameters.from_mapping({**self.given, "seed": self.seed})


def read(file: Path) -> list[Planned]:
    """The runs of a sweep, seed by seed, every one of them checked.

    Parameters
    ----------
    file
        YAML: ``notebook`` (whose parameters are varied), ``fixed`` (name: value), ``arms`` (arm: {name: value}) or
        ``grid`` (name: [values]), ``seeds`` (a number of seeds, or a list), ``open_test``.

    Raises
    ------
    InputError
        In one sentence, for a file that cannot be read, unknown keys and parameters, impossible values, an empty grid,
        and two arms that are one run.
    """
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as problem:
        raise InputError(f"{file} cannot be read as a sweep: {' '.join(str(problem).split())}") from problem
    if not isinstance(told, dict):
        raise InputError(f"{file} is no sweep: it needs the keys notebook, fixed, arms or grid, and seeds.")
    for key in set(told) - set(KEYS):
        raise InputError(f"{file}: {unknown_name(str(key), KEYS).replace('parameter', 'key')}")
    notebook = told.get("notebook", "02_train")
    if notebook not in NOTEBOOKS:
        raise InputError(f"{file}: there is no notebook {notebook!r}; choose one of {', '.join(NOTEBOOKS)}.")
    if ("arms" in told) == ("grid" in told):
        raise InputError(f"{file} needs either arms or a grid.")
    arms = told["arms"] if "arms" in told else _grid(told["grid"], file)
    seeds = told.get("seeds", 1)
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not arms or not seeds:
        raise InputError(f"{file}: there is nothing to run, for {'seeds' if arms else 'arms or grid'} is empty.")
    fixed = told.get("fixed") or {}
    planned = [
        Planned(arm, seed, {**fixed, **(changes or {})}, bool(told.get("open_test", False)))
        for seed, (arm, changes) in product(seeds, arms.items())
    ]
    same: dict[str, str] = {}
    for one in planned:
        try:
            NOTEBOOKS[notebook].from_mapping({**one.given, "seed": one.seed})
            what = one.parameters().resolved().model_dump_json(include=set(TrainParameters.model_fields))
        except InputError as problem:
            raise InputError(f"{file}, arm {one.arm!r}: {problem}") from problem
        other = same.setdefault(what, one.arm)
        if other != one.arm:
            raise InputError(f"{file}: the arms {other!r} and {one.arm!r} are one and the same run.")
    return planned


def _grid(grid: dict[str, list[Any]], file: Path) -> dict[str, dict[str, Any]]:
    """Arms of all combinations, each named by its values."""
    if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
        raise InputError(f"{file}: grid gives each parameter a list of values, as in swap_share: [0.25, 0.5].")
    every = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {", ".join(f"{name} {value}" for name, value in one.items()): one for one in every if one}


def measured(one: Planned) -> dict[str, Any]:
    """Train a network unless it is recorded, and measure it: one row of the sweep's table.

    ``val_…`` and, once opened, ``test_…``: metrics at probability 0.5; ``R`` and ``AUC lost`` of each region
    (`interventions.reliance`, `swap_conflict`); ``logits``, float16, compressed, in base 64.

    Parameters
    ----------
    one
        Which network.
    """
    p = one.parameters()
    data = load_dataset(p, splits=FITTING)
    run = run_of(p, data)
    row: dict[str, Any] = {"run": run.id}
    views = {"val": data} | ({"test": load_dataset(p)} if one.open_test else {})
    for split, view in views.items():
        rows = view.rows(split)
        logits = run.score(view.pixels[rows])
        found = classification_metrics(view.table["label"].to_numpy()[rows], probability(logits))
        row |= {f"{split}_{name}": value for name, value in found.items()}
        labels, patients = (view.table[name].to_numpy()[rows] for name in ("label", "patient"))
        pairs = interventions.donor_pairs(labels, patients, p.donors, p.seed)
        for region in set(REGIONS) & set(interventions.regions_of(view, p.border)):
            swapped = interventions.swap_effects(run.score, view, rows, pairs, region, p.border)
            relied = interventions.reliance(swapped, labels, logits, patients, p.seed)
            row |= {f"{split}_R {region}": relied["R"].value}
            row |= {f"{split}_AUC lost {region}": interventions.swap_conflict(swapped, p.seed).value}
        packed = zlib.compress(logits.astype(np.float16).tobytes())
        row |= {f"{split}_logits": base64.b64encode(packed).decode()}
    return row


def sweep(file: Path, jobs: int = 1, scheduler: str = "") -> Path:
    """Run what is not in the table beside the file, which has its name and ends in ``.csv``.

    A run that fails is a row that says why, is told, and is tried again by the next call; the others go on.

    Parameters
    ----------
    file
        Of `read`.
    jobs
        Runs at a time on this machine, which share its cores.
    scheduler
        Address of a dask.distributed scheduler, whose workers run instead.

    Returns
    -------
    Path
        The table.
    """
    planned, table = read(file), file.with_suffix(".csv")
    for one in {one.arm: one for one in planned}.values():  # before anything starts
        _check_masks(one)
    done = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["arm", "seed", "given", "status"])
    known = done[done["status"] == DONE]
    finished = set(zip(known["arm"], known["seed"], known["given"], strict=True))
    todo = [one for one in planned if _key(one) not in finished]
    print(f"{len(planned)} runs: {len(planned) - len(todo)} done, {len(todo)} waiting", flush=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    begun, failed, workers = time.perf_counter(), 0, Parallel(jobs, prefer="threads", return_as="generator_unordered")
    with _on(scheduler), _children():
        for count, row in enumerate(workers(delayed(_in_its_own_process)(one, threads) for one in todo), 1):
            same = (done["arm"] == row["arm"]) & (done["seed"] == row["seed"])
            done = pd.concat([done[~same], pd.DataFrame([row])], ignore_index=True)
            with atomic_write(table) as handle:
                handle.write(done.to_csv(index=False, float_format="%.6g").encode())
            failed += row["status"] == FAILED
            left = (time.perf_counter() - begun) / count * (len(todo) - count) / 60
            told = row["status"] if row["status"] == DONE else f"{row['status']}: {row['error']}"
            print(
                f"[{count}/{len(todo)}] {row['arm']}, seed {row['seed']}: {told}; about {left:.0f} min left", flush=True
            )
    if failed:
        raise InputError(f"{failed} of {len(todo)} runs failed; {table} says why. The same command tries them again.")
    return table


def _check_masks(one: Planned) -> None:
    """Refuse an arm that needs lung masks which its data lack."""
    p = one.parameters()
    if p.swap == "outside_lungs":
        data = load_dataset(p, splits=FITTING)
        swaps.check_lungs(data.table["label"].to_numpy(), data.lungs)


def _key(one: Planned) -> tuple[str, int, str]:
    """What makes a finished row this run's."""
    return one.arm, one.seed, json.dumps([one.given, one.open_test], sort_keys=True)


def _in_its_own_process(one: Planned, threads: int) -> dict[str, Any]:
    """The row of a run, done or failed; a crash takes down no other."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), str(threads))
    arm, seed, given = _key(one)
    row: dict[str, Any] = {"arm": arm, "seed": seed, "given": given}
    begun = time.perf_counter()
    command = [sys.executable, "-m", "cnn_xray.sweep", json.dumps(vars(one))]
    with subprocess.Popen(
        command, env={**os.environ, **limits}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        _RUNNING.append(child)
        out, error = child.communicate()
        _RUNNING.remove(child)
    row |= {"seconds": round(time.perf_counter() - begun, 1)}
    if child.returncode:
        last = (error.strip().splitlines() or [f"the process ended with {child.returncode}"])[-1]
        return row | {"status": FAILED, "error": last}
    return row | {"status": DONE} | json.loads(out.splitlines()[-1])


_RUNNING: list[subprocess.Popen[str]] = []


@contextmanager
def _children() -> Iterator[None]:
    """Whatever ends the sweep ends its runs."""
    try:
        yield
    finally:
        for child in list(_RUNNING):
            child.send_signal(signal.SIGTERM)


def _on(scheduler: str) -> Any:
    """Where joblib runs: on this machine, or on the workers of a scheduler."""
    if not scheduler:
        return nullcontext()
    try:
        from distributed import Client
    except ImportError as problem:
        raise InputError("--scheduler needs dask.distributed: pip install distributed.") from problem
    try:
        Client(scheduler, timeout="10s")
    except (OSError, ValueError) as problem:
        raise InputError(f"There is no Dask scheduler at {scheduler}: {problem}") from problem
    return parallel_config("dask")


if __name__ == "__main__":
    try:
        found = measured(Planned(**json.loads(sys.argv[1])))
    except InputError as sentence:
        sys.exit(" ".join(str(sentence).split()))
    print(json.dumps(found, default=float))
