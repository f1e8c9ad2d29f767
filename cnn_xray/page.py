"""The HTML of a report: one page a notebook and an index, self-contained, printable, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cnn_xray
from cnn_xray.narrate import HEADLINE, RUN

HERE = Path(__file__).parent
DISCLAIMER = "For research and teaching. Not a medical device: nothing here may be used to diagnose or treat anyone."


@dataclass(frozen=True)
class Chapter:
    """One executed notebook of a report: its name, first heading, headline figures and runs it used."""

    name: str
    title: str
    headlines: tuple[dict[str, str], ...]
    runs: tuple[str, ...]
    notebook: Any

    @property
    def file(self) -> str:
        """The page's file name in the report's folder."""
        return f"{self.name}.html"


def chapter(name: str, notebook: Any) -> Chapter:
    """What a report takes from an executed notebook (nbformat)."""
    headings = (
        line.removeprefix("# ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    )
    shown = [out.data for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    return Chapter(
        name,
        next(headings, name),
        tuple(_card(data[HEADLINE]) for data in shown if HEADLINE in data),
        tuple(dict.fromkeys(data[RUN]["run"] for data in shown if RUN in data)),
        notebook,
    )


def _card(headline: Mapping[str, str]) -> dict[str, str]:
    """A headline figure with its interval, if it ends in one, apart: 0.971 [0.958, 0.982]."""
    figure, bracket, interval = headline["value"].partition(" [")
    return {**headline, "figure": figure, "interval": bracket.strip() + interval}


def notebook_page(chapters: Sequence[Chapter], number: int, report: str) -> str:
    """The page of one chapter, with links to the others."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", template_file=str(HERE / "notebook.html.j2"))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    body, _ = exporter.from_notebook_node(chapters[number].notebook)
    links = [("Overview", "index.html")]
    links += [(other.name.replace("_", " "), other.file) for other in chapters]
    links[number + 1] = (links[number + 1][0], "")
    return _fill("page.html.j2", title=f"{chapters[number].title} · {report}", links=links, body=_safe(body))


def index_page(
    chapters: Sequence[Chapter],
    report: str,
    subject: str,
    runs: str,
    parameters: str,
    changed: Sequence[tuple[str, Any]],
    made_with: Sequence[tuple[str, str]],
) -> str:
    """The overview: headline figures by notebook, then the runs, the parameters and what it was made with.

    ``runs`` and ``parameters`` are HTML tables; everything else is plain text.
    """
    return _fill(
        "index.html.j2",
        title=f"{report} · cnn_xray",
        question=(cnn_xray.__doc__ or "").strip().replace("X-ray", "X\N{NON-BREAKING HYPHEN}ray"),
        links=[("Overview", ""), *((one.name.replace("_", " "), one.file) for one in chapters)],
        chapters=chapters,
        subject=subject,
        runs=_safe(runs),
        parameters=_safe(parameters),
        changed=changed,
        made_with=made_with,
    )


def _fill(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    css = _safe((HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=css, disclaimer=DISCLAIMER, **values)


def _safe(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)
