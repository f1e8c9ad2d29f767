"""Which options of the recipe earn their place? Judged on training patients alone: no test image is read.

    python benchmarks/recipe/ablation.py path/to/chest_xray                # selection: ablation.csv
    python benchmarks/recipe/ablation.py path/to/chest_xray --open-test    # once a recipe is locked: ablation_test.csv

Adds a row a network to ablation.csv beside this file, which notebooks/appendix_recipe_selection.ipynb shows; what is
there already is not run again, so delete it after a change of the method. An arm changes the base, over three seeds.
Every network is trained without the images that speak most against their class in size, proportions, sharpness,
exposure or contrast, and scored on these twice: as they are, property by property (`conflicting_images`), also on the
mean of mirrored and of shifted views; and with the proportions, sharpness or exposure of the other class
(`changed_images`). On two cores a small network takes about half a minute, one of full size three to six.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from changed_images import REFERENCE_SIDE, changed_images, whole_frames
from conflicting_images import auc_by_stratum, left_out_strata, without_strata
from image_properties import log_odds_by_property
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from cnn_xray.data import FITTING, Dataset, load_dataset
from cnn_xray.parameters import TrainParameters
from cnn_xray.runs import Run, find_run, run_of
from cnn_xray.statistics import Estimate
from cnn_xray.storage import atomic_write, resolve
from cnn_xray.training import predict

TABLE = Path(__file__).with_suffix(".csv")
TEST = TABLE.with_name("ablation_test.csv")
SEEDS = (0, 1, 2)
VIEWS = {"stressed_auc": "none", "with_flip": "flip", "with_shifts": "shifts"}
BASE: dict[str, Any] = {  # said in full, so that a change of the defaults does not change the arms
    "image_size": 96,
    "width": 16,
    "epochs": 12,
    "keep_epoch": "last",
    "batch_size": 32,
    "depth": 3,
    "padding": "same",
    "dropout": 0.2,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "weight_decay": 1e-3,
    "label_smoothing": 0.0,
    "balance": "weights",
    "aspect": "squash",
    "flip": True,
    "fill": "constant",
    "rotation": 8.0,
    "shift": 0.05,
    "zoom": 0.15,
    "aspect_jitter": 0.4,
    "brightness": 0.1,
    "contrast": 0.4,
    "blur": 0.012,
    "sharpen": 0.0,
    "erasing": 0.0,
    "tta": "none",
}
FULL = {"image_size": 128, "width": 32, "epochs": 16}
KEPT_WHEN_CHANGED = {"aspect_jitter": 0.6, "balance": "sampling"}
KEPT = {"aspect_jitter": 0.2, "zoom": 0.05, "label_smoothing": 0.1, "balance": "sampling", "learning_rate": 4e-3}
# The table has five more, of options that did not earn their place and left: gamma, MixUp, CutMix, a moving average of
# the weights, clipping of the gradient.
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "no aspect-ratio jitter": {"aspect_jitter": 0.0},
    "no blur": {"blur": 0.0},
    "half the aspect-ratio jitter": {"aspect_jitter": 0.2},
    "24 epochs": {"epochs": 24},
    "128 px": {"image_size": 128},
    "32 channels": {"width": 32},
    "sharpening 1": {"sharpen": 1.0},
    "blur 0.03": {"blur": 0.03},
    "random erasing 0.5": {"erasing": 0.5},
    "zoom 0.3": {"zoom": 0.3},
    "no zoom": {"zoom": 0.0},
    "letterbox": {"aspect": "letterbox"},
    "contrast 0.7": {"contrast": 0.7},
    "no brightness and contrast": {"brightness": 0.0, "contrast": 0.0},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mirrored padding": {"padding": "reflect"},
    "weight decay 0.01": {"weight_decay": 0.01},
    "dropout 0.5": {"dropout": 0.5},
    "one more convolution": {"depth": 4},
    "balanced sampling": {"balance": "sampling"},
    "no balance": {"balance": "none"},
    "constant rate": {"schedule": "constant"},
    "peak rate 0.001": {"learning_rate": 1e-3},
    "rotation 15": {"rotation": 15.0},
    "peak rate 0.004": {"learning_rate": 4e-3},
    "no dropout": {"dropout": 0.0},
    "no rotation": {"rotation": 0.0},
    "batches of 16": {"batch_size": 16},
    "no shift": {"shift": 0.0},
    "centre square": {"aspect": "square"},
    "centre square, no aspect-ratio jitter": {"aspect": "square", "aspect_jitter": 0.0},
    "letterbox, no aspect-ratio jitter": {"aspect": "letterbox", "aspect_jitter": 0.0},
    "aspect-ratio jitter 0.6": {"aspect_jitter": 0.6},
    "aspect-ratio jitter 0.8": {"aspect_jitter": 0.8},
    "full size": FULL,
    "full size, what was kept": FULL | KEPT,
    "full size, what was kept, no aspect-ratio jitter": FULL | KEPT | {"aspect_jitter": 0.0},
    "full size, what was kept, 32 epochs": FULL | KEPT | {"epochs": 32},
    "full size, what was kept, no aspect-ratio jitter, 32 epochs": FULL | KEPT | {"aspect_jitter": 0.0, "epochs": 32},
    "full size, kept when changed, 32 epochs": FULL | KEPT_WHEN_CHANGED | {"epochs": 32},
    "full size, kept when changed, one more convolution, 24 epochs": FULL
    | KEPT_WHEN_CHANGED
    | {"depth": 4, "epochs": 24},
}
BEFORE = "full size"  # the recipe as it was before anything was locked
LOCKED = {  # after each the test split was opened
    "first": "full size, what was kept, no aspect-ratio jitter, 32 epochs",  # highest stressed_auc
    "second": "full size, kept when changed, 32 epochs",  # highest changed_auc
}


def trained_network(folder: str, change: dict[str, Any], seed: int, strata: pd.DataFrame) -> tuple[Run, Dataset]:
    """One network of an arm, recorded in runs/, and the images of train and val that it may see.

    Parameters
    ----------
    folder
        Of the data.
    change
        Of the base.
    seed
        Of the training.
    strata
        Held out (`conflicting_images.left_out_strata`).
    """
    p = TrainParameters.from_mapping({"data": folder, "seed": seed, **BASE, **change})
    data = without_strata(load_dataset(p, splits=FITTING), strata)
    return run_of(p, data), data


def scores_held_out(run: Run, data: Dataset, strata: pd.DataFrame, looks: dict[str, np.ndarray]) -> dict[str, Any]:
    """AUC of a network on the images held out, and its seconds of training: a row of the table.

    Parameters
    ----------
    run, data
        Of `trained_network`.
    strata
        Each is judged, and their mean, of three kinds of views.
    looks
        Property → all images held out with that property of the other class; judged beside them as they are.
    """
    rows = data.rows("val")
    labels = data.table["label"]
    seen = {name: predict(run.model, data.pixels[rows], tta=tta) for name, tta in VIEWS.items()}
    of_views = {}
    for name, logits in seen.items():
        everywhere = np.full(len(data.table), np.nan)
        everywhere[rows] = logits
        of_views[name] = auc_by_stratum(labels, everywhere, strata)
    changed = {f"changed_{name}": roc_auc_score(labels.iloc[rows], run.score(images)) for name, images in looks.items()}
    return {
        "run": run.id,
        **{name: each.mean() for name, each in of_views.items()},
        **of_views["stressed_auc"],
        "unchanged_auc": roc_auc_score(labels.iloc[rows], seen["stressed_auc"]),
        "changed_auc": np.mean(list(changed.values())),
        **changed,
        "train_seconds": run.metrics["train_seconds"],
    }


def select(folder: str) -> None:
    """Train and judge every arm with every seed, each row written as soon as it is known.

    Parameters
    ----------
    folder
        Of the data, of which training patients alone are read.
    """
    p = TrainParameters.from_mapping({"data": folder, "image_size": REFERENCE_SIDE})
    reference, frames = load_dataset(p, splits=FITTING), whole_frames(p)
    strata = left_out_strata(reference.table, log_odds_by_property(reference))
    held_out = np.flatnonzero(strata.any(axis=1))
    looks = cache(lambda view: changed_images(frames, held_out, view))
    for arm, change, seed in rows_missing(TABLE):
        run, data = trained_network(folder, change, seed, strata)
        one = scores_held_out(run, data, strata, looks(data.view))
        append_row(TABLE, {"arm": arm, "change": json.dumps(change), "seed": seed, **one})
        judged = f"left-out strata {one['stressed_auc']:.4f}, changed images {one['changed_auc']:.4f}"
        print(f"{arm}, seed {seed}: AUC {judged}", flush=True)


def open_test(folder: str) -> None:
    """Score every network of the finished table on the test split, once a recipe is locked.

    Each row says after which lock it was scored.

    Parameters
    ----------
    folder
        Of the data.
    """
    if list(rows_missing(TABLE)):
        raise SystemExit(f"{TABLE.name} lacks rows: finish the selection before the test split is opened.")
    chosen = pd.read_csv(TABLE).set_index(["arm", "seed"])["run"]
    if TEST.exists() and not pd.read_csv(TEST)["run"].isin(chosen).all():
        raise SystemExit(f"{TEST.name} has networks that are not in {TABLE.name} any more: delete it.")
    for arm, change, seed in rows_missing(TEST):
        p = TrainParameters.from_mapping({"data": folder, "seed": seed, **BASE, **change})
        run = find_run(resolve(p.runs) / chosen[arm, seed])
        if run is None:
            raise SystemExit(f"The network {chosen[arm, seed]} is not in runs/: delete {TABLE.name} and select again.")
        data = load_dataset(p)
        rows = data.rows("test")
        auc = roc_auc_score(data.table["label"].iloc[rows], run.score(data.pixels[rows]))
        append_row(TEST, {"arm": arm, "seed": seed, "run": run.id, "test_auc": auc, "opened_after": list(LOCKED)[-1]})


def opened_networks() -> pd.DataFrame:
    """Every network that was scored on the test split: the columns of both tables, one row a network."""
    return pd.read_csv(TEST).merge(pd.read_csv(TABLE), on=["arm", "seed", "run"], validate="one_to_one")


def means_of_arms(networks: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: the mean of every figure over its seeds.

    Parameters
    ----------
    networks
        Of `opened_networks`.

    Returns
    -------
    DataFrame
        The figures of the tables, and sd_stressed_auc, sd_changed_auc (over the seeds), opened_after, and less_jitter:
        whether images keep more of their proportions than in the base.
    """
    of_arm = networks.groupby("arm")
    means = of_arm.mean(numeric_only=True).drop(columns="seed")
    spread = of_arm[["stressed_auc", "changed_auc"]].std().add_prefix("sd_")
    changes = [BASE | ARMS.get(arm, {}) for arm in means.index]
    less = [one["aspect_jitter"] < BASE["aspect_jitter"] or one["aspect"] != BASE["aspect"] for one in changes]
    return means.join(spread).assign(opened_after=of_arm["opened_after"].first(), less_jitter=less)


