"""Small notebooks that train nothing, for the tests of what executes notebooks."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cnn_xray.parameters import NOTEBOOKS, parameters_cell


def write(path: Path, *code: str, kind: str = "") -> Path:
    """A notebook whose first cells are those of a real one, and then these."""
    cls = NOTEBOOKS[kind or path.stem]
    first = new_code_cell(parameters_cell(cls), metadata={"tags": ["parameters"]})
    second = f"from cnn_xray.parameters import {cls.__name__}\np = {cls.__name__}.from_notebook()"
    cells = [new_markdown_cell(f"# About {path.stem}"), first, *map(new_code_cell, (second, *code))]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path
