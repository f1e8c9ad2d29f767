"""Many trainings from one file: every combination checked first, one process a run, finished runs recognised.

A sweep trains networks and measures them on validation images, which is enough to choose among arms. No test image is
read until the file says ``open_test: true``; then the same networks are scored on the test split, without training.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from pydantic import Field
from sklearn.model_selection import ParameterGrid

from cnn_xray import InputError, attention, backend, cam, geometry, interventions, swaps
from cnn_xray.data import FITTING, TEST_SPLITS, Dataset, load_dataset
from cnn_xray.metrics import classification_metrics
from cnn_xray.parameters import (
    NOTEBOOKS,
    PHANTOM,
    DataParameters,
    Parameters,
    ProbeParameters,
    TrainParameters,
    from_yaml,
)
from cnn_xray.runs import AS_WRITTEN, Run, end_with, run_id, run_of
from cnn_xray.storage import atomic_write
from cnn_xray.training import predict, probability

OUTSIDE = "outside the lungs"
REGIONS = ("border", "border outside the lungs", OUTSIDE, interventions.ANYWHERE)
UNSEEN = tuple(f"{OUTSIDE}, {surgery}" for surgery in interventions.SURGERIES)  # done to no training image
PICTURE = ("lung_enrichment", "log2_border_density_ratio")
FIRST = ["arm", "seed", "run", "status"]  # columns of a sweep's table
DONORS = ProbeParameters.model_fields["donors"].default  # of each class, as in 04_shortcut_tests


class SweepFile(Parameters):
    """What a sweep's YAML file may say."""

    notebook: str = Field("02_train", description="the notebook whose parameters are varied")
    fixed: dict[str, Any] = Field({}, description="names and values of parameters")
    arms: dict[str, dict[str, Any] | None] = Field({}, description="arms by name, each with names and values")
    grid: dict[str, list[Any]] = Field({}, description="lists of values by name, as in swap_share: [0.25, 0.5]")
    seeds: Annotated[int, Field(le=10_000)] | list[int] = Field(1, description="a number of seeds, or a list of them")
    open_test: bool = Field(False, description="whether the test split is scored")
    external: dict[str, Any] = Field({}, description="parameters that images from elsewhere differ in, such as data")


@dataclass(frozen=True)
class Planned:
    """One network of a sweep: its arm, its seed, all that is given, and which images it is measured on."""

    arm: str
    seed: int
    given: dict[str, Any]
    open_test: bool = False
    external: dict[str, Any] = field(default_factory=dict)
    validated: bool = False  # measured on validation images before

    def parameters(self) -> TrainParameters:
        """Checked."""
        return TrainParameters.from_mapping({**self.given, "seed": self.seed})

    def elsewhere(self) -> TrainParameters:
        """Checked, of images from elsewhere; nothing is planted into those of another folder."""
        bare = {"artifact_rho": None} if "data" in self.external else {}
        return TrainParameters.from_mapping({**self.given, "seed": self.seed, **bare, **self.external})


