"""Train a network once, record it, reload it, and put runs into one table.

A run is a folder ``runs/<id>/`` with run.json, model.keras, history.csv and predictions.csv, and attention.csv where
there are test images. It appears under its name when everything in it is written, or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cnn_xray import InputError, attention, backend, cam, swaps, training
from cnn_xray.data import ORIGINAL, TEST_SPLITS, Dataset, load_dataset
from cnn_xray.metrics import classification_metrics
from cnn_xray.parameters import PHANTOM, TrainParameters
from cnn_xray.statistics import over_trainings
from cnn_xray.storage import atomic_folder, resolve

TRAINING = 3  # counts changes of the network or its training: with another number, older runs are other runs
MEASUREMENT = 1  # counts changes of what is measured: with another number, older runs are measured again, not trained
TRAINED = ("model.keras", "history.csv")  # the files that a new measurement leaves as they are
AS_WRITTEN: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}  # of a CSV table: NA is a name, too
PATHS = {"path": str, "patient": str}
UNTRAINED = 3  # networks with random weights that attention is compared with
_AGAIN: set[Path] = set()  # folders of the runs that this process was asked to train again, and did
PACKAGES = ("tensorflow", "keras", "jax", "numpy", "opencv-python-headless", "scikit-learn", "pandas", "scipy")


@dataclass(frozen=True)
class Run:
    """A finished run in its folder."""

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
        return pd.read_csv(self.folder / "predictions.csv", dtype=PATHS, **AS_WRITTEN)

    @cached_property
    def attention(self) -> pd.DataFrame:
        """Metrics of the test images and of every null, with path, label and patient."""
        return pd.read_csv(self.folder / "attention.csv", dtype=PATHS, **AS_WRITTEN)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch (`training.fit`)."""
        return pd.read_csv(self.folder / "history.csv")

    @cached_property
    def model(self) -> Any:
        """The trained network."""
        from cnn_xray import network

        return network.load(self.folder / "model.keras")

    def score(self, images: np.ndarray) -> np.ndarray:
        """Logits (N,) of images (N, S, S) uint8, each as it is.

        Parameters
        ----------
        images : ndarray (N, S, S) uint8
        """
        return training.predict(self.model, images)

    def on(self, split: str) -> pd.DataFrame:
        """The predictions on one split, rows numbered from 0.

        Parameters
        ----------
        split
            Such as ``test``.
        """
        return self.predictions[self.predictions["split"] == split].reset_index(drop=True)


def run_of(p: TrainParameters, data: Dataset | None = None) -> Run:
    """The run of these parameters on these data (default: ``load_dataset(p)``): reused if recorded, else trained.

    A run that was measured by an earlier version of this module, or on other test images, is measured again without
    training. ``p.rerun`` trains again, once a process, and the new record replaces the old one when it is finished.

    Parameters
    ----------
    p
        Parameters of the run.
    data
        Those of ``p``; by default they are loaded.
    """
    return runs_of([(p, data or load_dataset(p))])[0]


def runs_of(asked: Sequence[tuple[TrainParameters, Dataset]]) -> list[Run]:
    """As `run_of`, of several networks: those that are to be trained on a processor are trained side by side.

    A small network leaves cores idle, so several at a time, with their share of them, are done sooner. What each of
    them prints comes when it is finished.

    Parameters
    ----------
    asked
        Parameters of each run, and their data.
    """
    suited = [(swaps.suited(p.resolved(), data.table["label"].to_numpy(), data.lungs), data) for p, data in asked]
    folders = [resolve(p.runs) / run_id(p, data) for p, data in suited]
    placed = dict(zip(folders, suited, strict=True))
    at_once = backend.trainings_at_once(len(placed))  # not of those that are missing: threads change a training's sums
    trained = _side_by_side(placed, at_once) if at_once > 1 else set[Path]()
    found = {folder: Run(folder) if folder in trained else _run_in(folder, *one) for folder, one in placed.items()}
    return [found[folder] for folder in folders]


def _recorded(folder: Path, p: TrainParameters) -> Run | None:
    """The finished run, unless it is to be trained again and has not been in this process."""
    return None if p.rerun and folder not in _AGAIN else find_run(folder)


