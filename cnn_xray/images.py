"""Decode every image once into a memory-mapped uint8 cache, and name every file that cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image

from cnn_xray import InputError
from cnn_xray.geometry import Placement, View
from cnn_xray.storage import atomic_folder, atomic_write

FORMAT = 1  # of the cache; a change here makes every cached array anew
MIN_SIDE = 16  # px; less is no film
MAX_PIXELS = 80_000_000  # decoded at one byte each, two threads at a time


@dataclass(frozen=True)
class Stack:
    """Images of one view, in the order of the paths they were asked for.

    ``pixels`` (N, size, size) uint8, memory-mapped; ``placements`` N; ``sizes`` (N, 2) int width and height of each
    file in px; ``problems`` maps the row of each unreadable file to the reason (its pixels are all zero).
    """

    pixels: np.ndarray
    placements: list[Placement]
    sizes: np.ndarray
    problems: dict[int, str]


class UnreadableError(Exception):
    """One file cannot be used; the message is the reason."""


def digests(files: list[Path], cache: Path) -> list[str]:
    """Content digest of every file ("absent" for a missing one), remembered by path, size and time of change."""
    memory = cache / "digests.json"
    try:
        known: dict[str, str] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}

    def keyed(file: Path) -> str | None:
        try:
            stat = file.stat()
        except OSError:
            return None
        return f"{file}|{stat.st_size}|{stat.st_mtime_ns}"

    keys = [keyed(file.absolute()) for file in files]
    fresh = [i for i, key in enumerate(keys) if key is not None and key not in known]
    if fresh:
        found = Parallel(n_jobs=2, prefer="threads")(delayed(_digest)(files[i]) for i in fresh)
        known.update({str(keys[i]): digest for i, digest in zip(fresh, found, strict=True)})
        with atomic_write(memory) as handle:
            handle.write(json.dumps(known).encode())
    return ["absent" if key is None else known[key] for key in keys]


def _digest(file: Path) -> str:
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=12).hexdigest()
    except OSError:  # a folder, or no permission: decoding says which
        return "unreadable"


def load(
    root: Path,
    paths: pd.Series,
    view: View,
    cache: Path,
    original_sizes: np.ndarray | None = None,
    match_sizes: np.ndarray | None = None,
) -> Stack:
    """The files ``root/paths`` in one view, from the cache when their content was decoded before.

    ``original_sizes`` (N, 2) float: width and height of the film before the file was squashed (NaN: as the file).
    ``match_sizes`` (N, 2): the size every file must have, for masks. A missing path (<NA>) gives zeros.
    """
    files = [None if pd.isna(path) else root / path for path in paths]
    present = [file for file in files if file is not None]
    marks = iter(digests(present, cache))
    content = ["none" if file is None else next(marks) for file in files]
    key = _key(view, content, original_sizes, match_sizes)
    place = cache / "images" / key
    if not place.is_dir():
        if len(files) > 1000:
            print(f"decoding {len(present):,} files at {view.size} px (once) …", flush=True)
        _decode_all(files, view, place, original_sizes, match_sizes)
    geometry = np.load(place / "geometry.npy")
    placements = [Placement(tuple(row[:4]), tuple(row[4:8])) for row in geometry.tolist()]
    problems = {int(row): reason for row, reason in json.loads((place / "problems.json").read_text()).items()}
    return Stack(np.load(place / "pixels.npy", mmap_mode="r"), placements, geometry[:, 8:].astype(int), problems)


def _key(view: View, content: list[str], *sizes: np.ndarray | None) -> str:
    whole = hashlib.blake2b(repr((FORMAT, astuple(view), content)).encode(), digest_size=12)
    for array in sizes:
        whole.update(b"-" if array is None else np.asarray(array, float).tobytes())
    return whole.hexdigest()


def _decode_all(
    files: list[Path | None],
    view: View,
    place: Path,
    original_sizes: np.ndarray | None,
    match_sizes: np.ndarray | None,
) -> None:
    pixels = np.zeros((len(files), view.size, view.size), np.uint8)
    geometry = np.zeros((len(files), 10))
    problems: dict[int, str] = {}

    def one(i: int, file: Path | None) -> None:
        if file is None:
            geometry[i] = (0, 0, 1, 1, 0, 0, 1, 1, 0, 0)
            return
        original = None if original_sizes is None or np.isnan(original_sizes[i]).any() else original_sizes[i]
        must_be = None if match_sizes is None else (int(match_sizes[i][0]), int(match_sizes[i][1]))
        try:
            decoded, size = decode(file, view.size, must_be)
            placement = view.place((decoded.shape[1], decoded.shape[0]), size if original is None else tuple(original))
            pixels[i] = view.apply(decoded, placement)
            geometry[i] = (*placement.window, *placement.target, *size)
        except UnreadableError as reason:
            problems[i] = str(reason)
            geometry[i] = (0, 0, 1, 1, 0, 0, 1, 1, 0, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; ours are in `problems`
        Parallel(n_jobs=2, prefer="threads")(delayed(one)(i, file) for i, file in enumerate(files))
    with atomic_folder(place) as folder:
        for name, array in (("pixels.npy", pixels), ("geometry.npy", geometry)):
            with open(folder / name, "wb") as handle:  # written in sequence: a full disk is an error, not a crash
                np.save(handle, array)
        (folder / "problems.json").write_text(json.dumps(problems))


def decode(file: Path, wanted: int, must_be: tuple[int, int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Grey values (H, W) uint8 of a file, and its own size (width, height) in px.

    A JPEG much larger than ``wanted`` px is decoded at a half, a quarter or an eighth. 16-bit values are scaled from
    their full range; colour becomes luminance; transparency is shown on black. Raises
    `UnreadableError` with the reason.
    """
    try:
        with Image.open(file) as image:
            size = image.size
            _check_size(size, must_be)
            shrink = 3 * wanted / min(size)  # three canvas sides: room for any crop up to a third of the side
            if image.format == "JPEG" and image.mode in ("L", "RGB") and shrink < 1:
                image.draft("L", (math.ceil(size[0] * shrink), math.ceil(size[1] * shrink)))
            image.load()
            return _grey(image), size
    except UnreadableError:
        raise
    except FileNotFoundError:
        raise UnreadableError("no such file") from None
    except (IsADirectoryError, PermissionError) as problem:
        raise UnreadableError("a folder" if isinstance(problem, IsADirectoryError) else "no permission") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except Exception as problem:  # Pillow raises many kinds for a damaged file; each is one unreadable file here
        reason = str(problem).replace(str(file), file.name).replace(repr(str(file)), file.name)
        empty = file.is_file() and file.stat().st_size == 0
        raise UnreadableError("the file is empty" if empty else f"not a readable image ({reason})") from None


