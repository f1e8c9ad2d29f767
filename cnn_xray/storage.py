"""Where runs and caches live, and files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cnn_xray import InputError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}


def home() -> Path:
    """The project's folder: the nearest from the current one upwards whose pyproject.toml names cnn_xray.

    Where there is none (the module is installed elsewhere), the current folder.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), here)


def _is_project(folder: Path) -> bool:
    try:
        settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return settings.get("project", {}).get("name", "").replace("_", "-") == "cnn-xray"


def cache_folder() -> Path:
    """Where decoded images are kept: $CNN_XRAY_CACHE, or ``cache`` in the project's folder."""
    return Path(os.environ.get("CNN_XRAY_CACHE") or home() / "cache")


def resolve(path: str | Path) -> Path:
    """``path`` from the current folder if it exists there, else from the project's folder."""
    return Path.cwd() / path if Path(path).exists() else home() / path


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write into, which becomes ``path`` at the end of the block.

    Whatever goes wrong before that (an error, Ctrl-C, kill -9, a full disk) leaves ``path`` as it was. Raises
    `InputError` where the folder is read-only, full, or no folder.
    """
    path = Path(path)
    aside = _aside(path)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end of the block; raises as `atomic_write`.

    If ``path`` exists by then, it stays and ours is dropped; with ``replace``, ours takes its place.
    """
    path = Path(path)
    aside = _aside(path)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.mkdir()
            yield aside
            if replace:
                _swap(aside, path)
            else:
                _move_unless_there(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    """A name beside ``path`` that nobody takes for finished work, of this thread of this machine alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _move_unless_there(aside: Path, path: Path) -> None:
    try:
        aside.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _swap(aside: Path, path: Path) -> None:
    """Put ``aside`` in the place of ``path``; the old folder goes only after the new one is there."""
    old = _aside(path)
    try:
        path.rename(old)
    except FileNotFoundError:
        aside.rename(path)
        return
    try:
        aside.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the system's errors about writing ``path`` into sentences; those about other files pass."""
    try:
        yield
    except OSError as error:
        sentence = _sentence(error, path.absolute())
        if sentence is None:
            raise
        raise InputError(sentence) from error


def _sentence(error: OSError, path: Path) -> str | None:
    folder = path.parent
    if isinstance(error.filename, str | os.PathLike):
        file = Path(error.filename).absolute()
        if not file.is_relative_to(folder) and not folder.is_relative_to(file):
            return None
    # HDF5 reports a full disk in words alone
    full = next((code for code in FULL if code == error.errno or os.strerror(code) in str(error)), None)
    if full is not None:
        return f"Cannot write into {folder}: {FULL[full]}. Make room or choose another folder."
    if error.errno in READ_ONLY:
        return f"Cannot write into {folder}: it is read-only. Choose another folder."
    file_in_the_way = next((place for place in (path, *path.parents) if place.is_file()), None)
    if error.errno in NOT_A_FOLDER and file_in_the_way:
        return f"Cannot write into {folder}: {file_in_the_way} is a file. Choose another folder."
    return None
