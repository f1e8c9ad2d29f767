"""Execute a notebook by papermill: parameters checked before a kernel starts, lines shown as they come."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cnn_xray import parameters
from cnn_xray.errors import InputError
from cnn_xray.parameters import NOTEBOOKS, PHANTOM, DataParameters
from cnn_xray.storage import resolve
from cnn_xray.strict import unknown_name


class NotebookError(RuntimeError):
    """A notebook failed for no fault of its user; ``details`` is its traceback."""

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Plan:
    """One notebook to execute: what to inject (``given``), and the parameters that follow from it."""

    name: str
    source: Any
    given: dict[str, Any]
    parameters: DataParameters


def parse_value(text: str) -> bool | int | float | str | None:
    """A value from the command line as papermill reads it; true, false and null in YAML's spelling too."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def plan(notebooks: Sequence[Path], given: Mapping[str, Any]) -> list[Plan]:
    """What to execute; every notebook gets those of the ``given`` parameters that it knows.

    Raises one `InputError` with a sentence for each name that no notebook knows, each impossible value,
    and a place without data.
    """
    sources = [(path.stem, _read(path)) for path in notebooks]
    classes = [_parameters_class(name, source) for name, source in sources]
    known = dict.fromkeys(name for cls in classes for name in cls.model_fields)
    problems = [unknown_name(name, known) for name in given if name not in known]
    plans = []
    for (name, source), cls in zip(sources, classes, strict=True):
        mine = {key: value for key, value in given.items() if key in cls.model_fields}
        try:
            checked = cls.from_mapping(mine)
        except InputError as error:
            problems += str(error).splitlines()
        else:
            plans.append(Plan(name, source, mine, checked.resolved()))
            if checked.data != PHANTOM and not resolve(checked.data).exists():
                place = "a chest_xray folder, a manifest CSV"
                problems.append(f"No data at {checked.data}: give {place}, or the word {PHANTOM}.")
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return plans


def _read(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"No notebook at {path}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a notebook: {str(error).splitlines()[0]}") from None


def _parameters_class(name: str, source: Any) -> type[DataParameters]:
    """The class a notebook reads its parameters with; a copy under another name keeps its class."""
    for cell in source.cells:
        found = re.search(r"\b(\w+)\.from_notebook\(", cell.source) if cell.cell_type == "code" else None
        cls = getattr(parameters, found[1], None) if found else NOTEBOOKS.get(name)
        if cls is not None:
            return cls
    raise InputError(f"The notebook {name} has no cell like p = TrainParameters.from_notebook().")


def execute(todo: Plan, terminal: TextIO) -> Any:
    """The executed notebook (nbformat), without papermill's timings and paths; ``terminal`` gets its stdout.

    It runs in the current folder, in a kernel of this very interpreter. Raises `InputError` with the
    notebook's own sentence, and `NotebookError` for every other failure.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError, strip_color

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else every kernel warns about its debugger
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # failures are told once, by us
    try:
        done = papermill.execute_notebook(
            todo.source,
            None,
            parameters=todo.given,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=terminal,
            kernel_manager_class=_own_kernel(),
            extra_arguments=["--IPKernelApp.log_level=50"],
            coalesce_streams=True,
        )
    except PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(f"{todo.name}: {error.evalue}") from None
        sentence = f"{todo.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
        raise NotebookError(sentence, strip_color("\n".join(error.traceback))) from None
    except DeadKernelError as error:
        raise NotebookError(f"The kernel of {todo.name} died; most often memory ran out.", str(error)) from None
    _tidy(done)
    return done


def _own_kernel() -> Any:
    """A kernel manager that starts this interpreter, whatever kernels named python3 are installed elsewhere."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class OwnKernel(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _no_folders(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])  # leaves ipykernel's own, which is sys.executable

    return OwnKernel


def _tidy(notebook: Any) -> None:
    """Remove what differs from one execution to the next: timings, paths, random cell ids, versions."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
