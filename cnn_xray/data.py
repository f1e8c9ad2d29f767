"""One way in: a chest_xray folder, a CSV of the user's own or the phantom → one `Dataset`, split by patient.

Its table has one row an image, and everything else is aligned with it. The splits ``train`` and ``val`` are for
fitting; every other one (test, neutral, conflict, clean) is test-like.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cnn_xray import InputError, geometry, images
from cnn_xray.geometry import Placement, View
from cnn_xray.parameters import PHANTOM, DataParameters
from cnn_xray.phantom import artifacts, dataset
from cnn_xray.storage import cache_folder, resolve

CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
FITTING = ("train", "val")
TEST_SPLITS = ("test", "neutral", "conflict", "clean")
REQUIRED = ("path", "label", "split", "patient")
ORIGINAL = ["original_width", "original_height"]
FILES = ("path", "lung_mask", "artifact_mask")
CONTRACT = [*REQUIRED, *ORIGINAL, "lung_mask", "artifact_mask"]
VALIDATION = 0.15  # of the images of train and val
FRAME_SIDE = 224  # px: least side of the frame in which artifacts are planted in real images
ENDINGS = (".jpeg", ".jpg", ".png")
# What a Kermany file name says of the patient: bacteria and virus, IM and NORMAL2-IM are counted apart.
PATIENT = r"/(person\d+_(?:bacteria|virus)(?=_\d)|(?:NORMAL2-)?IM-\d+(?=-\d))"
SOURCE = (
    "Images: Kermany, Zhang and Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data v2, doi 10.17632/rscbjbr9sj.2, CC BY 4.0: children of one to five years from one "
    "hospital in Guangzhou, anterior-posterior; labels are physicians' readings. Lung masks, where shown: v7labs, "
    "COVID-19 X-ray dataset, CC BY 4.0."
)


# ---- the manifest: which images there are


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
    notes: tuple[str, ...] = ()


def read_manifest(place: Path, needed: Sequence[str] = ("train", "test")) -> Manifest:
    """The manifest of a folder in the Kaggle ``chest_xray`` layout, or of a CSV file.

    Parameters
    ----------
    place
        The folder, or the file.
    needed
        Splits that must be there.

    Raises
    ------
    InputError
        For a missing place, an empty or absent class folder, a missing column, an unknown label or split, a path
        outside the data's folder, a repeated path, and a patient in both training and test data.
    """
    if not place.exists():
        raise InputError(f"No data at {place}: give a chest_xray folder, a manifest CSV, or the word phantom.")
    manifest = _from_folder(place, needed) if place.is_dir() else _from_csv(place)
    _check_manifest(manifest, place, needed)
    return manifest


def name_of(place: Path) -> str:
    """A data set's name, in letters, digits, dots and dashes: its folder's or its CSV's; manifest.csv has its folder's.

    Parameters
    ----------
    place
        As of `read_manifest`.
    """
    place = place.resolve()
    place = place.parent if place.name == "manifest.csv" else place
    return re.sub(r"[^\w.-]+", "-", place.stem if place.is_file() else place.name).strip("-.")


def _from_folder(folder: Path, needed: Sequence[str]) -> Manifest:
    """`{train,val,test}/{NORMAL,PNEUMONIA}/*`; ``metadata.csv`` beside them is used when there."""
    name = name_of(folder)
    if not (folder / needed[0]).is_dir() and (folder / "chest_xray" / needed[0]).is_dir():
        folder = folder / "chest_xray"
    splits = [split for split in ("train", "val", "test") if split in needed or (folder / split).exists()]
    rows = [(path, label, split) for split in splits for label in CLASSES for path in _images_in(folder, split, label)]
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    patients = table["path"].str.extract(PATIENT, expand=False)
    ours = patients.str.startswith("person", na=False).any()  # other collections have an IM-0001-0001 as well
    patients = patients if ours else patients.where(patients.isna())
    table["patient"] = patients.fillna(table["path"])
    notes = [SOURCE] if ours else []
    if patients.isna().any():
        notes.append(f"{patients.isna().sum()} file names carry no patient; each counts as a patient of its own.")
    if (folder / "metadata.csv").is_file():
        metadata = _csv(folder / "metadata.csv", required=("path",))
        if not metadata["path"].isin(table["path"]).any():
            raise InputError(f"No path in {folder}/metadata.csv is that of an image, e.g. {metadata['path'].iloc[0]}.")
        known = ["path", *(name for name in CONTRACT if name in metadata and name not in REQUIRED)]
        table = table.merge(metadata[known].drop_duplicates("path"), on="path", how="left")
    if "lung_mask" not in table and (folder / "lung_masks").is_dir():
        masks = "lung_masks/" + table["path"].str.replace(r"\.\w+$", ".png", regex=True)
        table["lung_mask"] = masks.where(np.array([(folder / mask).is_file() for mask in masks]))
    return Manifest(_typed(table), folder, name, tuple(notes))


def _images_in(folder: Path, split: str, label: str) -> list[str]:
    """Paths, relative to ``folder``, of the images of one class in one split."""
    place = folder / split / label
    if not place.is_dir():
        raise InputError(f"The folder {place} is absent: the layout is {{train,test}}/{{NORMAL,PNEUMONIA}}/*.jpeg.")
    names = [file.name for file in place.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != "."]
    if not names:
        raise InputError(f"The class folder {place} is empty: it holds no file ending in {', '.join(ENDINGS)}.")
    return [f"{split}/{label}/{name}" for name in sorted(names)]


def _from_csv(file: Path) -> Manifest:
    table = _csv(file, required=REQUIRED)
    names = table["label"].str.strip().str.upper().replace({"0": "NORMAL", "1": "PNEUMONIA"})
    unknown = np.flatnonzero(~names.isin(list(CLASSES)))
    if len(unknown):
        shown = ", ".join(f"line {row + 2}: {table['label'][row]!r}" for row in unknown[:5])
        raise InputError(f"{len(unknown)} labels in {file} are not NORMAL (0) or PNEUMONIA (1): {shown}.")
    return Manifest(_typed(table.assign(label=names)), file.parent, name_of(file))


def _csv(file: Path, required: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as problem:  # pandas' parser errors are ValueErrors
        raise InputError(f"{file} cannot be read as a CSV table: {str(problem).strip()}.") from problem
    missing = [name for name in required if name not in table]
    if missing:
        raise InputError(f"{file} lacks the column {', '.join(missing)}; it has {', '.join(table.columns)}.")
    table["path"] = table["path"].map(os.path.normpath, na_action="ignore")  # ./a.png is a.png
    for name in set(required) - {"path"}:
        stripped = table[name].str.strip()
        table[name] = stripped.where(stripped != "")
    for name in required:
        if table[name].isna().any():
            line = table[name].isna().argmax() + 2
            raise InputError(f"{file}, line {line}: {name} is empty; every image needs one.")
    return table


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The contract's columns and types, the contract's columns first."""
    table = table.reindex(columns=pd.Index(CONTRACT).union(table.columns, sort=False))
    for name in ORIGINAL:
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = table[table[name].notna() & ~numbers.between(1, 2**31)]
        if len(wrong):
            raise InputError(f"{name} of {wrong['path'].iloc[0]} is {wrong[name].iloc[0]!r}, not a number of pixels.")
        table[name] = numbers.round().astype("Int64")
    return table.assign(label=table["label"].map(CLASSES).astype(int))


