"""Is the verdict to be believed? How often it is right where the truth is known because it was planted.

    python benchmarks/instruments.py nulls                  # what the figures are where there is nothing: phantom ...
    python benchmarks/instruments.py nulls path/to/images   # ... and files; both into cnn_xray/nulls.csv
    python benchmarks/instruments.py                        # then the verdict on 230 phantoms, two at a time
    python benchmarks/instruments.py path/to/images         # and on artifacts planted into real images

The verdicts are rows of benchmarks/instruments.csv, which notebook 04 shows. A row is written when its case is done;
what is there is not run again, so an interrupted benchmark goes on where it stopped, and after a change of the method
the table is deleted. Nulls and all that counts as a yes come from seeds below 10, cases from seeds from 100 on. A case
takes about two minutes of one core, one on real images (96 px, 8 epochs) seven. SHAP is asked where it is installed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import binomtest

from cnn_xray import attention, cam, geometry, interventions, runs, verdict
from cnn_xray.data import CLASSES, Dataset, load_dataset
from cnn_xray.metrics import auc_with_interval
from cnn_xray.parameters import PHANTOM, ShortcutParameters
from cnn_xray.phantom.artifacts import BOTH
from cnn_xray.runs import Run, run_of
from cnn_xray.statistics import Estimate, cluster_mean, paired_difference
from cnn_xray.storage import atomic_write

TABLE = Path(__file__).with_suffix(".csv")
JOBS = 2  # cases at a time, each on one core
ROUNDS = 10  # seeds of every cell
EXPLAINED = 2  # rounds in which SHAP is asked too
SHAP_IMAGES, SHAP_SAMPLES = 100, 50


@dataclass(frozen=True)
class Cell:
    """A planted truth: which artifact, where, how it goes with the label, and in how many of its images it is seen."""

    kind: str
    location: str
    rho: float
    share: float = 1.0
    amplitude: float = 1.0

    @property
    def name(self) -> str:
        """The truth in words."""
        seen = f", seen in {self.share:.0%}" if self.share < 1 else ""
        strong = f", amplitude {self.amplitude:g}" if self.amplitude != 1 else ""
        return f"{self.kind}, {self.location}, ρ = {self.rho:g}{seen}{strong}"

    @property
    def place(self) -> str:
        """Where the artifact is that goes with the label, or ``none``."""
        return self.location if self.rho else "none"

    def parameters(self, data: str, seed: int) -> ShortcutParameters:
        """Network and data; on real images a network as small as the probes."""
        planted = {f"artifact_{name}": value for name, value in vars(self).items() if name != "kind"}
        small = {} if data == PHANTOM else {"image_size": 96, "width": 16, "epochs": 8, "patience": 8}
        told = {"data": data, "artifact_kinds": self.kind, "seed": seed, "tta": "none"}
        return ShortcutParameters.from_mapping(planted | small | told)


AT_BORDER = ("marker", "text", "collimation", "exposure", "tubing", "vignette")
CELLS = (
    *(Cell(kind, "border", 0.0) for kind in AT_BORDER),
    Cell("marker", "border", 0.95),
    Cell("text", "border", 0.95, share=0.5),
    Cell("collimation", "border", 0.95, share=0.3),
    Cell("exposure", "border", 0.8),
    Cell("tubing", "border", 0.8, amplitude=0.5),
    Cell("vignette", "border", 0.8, share=0.5),
    Cell("marker", "border", 0.7),
    Cell("tubing", "border", 0.7, share=0.5),
    Cell("marker", "border", 0.5),
    Cell("vignette", "border", 0.5),
    Cell("collimation", "border", 0.3),
    Cell("marker", "inside", 0.95),
    Cell("tubing", "inside", 0.8),
    Cell("blur", "global", 0.95, amplitude=3.0),
    Cell("contrast", "global", 0.8),
    Cell("compression", "global", 0.95),
    Cell("marker", BOTH, 0.95),
)
READERS = {  # what else says of the border, by the name of its figure in benchmarks/instruments.csv
    "Grad-CAM above uniform": "Grad-CAM hotter than evenly spread heat",
    "Grad-CAM above untrained": "Grad-CAM hotter than of untrained networks",
    "occlusion": "occlusion costs more than of random regions",
    "SHAP": "SHAP denser than evenly spread",
}
RELIED = 0.1  # share of the class difference that an artifact moves on twins, from where on a network relies on it
AT_RHO = [f"border artifact, ρ {rho}" for rho in ("0.3", "0.5", "0.7", "at least 0.8")]
NOT_RELIED = "border artifact that is not relied on"
ELSEWHERE = {  # by the place of the artifact
    "none": "artifact that has nothing to do with the label",
    BOTH: "artifact at the border, another inside",
    "inside": "artifact inside the lungs",
    "global": "change of the whole image",
}
REAL = (Cell("marker", "border", 0.0), Cell("marker", "border", 0.95), Cell("marker", "inside", 0.95))
NOTHING = tuple(  # phantoms whose artifact tells nothing, with seeds of their own
    (Cell(kind, "border", 0.0), seed)
    for kind, seeds in zip(AT_BORDER, ((0, 5), (1, 6), (2, 8), (3, 1), (4, 7), (8, 9)), strict=True)
    for seed in seeds
)
PERMUTED = {PHANTOM: 2, "files": 20}  # border probes with permuted labels, for each of the above, or on the files


def cases(data: str) -> list[tuple[Cell, int, bool]]:
    """Cell, seed, and whether SHAP is asked, a round of all cells after the other."""
    if data != PHANTOM:
        return [(cell, seed, False) for seed in range(3) for cell in REAL]
    numbered = list(enumerate(CELLS))
    return [(cell, 100 * (i + 1) + turn, turn < EXPLAINED) for turn in range(ROUNDS) for i, cell in numbered]


def case(data: str, cell: Cell, seed: int, explained: bool) -> dict[str, Any]:
    """One row of the table: what was planted, what the network does, every answer, and what pictures say.

    Parameters
    ----------
    data
        The phantom, or real images.
    cell
        What is planted.
    seed
        Of data and network.
    explained
        Whether SHAP is asked as well.
    """
    p = cell.parameters(data, seed)
    with tempfile.TemporaryDirectory() as cache:
        if data == PHANTOM:  # 230 of them need not stay
            os.environ["CNN_XRAY_CACHE"] = cache
        seen = load_dataset(p)
        run = run_of(p, seen)
        figures = verdict.border_figures(run.score, p, seen, partial(cam.evidence, run.model))
        found = verdict.judge(figures, True, verdict.kind_of(p))
        row = {
            "data": PHANTOM if data == PHANTOM else seen.name,
            "truth": cell.name,
            "place": cell.place,
            "rho": cell.rho,
            "share": cell.share,
        }
        row |= {"seed": seed, "run": run.id, "commit": runs.environment()["git_commit"]}
        row |= {f"{split} AUC": run.metrics[f"{split}_auc"] for split in ("test", "neutral", "conflict", "clean")}
        row |= moved_by_artifact(run, p, seen)
        row |= {"verdict": found.name, "border shortcut": found.border_shortcut}
        for question, line in found.table.iterrows():
            row |= {f"{question}: {column}": line[column] for column in ("answer", "value", "low", "high")}
        for rival, one in rivals(run, p, seen, explained).items():
            row |= {f"{rival}: {bound}": getattr(one, bound) for bound in ("value", "low", "high")}
    return row


def moved_by_artifact(run: Run, p: ShortcutParameters, data: Dataset) -> dict[str, float]:
    """Share of the class difference that comes and goes with the artifact on twins of one image, a mean of the classes.

    ``moved``: the whole artifact; ``moved at border``: what of it lies in the border.

    Parameters
    ----------
    run
        The network.
    p, data
        With the sets test, neutral, conflict and clean, twins in the same order.
    """
    marked = data.table["artifact"].astype(int).to_numpy()
    labels = data.table["label"].to_numpy()
    clean = data.rows("clean")
    having = np.zeros(len(clean), int)  # the row of a twin that has the artifact
    for split in ("neutral", "conflict", "test"):
        twins = data.rows(split)
        having = np.where(marked[twins] == 1, twins, having)
    clean, having = clean[having > 0], having[having > 0]
    z = run.score(data.pixels[data.rows("test")])
    of_class = [labels[data.rows("test")] == label for label in CLASSES.values()]
    difference = z[of_class[1]].mean() - z[of_class[0]].mean()
    without, whole = data.pixels[clean], data.pixels[having]
    inside = geometry.border_cells(p.border, whole.shape[1:]) == 0
    found = {}
    for name, images in {"moved": whole, "moved at border": np.where(inside, without, whole)}.items():
        change = run.score(images) - run.score(without)
        found[name] = float(np.mean([change[labels[clean] == one].mean() for one in CLASSES.values()]) / difference)
    return found


def rivals(run: Run, p: ShortcutParameters, data: Dataset, explained: bool) -> dict[str, Estimate]:
    """What pictures say of the border: each calls it a shortcut where its interval lies above 0.

    ``Grad-CAM above uniform`` and ``above untrained``: log2 heat density in the border, and the same less that of
    networks with random weights. ``occlusion``: what hiding the border costs more than hiding random regions, logits, a
    mean over classes and fills. ``SHAP``: log2 density of |φ| in the border, of `shap.GradientExplainer`.

    Parameters
    ----------
    run
        The network.
    p, data
        Its images.
    explained
        Whether SHAP is asked.
    """
    test = data.rows("test")
    labels, patients = (data.table[name].to_numpy()[test] for name in ("label", "patient"))
    arms = dict(list(run.attention.groupby("arm")["log2_border_density_ratio"]))
    heat, untrained = (arms[arm].to_numpy() for arm in ("image", "randomised weights"))
    found = {"Grad-CAM above uniform": cluster_mean(heat, patients, seed=p.seed)}
    found["Grad-CAM above untrained"] = paired_difference(heat, untrained, patients, seed=p.seed)
    drops = interventions.occlusion_effects(run.score, data.pixels[test], p.border, p.seed)
    drops = drops.groupby(["image", "place"])["drop"].mean().unstack()
    weights = 0.5 / np.bincount(labels)[labels] * len(labels)  # the classes count alike
    more = (drops["border"] - drops[interventions.ANYWHERE]).to_numpy() * weights
    found["occlusion"] = cluster_mean(more, patients, seed=p.seed)
    if explained:
        found["SHAP"] = cluster_mean(shap_density(run, p, data), patients[:SHAP_IMAGES], seed=p.seed)
    return found


def shap_density(run: Run, p: ShortcutParameters, data: Dataset) -> np.ndarray:
    """log2 density of |φ| in the border over the rest, of the first test images; (n,), NaN without shap."""
    images = data.pixels[data.rows("test")[:SHAP_IMAGES]]
    try:
        import shap
    except ImportError:
        return np.full(len(images), np.nan)
    background = data.pixels[data.rows("train")[:SHAP_IMAGES], ..., None].astype(np.float32)
    explainer = shap.GradientExplainer(run.model, background)
    values = explainer.shap_values(images[..., None].astype(np.float32), nsamples=SHAP_SAMPLES, rseed=p.seed)
    maps = np.abs(np.asarray(values)).reshape(images.shape)
    return attention.log2_density_ratio(maps, geometry.border_cells(p.border, images.shape[1:]))


def nulls_of_phantom(cell: Cell, seed: int) -> list[dict[str, Any]]:
    """Rows of `verdict.NULLS` from one phantom whose artifact tells nothing."""
    p = cell.parameters(PHANTOM, seed)
    data = load_dataset(p)
    run = run_of(p, data)
    shown = verdict.displayed(partial(cam.evidence, run.model), p, data, "border outside the lungs")
    told = {"kind": PHANTOM, "data": cell.name, "seed": seed}
    rows = [row for repeat in range(PERMUTED[PHANTOM]) for row in permuted_rows(p, repeat)]
    return [told | row for row in [{"question": "Displayed", "repeat": 0, "value": shown.value}, *rows]]


def permuted_rows(p: ShortcutParameters, repeat: int) -> list[dict[str, Any]]:
    """*Available* and *The border's own* of one border probe that was trained on permuted labels."""
    border, between = verdict.PARTS
    probe = run_of(p.probe(keep=border, labels="permuted", repeat=repeat))
    beside = run_of(p.probe(keep=between))
    asked = {"Available": None, "The border's own": [beside]}
    figures = {question: verdict.added([probe], known, p.seed) for question, known in asked.items()}
    return [{"question": question, "repeat": repeat, "value": one.value} for question, one in figures.items()]


