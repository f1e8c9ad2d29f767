"""One table, one row an image, from a Kaggle folder, a CSV of the user's own, or the phantom."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_xray.errors import InputError
from cnn_xray.split import patients_in_two_splits

CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
TEST_SPLITS = ("test", "neutral", "conflict", "clean")
SPLITS = ("train", "val", *TEST_SPLITS)
REQUIRED = ("path", "label", "split", "patient")
OPTIONAL = ("original_width", "original_height", "lung_mask", "artifact_mask")
ATTRIBUTION = (
    "Films: Kermany, Zhang and Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data v2, doi 10.17632/rscbjbr9sj.2, CC BY 4.0. Lung masks, where shown: v7labs, COVID-19 "
    "X-ray dataset, CC BY 4.0."
)
IMAGE_ENDINGS = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Manifest:
    """A checked table of images.

    ``table`` has the columns path, label (1 = PNEUMONIA), split, patient, original_width and original_height (px,
    <NA> if unknown), lung_mask and artifact_mask (<NA> if there is none), plus any further ones of its source.
    Paths are relative to ``root``. ``notes`` are sentences the report must repeat.
    """

    table: pd.DataFrame
    root: Path
    name: str
    notes: tuple[str, ...] = field(default=())


def read(place: Path) -> Manifest:
    """The manifest of a folder in the Kaggle ``chest_xray`` layout, or of a CSV file.

    Raises `InputError` for a missing place, an empty or absent class folder, a missing column, an unknown label
    or split, a path outside the data's folder, a repeated path, and a patient in both training and test data.
    """
    if not place.exists():
        raise InputError(f"No data at {place}: give a chest_xray folder, a manifest CSV, or the word phantom.")
    manifest = _from_folder(place) if place.is_dir() else _from_csv(place)
    _check(manifest, place)
    return manifest


def _from_folder(folder: Path) -> Manifest:
    """`{train,val,test}/{NORMAL,PNEUMONIA}/*`; ``metadata.csv`` beside them is used when there."""
    if not (folder / "train").is_dir() and (folder / "chest_xray" / "train").is_dir():
        folder = folder / "chest_xray"
    rows = []
    for split in ("train", "val", "test"):
        if split == "val" and not (folder / split).exists():
            continue
        for label in CLASSES:
            files = _images_in(folder / split / label)
            rows += [(f"{split}/{label}/{file.name}", label, split, patient_of(file.stem)) for file in files]
    table = pd.DataFrame(rows, columns=list(REQUIRED))
    nameless = int(table["patient"].isna().sum())
    notes = [ATTRIBUTION] if nameless < len(table) else []  # the file names are Kermany's own
    table["patient"] = table["patient"].fillna(table["path"])
    if nameless:
        notes.append(f"{nameless} file names carry no patient; each counts as a patient of its own.")
    if (folder / "metadata.csv").is_file():
        metadata = _csv(folder / "metadata.csv", required=("path",))
        if not metadata["path"].isin(table["path"]).any():
            raise InputError(
                f"No path in {folder / 'metadata.csv'} is that of an image, e.g. {metadata['path'].iloc[0]}."
            )
        known = ["path", *(name for name in OPTIONAL if name in metadata)]
        table = table.merge(metadata[known].drop_duplicates("path"), on="path", how="left")
    if "lung_mask" not in table and (folder / "lung_masks").is_dir():
        masks = "lung_masks/" + table["path"].str.replace(r"\.\w+$", ".png", regex=True)
        table["lung_mask"] = masks.where(np.array([(folder / mask).is_file() for mask in masks]))
    return Manifest(_typed(table), folder, folder.name, tuple(notes))


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(
            f"The class folder {folder} is absent: the layout is {{train,val,test}}/{{NORMAL,PNEUMONIA}}/*.jpeg."
        )
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    found = sorted(file for file in files if file.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise InputError(f"The class folder {folder} is empty: it holds no file ending in {', '.join(IMAGE_ENDINGS)}.")
    return found


def patient_of(stem: str) -> str | None:
    """The patient a Kermany file name carries, or None.

    ``personN_bacteria_M`` and ``personN_virus_M`` count in separate counters, as do ``IM-N-…`` and ``NORMAL2-IM-N-…``.
    """
    found = re.match(r"(person\d+_(?:bacteria|virus))_\d|((?:NORMAL2-)?IM-\d+)-\d", stem)
    return (found[1] or found[2]) if found else None


def _from_csv(file: Path) -> Manifest:
    table = _csv(file, required=REQUIRED)
    names = table["label"].astype(str).str.strip().str.upper().replace({"0": "NORMAL", "1": "PNEUMONIA"})
    unknown = table[~names.isin(list(CLASSES))]
    if len(unknown):
        lines = zip(np.flatnonzero(~names.isin(list(CLASSES))) + 2, unknown["label"], strict=True)
        shown = ", ".join(f"line {line}: {label!r}" for line, label in list(lines)[:5])
        raise InputError(f"{len(unknown)} labels in {file} are not NORMAL (0) or PNEUMONIA (1): {shown}.")
    table["label"] = names
    return Manifest(_typed(table), file.parent, file.parent.name if file.stem == "manifest" else file.stem)


def _csv(file: Path, required: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as problem:  # pandas' parser errors are ValueErrors
        raise InputError(f"{file} cannot be read as a CSV table: {str(problem).strip()}.") from problem
    missing = [name for name in required if name not in table]
    if missing:
        raise InputError(f"{file} lacks the column {', '.join(missing)}; it has {', '.join(table.columns)}.")
    empty = [name for name in required if table[name].isna().any()]
    if empty:
        line = int(table[table[empty[0]].isna()].index[0]) + 2
        raise InputError(f"{file}, line {line}: {empty[0]} is empty; every image needs one.")
    return table


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The contract's columns and types, the contract's columns first."""
    table = table.assign(label=table["label"].map(CLASSES).astype(int))
    for name in OPTIONAL:
        if name not in table:
            table[name] = pd.NA
        if name.startswith("original_"):
            numbers = pd.to_numeric(table[name], errors="coerce")
            wrong = (numbers.isna() & table[name].notna()) | (numbers < 1)
            if wrong.any():
                first = table[wrong].iloc[0]
                raise InputError(f"{name} of {first['path']} is {first[name]!r}, not a number of pixels.")
            table[name] = numbers.round().astype("Int64")
    contract = [*REQUIRED, *OPTIONAL]
    return table[[*contract, *(name for name in table if name not in contract)]].reset_index(drop=True)


