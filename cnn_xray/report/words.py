"""What notebooks call to show a sentence, a headline figure, a figure or a table."""

from __future__ import annotations

import base64
import io
from html import escape
from inspect import cleandoc
from numbers import Integral, Real
from typing import Any

import pandas as pd
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

HEADLINE = "application/vnd.cnn-xray.headline+json"  # {"label", "value", "meaning"}
RUN = "application/vnd.cnn-xray.run+json"  # {"run"}: the id of a run record
DPI = 100
JPEG_QUALITY = 85
MISSING = "–"


def say(markdown: str) -> None:
    """Show Markdown, usually an f-string with the numbers in it."""
    display(Markdown(cleandoc(markdown)))


def headline(label: str, value: str, meaning: str) -> None:
    """Show one headline figure in a box and leave it for the report's index.

    ``label`` names the figure (Test AUC), ``value`` is the figure with its interval (0.971 [0.958, 0.982]),
    ``meaning`` says in a sentence how to read it.
    """
    box = (
        '<div class="headline" style="border-left: 4px solid #1f5a7a; padding: .2em 1em; margin: 1em 0">'
        f'<div class="label">{escape(label)}</div>'
        f'<div class="value" style="font-size: 1.5em; font-weight: 600">{escape(value)}</div>'
        f'<div class="meaning">{escape(meaning)}</div></div>'
    )
    _publish(
        {
            HEADLINE: {"label": label, "value": value, "meaning": meaning},
            "text/html": box,
            "text/plain": f"{label}: {value}\n{meaning}",
        }
    )


def uses_run(run_id: str) -> None:
    """Show which run record what follows was read from, and put that run into the report's runs.csv."""
    html = f'<p class="run">Run record <code>{escape(run_id)}</code></p>'
    _publish({RUN: {"run": run_id}, "text/html": html, "text/plain": f"Run record {run_id}"})


def show(figure: Figure, alt: str = "") -> None:
    """Show a figure as PNG, or as JPEG where that takes less than half the space, and close it.

    ``alt`` describes it to who cannot see it; the titles in the figure do so otherwise.
    """
    from PIL import Image

    drawn, png, jpeg = io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    alt = alt or _titles(figure)
    plt.close(figure)
    pixels = Image.open(drawn).convert("RGB")
    pixels.save(png, format="png", optimize=True)
    pixels.save(jpeg, format="jpeg", quality=JPEG_QUALITY, optimize=True)
    photographic = 2 * jpeg.tell() < png.tell()
    kind, image = ("image/jpeg", jpeg) if photographic else ("image/png", png)
    _publish({kind: base64.b64encode(image.getvalue()).decode(), "text/plain": alt}, {kind: {"alt": alt}})


def _titles(figure: Figure) -> str:
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    return "; ".join(dict.fromkeys(title.replace("\n", " ") for title in titles if title)) or "Figure"


def table(frame: pd.DataFrame, caption: str = "", digits: int = 3) -> None:
    """Show a table, floats with ``digits`` decimals, and its index unless it is a nameless range."""
    _publish({"text/html": table_html(frame, caption, digits), "text/plain": frame.to_string()})


def table_html(frame: pd.DataFrame, caption: str = "", digits: int = 3) -> str:
    """The table as HTML: numbers are marked for alignment, missing values are a dash, all text is escaped."""
    if not isinstance(frame.index, pd.RangeIndex) or frame.index.name:
        frame = frame.reset_index(names=[name or "" for name in frame.index.names], allow_duplicates=True)
    kinds = [frame.dtypes.iloc[place] for place in range(frame.shape[1])]
    marks = [' class="number"' if is_numeric_dtype(k) and not is_bool_dtype(k) else "" for k in kinds]
    head = "".join(f"<th{mark}>{escape(str(name))}</th>" for name, mark in zip(frame, marks, strict=True))
    rows = [
        "<tr>" + "".join(f"<td{m}>{_cell(v, digits)}</td>" for v, m in zip(row, marks, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    ]
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(rows) + "</tbody></table>"


def p_value(p: float) -> str:
    """A p-value with three decimals, ``< 0.001`` below that; missing ones are a dash."""
    return MISSING if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(value: Any, digits: int) -> str:
    if value is None or value is pd.NA or value != value:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):.{digits}f}"
    return escape(str(value))


def _publish(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    display(data, metadata=metadata, raw=True)