def _check_manifest(manifest: Manifest, place: Path, needed: Sequence[str]) -> None:
    table, root = manifest.table, os.path.abspath(manifest.root)
    known = (*FITTING, *TEST_SPLITS)
    strange = sorted(set(table["split"]) - set(known))
    if strange:
        raise InputError(f"{place} has the unknown split {', '.join(strange)}; known are {', '.join(known)}.")
    for split in sorted(set(needed) - set(table["split"])):
        raise InputError(f"{place} has no image in the split {split}; needed are {' and '.join(needed)} images.")
    for name in FILES:
        # By the letter of the path: a link inside the folder may lead wherever its owner wants.
        paths = table[name].dropna()
        beyond = [path for path in paths if not os.path.normpath(os.path.join(root, path)).startswith(root + os.sep)]
        if beyond:
            raise InputError(f"{len(beyond)} entries of {name} lie outside {manifest.root}, e.g. {beyond[0]}.")
        for path in filter(os.path.isabs, paths):
            raise InputError(f"{name} {path} is absolute; paths are relative to {manifest.root}.")
    repeated = table["path"][table["path"].duplicated()]
    if len(repeated):
        raise InputError(f"{len(repeated)} images stand in {place} more than once, e.g. {repeated.iloc[0]}.")
    shared = patients_in_two_splits(table)["patient"]
    if len(shared):
        where = f"{len(shared)} patients of {place} are in both training and test data: {', '.join(shared.head(5))}."
        raise InputError(f"{where} Move each to one side; a network that has met a patient is not tested on them.")


