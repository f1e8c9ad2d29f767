"""One table, one row an image, from a Kaggle folder, a CSV of the user's own, or the phantom.

Validation split grouped by patient, and leakage of patients between splits.

The splits ``train`` and ``val`` are for fitting; every other name (test, neutral, conflict, clean) is
test-like.

Artifacts planted into real films on the fly: a known shortcut in unknown data, with its counterfactual test sets.

Manifest, validation split, view, images and masks of one data set, aligned row by row.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cnn_xray import InputError, geometry, images
from cnn_xray.geometry import Placement, View
from cnn_xray.parameters import PHANTOM, DataParameters
from cnn_xray.phantom import artifacts, dataset
from cnn_xray.storage import cache_folder, resolve

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


def read_manifest(place: Path) -> Manifest:
    """The manifest of a folder in the Kaggle ``chest_xray`` layout, or of a CSV file.

    Raises `InputError` for a missing place, an empty or absent class folder, a missing column, an unknown label
    or split, a path outside the data's folder, a repeated path, and a patient in both training and test data.
    """
    if not place.exists():
        raise InputError(f"No data at {place}: give a chest_xray folder, a manifest CSV, or the word phantom.")
    manifest = _from_folder(place) if place.is_dir() else _from_csv(place)
    _check_manifest(manifest, place)
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


def _check_manifest(manifest: Manifest, place: Path) -> None:
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


FRAME_SIDE = 224  # px: least side of the frame in which artifacts are planted in real films


@dataclass(frozen=True)
class Dataset:
    """N images of one view with everything known about them, in the order of ``table``.

    ``pixels`` (N, S, S) uint8; ``lungs`` and ``artifacts`` (N, S, S) bool, or None when no image has such a mask
    (``table.has_lung`` and ``table.has_artifact`` say which rows have one); ``placements`` N; ``fingerprint`` is a
    digest of content, labels, patients and splits; ``notes`` are sentences that a report on these data must repeat.
    """

    name: str
    root: Path
    table: pd.DataFrame
    view: View
    pixels: np.ndarray
    placements: list[Placement]
    lungs: np.ndarray | None
    artifacts: np.ndarray | None
    fingerprint: str
    notes: tuple[str, ...]

    def rows(self, *splits: str) -> np.ndarray:
        """Row numbers of the images in the given splits, ascending: (n,) int."""
        return np.flatnonzero(self.table["split"].isin(splits))


def load_dataset(p: DataParameters, view: View | None = None, splits: Sequence[str] | None = None) -> Dataset:
    """The data set that the parameters name, in their view (or in ``view``); with ``splits``, these alone are read.

    Raises `InputError` for anything `manifest.read` refuses and, unless ``on_bad_image`` is ``skip``, for unreadable
    images and masks, all listed at once.
    """
    cache = cache_folder()
    source = _source(p, cache)
    view = view or View(p.crop, p.aspect, p.side)
    table, notes = source.table, list(source.notes)
    if splits is not None:
        table = table[table["split"].isin(splits)].reset_index(drop=True)
    originals = _original_sizes(table, notes)
    stack = images.load(source.root, table["path"], view, cache, originals)
    bad = {table["path"].iloc[row]: reason for row, reason in sorted(stack.problems.items())}
    masks = {}
    for column in ("lung_mask", "artifact_mask"):
        paths = table[column].where(~table.index.isin(list(stack.problems)))
        if paths.notna().any():
            masks[column] = images.load(source.root, paths, view, cache, originals, match_sizes=stack.sizes)
            bad |= {paths.iloc[row]: reason for row, reason in sorted(masks[column].problems.items())}
        table[f"has_{column.removesuffix('_mask')}"] = paths.notna() & ~table.index.isin(
            list(masks[column].problems) if column in masks else []
        )
    if bad and p.on_bad_image == "error":
        images.refuse(bad, "images and masks")
    if len(stack.problems) == len(table):
        raise InputError(f"None of the {len(table)} images can be read; there is nothing to go on with.")
    if bad:
        notes.append(f"{len(bad)} images and masks could not be read and were left out: {'; '.join(bad)}.")
    if table["original_width"].isna().all():
        table[["original_width", "original_height"]] = pd.DataFrame(stack.sizes).astype("Int64")
    kept = np.flatnonzero(~table.index.isin(list(stack.problems)))
    content = [_content(source.root, table[name].iloc[kept], cache) for name in ("path", "lung_mask", "artifact_mask")]
    table = validation_split(table.iloc[kept].reset_index(drop=True), seed=p.seed)
    whole = len(kept) == len(stack.pixels)
    areas = {column: (mask.pixels if whole else mask.pixels[kept]) > 127 for column, mask in masks.items()}
    data = Dataset(
        source.name,
        source.root,
        table,
        view,
        stack.pixels if whole else stack.pixels[kept],
        [stack.placements[row] for row in kept],
        areas.get("lung_mask"),
        areas.get("artifact_mask"),
        _fingerprint(table, content),
        tuple(notes),
    )
    if p.data != PHANTOM and p.rho is not None:
        data = _with_artifact(data, p, p.rho, splits)
    if p.keep != "all":
        data = _with_part(data, p)
    return data if p.labels == "true" else _with_permuted_labels(data, p.seed)


def _with_artifact(data: Dataset, p: DataParameters, rho: float, read: Sequence[str] | None) -> Dataset:
    """Real films with an artifact planted in their original frame, the test split in four counterfactual versions.

    As in the phantom, ``table.artifact`` (0/1) says which films have it, and the mask of the others is empty. The mask
    holds every pixel that the artifact touches: elsewhere the four versions are the same.
    """
    as_they_are = p.model_copy(update={"artifact_rho": None, "keep": "all", "labels": "true"})
    whole = load_dataset(as_they_are, View(0.0, "squash", max(FRAME_SIDE, data.view.size)), read)
    look = (p.artifact_location, p.kinds(), p.artifact_amplitude)
    rows, splits, marked, seen, changed = [], [], [], [], []
    for one in plant(whole.pixels, data.table, whole.lungs, rho, *look, seed=p.seed):
        rows.append(one.row)
        splits.append(one.split)
        marked.append(int(one.marked))
        seen.append(data.view.apply(one.film, data.placements[one.row]))
        changed.append(data.view.apply(one.changed * np.uint8(255), data.placements[one.row]) > 0)
    table = data.table.iloc[rows].reset_index(drop=True)
    return replace(
        data,
        table=table.assign(split=splits, artifact=marked, has_artifact=True),
        pixels=np.stack(seen),
        placements=[data.placements[row] for row in rows],
        lungs=None if data.lungs is None else data.lungs[rows],
        artifacts=np.stack(changed),
        notes=(*data.notes, f"An artifact ({p.artifact_kinds}, {p.artifact_location}) was planted, ρ = {rho:g}."),
    )


def _with_part(data: Dataset, p: DataParameters) -> Dataset:
    """Of every film only the part that ``keep`` names; films without a lung mask are left out where it needs one."""
    rows, notes = np.arange(len(data.table)), data.notes
    if p.keep in geometry.NEED_LUNGS and data.lungs is not None:
        rows = np.flatnonzero(data.lungs.any(axis=(1, 2)))
        if len(rows) < len(data.table):
            notes = (*notes, f"{len(data.table) - len(rows)} films without a lung mask were left out.")
    table = data.table.iloc[rows].reset_index(drop=True)
    before, after = ({*zip(one["split"], one["label"], strict=True)} for one in (data.table, table))
    for split_name, label in sorted(before - after):
        which = f"{split_name} film that is {list(CLASSES)[label]}"
        raise InputError(f"keep is {p.keep!r}, which needs lung masks, but no {which} has one.")
    lungs = None if data.lungs is None else data.lungs[rows]
    train = np.flatnonzero(table["split"] == "train")
    return replace(
        data,
        table=table,
        pixels=geometry.part_alone(data.pixels[rows], p.keep, p.border, lungs, train),
        placements=[data.placements[row] for row in rows],
        lungs=lungs,
        artifacts=None if data.artifacts is None else data.artifacts[rows],
        notes=notes,
    )


def _with_permuted_labels(data: Dataset, seed: int) -> Dataset:
    """Labels exchanged among the films of the training split, and among those of the validation split."""
    table, rng = data.table.copy(), np.random.default_rng(seed)
    for name in ("train", "val"):
        rows = data.rows(name)
        table.loc[rows, "label"] = rng.permutation(table.loc[rows, "label"])
    return replace(data, table=table)


def _source(p: DataParameters, cache: Path) -> Manifest:
    if p.data != PHANTOM:
        return read_manifest(resolve(p.data))
    folder = dataset.write(p.phantom_spec(), cache / "phantoms")
    return read_manifest(folder / "manifest.csv")


def _original_sizes(table: pd.DataFrame, notes: list[str]) -> np.ndarray:
    """(N, 2) film width and height, NaN throughout when the files are as they were taken.

    Where some sizes are known the files were squashed, and the few unknown ones get the median proportions for
    the geometry alone (the table keeps <NA>).
    """
    sizes = table[["original_width", "original_height"]].astype(float).to_numpy()
    unknown = np.isnan(sizes).any(axis=1)
    if unknown.any() and not unknown.all():
        sizes[unknown] = np.nanmedian(sizes, axis=0)
        notes.append(f"{unknown.sum()} images have no known original size; they count as of median proportions.")
    return sizes


def _content(root: Path, paths: pd.Series, cache: Path) -> list[str]:
    """Content digest of every file, "none" where there is no path."""
    digests = iter(images.digests([root / path for path in paths.dropna()], cache))
    return ["none" if pd.isna(path) else next(digests) for path in paths]


def _fingerprint(table: pd.DataFrame, content: list[list[str]]) -> str:
    """Digest of images and masks, labels, splits, patients and film sizes, whatever the order of the rows."""
    columns = ["label", "split", "patient", "original_width", "original_height"]
    rows = sorted(zip(*content, *(table[name].astype(str) for name in columns), strict=True))
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()