def rank_correlation(first: pd.Series, second: pd.Series) -> Estimate:
    """Spearman's rank correlation with Fisher's 95 % interval, every arm counted as independent of the others.

    Parameters
    ----------
    first, second : Series (N,)
        Two figures of the same arms.
    """
    found = pearsonr(first.rank(), second.rank())
    low, high = found.confidence_interval()
    return Estimate(float(found.statistic), float(low), float(high), len(first))


def rows_missing(file: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Arm, change and seed of every network that has no row in a table yet.

    Parameters
    ----------
    file
        Of the table, which need not exist.
    """
    done = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["arm", "seed"])
    known = set(zip(done["arm"], done["seed"], strict=True))
    return ((arm, change, seed) for arm, change in ARMS.items() for seed in SEEDS if (arm, seed) not in known)


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Write a table with one more row, in place at once.

    Parameters
    ----------
    file
        Of the table, which need not exist.
    row
        Column → value.
    """
    done = [pd.read_csv(file)] if file.exists() else []
    with atomic_write(file) as handle:
        table = pd.concat([*done, pd.DataFrame([row])], ignore_index=True)
        handle.write(table.to_csv(index=False, float_format="%.5g").encode())


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Which options of the recipe earn their place?")
    asked.add_argument("folder", help="a chest_xray folder")
    asked.add_argument("--open-test", action="store_true", help="afterwards: the test AUC of the same networks")
    given = asked.parse_args()
    (open_test if given.open_test else select)(given.folder)
