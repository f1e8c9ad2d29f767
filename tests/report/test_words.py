"""What notebooks show: figures in few bytes, tables that line up, and what is left for the report to collect."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnn_xray import cam
from cnn_xray.report import words
from cnn_xray.statistics import Estimate


@pytest.fixture
def published(monkeypatch):
    shown = []
    monkeypatch.setattr(words, "display", lambda data, **options: shown.append((data, options)))
    return shown


def test_a_drawing_is_png_and_a_photograph_jpeg(published):
    for pixels in (np.zeros((300, 300)), np.random.default_rng(0).random((300, 300))):
        figure = Figure()
        figure.subplots().imshow(pixels)
        words.show(figure, alt="pixels")
    assert [kind for data, _ in published for kind in data if "image" in kind] == ["image/png", "image/jpeg"]
    assert published[2][1]["metadata"] == {"image/jpeg": {"alt": "pixels", "role": ""}}
    assert "pixels</p>" in published[3][0]["text/html"]  # below the figure, in a notebook


def turned(published) -> tuple[list, dict]:
    """The choices that were drawn, and what was shown."""
    drawn = []

    def draw(shade, size):
        drawn.append((shade, size))
        figure = Figure(figsize=(size, 1))
        figure.subplots().imshow(np.full((4, 4), shade), vmin=0, vmax=9)
        return figure

    words.turn(draw, "shades", shade=[1, 5, 9], size=[2, 3])
    return drawn, published[-2][0]


def test_what_can_be_turned_has_a_slider_a_choice_and_stands_for_itself_without_a_kernel(published):
    drawn, shown = turned(published)
    assert drawn == [(1, 2), (5, 2), (9, 2), (1, 2)]  # the last is the slider's
    (kind,) = (kind for kind in shown if "image/" in kind)
    assert Image.open(io.BytesIO(base64.b64decode(shown[kind]))).height > 200  # three of about an inch each
    assert "model_id" in shown[words.WIDGET] and shown["text/plain"] == "shades"


def cells(html: str) -> list[list[str]]:
    """The texts of a table's cells, row by row, each with ``>`` before it where it stands to the right."""
    right = re.findall(r"\.(col\d+) \{\s*text-align: right;", html)
    rows = []
    for row in re.findall("<tr>(.*?)</tr>", html, flags=re.DOTALL):
        found = re.findall(r'<t[dh] class="[^"]*(col\d+)" >(.*?)</t[dh]>', row)
        rows.append([(">" if column in right else "") + text for column, text in found])
    return rows


def test_a_table_puts_numbers_to_the_right_and_escapes_text():
    frame = pd.DataFrame(
        {"n": [1200, 3], "A<C": [0.9715, None], "who": ["<b>", None], "ok": [True, False], "any": [True, 1234.5]},
        index=["a", "b"],
    )
    html = words.table_html(frame, "Runs & scores", digits=2)
    assert "<caption>Runs &amp; scores</caption>" in html and "<caption>" not in words.table_html(frame)
    assert cells(html) == [
        ["", ">n", ">A&lt;C", "who", "ok", "any"],
        ["a", ">1,200", ">0.97", "&lt;b&gt;", "yes", "yes"],
        ["b", ">3", ">–", "–", "no", "1,234.50"],
    ]
    assert html == words.table_html(frame.copy(), "Runs & scores", digits=2)


def test_a_table_with_two_unnamed_levels_keeps_both():
    frame = pd.DataFrame({"AUC": [0.5]}, index=pd.MultiIndex.from_tuples([("border", "conflict")]))
    assert cells(words.table_html(frame))[1] == ["border", "conflict", ">0.500"]


def test_an_index_that_only_counts_is_left_out_but_a_named_one_is_shown():
    frame = pd.DataFrame({"AUC": [0.5]})
    assert cells(words.table_html(frame)) == [[">AUC"], [">0.500"]]
    assert cells(words.table_html(frame.rename_axis("seed"))) == [[">seed", ">AUC"], [">0", ">0.500"]]


def test_runs_are_one_line_and_each_is_left_for_the_report(published):
    words.uses_runs(run for run in ("a", "<b>", "a"))
    words.uses_runs(["c"])
    (first, _), (second, _) = published
    assert first[words.RUNS] == {"runs": ["a", "<b>"]} and second[words.RUNS] == {"runs": ["c"]}
    assert first["text/html"] == '<p class="run">Run records <code>a</code>, <code>&lt;b&gt;</code></p>'
    assert second["text/plain"] == "Run record c"


def test_notes_are_quoted_and_said_once(published):
    words.say_notes(["No masks.", "Two images left out.", "No masks."])
    words.say_notes([])
    assert [markdown.data for markdown, _ in published] == ["> No masks.", "> Two images left out."]


def test_an_estimate_in_a_table_has_the_tables_digits():
    frame = pd.DataFrame({"AUC": [Estimate(0.91234, 0.9, 0.95, 40)]}, index=["network"])
    assert "0.912 [0.900, 0.950]" in words.table_html(frame) and "0.9 [0.9, 0.9]" in words.table_html(frame, digits=1)


def test_what_can_be_played_with_has_its_data_and_a_sentence_instead(published):
    words.play("threshold", "Finds 1 < 2.", labels=[0, 1], probabilities=[0.25, 1.0])
    html = published[0][0]["text/html"]
    told = re.search(r'data-play="threshold" data-told="([^"]*)"', html)[1]
    assert json.loads(unescape(told)) == {"labels": [0, 1], "probabilities": [0.25, 1.0]}
    assert "<p>Finds 1 &lt; 2.</p>" in html


def test_images_to_browse_hold_the_value_of_every_cell_and_what_became_of_each_image(published):
    maps = np.array([[[1.0, -0.5], [0.0, 0.25]], [[-1.0, 0.0], [0.0, 0.0]]])
    found = cam.Evidence(maps, np.array([2.0, -3.0]), 0.0)
    images = np.zeros((2, 8, 8), "uint8")
    arms = {"before": {"evidence": found}, "after": {"evidence": found, "windows": [(0.125, 0.125, 0.875, 0.875)] * 2}}
    words.browse(images, np.array([True, True]), arms, "Some images", page="Images (all)")
    data = published[0][0]
    assert data["text/html"] == '<p class="play"><a href="images-all.html">Images (all)</a>: Some images</p>'
    html = data[words.PAGE]["html"]
    assert html.startswith("<h1>Images (all)</h1><p>Some images</p>")
    told = json.loads(unescape(re.search('data-told="([^"]*)"', html)[1]))
    assert told["titles"] == ["Image 1, PNEUMONIA", "Image 2, PNEUMONIA"] and len(told["images"]) == 2
    before, after = told["arms"]
    assert before["outcomes"] == ["pneumonia found (true positive)", "pneumonia missed (false negative)"]
    assert before["said"][0] == "probability 0.88, pneumonia found (true positive)"
    assert before["windows"] == [[0, 0, 1, 1]] * 2 and after["windows"] == [[0.125, 0.125, 0.875, 0.875]] * 2
    cells = np.frombuffer(base64.b64decode(before["maps"][0]), "int8").reshape(before["size"])
    assert cells * told["unit"] == pytest.approx(maps[0], abs=told["unit"] / 2)


def test_a_folded_table_shows_its_caption_alone(published):
    words.table(pd.DataFrame({"n": [1]}), "Runs & scores", folded=True)
    html = published[0][0]["text/html"]
    assert html.startswith('<details class="more"><summary>Runs &amp; scores</summary>') and html.endswith("</details>")
    assert html.count("Runs &amp; scores") == 1 and cells(html) == [[">n"], [">1"]]
