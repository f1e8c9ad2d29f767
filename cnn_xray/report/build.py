"""Notebooks → a report: parameters checked, executed by papermill, rendered with an index, swapped in as one folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from typing import Any, TextIO

import nbformat
import pandas as pd
import yaml
from markupsafe import Markup, escape

from cnn_xray import InputError, __version__, parameters
from cnn_xray.data import name_of
from cnn_xray.parameters import NOTEBOOKS, PHANTOM, DataParameters, LessonParameters, ReduceParameters, unknown_name
from cnn_xray.report.words import HEADLINE, PAGE, RUNS, WIDGET, table_html, thumbnail
from cnn_xray.runs import Run, find_run, package_versions, runs_table
from cnn_xray.storage import atomic_folder, home, resolve

TEMPLATES = Path(__file__).parent
STUDY = ReduceParameters.model_fields["study"].default  # folder of the sweeps' tables
CLASS = "class"  # folder of the lesson's notebooks, beside the others
LARGEST = 2_000_000  # bytes of one executed notebook or page
KEPT = ("tags", "slideshow", "nbgrader")  # of a cell's metadata
HEADING = r'<h2 id="([^"]+)">(.+?)<a class="anchor-link"'  # of a section: its id and text
QUICK = {"n_seeds": 1, "n_judged": 1, "probe_repeats": 1, "probe_parts": "few", "twin": False}  # each network once
SHOWN = ("test_auc", "test_accuracy", "conflict_auc", "val_auc")  # of a run, on the index


class NotebookError(RuntimeError):
    """A notebook failed for no fault of its user.

    Parameters
    ----------
    message
        A sentence that says how.
    details
        Its traceback.
    """

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


@dataclass(frozen=True)
class Chapter:
    """One executed notebook of a report."""

    plan: Plan
    notebook: Any

    @property
    def file(self) -> str:
        """Name of its page."""
        return f"{self.plan.name}.html"

    @property
    def command(self) -> str:
        """What makes this page's notebook."""
        given = [part for name, value in self.plan.given.items() for part in ("-p", name, str(value))]
        folder = f"notebooks/{CLASS}" if isinstance(self.plan.parameters, LessonParameters) else "notebooks"
        return shlex.join(["cnn-xray", "run", f"{folder}/{self.plan.name}.ipynb", *given])

    @property
    def title(self) -> str:
        """Its first heading, or its name."""
        heading = re.search(r"^# (.+)$", "\n\n".join(self._texts), re.MULTILINE)
        return heading[1].strip() if heading else self.plan.name

    @property
    def lead(self) -> str:
        """The first sentence of its text, without marks of emphasis."""
        found = re.search(r"^(?![#\s])(.+?[.?!])(?=\s|$)", "\n\n".join(self._texts), re.MULTILINE | re.DOTALL)
        return " ".join(re.sub("[*`]", "", found[1]).split()) if found else ""

    @property
    def minutes(self) -> int:
        """How long its text takes to read, at 200 words a minute."""
        words = " ".join([*self._texts, *self._published("text/markdown")]).split()
        return -(-len(words) // 200)

    @property
    def thumbnail(self) -> str:
        """Its first figure, small, as the source of an image; empty where there is none."""
        figures = [data for one in self._outputs for kind, data in one.get("data", {}).items() if "image/" in kind]
        return thumbnail(figures[0]) if figures else ""

    @property
    def headlines(self) -> list[dict[str, str]]:
        """Its headline figures (`words.headline`)."""
        return self._published(HEADLINE)

    @property
    def pictures(self) -> list[dict[str, str]]:
        """Figures and things to play with that the index shows as well: their role and alt text, and data or HTML."""
        every = [(kind, about, one) for one in self._outputs for kind, about in one.get("metadata", {}).items()]
        return [about | {"kind": kind, "data": one.data[kind]} for kind, about, one in every if about.get("role")]

    @property
    def runs(self) -> list[Path]:
        """Folders of the run records it used (`words.uses_runs`)."""
        folder = resolve(self.plan.parameters.runs)
        return [folder / run for published in self._published(RUNS) for run in published["runs"]]

    @property
    def pages(self) -> list[dict[str, str]]:
        """What has a page of its own (`words.play`): its name, title and html."""
        return self._published(PAGE)

    @property
    def _texts(self) -> list[str]:
        return [cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"]

    @property
    def _outputs(self) -> list[Any]:
        return [output for cell in self.notebook.cells for output in cell.get("outputs", ())]

    def _published(self, kind: str) -> list[Any]:
        return [output.data[kind] for output in self._outputs if kind in output.get("data", ())]


def plan(notebooks: Iterable[Path], given: Mapping[str, Any], usual: Mapping[str, Any]) -> list[Plan]:
    """What to execute: each notebook with those of the given parameters that it knows.

    Parameters
    ----------
    notebooks
        Files.
    given
        Values of parameters by name.
    usual
        Values that stand for the defaults.

    Raises
    ------
    InputError
        With a sentence for each name that no notebook knows, each impossible value, and a place without data.
    """
    sources = [(path.stem, _read(path)) for path in notebooks]
    classes = [_parameters_class(name, source) for name, source in sources]
    known = dict.fromkeys(name for cls in classes for name in cls.model_fields)
    problems = [unknown_name(name, known) for name in given if name not in known]
    plans = []
    for (name, source), cls in zip(sources, classes, strict=True):
        mine = {key: value for key, value in {**usual, **given}.items() if key in cls.model_fields}
        try:
            p = cls.from_mapping(mine).resolved()
        except InputError as error:
            problems += str(error).splitlines()
            continue
        plans.append(Plan(name, source, mine, p))
        if p.data != PHANTOM and not resolve(p.data).exists():
            problems.append(f"No data at {p.data}: give a chest_xray folder, a manifest CSV, or the word {PHANTOM}.")
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return plans


def _read(path: Path) -> Any:
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"No notebook at {path}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a notebook: {str(error).splitlines()[0]}") from None


def _parameters_class(name: str, source: Any) -> type[DataParameters]:
    """The class a notebook reads its parameters with; a copy under another name keeps its class."""
    code = "\n".join(cell.source for cell in source.cells if cell.cell_type == "code")
    found = re.search(r"\b(\w+)\.from_notebook\(", code)
    cls = getattr(parameters, found[1], None) if found else NOTEBOOKS.get(name)
    if cls is None:
        raise InputError(f"The notebook {name} has no cell like p = TrainParameters.from_notebook().")
    return cls


def execute(todo: Plan, terminal: TextIO, failed: Path) -> Any:
    """The executed notebook, as nbformat reads it, without papermill's timings and paths.

    It runs in the current folder, in a kernel of this very interpreter.

    Parameters
    ----------
    todo
        The notebook and its parameters.
    terminal
        Gets what the notebook prints, as it comes.
    failed
        Keeps the notebook as far as it has come, with the error marked; removed at the end if there is none.

    Raises
    ------
    InputError
        With the notebook's own sentence.
    NotebookError
        For every other failure.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError, strip_color

    failed.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else every kernel warns about its debugger
    for talker in ("papermill", "asyncio"):  # failures are told once, by us
        logging.getLogger(talker).addHandler(logging.NullHandler())
    try:
        done = papermill.execute_notebook(
            todo.source,
            str(failed),
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
    failed.unlink()
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
        cell.metadata = {name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)}


def build(
    given: Mapping[str, Any], name: str, out: Path, only: Sequence[str], terminal: TextIO, quick: bool = False
) -> Path:
    """Make a report from the project's notebooks and return its index.html.

    Its folder appears, or takes the place of an older one, when everything in it is finished. What was finished before
    a failure is rendered into a folder of its own, which ends in -unfinished.

    Parameters
    ----------
    given
        Values of parameters by name, for those notebooks that know them.
    name
        Of the report, which becomes the folder ``out``/``name``; empty: after its data, ``only``, and what differs
        from defaults, so that no other report is replaced.
    out
        Folder of the reports.
    only
        Picks notebooks by how their names begin.
    terminal
        Gets what notebooks print, as it comes.
    quick
        One training of each network (`QUICK`), where ``given`` says nothing else; the report says so.

    Raises
    ------
    InputError
        For bad input, and with a notebook's own sentence.
    NotebookError
        Where a notebook failed for another reason.
    """
    data = str(given.get("data", PHANTOM))
    if not re.fullmatch(r"\w[\w.-]*", name or default_name(data)):
        raise InputError(f"The report's name is {name!r}; use letters, digits, dots, dashes and underscores.")
    usual = QUICK if quick else {}
    plans = plan(chosen_notebooks(only, data), given, usual)
    name = name or "-".join([default_name(data), *only]) + suffix(plans, usual)
    begun, chapters = time.perf_counter(), []
    progress: Any = _Progress(terminal, plans)
    with atomic_folder(out / name, replace=True) as folder:
        try:
            for i, one in enumerate(plans, 1):
                failed = out / f"{name}-{one.name}-failed.ipynb"
                chapters.append(_executed(one, f"[{i}/{len(plans)}] {one.name}", progress, failed))
        except BaseException:
            _write_unfinished(out / f"{name}-unfinished", chapters, terminal, usual)
            raise
        _write(folder, name, chapters, usual)
        too_large = [file for file in sorted(folder.iterdir()) if file.stat().st_size > LARGEST]
    for file in too_large:
        print(f"warning: {out / name / file.name} is larger than {LARGEST / 1e6:g} MB", file=terminal)
    print(f"{out / name / 'index.html'} ({time.perf_counter() - begun:.0f} s)", file=terminal, flush=True)
    return out / name / "index.html"


def _write_unfinished(place: Path, chapters: Sequence[Chapter], terminal: TextIO, usual: Mapping[str, Any]) -> None:
    """A report of those chapters that were finished, where there are any."""
    if chapters:
        with atomic_folder(place, replace=True) as folder:
            _write(folder, place.name, chapters, usual)
        print(f"What was finished is in {place / 'index.html'}.", file=terminal, flush=True)


class _Progress:
    """A terminal that says after each network how many are done, of how many at most, and how long the rest takes."""

    def __init__(self, terminal: TextIO, plans: Sequence[Plan]):
        self.terminal, self.begun, self.done = terminal, time.perf_counter(), set[str]()
        self.most = sum(one.parameters.networks for one in plans)

    def write(self, text: str) -> None:
        """Pass it on, and tell of each network that it names for the first time."""
        self.terminal.write(text)
        for run in re.findall(r"^(\S+): (?:training on|recorded already)", text, re.MULTILINE):
            if run not in self.done:
                left = (time.perf_counter() - self.begun) * (self.most / max(len(self.done), 1) - 1)
                known = f", about {left / 60:.0f} min left" if self.done else ""
                self.done.add(run)
                self.terminal.write(f"network {len(self.done)} of at most {self.most}{known}\n")

    def flush(self) -> None:
        self.terminal.flush()


def default_name(data: str) -> str:
    """A report's name: the phantom's, the data folder's, or the CSV's (its folder's for a manifest.csv).

    Parameters
    ----------
    data
        The parameter of this name.
    """
    return PHANTOM if data == PHANTOM else name_of(resolve(data))


def suffix(plans: Sequence[Plan], usual: Mapping[str, Any]) -> str:
    """What given parameters make different, for names of files: ``-crop0.1-seed3``, or nothing; long ones cut short.

    Parameters
    ----------
    plans
        Of `plan`.
    usual
        Values that stand for the defaults.
    """
    changed = {name: value for name, value in _changed(plans, usual).items() if name not in ("data", "runs", "rerun")}
    whole = "".join(f"-{name}{value}" for name, value in sorted(changed.items()))
    safe = re.sub(r"[^\w.-]+", "_", whole)
    return safe if len(safe) <= 80 else f"{safe[:70]}-{hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()}"


def chosen_notebooks(only: Sequence[str], data: str = PHANTOM) -> list[Path]:
    """The project's numbered notebooks in order; its appendices are about its own data, and have to be asked for.

    06_reduce reads recorded sweeps, and is left out where there are none of these data.

    Parameters
    ----------
    only
        Takes those instead, of all, whose names begin so; ``class``: the lesson's.
    data
        The parameter of this name.

    Raises
    ------
    InputError
        Where there are no notebooks, or none whose name begins so.
    """
    folder = resolve("notebooks")
    numbered, appendices = (sorted(folder.glob(pattern)) for pattern in ("[0-9]*.ipynb", "appendix_*.ipynb"))
    every = sorted((folder / CLASS).glob("[0-9]*.ipynb")) if list(only) == [CLASS] else numbered + appendices
    if not every:
        raise InputError(f"There are no notebooks in {folder}; work in the project's folder, {home()}.")
    if list(only) == [CLASS]:
        return every
    for start in only:
        if not start or not any(path.name.startswith(start) for path in every):
            names = ", ".join(path.stem for path in every)
            raise InputError(f"No notebook's name begins with {start!r}; there are {names}.")
    if only:
        return [path for path in every if path.name.startswith(tuple(only))]
    study = (pd.read_csv(file, usecols=["data"])["data"] for file in resolve(STUDY).glob("*.csv"))
    studied = any((names == default_name(data)).any() for names in study)
    return [path for path in numbered if studied or path.stem != "06_reduce"]


def _executed(todo: Plan, title: str, terminal: TextIO, failed: Path) -> Chapter:
    print(f"{title} …", file=terminal, flush=True)
    begun = time.perf_counter()
    notebook = execute(todo, terminal, failed)
    for cell in notebook.cells:  # warnings name folders of this machine
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for out in cell.outputs:  # without a kernel nothing turns; a figure stands beside it
                out.get("data", {}).pop(WIDGET, None)
    print(f"{title}: {time.perf_counter() - begun:.0f} s", file=terminal, flush=True)
    return Chapter(todo, notebook)


def _write(folder: Path, name: str, chapters: Sequence[Chapter], usual: Mapping[str, Any]) -> None:
    """Notebooks, their pages, index.html and runs.csv: everything that a report's folder holds."""
    from jinja2 import Environment, FileSystemLoader
    from nbconvert import HTMLExporter

    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True).get_template
    exporter = HTMLExporter(template_name="basic", template_file=str(TEMPLATES / "notebook.html.j2"))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True

    def write(file: str, by: str, **told: Any) -> None:
        page = template(by).render(chapters=chapters, report=name, **told)
        (folder / file).write_text(page, encoding="utf-8")

    for one in chapters:
        nbformat.write(one.notebook, folder / f"{one.plan.name}.ipynb")
        body = Markup(with_terms(exporter.from_notebook_node(one.notebook)[0]))
        write(one.file, "page.html.j2", here=one, contents=re.findall(HEADING, body), body=body)
    glossary = {"page": "glossary", "title": "Glossary", "html": template("glossary.html.j2").render(words=_glossary())}
    for extra in (glossary, *(extra for chapter in chapters for extra in chapter.pages)):
        write(f"{extra['page']}.html", "page.html.j2", title=extra["title"], body=Markup(extra["html"]))
    runs = _runs(chapters)
    table = runs_table(runs) if runs else pd.DataFrame(columns=["run"])
    table.to_csv(folder / "runs.csv", index=False)
    write(
        "index.html",
        "index.html.j2",
        phantom=chapters[0].plan.parameters.data == PHANTOM,
        runs=Markup(table_html(table.filter(["role", "arm", "seed", *SHOWN, "run"]))) if runs else "",
        parameters=Markup(table_html(_parameters(chapters))),
        changed=_changed([one.plan for one in chapters], usual),
        quick=bool(usual),
        lesson=isinstance(chapters[0].plan.parameters, LessonParameters),
        exercises=sum("solution" in cell.metadata.get("tags", ()) for one in chapters for cell in one.notebook.cells),
        others=sorted({one.parent.name for one in folder.parent.glob("[!.]*/runs.csv")} - {name, f"{name}-unfinished"}),
        made_with=_made_with(runs),
    )


def _glossary() -> list[dict[str, Any]]:
    """The words of glossary.yaml, each with an ``id``."""
    words = yaml.safe_load((TEMPLATES / "glossary.yaml").read_text(encoding="utf-8"))
    return [{**one, "id": re.sub(r"\W+", "-", one["names"][0].lower())} for one in words]


def with_terms(html: str) -> str:
    """A page on which the first mention of each word of the glossary, in running text, links to it.

    Parameters
    ----------
    html
        Its body.
    """
    parts, inside = re.split(r"(<[^>]*>)", html), Counter[str]()
    left = sorted(_glossary(), key=lambda one: -len(one["names"][0]))  # "border swap" is no "border"
    for i, part in enumerate(parts):
        if part.startswith("<"):
            inside[re.sub(r"\W.*", "", part.lstrip("</"), flags=re.DOTALL)] += -1 if part.startswith("</") else 1
            continue
        running = (inside["p"] or inside["li"]) and not (inside["a"] or inside["code"])
        for one in left if running else []:
            names = "|".join(re.escape(name) for name in sorted(one["names"], key=len, reverse=True))
            link = f'<a class="term" href="glossary.html#{one["id"]}" title="{escape(one["says"])}">\\1</a>'
            parts[i], found = re.subn(rf"(?<![\w-])({names})(?![\w-])", link, part, count=1)
            if found:
                left.remove(one)
                break  # one a stretch of text: what was put in is not searched again
    return "".join(parts)


def _runs(chapters: Iterable[Chapter]) -> list[Run]:
    found = {place: find_run(place) for one in chapters for place in one.runs}
    lost = [str(place) for place, run in found.items() if run is None]
    if lost:
        raise InputError(f"A notebook used a run whose record is not there: {', '.join(lost)}.")
    return [run for run in found.values() if run is not None]


def _parameters(chapters: Iterable[Chapter]) -> pd.DataFrame:
    """Every parameter of the report, once; notebooks share the values of those they have in common."""
    every = [one.plan.parameters for one in chapters]
    values = {name: str(value) for p in every for name, value in p}
    meanings = {name: field.description for p in every for name, field in type(p).model_fields.items()}
    return pd.DataFrame({"value": values, "meaning": meanings}).rename_axis("parameter").reset_index()


def _changed(plans: Iterable[Plan], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters that differ from what is usual, else from their defaults or those on the same data."""
    defaults: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for one in plans:
        cls, data = type(one.parameters), one.parameters.data
        defaults += [(one.given, dict(default) | dict(usual)) for default in (cls(), cls(data=data))]
    return {name: value for given, default in defaults for name, value in given.items() if value != default[name]}


def _made_with(runs: Sequence[Run]) -> dict[str, str]:
    """Versions, devices, commits and data, each value once, by what it is."""
    records = [run.record for run in runs]
    versions = {"Python": python_version(), "cnn-xray": __version__, **package_versions()}
    made = {
        "versions": [f"{package} {number}" for package, number in versions.items()],
        "trained on": [record["trained_by"]["device"] for record in records],
        "trained by code at commit": [record["trained_by"]["git_commit"] for record in records],
        "measured by code at commit": [record["measured_by"]["git_commit"] for record in records],
        "data": [record["data_fingerprint"] for record in records],
    }
    return {what: ", ".join(dict.fromkeys(values)) for what, values in made.items() if values}
