"""Decode every image once into a memory-mapped uint8 cache, and name every file that cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import ExifTags, Image, ImageOps

from cnn_xray import InputError
from cnn_xray.geometry import FRAME, Placement, View
from cnn_xray.storage import atomic_folder, atomic_write

FORMAT = 3  # of the cache; a change here makes every cached array anew
MIN_SIDE = 16  # px; less is no radiograph
MAX_PIXELS = 80_000_000  # decoded at one byte each, two threads at a time
DARKEST = 65_535 // 16  # highest value of a 16-bit image that is taken for one of 12 bits
UNREADABLE = "unreadable"  # the digest of a file that is there and cannot be opened
Sizes = np.ndarray | None


class UnreadableError(Exception):
    """One file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Stack:
    """Images of one view, in the order of the paths they were asked for.

    ``pixels`` (N, size, size) uint8, memory-mapped; ``placements`` N; ``sizes`` (N, 2) int width and height of each
    file in px; ``problems`` maps the row of each unreadable file to the reason (its pixels are all zero), in order.
    """

    pixels: np.ndarray
    placements: list[Placement]
    sizes: np.ndarray
    problems: dict[int, str]


def load(
    root: Path, paths: pd.Series, view: View, cache: Path, original_sizes: Sizes = None, match_sizes: Sizes = None
) -> Stack:
    """The images of some files in one view, from the cache when their content was decoded before.

    Parameters
    ----------
    root
        The folder of the paths.
    paths
        N; a missing one (<NA>) gives zeros.
    view
        What is cut, and to what size.
    cache
        The folder of all caches.
    original_sizes : ndarray (N, 2) float, optional
        Width and height of the images before the files were squashed, px; NaN: as the file.
    match_sizes : ndarray (N, 2) int, optional
        The size every file must have, for masks.
    """
    files = [None if pd.isna(path) else root / path for path in paths]
    key = hashlib.blake2b(repr((FORMAT, astuple(view), digests(files, cache))).encode(), digest_size=12)
    for array in (original_sizes, match_sizes):
        key.update(b"-" if array is None else np.asarray(array, float).tobytes())
    place = cache / "images" / key.hexdigest()
    if not place.is_dir():
        if len(files) > 1000:
            print(f"decoding {len(files):,} files at {view.size} px (once) …", flush=True)
        _decode_all(files, view, place, original_sizes, match_sizes)
    geometry = np.load(place / "geometry.npy")
    placements = [Placement(tuple(row[:4]), tuple(row[4:8])) for row in geometry.tolist()]
    problems = {int(row): reason for row, reason in json.loads((place / "problems.json").read_text()).items()}
    pixels = np.load(place / "pixels.npy", mmap_mode="r")
    return Stack(pixels, placements, geometry[:, 8:].astype(int), dict(sorted(problems.items())))


def digests(files: Sequence[Path | None], cache: Path) -> list[str]:
    """Content digests of files, remembered by path, size and time of change.

    Parameters
    ----------
    files
        "absent" is the digest of a missing file, "none" that of None.
    cache
        The folder of all caches.
    """
    memory, known = cache / "digests.json", {"absent": "absent", "none": "none"}
    with suppress(OSError, ValueError):
        remembered = json.loads(memory.read_text()).items()
        known |= {state: digest for state, digest in remembered if digest != UNREADABLE}  # it may have been mended
    states = ["none" if file is None else _state(file) for file in files]
    fresh = {state: file for state, file in zip(states, files, strict=True) if file and state not in known}
    if fresh:
        found = Parallel(n_jobs=2, prefer="threads")(delayed(_digest)(file) for file in fresh.values())
        known.update(zip(fresh, found, strict=True))
        with atomic_write(memory) as handle:
            handle.write(json.dumps(known).encode())
    return [known[state] for state in states]


def _state(file: Path) -> str:
    """Path, size and time of change; "absent" for a missing file."""
    with suppress(OSError):
        stat = file.stat()
        return f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
    return "absent"


def _digest(file: Path) -> str:
    with suppress(OSError):  # a folder, or no permission: decoding says which
        return hashlib.blake2b(file.read_bytes(), digest_size=12).hexdigest()
    return UNREADABLE