def _side_by_side(placed: dict[Path, tuple[TrainParameters, Dataset]], at_once: int) -> set[Path]:
    """Train those networks that are missing, each in a process of its own; the folders of those that are done."""
    missing = {folder: one for folder, one in placed.items() if not _recorded(folder, one[0])}
    if missing:
        print(
            f"to be trained: {len(missing)}, up to {at_once} at a time; what each prints follows when it is finished",
            flush=True,
        )
    shared, done = (os.getpid(), cpu_count() // at_once), set()
    todo = [delayed(_in_worker)(*shared, folder, *one) for folder, one in missing.items()]
    with suppress(TerminatedWorkerError):  # mostly for want of memory: the others one by one, in this process
        for folder, said in Parallel(at_once, return_as="generator_unordered")(todo):
            print(said, end="", flush=True)
            done.add(folder)
    _AGAIN.update(folder for folder in done if missing[folder][0].rerun)
    return done


def _in_worker(parent: int, threads: int, folder: Path, p: TrainParameters, data: Dataset) -> tuple[Path, str]:
    """Train in a process of its own, with its share of the cores; the folder, and what was printed."""
    os.environ.update(backend.limited(threads))
    end_with(parent)
    with redirect_stdout(io.StringIO()) as said:
        _run_in(folder, p, data)
    return folder, said.getvalue()


@cache
def end_with(parent: int) -> None:
    """End this process when its parent ends, however that ends: a process that is killed takes its workers with it.

    Parameters
    ----------
    parent
        Number of the process that started this one.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _run_in(folder: Path, p: TrainParameters, data: Dataset) -> Run:
    """The run in its folder, trained or measured again where it must be."""
    found = _recorded(folder, p)
    if found and _is_measured(found.record, data):
        print(f"{found.id}: recorded already, reused", flush=True)
        return found
    with atomic_folder(folder, replace=True) as unfinished:
        if found:
            print(f"{found.id}: recorded already, measured again", flush=True)
            for name in TRAINED:
                shutil.copy2(found.folder / name, unfinished)
            record = {key: found.record[key] for key in ("training", "trained_by")}
        else:
            print(f"{folder.name}: training on {len(data.rows('train')):,} images", flush=True)
            record = _train(p, data, unfinished)
        record |= _measured(p, data, Run(unfinished), record["training"])
        (unfinished / "run.json").write_text(json.dumps(record, indent=1, default=float))
    if p.rerun:
        _AGAIN.add(folder)
    return Run(folder)


def _is_measured(record: dict[str, Any], data: Dataset) -> bool:
    """Whether a record holds all that is measured on these data."""
    on_these = data.test_fingerprint in ("", record.get("test_fingerprint"))
    return on_these and record.get("measurement") == MEASUREMENT


def runs_of_seeds(p: TrainParameters, count: int, data: Dataset | None = None) -> dict[int, Run]:
    """Seed → the run of these parameters with that seed, for ``count`` seeds from ``p.seed`` upwards.

    ``data`` are those of the first seed; the others load their own, for the split follows the seed.

    Parameters
    ----------
    p
        Parameters, with the first seed.
    count
        Number of seeds.
    data
        Those of the first seed.
    """
    every = [p.model_copy(update={"seed": seed}) for seed in range(p.seed, p.seed + count)]
    known = {p.seed: data} if data else {}
    found = runs_of([(one, known.get(one.seed) or load_dataset(one)) for one in every])
    return {one.seed: run for one, run in zip(every, found, strict=True)}


def find_run(folder: Path) -> Run | None:
    """The finished run in ``folder``, or None.

    Parameters
    ----------
    folder
        Where it would be.
    """
    return Run(folder) if (folder / "run.json").is_file() else None


def run_id(p: TrainParameters, data: Dataset) -> str:
    """Readable name of a run, unique to its parameters, its training data's content and the version of the training.

    Test images are not in it, for a training does not depend on them, nor the device and the precision that it chose by
    itself; the record says all three.

    Parameters
    ----------
    p
        Resolved parameters.
    data
        What it is trained and tested on.
    """
    counted = {name: value for name, value in identity(p).items() if value != _off(name)}
    what = json.dumps([TRAINING, counted, data.fingerprint], sort_keys=True)
    mark = hashlib.blake2b(what.encode(), digest_size=4).hexdigest()
    named = [data.name] if p.data != PHANTOM else []
    named += [f"{p.artifact_location.replace(' ', '_')}-rho{p.rho:g}"] if p.rho is not None else []
    seen = [p.keep] * (p.keep != "all") + [p.labels] * (p.labels != "true")
    seeds = [f"seed{p.seed}"] + [f"repeat{p.repeat}"] * bool(p.repeat)
    return "-".join([*named, f"{p.image_size}px", f"crop{p.crop:g}", *seen, *seeds, mark])


def identity(p: TrainParameters) -> dict[str, Any]:
    """The parameters that make one run differ from another on the same data.

    Parameters
    ----------
    p
        Resolved parameters.
    """
    elsewhere = {"data", "runs", "rerun", "on_bad_image", "recipe"}  # what the recipe fills in is kept
    kept = [name for name in TrainParameters.model_fields if name not in elsewhere and not name.startswith("phantom_")]
    if p.data == PHANTOM or p.rho is None:
        kept = [name for name in kept if not name.startswith("artifact_")]
    if p.keep_epoch == "last":
        kept.remove("patience")  # nothing is waited for
    return {name: getattr(p, name) for name in kept}


def _off(name: str) -> Any:
    """The value at which a parameter does nothing: a run's id leaves it out, so that options can be added later."""
    extra = TrainParameters.model_fields[name].json_schema_extra
    return extra.get("off", ...) if isinstance(extra, dict) else ...


def _train(p: TrainParameters, data: Dataset, folder: Path) -> dict[str, Any]:
    """Train and save the network; what the record says of its training."""
    from cnn_xray import network

    labels = data.table["label"].to_numpy()
    train, validation = data.rows("train"), data.rows("val")
    policy = backend.training_policy(p.precision, p.width or 0)
    trained_by = {**environment(), "precision": policy}
    begun = time.perf_counter()
    model = network.build(p, policy, for_training=True)
    lungs = None if data.lungs is None else data.lungs[train]
    fitted, judged = ((data.pixels[rows], labels[rows]) for rows in (train, validation))
    pool = {"labels": labels[train], "patients": data.table["patient"].to_numpy()[train], "lungs": lungs}
    sizes = data.table[ORIGINAL].astype(float).to_numpy()[train]
    strata = training.propensity_strata(labels[train], fitted[0], sizes) if p.balance == "propensity" else None
    early = p.model_copy(update={"swap": "none"}) if p.swap_layers == "last" else p
    history = training.fit(model, early, fitted, judged, partial(swaps.planned, p=early, **pool), strata)
    model = network.in_float32(model, p)
    if p.swap_layers == "last":
        every = p.model_copy(update={"swap_share": 1.0})
        training.refit_last_layer(model, p, fitted, pool["patients"], partial(swaps.planned, p=every, **pool))
    seconds = time.perf_counter() - begun
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)
    figures = {
        "network_parameters": int(model.count_params()),
        "epochs_trained": len(history),
        "best_epoch": int(history.loc[history["best"], "epoch"].iloc[0]),
        "train_seconds": seconds,
        "train_images_per_second": len(train) * len(history) / seconds,
    }
    return {"training": figures, "trained_by": trained_by}


