"""Execute a notebook by papermill: parameters checked before a kernel starts, lines shown as they come.

A report: notebooks executed in order, rendered with an index and runs.csv, swapped in as one folder.

The HTML of a report: one page a notebook and an index, self-contained, printable, readable on a phone.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, TextIO

import pandas as pd

import cnn_xray
from cnn_xray import InputError, parameters
from cnn_xray.parameters import NOTEBOOKS, PHANTOM, DataParameters, unknown_name
from cnn_xray.report.words import HEADLINE, RUNS, table_html
from cnn_xray.runs import PACKAGES, Run, find_run, runs_table
from cnn_xray.storage import atomic_folder, home, resolve


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
        chapters = [_executed(one, f"[{i}/{len(plans)}] {one.name}", terminal) for i, one in enumerate(plans, 1)]
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


def _executed(todo: Plan, title: str, terminal: TextIO) -> Chapter:
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
    table = runs_table(runs) if runs else pd.DataFrame(columns=["run"])
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


def _runs(chapters: Sequence[Chapter], plans: Sequence[Plan]) -> list[Run]:
    places = {
        resolve(todo.parameters.runs) / run: None for one, todo in zip(chapters, plans, strict=True) for run in one.runs
    }
    found = [(place, find_run(place)) for place in places]
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


def _made_with(runs: Sequence[Run]) -> list[tuple[str, str]]:
    versions = {"Python": python_version()}
    for package in ("cnn-xray", *PACKAGES):
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


HERE = Path(__file__).parent
DISCLAIMER = "For research and teaching. Not a medical device: nothing here may be used to diagnose or treat anyone."


@dataclass(frozen=True)
class Chapter:
    """One executed notebook of a report: its name, first heading, headline figures and runs it used."""

    name: str
    title: str
    headlines: tuple[dict[str, str], ...]
    runs: tuple[str, ...]
    notebook: Any

    @property
    def file(self) -> str:
        """The page's file name in the report's folder."""
        return f"{self.name}.html"


def chapter(name: str, notebook: Any) -> Chapter:
    """What a report takes from an executed notebook (nbformat)."""
    headings = (
        line.removeprefix("# ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    )
    shown = [out.data for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    return Chapter(
        name,
        next(headings, name),
        tuple(_card(data[HEADLINE]) for data in shown if HEADLINE in data),
        tuple(dict.fromkeys(run for data in shown if RUNS in data for run in data[RUNS]["runs"])),
        notebook,
    )


def _card(headline: Mapping[str, str]) -> dict[str, str]:
    """A headline figure with its interval, if it ends in one, apart: 0.971 [0.958, 0.982]."""
    figure, bracket, interval = headline["value"].partition(" [")
    return {**headline, "figure": figure, "interval": bracket.strip() + interval}


def notebook_page(chapters: Sequence[Chapter], number: int, report: str) -> str:
    """The page of one chapter, with links to the others."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", template_file=str(HERE / "notebook.html.j2"))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    body, _ = exporter.from_notebook_node(chapters[number].notebook)
    links = [("Overview", "index.html")]
    links += [(other.name.replace("_", " "), other.file) for other in chapters]
    links[number + 1] = (links[number + 1][0], "")
    return _fill("page.html.j2", title=f"{chapters[number].title} · {report}", links=links, body=_safe(body))


def index_page(
    chapters: Sequence[Chapter],
    report: str,
    subject: str,
    runs: str,
    parameters: str,
    changed: Sequence[tuple[str, Any]],
    made_with: Sequence[tuple[str, str]],
) -> str:
    """The overview: headline figures by notebook, then the runs, the parameters and what it was made with.

    ``runs`` and ``parameters`` are HTML tables; everything else is plain text.
    """
    return _fill(
        "index.html.j2",
        title=f"{report} · cnn_xray",
        question=(cnn_xray.__doc__ or "").strip().replace("X-ray", "X\N{NON-BREAKING HYPHEN}ray"),
        links=[("Overview", ""), *((one.name.replace("_", " "), one.file) for one in chapters)],
        chapters=chapters,
        subject=subject,
        runs=_safe(runs),
        parameters=_safe(parameters),
        changed=changed,
        made_with=made_with,
    )


def _fill(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    css = _safe((HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=css, disclaimer=DISCLAIMER, **values)


def _safe(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)
