"""Where runs and cache lie; files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cnn_xray import InputError

REASONS = {
    errno.ENOSPC: "the disk is full. Make room or choose another folder.",
    errno.EDQUOT: "the disk quota is used up. Make room or choose another folder.",
    errno.EFBIG: "the file would be larger than this system allows. Make room or choose another folder.",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "it is read-only. Choose another folder."),
}


def home() -> Path:
    """The project's folder: the nearest from the current one upwards that holds the module ``cnn_xray``.

    Where there is none (the module is installed elsewhere), the current folder.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "cnn_xray" / "__init__.py").is_file()), here)


def cache_folder() -> Path:
    """Where decoded images are kept: $CNN_XRAY_CACHE, or ``cache`` in the project's folder."""
    return Path(os.environ.get("CNN_XRAY_CACHE") or home() / "cache")


def resolve(path: str | Path) -> Path:
    """``path`` from the current folder if it exists there, else from the project's folder.

    Parameters
    ----------
    path
        Relative or absolute.
    """
    return Path.cwd() / path if Path(path).exists() else home() / path


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write into, which becomes ``path`` at the end of the block.

    Whatever goes wrong before that (an error, Ctrl-C, kill -9, a full disk) leaves ``path`` as it was.

    Parameters
    ----------
    path
        The file; its folder is made where there is none.

    Raises
    ------
    InputError
        Where the folder is read-only, full, or no folder.
    """
    with _unfinished(path) as aside:
        with open(aside, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end of the block.

    Parameters
    ----------
    path
        The folder. If it exists by then, it stays and ours is dropped.
    replace
        Ours takes its place.

    Raises
    ------
    InputError
        As `atomic_write` does.
    """
    with _unfinished(path) as aside:
        aside.mkdir()
        yield aside
        try:
            _exchange(aside, path) if replace else aside.rename(path)
        except OSError:
            if replace or not path.is_dir():  # else another process was faster
                raise


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for what is not finished, of which nothing is left at the end of the block.

    The system's errors about writing ``path`` become sentences; those about other files pass.
    """
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_leftovers(path.parent)
        try:
            yield aside
        finally:
            _remove(aside)
    except OSError as error:
        reason = _reason(error, path.absolute())
        if not reason:
            raise
        raise InputError(f"Cannot write into {path.absolute().parent}: {reason}") from error


def _aside(path: Path, ending: str = "tmp") -> Path:
    """A name beside ``path`` that nobody takes for finished work, of this thread of this machine alone."""
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.{ending}")


def _machine() -> str:
    return socket.gethostname().replace(".", "-")


def _sweep_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine had begun to write into a folder, and bring back what they moved."""
    for aside in [*folder.glob(f".*.{_machine()}.*.tmp"), *folder.glob(f".*.{_machine()}.*.old")]:
        name, _, process, _, ending = aside.name.rsplit(".", 4)
        place = aside.with_name(name[1:])
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            with suppress(OSError):  # another process was faster
                aside.rename(place) if ending == "old" and not place.exists() else _remove(aside)
        except OSError:
            pass  # it is alive, and somebody else's


def _remove(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)


def _exchange(aside: Path, path: Path) -> None:
    """Put ``aside`` in the place of ``path``; the old folder goes only after the new one is there."""
    old = _aside(path, "old")
    with suppress(FileNotFoundError):
        path.rename(old)
    try:
        aside.rename(path)
    except BaseException as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOTEMPTY:  # another process put its own there
            _remove(old)
            return _exchange(aside, path)
        if old.exists():
            old.rename(path)
        raise
    _remove(old)


def _reason(error: OSError, path: Path) -> str:
    if isinstance(error.filename, str | os.PathLike):
        file, folder = Path(error.filename).absolute(), path.parent
        if not file.is_relative_to(folder) and not folder.is_relative_to(file):
            return ""
    for code, reason in REASONS.items():
        if code == error.errno or os.strerror(code) in str(error):  # HDF5 tells a full disk in words alone
            return reason
    in_the_way = [place for place in (path, *path.parents) if place.is_file()]
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and in_the_way:
        return f"{in_the_way[0]} is a file. Choose another folder."
    return ""