def _measured(p: TrainParameters, data: Dataset, run: Run, trained: dict[str, float]) -> dict[str, Any]:
    """Score and explain the network in the run's folder; what the record says besides its training."""
    scored = data.rows("val", *TEST_SPLITS)
    explained = cam.evidence(run.model, data.pixels[scored])
    logits = explained.logits if p.tta == "none" else training.predict(run.model, data.pixels[scored], tta=p.tta)
    predictions = data.table.iloc[scored][["path", "label", "split", "patient"]]
    predictions = predictions.assign(logit=logits, probability=training.probability(logits))
    predictions.to_csv(run.folder / "predictions.csv", index=False)
    metrics = _scores(predictions)
    if len(data.rows("test")):
        table = attention_of(run, p, data)
        table.to_csv(run.folder / "attention.csv", index=False)
        means = table[table["arm"] == "image"].select_dtypes("number").drop(columns="label").mean().dropna()
        metrics |= {f"test_{name}": value for name, value in means.items()}
    metrics["largest_evidence_residual"] = float(explained.residual().max())
    artifact = [name for name in TrainParameters.model_fields if name.startswith(("phantom_", "artifact_"))]
    phantom = {name: getattr(p, name) for name in artifact if p.data == PHANTOM}
    return {
        "measurement": MEASUREMENT,
        "parameters": {"data": data.name, **identity(p), **phantom},
        "metrics": metrics | trained,
        "seed": p.seed,
        "data_fingerprint": data.fingerprint,
        "test_fingerprint": data.test_fingerprint,
        "images": data.table["split"].value_counts().to_dict(),
        "notes": list(data.notes),
        "measured_by": environment(),
    }


