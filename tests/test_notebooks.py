"""Every notebook runs from its first cell to its last on a tiny phantom, and stops at bad parameters."""

from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from cnn_xray.parameters import NOTEBOOKS
from cnn_xray.report.words import HEADLINE, RUNS

FOLDER = Path(__file__).parents[1] / "notebooks"
TINY = {
    "phantom_images": 80, "image_size": 32, "width": 4, "epochs": 1, "n_seeds": 1, "examples": 2,
    "probe_size": 32, "probe_epochs": 1, "donors": 2,
}  # fmt: skip


def run(name, tmp_path, **parameters):
    known = NOTEBOOKS[name].model_fields
    given = {key: value for key, value in TINY.items() if key in known} | {"runs": str(tmp_path / "runs")} | parameters
    target = tmp_path / f"{name}.ipynb"
    try:
        papermill.execute_notebook(FOLDER / f"{name}.ipynb", target, given, kernel_name="python3", progress_bar=False)
    finally:
        executed = nbformat.read(target, 4) if target.exists() else None
    return executed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(autouse=True)
def own_cache(place, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(place / "cache"))


def outputs(executed):
    return [output for cell in executed.cells for output in cell.get("outputs", [])]


def test_there_is_a_class_of_parameters_for_every_notebook():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", list(NOTEBOOKS))
def test_a_notebook_runs_through_and_says_something(name, place):
    executed = run(name, place)
    found = outputs(executed)
    shown = [output["data"] for output in found if "data" in output]
    assert any(HEADLINE in data for data in shown)
    assert any("image/png" in data or "image/jpeg" in data for data in shown)
    assert any(RUNS in data for data in shown) == (name != "01_data_audit")
    printed = "".join(output["text"] for output in found if output["output_type"] == "stream")
    assert "Warning" not in printed, printed
    text = "".join("".join(data.get("text/markdown", "")) for data in shown)
    assert " nan" not in text.lower(), text


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"crpo": 0.1}, "There is no parameter 'crpo'; the nearest one is 'crop'."),
        ({"crop": 0.6}, "crop is 0.6, but it must be a number at least 0 and below 0.5."),
        ({"epochs": 0}, "epochs is 0, but it must be a whole number"),
        ({"seed": "three"}, "seed is 'three', but it must be a whole number"),
    ],
)
def test_plain_papermill_stops_in_the_second_cell_with_one_sentence(parameters, sentence, tmp_path):
    with pytest.raises(PapermillExecutionError) as error:
        run("02_train", tmp_path, **parameters)
    assert sentence in str(error.value)
    assert "Traceback" not in error.value.traceback[-1] and len(error.value.traceback) == 1
    executed = nbformat.read(tmp_path / "02_train.ipynb", 4)
    code = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    reached = [cell for cell in code if cell.execution_count]
    assert len(reached) == 3 and "from_notebook" in reached[-1].source  # parameters, what papermill injected, the check


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(PapermillExecutionError, match="No data at"):
        run("01_data_audit", tmp_path, data=str(tmp_path / "nowhere"))
