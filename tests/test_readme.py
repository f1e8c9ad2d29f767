"""The README says what the committed reports say."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
REPORTS = (("phantom", "0"), ("kermany", ""))  # and how the names of their notebooks begin


def test_the_table_of_results_is_that_of_the_committed_reports():
    done = subprocess.run([sys.executable, ROOT / "assets" / "refresh_readme.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, "run python assets/refresh_readme.py"


@pytest.mark.parametrize(("name", "begins"), REPORTS)
def test_a_committed_report_is_whole_and_opens_offline(name, begins):
    report = ROOT / "reports" / name
    names = {file.name for file in report.iterdir()}
    notebooks = {file.stem for file in (ROOT / "notebooks").glob(f"{begins}*.ipynb")}
    assert {"index.html", "runs.csv"} <= names
    for stem in notebooks:
        assert {f"{stem}.html", f"{stem}.ipynb"} <= names
    assert all(file.stat().st_size < 2_000_000 for file in report.iterdir())
    assert {"run", "seed", "crop", "test_auc", "test_accuracy"} <= set(pd.read_csv(report / "runs.csv"))


def code(notebook: Path) -> list[str]:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if "injected-parameters" not in cell.metadata.get("tags", ())]


OLDER = {"kermany/05_before_after_cropping", "kermany/appendix_recipe_selection"}  # hours of training; README says so


@pytest.mark.parametrize("report", ["phantom", "kermany", "class"])
def test_a_committed_report_is_made_by_the_notebooks_as_they_stand(report):
    folder = ROOT / "notebooks" / ("class" if report == "class" else "")
    for made in sorted((ROOT / "reports" / report).glob("*.ipynb")):
        same = code(made) == code(folder / made.name)
        older = f"{report}/{made.stem}" in OLDER
        assert same != older, f"{made} is {'made' if same else 'not made'} by its notebook; make it again, or say so"
