"""A report: notebooks executed in order, rendered with an index and runs.csv, swapped in as one folder."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, TextIO

import pandas as pd

from cnn_xray import records
from cnn_xray.errors import InputError
from cnn_xray.execution import Plan, execute, plan
from cnn_xray.narrate import table_html
from cnn_xray.page import Chapter, chapter, index_page, notebook_page
from cnn_xray.parameters import PHANTOM
from cnn_xray.storage import atomic_folder, home, resolve

LARGEST = 2_000_000  # bytes of one executed notebook or page
SHOWN = ("test_auc", "test_accuracy", "conflict_auc", "val_auc")  # of a run, on the index


def build(given: Mapping[str, Any], name: str, out: Path, only: Sequence[str], terminal: TextIO) -> Path:
    """Make the report ``out``/``name`` from the project's notebooks and return its index.html.

    ``given`` are parameters for those notebooks that know them; ``only`` picks notebooks by how their names
    begin (all if empty). The folder appears, or takes the place of an older one, when everything in it is
    finished. Raises `InputError` and `execution.NotebookError`.
    """
    name = name or default_name(str(given.get("data", PHANTOM)))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"The report's name is {name!r}; use letters, digits, dots, dashes and underscores.")
    plans = plan(chosen_notebooks(only), given)
    begun = time.perf_counter()
    with atomic_folder(out / name, replace=True) as folder:
        chapters = [_execute(one, f"[{i}/{len(plans)}] {one.name}", terminal) for i, one in enumerate(plans, 1)]
        _write(folder, chapters, plans, name)
        too_large = [file for file in sorted(folder.iterdir()) if file.stat().st_size > LARGEST]
    for file in too_large:
        print(f"warning: {out / name / file.name} is larger than {LARGEST / 1e6:g} MB", file=terminal)
    print(f"{out / name / 'index.html'} ({time.perf_counter() - begun:.0f} s)", file=terminal, flush=True)
    return out / name / "index.html"


def default_name(data: str) -> str:
    """A report's name: the phantom's, the data folder's, or the CSV's (its folder's for a manifest.csv)."""
    if data == PHANTOM:
        return PHANTOM
    place = resolve(data).resolve()
    place = place.parent if place.name == "manifest.csv" else place
    return re.sub(r"[^\w.-]+", "-", place.stem if place.is_file() else place.name).strip("-.")


def chosen_notebooks(only: Sequence[str]) -> list[Path]:
    """The project's notebooks in order, or those whose names begin with one of ``only``."""
    every = sorted(resolve("notebooks").glob("[0-9]*.ipynb"))
    if not every:
        raise InputError(f"There are no notebooks in {resolve('notebooks')}; work in the project's folder, {home()}.")
    for start in only:
        if not start or not any(path.name.startswith(start) for path in every):
            names = ", ".join(path.stem for path in every)
            raise InputError(f"No notebook's name begins with {start!r}; there are {names}.")
    return [path for path in every if not only or path.name.startswith(tuple(only))]


def _execute(todo: Plan, title: str, terminal: TextIO) -> Chapter:
    print(f"{title} …", file=terminal, flush=True)
    begun = time.perf_counter()
    notebook = execute(todo, terminal)
    for cell in notebook.cells:  # warnings name folders of this machine
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    print(f"{title}: {time.perf_counter() - begun:.0f} s", file=terminal, flush=True)
    return chapter(todo.name, notebook)


def _write(folder: Path, chapters: Sequence[Chapter], plans: Sequence[Plan], name: str) -> None:
    import nbformat

    for number, one in enumerate(chapters):
        nbformat.write(one.notebook, folder / f"{one.name}.ipynb")
        (folder / one.file).write_text(notebook_page(chapters, number, name), encoding="utf-8")
    runs = _runs(chapters, plans)
    table = records.table(runs) if runs else pd.DataFrame(columns=["run"])
    table.to_csv(folder / "runs.csv", index=False)
    shown = table[["run", *(column for column in SHOWN if column in table)]] if runs else table
    data = plans[0].parameters.data
    page = index_page(
        chapters,
        report=name,
        subject=f"the built-in {PHANTOM}" if data == PHANTOM else "chest X-rays",
        runs=table_html(shown) if runs else "",
        parameters=_parameters(plans),
        changed=_changed(plans),
        made_with=_made_with(runs),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _runs(chapters: Sequence[Chapter], plans: Sequence[Plan]) -> list[records.Run]:
    places = {
        resolve(todo.parameters.runs) / run: None for one, todo in zip(chapters, plans, strict=True) for run in one.runs
    }
    found = [(place, records.find(place)) for place in places]
    lost = [str(place) for place, run in found if run is None]
    if lost:
        raise InputError(f"A notebook used a run whose record is not there: {', '.join(lost)}.")
    return [run for _, run in found if run is not None]


def _changed(plans: Sequence[Plan]) -> list[tuple[str, Any]]:
    """The given parameters that differ from their defaults, by name."""
    return list(
        {
            name: value
            for todo in plans
            for name, value in todo.given.items()
            if value != type(todo.parameters).model_fields[name].default
        }.items()
    )


def _parameters(plans: Sequence[Plan]) -> str:
    """Every parameter of the report, once; notebooks share the values of those they have in common."""
    rows = {
        name: (name, str(getattr(todo.parameters, name)), field.description)
        for todo in plans
        for name, field in type(todo.parameters).model_fields.items()
    }
    return table_html(pd.DataFrame(list(rows.values()), columns=["parameter", "value", "meaning"]))


def _made_with(runs: Sequence[records.Run]) -> list[tuple[str, str]]:
    versions = {"Python": python_version()}
    for package in ("cnn-xray", *records.PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    made = [("versions", ", ".join(f"{package} {number}" for package, number in versions.items()))]
    for key, words in (
        ("device", "trained on"),
        ("git_commit", "code at commit"),
        ("data_fingerprint", "data"),
    ):
        values = dict.fromkeys(str(run.record[key]) for run in runs if key in run.record)
        if values:
            made.append((words, ", ".join(values)))
    return made
