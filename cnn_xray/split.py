"""Validation split grouped by patient, and leakage of patients between splits.

The splits ``train`` and ``val`` are for fitting; every other name (test, neutral, conflict, clean) is
test-like.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cnn_xray.errors import InputError

FITTING = ("train", "val")


def validation_split(table: pd.DataFrame, fraction: float = 0.15, seed: int = 0) -> pd.DataFrame:
    """A copy of the manifest table in which the rows of train and val are pooled and divided anew.

    About ``fraction`` (0..1, exclusive) of the images of each class go to ``val``, all images of a patient
    together; test-like rows stay as they are. Patients are drawn in a random order of their sorted names, so
    the result depends on the seed and on who is in the table, not on the order of its rows.

    Raises InputError when the fraction is impossible, a patient is missing, or one of the classes cannot be
    in both splits (fewer than two patients have it).
    """
    if not 0 < fraction < 1:
        raise InputError(f"The validation fraction is {fraction}: it must lie between 0 and 1, for example 0.15.")
    result = table.copy()
    pool = result[result["split"].isin(FITTING)]
    if pool.empty:
        raise InputError("No image has the split train or val: there is nothing to fit a model on.")
    if pool["patient"].isna().any():
        raise InputError(f"{int(pool['patient'].isna().sum())} training images have no patient: fill the column.")
    for label in (0, 1):
        n_patients = pool.loc[pool["label"] == label, "patient"].nunique()
        if n_patients < 2:
            raise InputError(
                f"{n_patients} patient(s) have images of label {label} in train and val together: a "
                "validation split by patient needs at least two of each class; add images or patients."
            )

    rng = np.random.default_rng(seed)
    patients = pool.groupby("patient", sort=True)["label"].agg(["size", "min", "max"])
    validation: list[str] = []
    # Strata: patients with label 0 alone, label 1 alone, both; each is cut at that fraction of its images.
    for _, stratum in patients.groupby(["min", "max"], sort=True):
        drawn = stratum.iloc[rng.permutation(len(stratum))]
        seen = drawn["size"].cumsum().to_numpy()
        cut = int(np.argmin(np.abs(seen - fraction * seen[-1]))) + 1
        validation += list(drawn.index[: min(cut, len(drawn) - 1)])

    inside = pool["patient"].isin(validation)
    for name, part in (("validation", pool[inside]), ("training", pool[~inside])):
        if part["label"].nunique() < 2:
            raise InputError(
                f"The {name} split would lack a class: too few patients, some with images of both. "
                "Add patients with images of one class alone."
            )
    result.loc[pool.index, "split"] = np.where(inside, "val", "train")
    return result


def patients_in_two_splits(table: pd.DataFrame, pooled: bool = True) -> pd.DataFrame:
    """Patients whose images lie on both sides of a border between splits: leakage.

    Test-like splits may share patients with one another (the phantom's are paired counterfactuals), never
    with train or val. ``pooled`` says that train and val are still to be pooled and divided anew
    (validation_split), so that a patient in both is no leakage yet; pass False for a table that has been
    divided.

    Returns one row a patient, sorted by name: patient, splits (their names, comma separated), n (images).
    Empty when there is no leakage.
    """
    side = table["split"].where(table["split"].isin(FITTING), "test-like")
    if pooled:
        side = side.replace("val", "train")
    leaking = side.groupby(table["patient"]).nunique().loc[lambda sides: sides > 1].index
    rows = table[table["patient"].isin(leaking)].groupby("patient", sort=True)["split"]
    found = pd.DataFrame({"splits": rows.agg(lambda names: ", ".join(sorted(set(names)))), "n": rows.size()})
    return found.rename_axis("patient").reset_index()
