"""The command line: `cnn-xray report`, `run`, `verdict`, `sweep`, `table`, `diff` and `lesson`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cnn_xray
from cnn_xray import InputError
from cnn_xray.parameters import PHANTOM, from_yaml

BAD_INPUT, UNEXPECTED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for bad input (told on stderr), 1 for a failure, 130 after Ctrl-C or a kill.

    Parameters
    ----------
    arguments
        Those of the command line; None: this process's own.
    """
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's kill tidies up like Ctrl-C
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nInterrupted. What was there before is unchanged; finished runs are kept.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        _tell_failure(error, options)
        return UNEXPECTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cnn-xray", description=cnn_xray.__doc__)
    parser.add_argument("--version", action="version", version=cnn_xray.__version__)
    commands = parser.add_subparsers(required=True, metavar="report | run | verdict | sweep | table | diff | lesson")

    def command(does: Callable[..., None], summary: str, *parents: argparse.ArgumentParser) -> Callable[..., Any]:
        """A command with the name and the docstring of what does it; what is returned adds an argument to it."""
        one = commands.add_parser(does.__name__[1:], parents=parents, help=summary, description=does.__doc__)
        one.set_defaults(command=does)
        return one.add_argument

    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    meaning = "a parameter for every notebook that knows it, as in -p crop 0.1; may be repeated"
    add("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=meaning)
    add("-f", dest="yaml_file", metavar="FILE", help="a YAML file of parameters; -y and -p come after it")
    add("-y", dest="yaml", default="", metavar="YAML", help="parameters as YAML: '{crop: 0.1, seed: 3}'")
    add("--data", help="phantom (the default), a chest_xray folder, or a manifest CSV")
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="check all parameters, say what would run, and stop")

    add = command(_report, "execute the notebooks and render a report", common, dry)
    add("--name", default="", help="of the report; default: data, notebooks picked, and what differs")
    add("--out", type=Path, help="folder of the reports (default: reports/quick, and with --full reports)")
    add("--full", action="store_true", help="all trainings, as the committed reports have them")
    add("--notebooks", default="", help="only these, by how their names begin: 01,02")
    add("--rerun", action="store_true", help="train again although the runs are recorded")

    add = command(_run, "execute one notebook", common, dry)
    add("notebook", type=Path, help="such as notebooks/02_train.ipynb")
    add("-o", "--out", type=Path, help="executed notebook (default: named after NOTEBOOK and parameters, here)")

    command(_verdict, "judge one network, in a few minutes beyond its training", common)

    add = command(_sweep, "train every arm of a file with every seed", common)
    add("file", type=Path, help="such as study.yaml; its table, study.csv, lies beside it")
    add("--jobs", type=int, default=1, help="runs at a time on one machine, which share its cores (default: 1)")
    add("--scheduler", default="", help="address of a dask.distributed scheduler, whose workers run instead")

    records = argparse.ArgumentParser(add_help=False)
    add, meaning = records.add_argument, "a sweep's table, such as study.csv; may be repeated"
    add("--sweep", action="append", type=Path, default=[], metavar="CSV", help=meaning)
    add("--runs", type=Path, default=Path("runs"), help="folder of the run records (default: runs)")
    command(_table, "all recorded runs as one table", records)
    add = command(_diff, "what differs between two arms", records)
    for which in ("first", "second"):
        add(which, help="name of an arm, or id of a run")

    add = command(_lesson, "write the lesson's notebooks for students")
    add("--out", type=Path, default=Path("lesson"), help="folder for the notebooks (default: lesson)")
    return parser


def parse_value(text: str) -> bool | int | float | str | None:
    """A value as papermill reads it from its command line; true, false and null in YAML's spelling too.

    Parameters
    ----------
    text
        Such as ``0.1``; ``none`` is a word (of ``tta``, of ``swap``), None is nothing.
    """
    words = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _given(options: argparse.Namespace) -> dict[str, Any]:
    try:
        in_file = Path(options.yaml_file).read_text(encoding="utf-8") if options.yaml_file else ""
        given = from_yaml(in_file) | from_yaml(options.yaml)
    except (OSError, ValueError) as problem:
        raise InputError(f"-f and -y take YAML of names and values: {problem}") from problem
    given |= {name: parse_value(value) for name, value in options.given}
    return given if options.data is None else given | {"data": options.data}


def _report(options: argparse.Namespace) -> None:
    """Execute the notebooks in order and render them into OUT/NAME: HTML pages that open offline, the executed
    notebooks, index.html and runs.csv. Each network is trained once, for a first look; with --full as often as the
    committed reports have it.
    """
    from cnn_xray.report.build import QUICK, build, chosen_notebooks, plan

    given = _given(options) | ({"rerun": True} if options.rerun else {})
    only = options.notebooks.split(",") if options.notebooks else []
    options.out = options.out or Path("reports") / ("" if options.full else "quick")
    if options.dry_run:
        usual = {} if options.full else QUICK
        _tell(plan(chosen_notebooks(only, str(given.get("data", "phantom"))), given, usual))
    else:
        build(given, options.name, options.out, only, sys.stdout, quick=not options.full)


