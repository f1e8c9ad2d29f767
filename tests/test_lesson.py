"""The lesson: no solution reaches a student, no wrong answer passes, and what a class is to see is there to see."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from test_notebooks import ONE_THREAD

from cnn_xray import InputError, attention
from cnn_xray import lesson as module
from cnn_xray.geometry import border_cells
from cnn_xray.lesson import EXERCISES, RHOS, Lesson, student_version
from cnn_xray.parameters import LessonParameters, parameters_cell
from cnn_xray.phantom.dataset import d_prime, oracle_auc
from cnn_xray.report import cli
from cnn_xray.statistics import Estimate

ROOT = Path(__file__).parents[1]
TEACHER = sorted((ROOT / "notebooks" / "class").glob("*.ipynb"))
NO_ANSWER = [None, "", "about a half", np.nan, [], {}, object(), [None], [[1, 2], [3]], np.zeros((2, 2)), 1 + 2j]
notebooks = pytest.mark.parametrize("path", TEACHER, ids=lambda path: path.stem)


def solutions(notebook) -> list:
    return [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]


# ---- the notebooks


@notebooks
def test_a_class_notebook_can_be_read(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and code[0].source == parameters_cell(LessonParameters)
    assert "LessonParameters.from_notebook()" in code[1].source
    for cell in code:
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not cell.outputs and cell.execution_count is None


def test_every_exercise_has_one_solution_with_the_metadata_of_nbgrader():
    told = [cell for path in TEACHER for cell in solutions(nbformat.read(path, as_version=4))]
    numbers = [int(re.search(r"^answer_(\d+) = ", cell.source, re.MULTILINE)[1]) for cell in told]
    assert sorted(numbers) == sorted(EXERCISES) and len(numbers) >= 10
    for number, cell in zip(numbers, told, strict=True):
        assert cell.metadata.nbgrader.solution and cell.metadata.nbgrader.grade_id == f"exercise-{number}"
        assert f"say(check_{number}(answer_{number}))" in cell.source


@notebooks
def test_every_guess_comes_before_its_figure(path):
    cells = nbformat.read(path, as_version=4).cells
    guesses = {
        int(one[1]): i for i, cell in enumerate(cells) if (one := re.search(r"lesson\.predict\((\d+)", cell.source))
    }
    shown = {
        int(one[1]): i for i, cell in enumerate(cells) if (one := re.search(r"lesson\.predicted\((\d+)", cell.source))
    }
    assert len(guesses) >= 3 and guesses.keys() == shown.keys()
    assert all(guesses[number] < shown[number] for number in guesses)
    assert all("reveal" in cells[i].metadata.tags for i in shown.values())


# ---- the student's version


@notebooks
def test_the_students_version_holds_no_solution(path):
    teacher = nbformat.read(path, as_version=4)
    student = student_version(teacher)
    assert len(student.cells) == len(teacher.cells) and not solutions(student) and solutions(teacher)
    open_to_all = "\n".join(cell.source for cell in teacher.cells if "solution" not in cell.metadata.get("tags", []))
    text = "\n".join(cell.source for cell in student.cells)
    for cell in solutions(teacher):
        kept = [line for line in cell.source.splitlines() if len(line) > 12 and not line.startswith("say(check_")]
        secret = [line for line in kept if line not in open_to_all]
        assert secret and not [line for line in secret if line.strip() in text]
    assert re.findall(r"^answer_\d+ = (.+)$", text, re.MULTILINE) == ["None"] * len(solutions(teacher))


def test_a_solution_without_an_answer_is_refused():
    cell = nbformat.v4.new_code_cell("found = 3", metadata={"tags": ["solution"]})
    with pytest.raises(InputError, match="assigns no answer"):
        student_version(nbformat.v4.new_notebook(cells=[cell]))


def test_the_command_writes_students_notebooks_and_leaves_the_teachers(tmp_path, capsys):
    before = [path.read_bytes() for path in TEACHER]
    assert cli.main(["lesson", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [path.name for path in TEACHER]
    assert before == [path.read_bytes() for path in TEACHER]
    assert cli.main(["lesson", "--out", str(TEACHER[0].parent)]) == cli.BAD_INPUT
    assert "teacher's notebooks" in capsys.readouterr().err


# ---- the guide


def test_the_guide_has_the_benchmarks_figures_of_three_seeds_or_more():
    spec = importlib.util.spec_from_file_location("lesson_benchmark", ROOT / "benchmarks" / "lesson.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    table = pd.read_csv(benchmark.TABLE)
    assert f"{benchmark.BEGIN}\n{benchmark.expected(table)}\n{benchmark.END}" in benchmark.GUIDE.read_text()
    assert table["seed"].nunique() >= 3 and set(table["exercise"]) == {0, *EXERCISES} and table["holds"].all()


# ---- the pages


@notebooks
def test_the_committed_page_is_of_this_notebook_and_needs_no_network(path):
    folder = ROOT / "reports" / "class"
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert [cell.source for cell in nbformat.read(folder / path.name, as_version=4).cells] == sources
    page = (folder / path.with_suffix(".html").name).read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    assert not re.search(r'<(script|link|img|iframe)[^>]*(src|href)="(?!data:|#)', page)
    reveals = [cell for cell in nbformat.read(path, as_version=4).cells if "reveal" in cell.metadata.get("tags", [])]
    assert page.count('<details class="more reveal">') == len(reveals)
    assert page.count("data-slide") > 5 and "Right (" in page and "Not yet" not in page


# ---- checks


class Known(Lesson):
    """A lesson whose truths are given, so that nothing is trained."""

    def __init__(self, truths):
        super().__init__(LessonParameters.from_mapping({}))
        self._truths = truths


@pytest.mark.parametrize("number", EXERCISES)
def test_a_check_answers_whatever_it_is_given_in_a_sentence(number):
    truth = [0.25 * i + 0.1 for i in range(len(EXERCISES[number].numbers))]
    (check,) = Known({number: truth}).checks(number)
    for nothing in [*NO_ANSWER, [*truth, 1.0]]:
        assert check(nothing).startswith("Not yet: the answer is"), nothing
    for right in (truth, tuple(truth), np.array(truth), pd.Series(truth), dict(enumerate(truth)), map(Estimate, truth)):
        assert check(right).startswith("Right"), right
    assert check([np.array([one]) for one in truth]).startswith("Right")  # arrays of one, as functions of images give
    assert check([100 * one for one in truth]) == "Not yet: give shares from 0 to 1, not percent."
    assert Known({}).check(number, None).startswith("Not yet: the answer is")  # and no network is trained for it
    off = [truth[0] + 1.5 * EXERCISES[number].within, *truth[1:]]
    told = check(off)
    assert told.startswith(f"Not yet ({EXERCISES[number].numbers[0]}): {EXERCISES[number].hint}")
    assert not any(f"{one:.2f}" in told for one in truth)


def test_a_check_says_so_where_the_networks_leave_no_answer(monkeypatch):
    def undefined(_):
        raise InputError("The oracle needs d > 0.")

    monkeypatch.setitem(EXERCISES, 3, replace(EXERCISES[3], truth=undefined))
    assert Known({}).check(3, [0.5] * 4) == "Not yet: The oracle needs d > 0."


def test_even_heat_by_hand():
    grids = [attention.border_fraction(np.ones((1, n, n)), border_cells(1 / n, (n, n)))[0] for n in (7, 14, 28)]
    np.testing.assert_allclose(grids, [24 / 49, 52 / 196, 108 / 784], atol=1e-6)


def test_sizes_are_told_by_proportion_and_not_by_one_side():
    fit, test = Lesson(LessonParameters.from_mapping({"seed": 3})).sizes()
    assert not set(fit["patient"]) & set(test["patient"])
    width, height = (np.log(test[name]) for name in ("original_width", "original_height"))
    apart = {name: one.groupby(test["label"]) for name, one in {"shape": width - height, "width": width}.items()}
    clarity = {name: abs(np.diff(one.mean())[0]) / one.std().mean() for name, one in apart.items()}
    assert clarity["shape"] > 1.2 > 2 * clarity["width"]


def test_real_sizes_that_are_not_known_are_left_out(monkeypatch):
    table = pd.DataFrame({"split": ["train", "val", "test"], "original_width": [9, pd.NA, 7], "original_height": 5})
    monkeypatch.setattr(
        module, "load_dataset", lambda p: SimpleNamespace(table=table.astype({"original_width": "Int64"}))
    )
    fit, test = Lesson(LessonParameters.from_mapping({"data": "images"})).sizes()
    assert fit["original_width"].tolist() == [9] and test["original_width"].tolist() == [7]


def test_a_guess_is_confirmed_kept_and_a_letter(capsys):
    class_ = Lesson(LessonParameters.from_mapping({}))
    for choice, said in ((" b ", "Your guess: B."), ("E", "one letter"), ("AB", "one letter")):
        class_.predict(1, choice)
        assert said in capsys.readouterr().out and class_.predicted(1) == "Your guess was B."
    class_.predict(1, "")
    assert capsys.readouterr().out == "" and class_.predicted(1) == "Your guess was B." and class_.predicted(2) == ""


def test_a_network_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="There is no network 'honset'"):
        Lesson(LessonParameters.from_mapping({})).network("honset")


# ---- what a class is to see


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The lesson of one seed, its networks trained by two processes at a time."""
    place = tmp_path_factory.mktemp("lesson")
    given = {"seed": 0, "runs": str(place / "runs")}
    environment = {**os.environ, **ONE_THREAD, "CNN_XRAY_CACHE": str(place / "cache")}

    def train(numbers):
        code = f"from cnn_xray.lesson import *; one = Lesson(LessonParameters.from_mapping({given}))"
        code += f"; [one.truth(number) for number in {numbers}]"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        list(pool.map(train, [(2, 4, 11), (9, 7, 10, 12)]))
        patch.setenv("CNN_XRAY_CACHE", str(place / "cache"))
        yield Lesson(LessonParameters.from_mapping(given))


