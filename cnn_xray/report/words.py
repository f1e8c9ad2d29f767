"""What notebooks call to show a sentence, a headline figure, a figure, a table, or which runs they read."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from inspect import cleandoc
from typing import Any
from zlib import crc32

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pandas.api.types import is_bool
from pandas.io.formats.style import Styler
from PIL import Image
from scipy.special import expit

from cnn_xray.statistics import Estimate

HEADLINE = "application/vnd.cnn-xray.headline+json"  # {"label", "value", "meaning"}
PAGE = "application/vnd.cnn-xray.page+json"  # {"page", "title", "html"}: what has a page of its own
WIDGET = "application/vnd.jupyter.widget-view+json"
RUNS = "application/vnd.cnn-xray.runs+json"  # {"runs": ids of run records}
DPI = 100
JPEG_QUALITY = 85
MISSING = "–"
OUTCOMES = {  # by whether it is pneumonia, and whether it is called so
    (True, True): "pneumonia found (true positive)",
    (True, False): "pneumonia missed (false negative)",
    (False, True): "false alarm (false positive)",
    (False, False): "normal and called so (true negative)",
}
RIGHT: Any = {"selector": "", "props": "text-align: right"}  # of a column of numbers


def say(markdown: str) -> None:
    """Show Markdown, usually an f-string with the numbers in it.

    Parameters
    ----------
    markdown
        May be indented as a whole.
    """
    display(Markdown(cleandoc(markdown)))


def say_notes(notes: Iterable[str]) -> None:
    """Show each note as a quoted line, repeated ones once.

    Parameters
    ----------
    notes
        Markdown, one line each.
    """
    for note in dict.fromkeys(notes):
        say(f"> {note}")


def headline(
    label: str,
    value: str,
    meaning: str,
    role: str = "",
    picture: Figure | np.ndarray | None = None,
    **more: float | str,
) -> None:
    """Show one headline figure in a box and leave it for the report's index.

    Parameters
    ----------
    label
        Name of the figure, such as ``Test AUC``.
    value
        The figure with its interval, such as ``0.971 [0.958, 0.982]``.
    meaning
        A sentence that says how to read it.
    role
        Where the index puts it first: ``answer``, ``question``, ``surprise``, ``performance`` or ``trust``.
    picture
        Shown small beside it on the index: a figure, which is closed, or an image (H, W) uint8.
    **more
        What else the index needs: of a question ``answer``, ``estimate``, ``low``, ``high`` and ``counts``.
    """
    box = (
        f'<div class="headline {role}" style="border-left: 4px solid #1f5a7a; padding: .2em 1em; margin: 1em 0">'
        f'<div class="label">{escape(label)}</div>'
        f'<div class="value" style="font-size: 1.5em; font-weight: 600">{escape(value)}</div>'
        f'<div class="meaning">{escape(meaning)}</div></div>'
    )
    card = {"label": label, "value": value, "meaning": meaning, "role": role, **more}
    if picture is not None:
        card["picture"] = thumbnail(_drawn(picture) if isinstance(picture, Figure) else Image.fromarray(picture))
    display({HEADLINE: card, "text/html": box, "text/plain": f"{label}: {value}\n{meaning}"}, raw=True)


def play(kind: str, fallback: str, page: str = "", role: str = "", **told: Any) -> None:
    """Show something to play with; where scripts do not run, the fallback.

    Parameters
    ----------
    kind
        Of those in play.js, such as ``threshold``.
    fallback
        A sentence that says the same without playing.
    page
        Title of a page of its own, to which the fallback links; empty: it stands here.
    role
        ``hero``: the index shows it as well.
    **told
        What it needs, as JSON.
    """
    said = escape(fallback)
    html = f'<div class="play" data-play="{kind}" data-told="{escape(json.dumps(told))}"><p>{said}</p></div>'
    if not page:
        told_index = {"text/html": {"role": role}} if role else {}
        return display({"text/html": html, "text/plain": fallback}, metadata=told_index, raw=True)
    name = re.sub(r"\W+", "-", page.lower()).strip("-")
    link = f'<p class="play"><a href="{name}.html">{escape(page)}</a>: {said}</p>'
    html = f"<h1>{escape(page)}</h1><p>{said}</p>{html}"
    display({PAGE: {"page": name, "title": page, "html": html}, "text/html": link, "text/plain": fallback}, raw=True)


def browse(
    images: np.ndarray, ill: np.ndarray, arms: Mapping[str, Mapping[str, Any]], fallback: str, **where: str
) -> None:
    """Show images with the evidence of each arm, to leaf through, with the value of every cell (`play`).

    Parameters
    ----------
    images : ndarray (N, S, S) uint8
    ill : ndarray (N,) bool
        Whether each shows pneumonia.
    arms
        By name: its ``evidence`` on the images (`cam.Evidence`); and one an image, in fractions of the image shown,
        the ``windows`` that its map covers and what its network has ``seen``.
    fallback, **where
        As for `play`.
    """
    heat = [np.abs(arm["evidence"].maps) for arm in arms.values()]
    unit = max(float(one.max()) for one in heat) / 127 or 1.0
    full = max(float(np.quantile(one, 0.995)) for one in heat) / unit or 1.0  # from there on the colour is full
    whole, drawn = [(0.0, 0.0, 1.0, 1.0)] * len(images), []
    for name, arm in arms.items():
        maps, logits = arm["evidence"].maps, arm["evidence"].logits
        cells = (maps / unit).round().astype("int8")
        part = {key: np.round(arm.get(key, whole), 4).tolist() for key in ("windows", "seen")}
        outcomes = [OUTCOMES[bool(one), bool(z >= 0)] for one, z in zip(ill, logits, strict=True)]
        said = [f"probability {z:.2f}, {one}" for z, one in zip(expit(logits), outcomes, strict=True)]
        maps = [base64.b64encode(one.tobytes()).decode() for one in cells]
        drawn.append({"name": name, "size": cells.shape[1:], "maps": maps, "outcomes": outcomes, "said": said, **part})
    shown = [base64.b64encode(_encoded(Image.fromarray(one), "jpeg")).decode() for one in images]
    titles = [f"Image {i + 1}, {'PNEUMONIA' if one else 'NORMAL'}" for i, one in enumerate(ill)]
    play("maps", fallback, **where, images=shown, titles=titles, arms=drawn, unit=unit, full=full)


def turn(draw: Callable[..., Figure], alt: str, **choices: Sequence[Any]) -> None:
    """Show a figure with a slider for each choice; where there is no kernel, some of the figures, still.

    Parameters
    ----------
    draw
        From one value of each choice to a figure.
    alt
        Describes the figures to who cannot see or turn them.
    **choices
        Values by name. Without a kernel every value of the first choice has a figure, at the others' first values.
    """
    (name, values), rest = next(iter(choices.items())), {key: each[0] for key, each in choices.items()}
    drawn = [_drawn(draw(**{**rest, name: value})) for value in values]
    sheet = Image.new("RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white")
    for i, one in enumerate(drawn):
        sheet.paste(one, (0, sum(above.height for above in drawn[:i])))
    kind, image = _smallest(sheet)

    look = {"continuous_update": False}
    sliders = {key: ipywidgets.SelectionSlider(options=each, description=key, **look) for key, each in choices.items()}
    picture = ipywidgets.Image(format="png")  # an Output widget would hang some front ends

    def turned(_: Any = None) -> None:
        chosen = {key: slider.value for key, slider in sliders.items()}
        picture.value = _encoded(_drawn(draw(**chosen)), "png")

    for slider in sliders.values():
        slider.observe(turned, "value")
    turned()
    widget = ipywidgets.VBox([*sliders.values(), picture])._repr_mimebundle_()[WIDGET]
    display({kind: image, "text/plain": alt, WIDGET: widget}, metadata={kind: {"alt": alt, "role": ""}}, raw=True)
    _caption(alt)


def uses_runs(ids: Iterable[str]) -> None:
    """Show in one line which run records were read, and put these runs into the report's runs.csv.

    Parameters
    ----------
    ids
        Ids of runs, repeated ones shown once.
    """
    every = list(dict.fromkeys(ids))
    word = "Run record" if len(every) == 1 else "Run records"
    html = f'<p class="run">{word} {", ".join(f"<code>{escape(one)}</code>" for one in every)}</p>'
    display({RUNS: {"runs": every}, "text/html": html, "text/plain": f"{word} {', '.join(every)}"}, raw=True)


def show(figure: Figure, alt: str = "", role: str = "") -> None:
    """Show a figure as PNG, or as JPEG where that takes less than half the space, and close it.

    Parameters
    ----------
    figure
        A matplotlib figure.
    alt
        Describes it to who cannot see it; the titles in the figure do so otherwise.
    role
        ``hero``: the index shows it as well.
    """
    alt = alt or _titles(figure)
    kind, image = _smallest(_drawn(figure))
    display({kind: image, "text/plain": alt}, metadata={kind: {"alt": alt, "role": role}}, raw=True)
    _caption(alt)


def _caption(text: str) -> None:
    """What a page writes below a figure, for who sees the notebook itself."""
    html = f'<p class="caption">{escape(text)}</p>'
    display({"text/html": html, "text/plain": ""}, metadata={"text/html": {"caption": True}}, raw=True)


def _smallest(pixels: Image.Image) -> tuple[str, str]:
    """Kind and base64 of an image: PNG, or JPEG where that takes less than half the space."""
    png, jpeg = (_encoded(pixels, kind) for kind in ("png", "jpeg"))
    kind, image = ("image/jpeg", jpeg) if 2 * len(jpeg) < len(png) else ("image/png", png)
    return kind, base64.b64encode(image).decode()


def _drawn(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return Image.open(file).convert("RGB")


def _encoded(pixels: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    pixels.save(file, format=kind, quality=JPEG_QUALITY, optimize=True)
    return file.getvalue()


def thumbnail(image: str | Image.Image, width: int = 240) -> str:
    """A small JPEG of an image, as the source of an HTML image.

    Parameters
    ----------
    image
        Itself, or PNG or JPEG, base64.
    width
        In px.
    """
    whole = Image.open(io.BytesIO(base64.b64decode(image))) if isinstance(image, str) else image
    whole = whole.convert("RGB")
    whole.thumbnail((width, width))
    return f"data:image/jpeg;base64,{base64.b64encode(_encoded(whole, 'jpeg')).decode()}"


def _titles(figure: Figure) -> str:
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    return "; ".join(dict.fromkeys(title.replace("\n", " ") for title in titles if title)) or "Figure"


def table(frame: pd.DataFrame, caption: str = "", digits: int = 3, folded: bool = False) -> None:
    """Show a table.

    Parameters
    ----------
    frame
        Its index is shown unless it is a nameless range.
    caption
        Plain text above the table.
    digits
        Decimals of numbers that are not whole.
    folded
        The page shows the caption alone until it is opened, or printed.
    """
    html = table_html(frame, "" if folded else caption, digits)
    html = f'<details class="more"><summary>{escape(caption)}</summary>{html}</details>' if folded else html
    display({"text/html": html, "text/plain": frame.to_string()}, raw=True)


def table_html(frame: pd.DataFrame, caption: str = "", digits: int = 3) -> str:
    """HTML of a table: numbers to the right, missing values a dash, truth values yes or no, all text escaped.

    Parameters
    ----------
    frame
        With column names that differ; its index is shown unless it is a nameless range.
    caption
        Plain text above the table.
    digits
        Decimals of numbers that are not whole.
    """
    if not isinstance(frame.index, pd.RangeIndex) or frame.index.name:
        frame = frame.reset_index(names=[name or " " * level for level, name in enumerate(frame.index.names)])
    styler = Styler(
        frame.map(lambda value: _cell(value, digits)),
        precision=digits,
        thousands=",",
        na_rep=MISSING,
        escape="html",
        caption=escape(caption),
        cell_ids=False,
        uuid=f"{crc32(frame.to_csv().encode()):08x}",  # the same table is the same HTML
    )
    numbers = {name: [RIGHT] for name in frame.select_dtypes("number")}
    return styler.format_index(escape="html", axis="columns").hide(axis="index").set_table_styles(numbers).to_html()


def _cell(value: Any, digits: int) -> Any:
    if isinstance(value, Estimate):
        return format(value, f".{digits}f")
    return ("yes" if value else "no") if is_bool(value) else value
