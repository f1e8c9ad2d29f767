"""Write the parameters cell of every notebook, and the page that lists all parameters, anew from `parameters.py`.

Run `python assets/refresh_parameters.py` after a change there; another folder of notebooks may be named.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

from cnn_xray.parameters import NOTEBOOKS, PAGE, parameters_cell, parameters_page


def main(folder: Path) -> None:
    """The cells of a folder's notebooks, and the page beside them."""
    (folder / Path(PAGE).name).write_text(parameters_page(), encoding="utf-8")
    for file in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = parameters_cell(NOTEBOOKS[file.stem])
        nbformat.write(notebook, file)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "notebooks"))
