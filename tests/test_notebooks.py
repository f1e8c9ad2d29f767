"""Every notebook runs from its first cell to its last on a tiny phantom, and stops at bad parameters."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from cnn_xray.parameters import NOTEBOOKS
from cnn_xray.report.words import HEADLINE, RUNS

FOLDER = Path(__file__).parents[1] / "notebooks"
TINY = {
    "phantom_images": 80,
    "image_size": 32,
    "width": 4,
    "epochs": 1,
    "n_seeds": 1,
    "n_judged": 1,
    "examples": 2,
    "probe_size": 32,
    "probe_epochs": 1,
    "donors": 2,
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory):
    """Notebook → the process that has executed it, two at a time; they share cache and runs."""
    place = tmp_path_factory.mktemp("notebooks")
    environment = {**os.environ, **ONE_THREAD, "CNN_XRAY_CACHE": str(place / "cache")}

    def execute(name: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        given = {key: value for key, value in TINY.items() if key in NOTEBOOKS[name].model_fields}
        told = json.dumps({**given, "runs": str(place / "runs")})
        source, target = FOLDER / f"{name}.ipynb", place / f"{name}.ipynb"
        command = [sys.executable, "-m", "papermill", source, target, "-k", "python3", "--no-progress-bar", "-y", told]
        return subprocess.run(command, env=environment, capture_output=True, text=True), target

    chosen = {getattr(item, "callspec", None) and item.callspec.params.get("name") for item in request.session.items}
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(execute, name) for name in reversed(NOTEBOOKS) if name in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NOTEBOOKS))
def test_a_notebook_runs_through_and_says_something(name, executed):
    done, target = executed[name].result()
    assert done.returncode == 0, done.stderr[-3000:]
    found = [output for cell in nbformat.read(target, 4).cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in found if "data" in output]
    assert any(HEADLINE in data for data in shown)
    assert any("image/png" in data or "image/jpeg" in data for data in shown)
    assert any(RUNS in data for data in shown) == (name != "01_data_audit")
    printed = "".join(output["text"] for output in found if output["output_type"] == "stream")
    assert "Warning" not in printed, printed
    asked = set(re.findall(r"^(\S+): (?:training on|recorded already)", printed, re.MULTILINE))
    p = NOTEBOOKS[name].from_mapping({key: value for key, value in TINY.items() if key in NOTEBOOKS[name].model_fields})
    assert len(asked) <= p.networks <= 1.2 * len(asked)
    text = "".join("".join(data.get("text/markdown", "")) for data in shown)
    assert " nan" not in text.lower(), text


def refused(name: str, tmp_path: Path, monkeypatch, **given) -> PapermillExecutionError:
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))
    source, target = FOLDER / f"{name}.ipynb", tmp_path / f"{name}.ipynb"
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(source, target, given, kernel_name="python3", progress_bar=False)
    return error.value


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"crpo": 0.1, "rotation": 400}, "There is no parameter 'crpo'; the nearest one is 'crop'."),
        ({"bordr": 0.1, "epochs": 0}, "There is no parameter 'bordr'; the nearest one is 'border'."),
    ],
)
def test_plain_papermill_stops_in_the_second_cell_with_a_sentence_for_each_mistake(
    given, sentence, tmp_path, monkeypatch
):
    error = refused("02_train", tmp_path, monkeypatch, **given)
    assert sentence in str(error)
    for name in given.keys() & {"rotation", "epochs"}:  # one that its parameters cell does not show, and one it does
        assert f"{name} is {given[name]}, but it must be a" in str(error)
    assert "Traceback" not in error.traceback[-1] and len(error.traceback) == 1
    written = nbformat.read(tmp_path / "02_train.ipynb", 4).cells
    code = [cell for cell in written if cell.cell_type == "code"]
    reached = [cell for cell in code if "papermill-error-cell-tag" not in cell.metadata.tags and cell.execution_count]
    assert len(reached) == 3 and "from_notebook" in reached[-1].source  # parameters, what papermill injected, the check


def test_a_missing_folder_is_one_sentence(tmp_path, monkeypatch):
    assert "No data at" in str(refused("01_data_audit", tmp_path, monkeypatch, data=str(tmp_path / "nowhere")))