def _scores(predictions: pd.DataFrame) -> dict[str, float]:
    """``val_auc``, and every metric of each test set as ``test_auc``, ``conflict_auc``, ``test_accuracy``, …"""
    scores: dict[str, float] = {}
    for split, part in predictions.groupby("split", sort=False):
        found = classification_metrics(part["label"], part["probability"])
        scores |= {f"{split}_{name}": value for name, value in found.items() if split != "val" or name == "auc"}
    return scores


def attention_of(run: Run, p: TrainParameters, data: Dataset) -> pd.DataFrame:
    """`attention.metrics_beside_nulls` of the test images, with path, label and patient of each.

    Parameters
    ----------
    run
        Its network is explained.
    p, data
        The images, and which parameters untrained networks beside it have.
    """
    from cnn_xray import network

    rows, train = data.rows("test"), data.rows("train")
    fresh = [network.build(p.model_copy(update={"seed": p.seed + 1_000_000 * i})) for i in range(1, UNTRAINED + 1)]
    own, *untrained = (partial(cam.evidence, model) for model in (run.model, *fresh))
    neutral = attention.neutral_image(data.pixels[train], data.table["label"].to_numpy()[train])
    areas = (None if masks is None else masks[rows] for masks in (data.lungs, data.artifacts))
    found = attention.metrics_beside_nulls(own, untrained, data.pixels[rows], neutral, p.border, p.explain, *areas)
    return data.table.iloc[rows].reset_index(drop=True)[["path", "label", "patient"]].join(found)


def environment() -> dict[str, Any]:
    """Package versions, git commit, device and thread counts of this process."""
    return {"versions": package_versions(), "git_commit": _git_commit(), **backend.device()}


def package_versions() -> dict[str, str]:
    """Version of each of `PACKAGES` that is installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git_commit() -> str:
    """The commit of the code, with ``-dirty`` when the working tree differs from it; ``unknown`` outside git."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def runs_table(runs: list[Run]) -> pd.DataFrame:
    """One row a run: id, arm, role (as `tidy`), parameters and metrics, the table that reports carry as runs.csv.

    Parameters
    ----------
    runs
        One a row.
    """
    return pd.DataFrame([_row(run) for run in runs])