def _decode_all(files: list[Path | None], view: View, place: Path, originals: Sizes, must_be: Sizes) -> None:
    pixels = np.zeros((len(files), view.size, view.size), np.uint8)
    geometry = np.tile(np.array([*FRAME, *FRAME, 0, 0]), (len(files), 1))
    problems: dict[int, str] = {}

    def one(i: int, file: Path) -> None:
        try:
            decoded, size = decode(file, view.size)
            if must_be is not None and size != tuple(must_be[i]):
                raise UnreadableError(f"the mask has {size[0]}×{size[1]} px, its image {must_be[i][0]}×{must_be[i][1]}")
            original = size if originals is None or np.isnan(originals[i]).any() else tuple(originals[i])
            placement = view.place(decoded.shape[::-1], original)
            pixels[i] = view.apply(decoded, placement)
            geometry[i] = (*placement.window, *placement.target, *size)
        except UnreadableError as reason:
            problems[i] = str(reason)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; ours are in `problems`
        Parallel(n_jobs=2, prefer="threads")(delayed(one)(i, file) for i, file in enumerate(files) if file is not None)
    with atomic_folder(place) as folder:
        for name, array in (("pixels.npy", pixels), ("geometry.npy", geometry)):
            with open(folder / name, "wb") as handle:  # written in sequence: a full disk is an error, not a crash
                np.save(handle, array)
        (folder / "problems.json").write_text(json.dumps(problems))


def decode(file: Path, wanted: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Grey values of a file, and its own size.

    A JPEG much larger than ``wanted`` is decoded at a half, a quarter or an eighth. 16-bit values are scaled from
    their full range, and refused where they use a sixteenth of it, as 12-bit values do; colour becomes luminance;
    transparency is shown on black.

    Parameters
    ----------
    file
        Of any format that Pillow reads.
    wanted
        Side of the canvas that it is decoded for, px.

    Returns
    -------
    pixels : ndarray (H, W) uint8
        Upright, as its EXIF orientation says.
    size : tuple of int
        Width and height of the file, upright, px.

    Raises
    ------
    UnreadableError
        With the reason.
    InputError
        For a file that the system does not give away: no permission, too many open files.
    """
    try:
        with Image.open(file) as image:
            width, height = size = image.size
            if min(size) < MIN_SIDE:
                raise UnreadableError(f"{width}×{height} px is too small for a radiograph (at least {MIN_SIDE} a side)")
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            shrink = 3 * wanted / min(size)  # three canvas sides: room for any crop up to a third of the side
            if image.format == "JPEG" and image.mode in ("L", "RGB") and shrink < 1:
                image.draft("L", (math.ceil(width * shrink), math.ceil(height * shrink)))
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4  # by a quarter
            return _grey(ImageOps.exif_transpose(image)), size[::-1] if turned else size
    except (UnreadableError, MemoryError):  # too little memory says nothing of the file
        raise
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except Exception as problem:  # Pillow raises many kinds for a damaged file; each is one unreadable file here
        said = str(problem).replace(str(file), file.name).replace(repr(str(file)), file.name)
        reason = f"not a readable image ({said})"
        if isinstance(problem, OSError) and problem.strerror:  # no such file, a folder, no permission
            if not isinstance(problem, FileNotFoundError | IsADirectoryError):  # may pass, and is not remembered
                raise InputError(f"{file} cannot be read now: {problem.strerror.lower()}.") from None
            reason = problem.strerror.lower()
        elif not file.stat().st_size:
            reason = "the file is empty"
        raise UnreadableError(reason) from None


def _grey(image: Image.Image) -> np.ndarray:
    """Grey values (H, W) uint8 of an image of any mode."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("grey values outside 16 bits")
        if 0 < values.max() <= DARKEST:
            raise UnreadableError(f"grey values up to {values.max():,} of 65,535: scale them to the full range")
        return np.round(values / 257).astype(np.uint8)
    if image.mode == "F":
        raise UnreadableError("floating-point grey values have no known range")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        shown = np.asarray(image.convert("RGB").convert("L"), float) * np.asarray(image)[..., 3] / 255
        return np.round(shown).astype(np.uint8)
    return np.asarray((image.convert("RGB") if image.mode == "CMYK" else image).convert("L"))