def wrong(lesson: Lesson, number: int) -> list:
    """Two plausible wrong answers to an exercise."""
    truth, clean = lesson.truth(number), d_prime(lesson.network("honest").auc("clean"))
    first, last = truth[0], truth[-1]
    other = {
        1: [0.6],
        2: [*truth[:3], 1 - 0.75**2],
        3: [float(oracle_auc(clean, rho, rho)) for rho in RHOS],
        5: [0.0],
        6: [first, first],
        9: [0, last],
        12: [1.0, last],
    }
    return [[0.5] * len(truth), other.get(number, truth[::-1])]


@pytest.mark.slow
@pytest.mark.parametrize("number", EXERCISES)
def test_a_class_sees_what_it_is_to_see_and_no_wrong_answer_passes(number, lesson):
    truth = lesson.truth(number)
    assert EXERCISES[number].holds(*truth), dict(zip(EXERCISES[number].numbers, truth, strict=True))
    assert lesson.check(number, truth).startswith("Right")
    for answer in wrong(lesson, number):
        assert lesson.check(number, answer).startswith("Not yet"), answer


@pytest.mark.slow
def test_the_leaderboard_misleads(lesson):
    honest, shortcut = lesson.network("honest"), lesson.network("shortcut")
    assert shortcut.auc() > honest.auc() and shortcut.auc("conflict") < 0.5 < honest.auc("conflict")