def tidy(folder: Path, sweeps: Sequence[Path] = ()) -> pd.DataFrame:
    """Every recorded run and every row of some sweeps' tables, one row a run.

    Columns: ``run``; ``arm``, its name in a sweep, else what differs from the defaults; ``role`` (main, probe, null
    probe: permuted labels, stress: an artifact planted in files); ``seed``; ``status``; ``seconds``; the parameters
    that vary; every metric; of sweeps also R by region.

    Parameters
    ----------
    folder
        Of the run records.
    sweeps
        Tables of `sweep.sweep`.

    Raises
    ------
    InputError
        Where there is no run, or a table cannot be read.
    """
    records = [Run(file.parent) for file in sorted(folder.glob("*/run.json"))]
    rows = {run.id: _row(run) for run in records}
    for file in sweeps:
        try:
            table = pd.read_csv(file, **AS_WRITTEN).filter(regex="^(?!.*_logits$|(test|external)_images$)")
            lost = {"arm", "run", "seed", "status"} - {*table}
            if lost:
                raise ValueError(f"it lacks {', '.join(sorted(lost))}")
            of_sweep = {row["run"]: row for row in table.dropna(axis=1, how="all").to_dict("records")}
        except (OSError, ValueError) as problem:
            raise InputError(f"{file} cannot be read as a sweep's table: {problem}") from problem
        rows |= {run: {**rows.get(run, {"role": "main"}), **row} for run, row in of_sweep.items()}
    if not rows:
        raise InputError(f"There is no finished run in {', '.join(map(str, [folder, *sweeps]))}.")
    table = pd.DataFrame(rows.values())
    known = [name for name in table if name in TrainParameters.model_fields and name != "seed"]
    same = [name for name in known if table[name].nunique(dropna=False) == 1]
    first = ["run", "arm", "role", "seed", "status", "seconds"]
    return table.reindex(columns=[*first, *(name for name in table if name not in {*first, *same})])


def _row(run: Run) -> dict[str, Any]:
    p = run.record["parameters"]
    phantom = "phantom_images" in p
    defaults = TrainParameters(data=PHANTOM if phantom else "files").resolved()
    usual = dict(defaults) | {"data": p["data"], "seed": p["seed"]}
    changed = [f"{name} {value}" for name, value in p.items() if name in usual and value != usual[name]]
    planted = not phantom and p.get("artifact_rho") is not None
    role = "null probe" if p["labels"] != "true" else "probe" if p["keep"] != "all" else "stress" if planted else "main"
    done = {"status": "done", "seconds": run.metrics["train_seconds"]}
    return {"run": run.id, "arm": ", ".join(changed) or "defaults", "role": role, **done, **p, **run.metrics}


def difference(table: pd.DataFrame, first: str, second: str) -> tuple[list[str], pd.DataFrame]:
    """What differs between two arms: parameters in words, and metrics paired by seed.

    Parameters
    ----------
    table
        Of `tidy`.
    first, second
        Names of arms, or ids of runs.

    Returns
    -------
    tuple
        Sentences; and one row a metric: means of both, their difference (second − first), its 95 % interval over seeds
        (Student's t, NaN with one seed), and seeds.

    Raises
    ------
    InputError
        For an arm that is not there, and arms without a common seed.
    """
    arms = []
    for name in (first, second):
        done = table[table["status"] == "done"]
        rows = done[(done["arm"] == name) | (done["run"] == name)]
        if rows.empty:
            raise InputError(
                f"There is no finished arm or run {name!r}; there are {', '.join(sorted(set(done['arm'])))}."
            )
        if rows["seed"].duplicated().any():
            raise InputError(f"{name!r} is the name of several runs of one seed; give one table, or a run's id.")
        arms.append(rows.set_index("seed"))
    seeds = arms[0].index.intersection(arms[1].index)
    if seeds.empty:
        raise InputError(f"{first!r} and {second!r} have no seed in common, so nothing can be paired.")
    given = [name for name in arms[0] if name in TrainParameters.model_fields]
    usual = {name: value for name, value in TrainParameters(data="files") if name in given and value is not None}
    one, other = (arm.loc[seeds].astype(dict.fromkeys(given, object)).fillna(usual) for arm in arms)
    values = {name: (str(one[name].iloc[0]), str(other[name].iloc[0])) for name in given}
    metrics = table.select_dtypes("number").columns.difference([*given, "seed", "seconds"], sort=False)
    apart = (other[metrics] - one[metrics]).dropna(axis=1)
    means = pd.DataFrame({"first": one[apart.columns].mean(), "second": other[apart.columns].mean()})
    found = means.join(pd.DataFrame({name: vars(over_trainings(apart[name])) for name in apart}).T)
    found = found.rename(columns={"value": "difference", "n": "seeds"})
    return [f"{name}: {before} → {after}" for name, (before, after) in values.items() if before != after], found