def write_nulls(data: str, jobs: int = JOBS) -> None:
    """Measure the nulls of one kind of data anew.

    Parameters
    ----------
    data
        The phantom, or real images.
    jobs
        Cases at a time.
    """
    if data == PHANTOM:
        work = [delayed(nulls_of_phantom)(*one) for one in NOTHING]
    else:
        p = ShortcutParameters.from_mapping({"data": data})
        run_of(p.probe(keep=verdict.PARTS[1]))  # once, not in every process
        work = [delayed(permuted_rows)(p, repeat) for repeat in range(PERMUTED["files"])]
    found = [row for rows in Parallel(jobs)(work) for row in rows]
    kind = PHANTOM if data == PHANTOM else "files"
    new = (
        pd.DataFrame(found) if data == PHANTOM else pd.DataFrame(found).assign(kind=kind, data=Path(data).name, seed=0)
    )
    old = pd.read_csv(verdict.NULLS) if verdict.NULLS.exists() else new[:0]
    table = pd.concat([old[old["kind"] != kind], new])[["kind", "data", "question", "seed", "repeat", "value"]]
    _write(verdict.NULLS, table)
    print(table[table["kind"] == kind].groupby("question")["value"].describe().round(4))


def write_cases(data: str, jobs: int = JOBS) -> None:
    """Judge every case that is not in the table, each row written as soon as it is known.

    Parameters
    ----------
    data
        The phantom, or real images.
    jobs
        Cases at a time.
    """
    done = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["data", "truth", "seed"])
    known = set(zip(done["data"] == PHANTOM, done["truth"], done["seed"], strict=True))
    todo = [one for one in cases(data) if (data == PHANTOM, one[0].name, one[1]) not in known]
    work = (delayed(case)(data, *one) for one in todo)
    for row in Parallel(jobs, return_as="generator_unordered")(work):
        done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
        _write(TABLE, done)
        print(f"{len(done)}: {row['truth']}, seed {row['seed']}: {row['verdict']}", flush=True)