def _tell(plans: Any) -> None:
    """A line a notebook, with the parameters given to it; the data's table is read, no image."""
    from cnn_xray.data import read_manifest
    from cnn_xray.storage import resolve

    for data in {one.parameters.data for one in plans} - {PHANTOM}:
        read_manifest(resolve(data))
    for one in plans:
        print(one.name, *(f"{name}={value!r}" for name, value in one.given.items()))


def _run(options: argparse.Namespace) -> None:
    """Execute one notebook; its parameters are checked before a kernel starts. notebooks/PARAMETERS.md lists them."""
    import nbformat

    from cnn_xray.report.build import execute, plan, suffix
    from cnn_xray.storage import atomic_write, resolve

    source = resolve(options.notebook)
    (todo,) = plan([source], _given(options), {})
    options.out = target = options.out or Path(f"{source.stem}{suffix([todo], {})}-executed.ipynb")
    if target.absolute() == source.absolute():
        raise InputError(f"{target} is the notebook itself; name another file with -o.")
    if options.dry_run:
        return _tell([todo])
    done = execute(todo, sys.stdout, target.with_name(f"{target.stem}-failed.ipynb"))
    with atomic_write(target) as handle:
        handle.write(nbformat.writes(done).encode())
    print(target)


def _verdict(options: argparse.Namespace) -> None:
    """Train the network of one seed and the probes that the verdict asks, each unless it is recorded, and print the
    verdict on the border. It takes the parameters of 04_shortcut_tests; a report says more.
    """
    from functools import partial

    from cnn_xray import cam, verdict
    from cnn_xray.data import load_dataset
    from cnn_xray.parameters import ShortcutParameters
    from cnn_xray.runs import run_of

    p = ShortcutParameters.from_mapping(_given(options))
    data = load_dataset(p)
    verdict.check_test_split(p, data)
    run = run_of(p, data)
    figures = verdict.border_figures(run.score, p, data, partial(cam.evidence, run.model))
    found = verdict.judge(figures, verdict.has_conflict_set(data), verdict.kind_of(p))
    print(f"\n{found.name.capitalize()}. {found.meaning}\n\nOf the network {run.id} alone:")
    for question, line in found.table.iterrows():
        figure = f"{line['figure']}; counts from {line['counts from']:.3g}"
        print(f"  {question}: {verdict.answer_in_words(line)}  ({figure})")
    if data.lungs is None:
        print(
            "Without lung masks: the border is asked about with the lungs in it, and whether the cue is its own, not."
        )


def _sweep(options: argparse.Namespace) -> None:
    """Check every combination of a YAML file (notebook, fixed, arms or grid, seeds), train what its table does not
    hold, and measure it on validation images. It goes on where it was interrupted.
    """
    from cnn_xray.sweep import sweep

    if options.jobs < 1:
        raise InputError(f"--jobs is {options.jobs}, but it must be at least 1.")
    print(sweep(options.file, options.jobs, options.scheduler, _given(options)))


def _table(options: argparse.Namespace) -> None:
    """Write every recorded run, and every run of some sweeps, as one tidy CSV table to the terminal."""
    from cnn_xray.runs import tidy

    tidy(options.runs, options.sweep).to_csv(sys.stdout, index=False)


def _diff(options: argparse.Namespace) -> None:
    """Say in which parameters two arms differ, and by how much their metrics, paired by seed."""
    from cnn_xray.runs import difference, tidy

    changed, metrics = difference(tidy(options.runs, options.sweep), options.first, options.second)
    print("\n".join([*(changed or ["No parameter differs."]), "", metrics.to_string(float_format="{:.4g}".format)]))


def _lesson(options: argparse.Namespace) -> None:
    """Write the notebooks of notebooks/class without their solutions, for students. The teacher's stay."""
    import nbformat

    from cnn_xray.lesson import student_version
    from cnn_xray.report.build import chosen_notebooks
    from cnn_xray.storage import atomic_write

    teacher = chosen_notebooks(["class"])
    if options.out.absolute() == teacher[0].parent.absolute():
        raise InputError(f"{options.out} holds the teacher's notebooks; name another folder with --out.")
    for source in teacher:
        with atomic_write(options.out / source.name) as handle:
            handle.write(nbformat.writes(student_version(nbformat.read(source, as_version=4))).encode())
        print(options.out / source.name)


def _tell_failure(error: Exception, options: argparse.Namespace) -> None:
    """Say what failed; its traceback goes into a file beside where the result would be."""
    from cnn_xray.storage import atomic_write

    details = getattr(error, "details", "")  # of a `NotebookError`
    sentence = str(error) if details else f"{type(error).__name__}: {error}"
    details = details or traceback.format_exc()
    beside = {
        _report: lambda: options.out / "failure.log",
        _run: lambda: (options.out or Path("run")).with_suffix(".log"),
    }
    log = beside.get(options.command, lambda: Path("failure.log"))()
    try:
        with atomic_write(log) as handle:
            handle.write(details.encode())
    except InputError:
        print(details, sentence, sep="\n", file=sys.stderr)
    else:
        print(f"{sentence}\nThe traceback is in {log}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