def _check_size(size: tuple[int, int], must_be: tuple[int, int] | None) -> None:
    if min(size) < MIN_SIDE:
        raise UnreadableError(f"{size[0]}×{size[1]} px is too small for a film (at least {MIN_SIDE} px a side)")
    if size[0] * size[1] > MAX_PIXELS:
        raise UnreadableError(f"{size[0]}×{size[1]} px is more than {MAX_PIXELS // 1_000_000} megapixels")
    if must_be is not None and size != must_be:
        raise UnreadableError(f"the mask has {size[0]}×{size[1]} px, its image {must_be[0]}×{must_be[1]}")


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("grey values outside 16 bits")
        return np.round(values / 257).astype(np.uint8)
    if image.mode == "F":
        raise UnreadableError("floating-point grey values have no known range")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        shown = np.asarray(image.convert("RGB").convert("L"), float) * np.asarray(image)[..., 3] / 255
        return np.round(shown).astype(np.uint8)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def refuse(problems: dict[str, str], what: str) -> None:
    """Raise one `InputError` that lists every path in ``problems`` with its reason."""
    listed = "\n".join(f"  {path}: {reason}" for path, reason in problems.items())
    raise InputError(
        f"{len(problems)} {what} cannot be read:\n{listed}\n"
        "Repair or remove them, or set on_bad_image = skip to go on without them."
    )