# ---- patients and splits


def patients_in_two_splits(table: pd.DataFrame, pooled: bool = True) -> pd.DataFrame:
    """Patients whose images lie on both sides of a border between splits: leakage.

    Test-like splits may share patients with one another (the phantom's are paired counterfactuals), never with train
    or val.

    Parameters
    ----------
    table
        With the columns patient and split.
    pooled
        Train and val are still to be pooled and divided anew (`validation_split`), so that a patient in both is no
        leakage yet; False for a table that has been divided.

    Returns
    -------
    DataFrame
        One row a patient, sorted by name: patient, splits (their names, comma separated), n (images).
    """
    side = table["split"].where(table["split"].isin(FITTING), "test-like")
    if pooled:
        side = side.replace("val", "train")
    shared = side.groupby(table["patient"]).transform("nunique") > 1
    patients = table[shared].groupby("patient")["split"]
    return patients.agg(splits=lambda names: ", ".join(sorted(set(names))), n="size").reset_index()


def validation_split(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A copy of a table in which the rows of train and val are pooled and divided anew.

    About 15 % of the images of each class go to ``val``, all images of a patient together; test-like rows stay as they
    are. Patients are drawn in a random order of their sorted names, so the result depends on the seed and on who is
    in the table, not on the order of its rows.

    Parameters
    ----------
    table
        With the columns patient, label and split.
    seed
        Of the draw.

    Raises
    ------
    InputError
        When one of the classes cannot be in both splits.
    """
    pool = table[table["split"].isin(FITTING)]
    rng = np.random.default_rng(seed)
    patients = pool.groupby("patient")["label"].agg(["size", "min", "max"])
    validation: list[str] = []
    # Strata: patients with label 0 alone, label 1 alone, both; each is cut at that fraction of its images.
    for _, stratum in patients.groupby(["min", "max"]):
        drawn = stratum.iloc[rng.permutation(len(stratum))]
        seen = drawn["size"].cumsum().to_numpy()
        cut = int(np.argmin(np.abs(seen - VALIDATION * seen[-1]))) + 1
        validation += list(drawn.index[: min(cut, len(drawn) - 1)])
    inside = pool["patient"].isin(validation)
    for name, part in (("validation", pool[inside]), ("training", pool[~inside])):
        if part["label"].nunique() < 2:
            normal, pneumonia = (pool[pool["label"] == label]["patient"].nunique() for label in CLASSES.values())
            are = f"in train and val, {normal} patients have NORMAL images and {pneumonia} PNEUMONIA"
            needed = "At least two of each class, with images of it alone, are needed: add patients."
            raise InputError(f"The {name} split would lack a class: {are}. {needed}")
    split = pd.Series(np.where(inside, "val", "train"), pool.index)
    return table.assign(split=split.reindex(table.index).fillna(table["split"]))


# ---- the data set


@dataclass(frozen=True)
class Dataset:
    """N images of one view with everything known about them, in the order of ``table``.

    ``pixels`` (N, S, S) uint8; ``lungs`` and ``artifacts`` (N, S, S) bool, or None when no image has such a mask
    (``table.has_lung`` and ``table.has_artifact`` say which rows have one); ``placements`` N; ``fingerprint`` is a
    digest of content, labels, patients and splits of what is for fitting, ``test_fingerprint`` of the rest, "" where
    there is none; ``notes`` are sentences that a report on these data must repeat.
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
    test_fingerprint: str = ""

    def rows(self, *splits: str) -> np.ndarray:
        """Row numbers of the images in some splits, ascending: (n,) int.

        Parameters
        ----------
        *splits
            Their names.
        """
        return np.flatnonzero(self.table["split"].isin(splits))


def load_dataset(p: DataParameters, view: View | None = None, splits: Sequence[str] | None = None) -> Dataset:
    """The data set that the parameters name.

    Parameters
    ----------
    p
        Which images, in which view, and what is planted, kept or permuted.
    view
        Instead of the parameters' own.
    splits
        These alone are read; None: all.

    Raises
    ------
    InputError
        For anything `read_manifest` refuses and, unless ``on_bad_image`` is ``skip``, for unreadable images and masks,
        all listed at once.
    """
    view = view or View(p.crop, p.aspect, p.side)
    frame = View(0.0, "squash", max(FRAME_SIDE, view.size))
    data = _read(p, view, splits)
    if p.crop_to == "lungs":
        data = _cut_to_lungs(data, _read(p, frame, splits))
    if p.data != PHANTOM and p.rho is not None:
        data = _with_artifact(data, _read(p, frame, splits), p, p.rho)
    if p.clahe:
        equalise = cv2.createCLAHE(p.clahe).apply
        data = replace(data, pixels=np.stack([equalise(image) for image in data.pixels]))
    if p.keep != "all":
        data = _with_part(data, p)
    return data if p.labels == "true" else _with_permuted_labels(data, p.chance)


def _phantom_spec(p: DataParameters) -> dataset.PhantomSpec:
    """The phantom that the parameters describe; a test set is a quarter of its training images, 24..300."""
    return dataset.PhantomSpec(
        images=p.phantom_images,
        test_images=min(max(p.phantom_images // 4, 24), 300),
        size=max(p.side, 128),
        rho=0.95 if p.rho is None else p.rho,
        location=p.artifact_location,
        kinds=p.kinds(),
        share=p.artifact_share,
        amplitude=p.artifact_amplitude,
        signal=p.phantom_signal,
        seed=p.seed,
    )


def _read(p: DataParameters, view: View, splits: Sequence[str] | None) -> Dataset:
    """The images as they are, train and val divided anew."""
    cache = cache_folder()
    phantom = dataset.write(_phantom_spec(p), cache / "phantoms") if p.data == PHANTOM else None
    needed = [split for split in ("train", "test") if splits is None or split in splits] or ["train"]
    source = read_manifest(phantom / "manifest.csv" if phantom else resolve(p.data), needed)
    table, notes = source.table if phantom else source.table.sort_values("path"), list(source.notes)
    rows = np.argsort(~table["split"].isin(FITTING).to_numpy(), kind="stable")  # numbered alike without the rest
    if splits is not None:
        rows = rows[table["split"].isin(splits).to_numpy()[rows]]
    originals = _original_sizes(table, notes)[rows]
    table = table.iloc[rows].reset_index(drop=True)

    stack = images.load(source.root, table["path"], view, cache, originals)
    readable = ~table.index.isin(list(stack.problems))
    bad = {table["path"][row]: reason for row, reason in stack.problems.items()}
    seen: dict[str, Any] = {"pixels": stack.pixels, "placements": stack.placements, "lungs": None, "artifacts": None}
    for name in ("lung", "artifact"):
        paths = table[f"{name}_mask"].where(readable)
        table[f"has_{name}"] = paths.notna()
        if paths.notna().any():
            mask = images.load(source.root, paths, view, cache, originals, match_sizes=stack.sizes)
            if name == "lung" and 0 < (highest := mask.pixels.max()) <= 127:
                dark = f"The lung masks of {source.name} have no pixel above 127, which is what counts as lung"
                raise InputError(f"{dark}; their highest value is {highest}. Save them as 0 and 255.")
            bad |= {paths[row]: reason for row, reason in mask.problems.items()}
            table.loc[list(mask.problems), f"has_{name}"] = False
            seen[f"{name}s"] = mask.pixels > 127
    if bad and p.on_bad_image == "error":
        listed = "".join(f"  {path}: {reason}\n" for path, reason in bad.items())
        advice = "Repair or remove them, or set on_bad_image = skip to go on without them."
        raise InputError(f"{len(bad)} images and masks cannot be read:\n{listed}{advice}")
    if not readable.any():
        raise InputError(f"None of the {len(table)} images can be read; there is nothing to go on with.")
    if bad:
        notes.append(f"{len(bad)} images and masks could not be read and were left out: {'; '.join(bad)}.")
    if source.table["original_width"].isna().all():  # of every split: what is read decides nothing
        table[ORIGINAL] = pd.DataFrame(stack.sizes).astype("Int64")
    data = Dataset(source.name, source.root, table, view, fingerprint="", notes=tuple(notes), **seen)
    data = data if readable.all() else _taken(data, np.flatnonzero(readable))
    table = validation_split(data.table, p.seed) if data.table["split"].isin(FITTING).any() else data.table
    own = table["split"].isin(FITTING)
    fitting, rest = (_fingerprint(data.root, table[part], cache) for part in (own, ~own))
    return replace(data, table=table, fingerprint=fitting, test_fingerprint=rest)


def _taken(data: Dataset, rows: list[int] | np.ndarray) -> Dataset:
    """The images in ``rows``, in that order; one may come more than once."""
    lungs, marks = (None if masks is None else masks[rows] for masks in (data.lungs, data.artifacts))
    table, placements = data.table.iloc[rows].reset_index(drop=True), [data.placements[row] for row in rows]
    return replace(data, table=table, pixels=data.pixels[rows], placements=placements, lungs=lungs, artifacts=marks)


def _original_sizes(table: pd.DataFrame, notes: list[str]) -> np.ndarray:
    """(N, 2) image width and height, NaN throughout when the files are as they were taken.

    Where some sizes are known the files were squashed, and the few unknown ones get the median proportions of images
    for fitting (where there are none, of all), for the geometry alone: the table keeps <NA>.
    """
    sizes = table[ORIGINAL].astype(float).to_numpy()
    unknown = np.isnan(sizes).any(axis=1)
    if unknown.any() and not unknown.all():
        own = ~unknown & table["split"].isin(FITTING).to_numpy()
        sizes[unknown] = np.median(sizes[own if own.any() else ~unknown], axis=0)
        notes.append(f"{unknown.sum()} images have no known original size; they count as of median proportions.")
    return sizes


def _fingerprint(root: Path, table: pd.DataFrame, cache: Path) -> str:
    """Digest of images and masks, labels, splits, patients and sizes, whatever the order of the rows; "" of none."""
    if table.empty:
        return ""
    files = [[None if pd.isna(path) else root / path for path in table[name]] for name in FILES]
    texts = [table[name].astype(str) for name in ("label", "split", "patient", *ORIGINAL)]
    rows = sorted(zip(*(images.digests(part, cache) for part in files), *texts, strict=True))
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()


# ---- what a data set can be turned into


def plant(
    pixels: np.ndarray, table: pd.DataFrame, lungs: np.ndarray | None, p: DataParameters, rho: float
) -> Iterator[tuple[int, str, bool, np.ndarray, np.ndarray]]:
    """Whole images, one after the other, with an artifact that correlates with the label; nothing goes to disk.

    Training and validation images stay one each; every one of split ``test`` becomes four (`artifacts.test_sets`).

    Parameters
    ----------
    pixels : ndarray (N, S, S) uint8
    table
        With the columns label and split.
    lungs : ndarray (N, S, S) bool, optional
        Where an artifact inside goes.
    p
        Location, kinds, amplitude and share of the artifact, and the seed.
    rho
        Correlation of artifact and label in training, -1..1.

    Yields
    ------
    tuple
        Row that it was made from, split, whether it is marked, image (S, S) uint8, and mask (S, S) bool of the
        artifact (empty for a global one).

    Raises
    ------
    InputError
        For data that have one of those four test sets besides ``test`` already.
    """
    taken = ", ".join(sorted(set(table["split"]) & set(artifacts.test_sets(rho)) - {"test"}))
    if taken:
        why = f"These data have the test set {taken}, which planting an artifact would make from test"
        raise InputError(f"{why}: give artifact_rho for data with no test set but test.")
    kinds, nothing = p.kinds(), np.zeros(pixels.shape[1:], bool)
    for row, (label, split) in enumerate(zip(table["label"], table["split"], strict=True)):
        rng = np.random.default_rng(np.random.SeedSequence(p.seed, spawn_key=(row,)))
        seen = np.random.default_rng(np.random.SeedSequence(p.seed, spawn_key=(row, 1))).random()
        luck, kind = (rng.random(), seen), kinds[rng.integers(len(kinds))]
        plain, lung = pixels[row], nothing if lungs is None else lungs[row]
        painted, changed = artifacts.paint(plain, lung, p.artifact_location, kind, rng, p.artifact_amplitude)
        for name, correlation in (artifacts.test_sets(rho) if split == "test" else {split: rho}).items():
            marked = artifacts.marked(label, luck, correlation, p.artifact_share)
            yield row, name, marked, painted if marked else plain, changed if marked else nothing


def _with_artifact(data: Dataset, frames: Dataset, p: DataParameters, rho: float) -> Dataset:
    """Real images with an artifact planted in their original frames, the test split in four counterfactual versions.

    As in the phantom, ``table.artifact`` (0/1) says which images have it, and the mask of the others is empty. The mask
    holds every pixel that the artifact touches: elsewhere the four versions are the same. Images without a lung mask
    are left out where the artifact lies inside the lungs.
    """
    if p.artifact_location in ("inside", artifacts.BOTH):
        data, having = _having_lungs(data, frames.lungs, f"artifact_location is {p.artifact_location!r}")
        frames = _taken(frames, having)
    versions = []
    for row, split, marked, image, mask in plant(frames.pixels, data.table, frames.lungs, p, rho):
        canvases = (data.view.apply(one, data.placements[row]) for one in (image, mask * np.uint8(255)))
        versions.append((row, split, int(marked), *canvases))
    rows, splits, marks, seen, areas = (list(part) for part in zip(*versions, strict=True))
    data = replace(_taken(data, rows), pixels=np.stack(seen), artifacts=np.stack(areas) > 0)
    table = data.table.assign(split=splits, artifact=marks, has_artifact=True)
    share = f", to be seen in {p.artifact_share:.0%} of its images" if p.artifact_share < 1 else ""
    note = f"An artifact ({p.artifact_kinds}, {p.artifact_location}) was planted, ρ = {rho:g}{share}."
    return replace(data, table=table, notes=(*data.notes, note))


def _cut_to_lungs(data: Dataset, frames: Dataset) -> Dataset:
    """The box about each image's lungs, squashed; without a mask, the mean of the boxes of images for fitting."""
    if frames.lungs is None:
        raise InputError("crop_to is 'lungs', which needs lung masks, and these data have none.")
    boxes = np.array([geometry.box_about(lung, geometry.LUNG_MARGIN) for lung in frames.lungs])
    known = ~np.isnan(boxes).any(axis=1)
    own = known & frames.table["split"].isin(FITTING).to_numpy()
    mean = np.mean(boxes[own if own.any() else known], axis=0)
    boxes[~known] = np.round(mean * frames.view.size) / frames.view.size
    placements = [Placement(tuple(box), geometry.FRAME) for box in boxes.tolist()]

    def cut(whole: np.ndarray) -> np.ndarray:
        return np.stack([data.view.apply(*pair) for pair in zip(whole, placements, strict=True)])

    lungs, marks = (None if one is None else cut(one * np.uint8(255)) > 127 for one in (frames.lungs, frames.artifacts))
    return replace(data, pixels=cut(frames.pixels), lungs=lungs, artifacts=marks, placements=placements)


def _with_part(data: Dataset, p: DataParameters) -> Dataset:
    """Of every image only the part that ``keep`` names; images without a lung mask are left out where it needs one."""
    if p.keep in geometry.NEED_LUNGS:
        data, _ = _having_lungs(data, data.lungs, f"keep is {p.keep!r}")
    return replace(data, pixels=geometry.part_alone(data.pixels, p.keep, p.border, data.lungs, data.rows("train")))


def _having_lungs(data: Dataset, masks: np.ndarray | None, asked: str) -> tuple[Dataset, np.ndarray]:
    """The images that have a lung mask, of the others a note, and their rows; ``asked`` is what needs masks."""
    if masks is None:
        raise InputError(f"{asked}, which needs lung masks, and these data have none.")
    rows = np.flatnonzero(masks.any(axis=(1, 2)))
    having = _taken(data, rows)
    before, after = ({*zip(one.table["split"], one.table["label"], strict=True)} for one in (data, having))
    for split, label in sorted(before - after):
        lacking = f"no {split} image that is {list(CLASSES)[label]} has one"
        raise InputError(f"{asked}, which needs lung masks, but {lacking}.")
    if without := len(data.table) - len(rows):
        having = replace(having, notes=(*data.notes, f"{without} images without a lung mask were left out."))
    return having, rows


def _with_permuted_labels(data: Dataset, seed: int) -> Dataset:
    """Labels exchanged among the images of the training split, and among those of the validation split."""
    table, rng = data.table.copy(), np.random.default_rng(seed)
    for name in FITTING:
        rows = data.rows(name)
        table.loc[rows, "label"] = rng.permutation(table.loc[rows, "label"])
    return replace(data, table=table)