def _check(manifest: Manifest, place: Path) -> None:
    table, root = manifest.table, os.path.abspath(manifest.root)
    strange = sorted(set(table["split"]) - set(SPLITS))
    if strange:
        raise InputError(f"{place} has the unknown split {', '.join(strange)}; known are {', '.join(SPLITS)}.")
    for split in ("train", "test"):
        if not (table["split"] == split).any():
            raise InputError(f"{place} has no image in the split {split}; training and test images are both needed.")
    for name in ("path", "lung_mask", "artifact_mask"):
        # By the letter of the path: a link inside the folder may lead wherever its owner wants.
        whole = {path: os.path.normpath(os.path.join(root, path)) for path in table[name].dropna()}
        beyond = [path for path, full in whole.items() if not full.startswith(root + os.sep)]
        if beyond:
            raise InputError(f"{len(beyond)} entries of {name} lie outside {manifest.root}, e.g. {beyond[0]}.")
        absolute = [path for path in whole if os.path.isabs(path)]
        if absolute:
            raise InputError(f"{name} {absolute[0]} is absolute; paths are relative to {manifest.root}.")
    repeated = table["path"][table["path"].duplicated()]
    if len(repeated):
        raise InputError(f"{len(repeated)} images stand in {place} more than once, e.g. {repeated.iloc[0]}.")
    shared = patients_in_two_splits(table)
    if len(shared):
        named = ", ".join(shared["patient"].head(5))
        raise InputError(
            f"{len(shared)} patients of {place} are in both training and test data: {named}. "
            "Move each to one side; a network that has met a patient is not tested on them."
        )
