"""The house around the code: notebooks without outputs, files in step with each other, no addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cnn_xray.parameters import NOTEBOOKS, parameters_cell

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_notebook_has_its_parameters_and_the_other_way_round():
    assert [path.stem for path in PATHS] == sorted(NOTEBOOKS)


@notebooks
def test_a_notebook_holds_no_outputs(path):
    for cell in code(path):
        assert not cell.outputs and cell.execution_count is None
    assert "papermill" not in nbformat.read(path, as_version=4).metadata


@notebooks
def test_a_notebook_names_the_python3_kernel(path):
    kernel = nbformat.read(path, as_version=4).metadata.kernelspec
    assert (kernel.name, kernel.language) == ("python3", "python")


@notebooks
def test_a_notebook_defines_nothing(path):
    for cell in code(path):
        lines = ("" if line.startswith(("%", "!")) else line for line in cell.source.splitlines())
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, defined)]


@notebooks
def test_the_parameters_cell_is_in_step_with_its_class(path):
    first, second = code(path)[:2]
    cls = NOTEBOOKS[path.stem]
    assert first.metadata.tags == ["parameters"]
    assert first.source == parameters_cell(cls)
    assert f"{cls.__name__}.from_notebook()" in second.source


def test_constraints_pin_everything_without_addresses():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "@" not in text and "/" not in text
    versions = pinned()
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[\w.]+", v) for name, v in versions.items())
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in PROJECT["dependencies"] + extras:
        direct = Requirement(line)
        assert str(direct.specifier) == f"=={versions[canonicalize_name(direct.name)]}", line


def test_the_conda_environment_is_in_step_with_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip[:2] == ["--constraint constraints.txt", "--editable .[dev]"]
    assert pip[2:] == PROJECT["dependencies"]
    (python,) = (entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python.removeprefix("python=") in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_the_readme_names_every_file_in_a_line():
    lines = (ROOT / "README.md").read_text().splitlines()
    for file in sorted((ROOT / "cnn_xray").glob("*.py")):
        if file.name != "__init__.py":
            named = [line for line in lines if re.search(rf"`(cnn_xray/)?{re.escape(file.name)}`\W+\w", line)]
            assert named, f"README.md has no line on {file.name}"


def test_the_version_is_the_same_everywhere():
    from cnn_xray import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_importing_the_module_is_light():
    code = (
        "import sys, pkgutil, importlib, cnn_xray\n"
        "import cnn_xray.report.cli, cnn_xray.parameters, cnn_xray.storage, cnn_xray.verdict\n"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_names_a_folder_of_one_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    endings = {
        ".py",
        ".md",
        ".toml",
        ".yml",
        ".yaml",
        ".ipynb",
        ".txt",
        ".cff",
        ".csv",
        ".html",
        ".css",
        ".j2",
        "",
    }
    files = [ROOT / name for name in tracked.stdout.split("\0") if name and Path(name).suffix in endings]
    if not files:
        pytest.skip("not a git checkout")
    machine = {str(ROOT), str(Path.home())} - {"/"}
    for file in files:
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="ignore")
            found = [place for place in machine if re.search(re.escape(place) + r"(/|\b)", text)]
            assert not found, f"{file.relative_to(ROOT)} names {found}"
