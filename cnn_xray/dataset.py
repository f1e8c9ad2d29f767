"""Manifest, validation split, view, images and masks of one data set, aligned row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_xray import images, manifest, parts, phantom, planted, split
from cnn_xray.errors import InputError
from cnn_xray.parameters import PHANTOM, DataParameters
from cnn_xray.storage import cache_folder, resolve
from cnn_xray.view import Placement, View

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


def load(p: DataParameters, view: View | None = None, splits: Sequence[str] | None = None) -> Dataset:
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
    table = split.validation_split(table.iloc[kept].reset_index(drop=True), seed=p.seed)
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
    whole = load(as_they_are, View(0.0, "squash", max(FRAME_SIDE, data.view.size)), read)
    look = (p.artifact_location, p.kinds(), p.artifact_amplitude)
    rows, splits, marked, seen, changed = [], [], [], [], []
    for one in planted.plant(whole.pixels, data.table, whole.lungs, rho, *look, seed=p.seed):
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
    if p.keep in parts.NEED_LUNGS and data.lungs is not None:
        rows = np.flatnonzero(data.lungs.any(axis=(1, 2)))
        if len(rows) < len(data.table):
            notes = (*notes, f"{len(data.table) - len(rows)} films without a lung mask were left out.")
    table = data.table.iloc[rows].reset_index(drop=True)
    before, after = ({*zip(one["split"], one["label"], strict=True)} for one in (data.table, table))
    for split_name, label in sorted(before - after):
        which = f"{split_name} film that is {list(manifest.CLASSES)[label]}"
        raise InputError(f"keep is {p.keep!r}, which needs lung masks, but no {which} has one.")
    lungs = None if data.lungs is None else data.lungs[rows]
    train = np.flatnonzero(table["split"] == "train")
    return replace(
        data,
        table=table,
        pixels=parts.kept(data.pixels[rows], p.keep, p.ring, lungs, train),
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


def _source(p: DataParameters, cache: Path) -> manifest.Manifest:
    if p.data != PHANTOM:
        return manifest.read(resolve(p.data))
    folder = phantom.write(p.phantom_spec(), cache / "phantoms")
    return manifest.read(folder / "manifest.csv")


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