def checked(notebook) -> list[str]:
    """What the checks of an executed notebook said."""
    found = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    said = ["".join(one.get("text/markdown", "")) for one in found]
    return [one for one in said if one.startswith(("Right", "Not yet"))]


@notebooks
def test_every_solution_is_right_as_executed(path):
    said = checked(nbformat.read(ROOT / "reports" / "class" / path.name, as_version=4))
    assert len(said) == len(solutions(nbformat.read(path, as_version=4)))
    assert all(one.startswith("Right (") for one in said)


@pytest.fixture(scope="module")
def students(lesson, tmp_path_factory):
    """Each student's notebook, executed as written with the lesson's recorded networks: name → notebook."""
    place = tmp_path_factory.mktemp("class")
    assert cli.main(["lesson", "--out", str(place)]) == 0
    environment, told = {**os.environ, **ONE_THREAD}, yaml.safe_dump({"runs": lesson.p.runs})

    def execute(name: str):
        source, target = place / f"{name}.ipynb", place / f"{name}-executed.ipynb"
        command = [sys.executable, "-m", "papermill", source, target, "-k", "python3", "--no-progress-bar", "-y", told]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return nbformat.read(target, as_version=4)

    names = [path.stem for path in TEACHER]
    with ThreadPoolExecutor(2) as pool:
        yield dict(zip(names, pool.map(execute, names), strict=True))


@pytest.mark.slow
@notebooks
def test_the_students_version_runs_through_and_says_not_yet(path, students):
    said = checked(students[path.stem])
    assert len(said) == len(solutions(nbformat.read(path, as_version=4)))
    assert all(one.startswith("Not yet: ") for one in said), said