def read(file: Path, given: dict[str, Any] | None = None) -> list[Planned]:
    """The runs of a sweep, seed by seed, every one of them checked.

    Parameters
    ----------
    file
        YAML, as of `SweepFile`, with ``arms`` or a ``grid``; ``external`` once ``open_test`` is true.
    given
        Fixed besides, or instead of what the file says: where the data are.

    Raises
    ------
    InputError
        In one sentence, for a file that cannot be read, unknown names, impossible values, and an empty grid.
    """
    try:
        asked = SweepFile.from_mapping(from_yaml(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise InputError(f"{file} cannot be read as a sweep: {problem}") from problem
    if "seed" in {**asked.fixed, **(given or {})}:
        raise InputError(f"{file}: seed is not to be fixed; seeds says which there are.")
    if asked.notebook not in NOTEBOOKS:
        raise InputError(f"{file}: there is no notebook {asked.notebook!r}; choose one of {', '.join(NOTEBOOKS)}.")
    if asked.arms and asked.grid:
        raise InputError(f"{file} has arms and a grid; give one of them.")
    every = ParameterGrid(asked.grid) if asked.grid and all(asked.grid.values()) else ()
    arms = asked.arms or {", ".join(f"{name} {one[name]}" for name in asked.grid): one for one in every}
    seeds = range(asked.seeds) if isinstance(asked.seeds, int) else dict.fromkeys(asked.seeds)
    if not arms or not seeds:
        raise InputError(f"{file}: there is nothing to run, for {'seeds' if arms else 'arms or grid'} is empty.")
    if asked.external and not asked.open_test:
        raise InputError(f"{file}: external images are scored when the test split is, after the choice: open_test.")
    of_arm = [name for name, changes in arms.items() if "seed" in (changes or {})]
    if of_arm:
        raise InputError(f"{file}, arm {of_arm[0]!r}: seed is not of an arm; seeds says which there are.")
    planned = [
        Planned(arm, seed, {**asked.fixed, **(given or {}), **(changes or {})}, asked.open_test, asked.external)
        for seed, (arm, changes) in product(seeds, arms.items())
    ]
    for one in planned:
        try:
            NOTEBOOKS[asked.notebook].from_mapping({**one.given, "seed": one.seed})
            one.elsewhere()
        except InputError as problem:
            raise InputError(f"{file}, arm {one.arm!r}: {problem}") from problem
    return planned


def measured(one: Planned) -> dict[str, Any]:
    """Train a network unless it is recorded, and measure it: one row of the sweep's table.

    ``val_…`` and, once opened, ``test_…``: metrics at probability 0.5 of the logits that the recipe predicts by;
    ``logits``, these, float16, compressed, in base 64; ``R`` and ``AUC lost`` of each region
    (`interventions.reliance`, `swap_conflict`), of single views; what the picture shows, mean ``lung_enrichment`` and
    ``log2_border_density_ratio`` (`attention.attention_metrics`); and the AUC on ``lungs alone`` and ``without lungs``
    (`interventions.auc_of_parts`). Of other test sets, the metrics and the logits.

    Parameters
    ----------
    one
        Which network.
    """
    p = one.parameters()
    data = load_dataset(p, splits=FITTING)
    run = run_of(p, data)
    row: dict[str, Any] = {"device": run.record["trained_by"]["device"]}
    row |= {name: run.metrics[name] for name in ("train_seconds", "train_images_per_second")}
    row |= _scored("val", run.on("val")["label"], run.on("val")["logit"])
    row |= {} if one.validated else _relied(run, p, data, "val")
    if one.open_test:
        data = load_dataset(p)
        for name, part in data.table.groupby("split", sort=False):
            if name in TEST_SPLITS:
                row |= _scored(str(name), part["label"], predict(run.model, data.pixels[part.index], tta=p.tta))
        row |= _relied(run, p, data, "test")
    if one.external:
        elsewhere = load_dataset(one.elsewhere(), splits=("test",))
        logits = predict(run.model, elsewhere.pixels, tta=p.tta)
        row |= _scored("external", elsewhere.table["label"], logits)
    return row


def _relied(run: Run, p: TrainParameters, data: Dataset, split: str) -> dict[str, float]:
    """What a network relies on, and where its maps lie, on the images of one split."""
    rows = data.rows(split)
    found, able = cam.evidence(run.model, data.pixels[rows]), interventions.regions_of(data, p.border, split)
    grid = found.maps.shape[1:]
    lungs = None if data.lungs is None else geometry.area_mean(data.lungs[rows], grid)
    sign, border = cam.explained_sign(found.logits, p.explain), geometry.border_cells(p.border, grid)
    figures = dict(attention.attention_metrics(found.maps, sign, border, lungs)[list(PICTURE)].mean())
    for region in [one for one in (*REGIONS, *UNSEEN) if one.partition(", ")[0] in able]:
        swapped, relied = interventions.swap(run.score, p, data, region, DONORS, split)
        figures |= {f"R {region}": relied["R"].value}
        figures |= {f"AUC lost {region}": interventions.swap_conflict(swapped, p.seed).value}
    apart = interventions.auc_of_parts(run.score, data, rows)
    figures |= {f"AUC, {part}": value for part, value in apart.items()}
    return {f"{split}_{name}": value for name, value in figures.items()}


def studied(folder: Path, data: str, *arms: str, images: str = "") -> pd.DataFrame:
    """The finished runs of all sweeps in a folder on data of one name, with the column ``sweep``: its file's name.

    The figures to be told of each sweep stand besides, as of `shown_split`.

    Parameters
    ----------
    folder
        Of the sweeps' tables.
    data
        ``phantom``, or the name of the images' folder or table.
    *arms
        To be compared: a sweep that has some of them, not all, is left out. Where an artifact is planted, an arm's name
        comes after the artifact's: ``border, plain``.
    images
        `Dataset.test_fingerprint`: runs that were scored on others are left out, whatever the name.

    Raises
    ------
    InputError
        Where there is none, or none with those arms.
    """
    tables = [_table(file).copy().assign(sweep=file.stem) for file in sorted(folder.glob("*.csv"))]
    every = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["data", "status"])
    found = every[(every["data"] == data) & (every["status"] == "done")]
    if images and "test_images" in found:
        found = found[found["test_images"].isna() | (found["test_images"] == images)]
    found = found.dropna(axis=1, how="all")
    if found.empty:
        which = f"{folder} has no finished sweep of {data}"
        raise InputError(f"{which}; run cnn-xray sweep with one of its YAML files{' and -p data' * (data != PHANTOM)}.")
    having = {
        sweep: {arm for arm in arms if any(one == arm or one.endswith(f", {arm}") for one in runs["arm"])}
        for sweep, runs in found.groupby("sweep", sort=False)
    }
    if {*arms} not in having.values():
        there = "; ".join(sorted(set(found["arm"])))
        raise InputError(
            f"No sweep of {data} in {folder} has the arms {' and '.join(map(repr, arms))}; there are {there}."
        )
    kept = [runs for sweep, runs in found.groupby("sweep", sort=False) if having[sweep] in (set(), {*arms})]
    return pd.concat([shown_split(runs) for runs in kept], ignore_index=True).copy()


def shown_split(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the figures to be told of them besides, ``auc`` for ``test_auc`` and so on, and ``images``: of which.

    They are of test images where every run has been opened, of validation images otherwise: arms of a sweep that is
    open in part would be compared on different images.

    Parameters
    ----------
    runs
        Of `studied`; figures that are told already are told anew.
    """
    split = "test" if runs.reindex(columns=["test_auc"]).notna().all(axis=None) else "val"
    shown = runs.filter(regex=f"^{split}_").rename(columns=lambda name: name.partition("_")[2])
    shown["images"] = "test" if split == "test" else "validation"
    before = ["images", *(name.partition("_")[2] for name in map(str, runs) if name.startswith(("test_", "val_")))]
    return pd.concat([runs.drop(columns=before, errors="ignore"), shown], axis=1)


def logits_of(packed: str) -> np.ndarray:
    """The logits (n,) that a sweep's table holds, in the order of the split's images.

    Parameters
    ----------
    packed
        Of `measured`.
    """
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.float16).astype(float)


def _scored(split: str, labels: Any, logits: Any) -> dict[str, Any]:
    found = classification_metrics(labels, probability(np.asarray(logits)))
    packed = base64.b64encode(zlib.compress(np.asarray(logits, np.float16).tobytes())).decode()
    return {f"{split}_{name}": value for name, value in (found | {"logits": packed}).items()}


def sweep(file: Path, jobs: int = 1, scheduler: str = "", given: dict[str, Any] | None = None) -> Path:
    """Run what is not in the table beside the file, which has its name and ends in ``.csv``.

    A run that fails is a row that says why, is told, and is tried again by the next call; the others go on.

    Parameters
    ----------
    file
        Of `read`.
    jobs
        Runs at a time on one machine, which share its cores.
    scheduler
        Address of a dask.distributed scheduler, whose workers run instead.
    given
        As of `read`.

    Returns
    -------
    Path
        The table.
    """
    planned, table = read(file, given), file.with_suffix(".csv")
    done = _table(table)
    if not {*FIRST} <= {*done}:
        raise InputError(
            f"{table} is no table of a sweep, but would be replaced by it; move it, or rename {file.name}."
        )
    expected = _expected(planned)
    done = done.drop_duplicates("run", keep="last").set_index("run").reindex([one["run"] for one in expected])
    known = done.filter(regex="^val_(R |AUC|lung|log2)").notna().any(axis=1)
    on_these = done.reindex(columns=[*expected[0]][1:]).eq(pd.DataFrame(expected).set_index("run")).all(axis=1)
    finished = (done["status"] == "done") & on_these
    every = zip(planned, expected, known, finished, strict=True)
    todo = [(replace(one, validated=bool(seen)), wanted) for one, wanted, seen, ended in every if not ended]
    print(f"{len(planned)} runs: {len(planned) - len(todo)} done, {len(todo)} waiting", flush=True)
    begun, failed = time.perf_counter(), 0
    for count, row in enumerate(_rows(todo, jobs, scheduler), 1):
        with atomic_write(table) as handle:
            handle.write(_with_row(_table(table), row, [*done.index]).to_csv(index=False, float_format="%.6g").encode())
        failed += row["status"] == "failed"
        left = (time.perf_counter() - begun) / count * (len(todo) - count) / 60
        end = row["status"] if row["status"] == "done" else f"{row['status']}: {row['error']}"
        print(f"[{count}/{len(todo)}] {row['arm']}, seed {row['seed']}: {end}; about {left:.0f} min left", flush=True)
    if failed:
        raise InputError(f"{failed} of {len(todo)} runs failed; {table} says why. The same command tries them again.")
    return table


def _table(file: Path) -> pd.DataFrame:
    """A sweep's table; an empty one where there is none."""
    text = dict.fromkeys(("arm", "run", "data", "test_images", "external_images"), str)  # a digest may be all digits
    return pd.read_csv(file, dtype=text, **AS_WRITTEN) if file.exists() else pd.DataFrame(columns=FIRST)


def _with_row(done: pd.DataFrame, row: dict[str, Any], order: list[str]) -> pd.DataFrame:
    """A table with one more row, in the place of that of the same run, or of the same arm, seed and data.

    What was measured of that run before stays, and so do finished runs that a failed one would replace.
    """
    same = done["run"] == row["run"]
    before = done[same].drop(columns="error", errors="ignore").dropna(axis=1).to_dict("records")
    row = (before or [{}])[0] | row
    if row["status"] == "done":
        names = ["arm", "seed", "data"]
        same |= (done.reindex(columns=names) == [row[name] for name in names]).all(axis=1)
    done = pd.concat([done[~same], pd.DataFrame([row])], ignore_index=True)
    place = done["run"].map({run: number for number, run in enumerate(order)})  # in the file's order, then others
    return done.loc[place.sort_values(kind="stable").index, [*FIRST, *sorted({*done} - {*FIRST})]]


def _expected(planned: list[Planned]) -> list[dict[str, str]]:
    """Of every run its id, by the content of its data, each as it will be read, the name of the data, and digests.

    ``test_images`` and ``external_images`` are of those that it is scored on. Refuses two arms that are one run, an arm
    that needs lung masks which its data lack, and images that are not there.
    """
    arms: dict[str, str] = {}
    expected: list[dict[str, str]] = []
    views: dict[str, Dataset] = {}

    def seen(p: TrainParameters, splits: Sequence[str] | None) -> Dataset:
        what = f"{splits} {p.resolved().model_dump_json(include=set(DataParameters.model_fields))}"
        if what not in views:
            views[what] = load_dataset(p, splits=splits)
        return views[what]

    for one in planned:
        p = one.parameters().resolved()
        view = seen(p, FITTING)
        fitting = view.table["label"].to_numpy(), view.lungs
        p = swaps.suited(p, *fitting)
        if p.swap == "outside_lungs":
            swaps.check_lungs(*fitting)
        wanted = {"run": run_id(p, view), "data": PHANTOM if p.data == PHANTOM else view.name}
        if one.open_test:  # their files, whatever is planted or shown of them
            bare = {"keep": "all", "crop_to": "frame"} | ({"artifact_rho": None} if p.data != PHANTOM else {})
            wanted["test_images"] = seen(p.model_copy(update=bare), TEST_SPLITS).test_fingerprint
        if one.external:
            wanted["external_images"] = seen(one.elsewhere(), ("test",)).test_fingerprint
        expected.append(wanted)
        other = arms.setdefault(wanted["run"], one.arm)
        if other != one.arm:
            raise InputError(
                f"The arms {other!r} and {one.arm!r} are one and the same run: they differ in nothing that counts."
            )
    return expected


def _rows(todo: list[tuple[Planned, dict[str, str]]], jobs: int, scheduler: str) -> Iterator[dict[str, Any]]:
    """The row of each run as it is finished: on this machine, or by the workers of a scheduler."""
    if not scheduler:
        with Parallel(jobs, prefer="threads", return_as="generator_unordered") as workers:
            yield from workers(delayed(_in_its_own_process)(*one, jobs) for one in todo)
        return
    try:
        from distributed import Client, as_completed

        client = Client(scheduler, timeout="10s")
    except (ImportError, OSError, ValueError) as problem:
        needed = "--scheduler needs dask.distributed, installed here and running there"
        raise InputError(f"No Dask scheduler at {scheduler} can be reached: {problem}. {needed}.") from problem
    with client:
        futures = {client.submit(_in_its_own_process, *one, jobs, pure=False): one for one in todo}
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception as problem:  # a worker that died, or that lacks a module; the other runs go on
                yield _told(*futures[future]) | {
                    "seconds": np.nan,
                    "status": "failed",
                    "error": f"{type(problem).__name__}: {problem}",
                }


def _told(one: Planned, expected: dict[str, str]) -> dict[str, Any]:
    """What a row says of its run beforehand."""
    given = {name: value for name, value in one.given.items() if name not in ("data", "runs")}
    return given | {"arm": one.arm, "seed": one.seed, **expected}


def _in_its_own_process(one: Planned, expected: dict[str, str], jobs: int) -> dict[str, Any]:
    """The row of a run, done or failed, with its share of the cores; a crash takes down no other."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "cnn_xray.sweep", json.dumps(vars(one)), str(os.getpid())]
    limited = os.environ | backend.limited(cpu_count() // jobs)
    done = subprocess.run(command, env=limited, capture_output=True, text=True)
    row = _told(one, expected) | {"seconds": round(time.perf_counter() - begun, 1)}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        return row | {"status": "failed", "error": said[-1]}
    return row | {"status": "done"} | json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    try:
        found = measured(Planned(**json.loads(sys.argv[1])))
    except InputError as sentence:
        sys.exit(" ".join(str(sentence).split()))
    print(json.dumps(found, default=float))