def truths(trials: pd.DataFrame) -> pd.DataFrame:
    """What is true of every network: ``truth`` in words, and whether a border shortcut is ``to be called``.

    It is where an artifact at the border goes with the label and moves at least `RELIED` of the class difference.

    Parameters
    ----------
    trials
        Rows of benchmarks/instruments.csv.
    """
    relied = (trials["moved at border"] >= RELIED) & trials["place"].isin(["border", BOTH])
    strength = pd.cut(trials["rho"], [0, 0.4, 0.6, 0.75, 1], labels=AT_RHO).astype(object)
    truth = trials["place"].map(ELSEWHERE).fillna(strength.where(relied, NOT_RELIED))
    ordered = pd.Categorical(truth, [ELSEWHERE["none"], NOT_RELIED, *AT_RHO, *list(ELSEWHERE.values())[1:]])
    return pd.DataFrame({"truth": ordered, "to be called": np.where(relied, "yes", "no")}, trials.index)


def how_often_right(trials: pd.DataFrame) -> pd.DataFrame:
    """How often a border shortcut is called where the truth was planted, by the verdict and by pictures.

    A picture calls one where the interval of its figure lies above 0. Index: `truths`; columns: ``networks``, ``the
    verdict``, and `READERS`, each ``called of asked [interval]`` with the interval of Clopper and Pearson.

    Parameters
    ----------
    trials
        Rows of benchmarks/instruments.csv.
    """
    calls = {"the verdict": trials["border shortcut"].astype(float)}
    for reader, words in READERS.items():
        low = trials[f"{reader}: low"]
        calls[words] = (low > 0).astype(float).where(low.notna())
    known = truths(trials)
    groups = pd.DataFrame(calls).groupby([known["truth"], known["to be called"]], observed=True)
    table = groups.agg(_rate)
    table.insert(0, "networks", groups.size())
    return table


def how_well_figures_tell(trials: pd.DataFrame) -> pd.Series:
    """AUC of each figure by itself: how far networks of which a border shortcut is to be called have more of it.

    1: some threshold would call all of them and no other. Fair to pictures, whose threshold nobody has fixed.

    Parameters
    ----------
    trials
        Rows of benchmarks/instruments.csv.
    """
    called = (truths(trials)["to be called"] == "yes").astype(int)
    figures = {f"verdict: {name}": f"{name}: value" for name in ("Used", "The border's own", "Displayed")}
    figures |= {words: f"{reader}: value" for reader, words in READERS.items()}
    found = {}
    for words, column in figures.items():
        asked = trials[column].dropna()
        ranks = (asked.rank() - 0.5) / max(len(asked), 1)  # any scale that keeps the order
        if called[asked.index].nunique() == 2:
            found[words] = auc_with_interval(called[asked.index], ranks, asked.index)
    return pd.Series(found, name="AUC", dtype=object)


def _rate(called: pd.Series) -> str:
    """``3 of 10 [0.07, 0.65]`` of calls 0 or 1, those not asked (NaN) left out."""
    asked = called.dropna()
    if not len(asked):
        return ""
    found = binomtest(int(asked.sum()), len(asked)).proportion_ci()
    return f"{int(asked.sum())} of {len(asked)} [{found.low:.2f}, {found.high:.2f}]"


def _write(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as file:
        file.write(table.to_csv(index=False, float_format="%.4g").encode())


if __name__ == "__main__":
    # Before TensorFlow is loaded: several networks at a time are faster than one with several threads.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"))
    given = sys.argv[1:]
    write = write_nulls if given[:1] == ["nulls"] else write_cases
    write(next((one for one in given if one != "nulls"), PHANTOM))
