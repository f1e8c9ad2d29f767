"""Figures: each is drawn from small data and shows what it was given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from cnn_xray import figures
from cnn_xray.geometry import FRAME

matplotlib.use("agg")
RNG = np.random.default_rng(0)
FILMS = RNG.integers(0, 256, (3, 16, 16)).astype(np.uint8)
MAPS = RNG.normal(size=(3, 4, 4))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_class_balance_shows_every_count():
    table = pd.DataFrame({"split": ["train"] * 5 + ["test"] * 3, "label": [0, 0, 1, 1, 1, 0, 1, 1]})
    shown = texts(figures.class_balance(table))
    assert all(word in shown for word in ("train", "test", "NORMAL", "PNEUMONIA", "2", "3", "1"))


def test_all_maps_of_a_figure_share_one_symmetric_scale_with_a_unit():
    figure = figures.evidence_maps(FILMS, {"small": MAPS, "large": 10 * MAPS}, ["a", "b", "c"])
    limits = {
        image.get_clim() for image in figure.findobj(matplotlib.image.AxesImage) if image.get_cmap().name == "RdBu_r"
    }
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high and high > 5
    assert "logits per cell" in texts(figure)


def test_a_map_lies_exactly_on_its_film():
    figure = figures.evidence_maps(FILMS[:1], {"map": MAPS[:1]}, ["a"])
    film, overlay = figure.axes[1].images
    assert film.get_extent() == [-0.5, 15.5, 15.5, -0.5] and list(overlay.get_extent()) == film.get_extent()


def test_what_the_network_never_saw_is_covered():
    window = (0.25, 0.25, 0.75, 0.75)
    figure = figures.evidence_maps(
        FILMS[:1], {"before": MAPS[:1], "after": MAPS[:1]}, ["a"], windows={"before": [FRAME], "after": [window]}
    )
    covered = [sum(patch.get_width() * patch.get_height() for patch in axes.patches) for axes in figure.axes[1:3]]
    assert covered == pytest.approx([0, 16 * 16 * 0.75])


def test_a_column_may_have_films_of_its_own():
    other = np.zeros_like(FILMS)
    figure = figures.evidence_maps(FILMS, {"map": MAPS}, list("abc"), films={"map": other})
    assert figure.axes[0].images[0].get_array().max() > 0 and figure.axes[1].images[0].get_array().max() == 0


def test_a_figure_of_zero_maps_is_drawn():
    figures.evidence_maps(FILMS, {"nothing": 0 * MAPS}, list("abc"))
    figures.mean_maps({"nothing": np.zeros((4, 4))})


def test_confusion_counts_and_threshold():
    labels = np.array([0, 0, 1, 1, 1])
    shown = texts(figures.discrimination(labels, np.array([0.1, 0.9, 0.8, 0.7, 0.2]), threshold=0.5))
    assert "threshold 0.5" in shown and "predicted at 0.5" in shown and "chance" in shown


def test_intervals_reach_from_low_to_high():
    table = pd.DataFrame({"value": [1.0, 2.0], "low": [0.5, np.nan], "high": [2.0, np.nan]}, index=["one", "two"])
    figure = figures.intervals(table, "logits", null=0, null_label="none")
    segments = figure.axes[0].collections[0].get_segments()
    assert segments[0][:, 0].tolist() == pytest.approx([0.5, 2.0])
    assert {"one", "two", "logits", "none"} <= set(texts(figure).split())


def test_before_after_draws_a_line_a_seed():
    rows = [
        {"group": group, "line": "test", "seed": seed, "condition": condition, "AUC": 0.5}
        for group in ("border", "inside") for seed in (0, 1) for condition in ("before", "after")
    ]  # fmt: skip
    figure = figures.before_after(pd.DataFrame(rows), "AUC", "AUC", chance=0.5)
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]


def test_a_line_passes_through_all_three_conditions_in_order():
    rows = [
        {"group": "a", "line": "test", "seed": 0, "condition": condition, "AUC": value}
        for condition, value in (("after", 0.9), ("before", 0.1), ("masked", 0.5))
    ]
    (axes,) = figures.before_after(pd.DataFrame(rows), "AUC", "AUC").axes
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.5, 0.9]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(figures.CONDITIONS.values())


def test_a_cascade_shows_every_draw_and_their_mean():
    table = pd.DataFrame(
        {"signed": [1, 0.2, 1, 0.4], "absolute": [1, 0.6, 1, 0.8], "draw": [0, 0, 1, 1]},
        index=["none", "logit", "none", "logit"],
    )
    left, right = figures.cascade(table).axes
    assert [list(line.get_ydata()) for line in left.lines[:3]] == [[1, 0.2], [1, 0.4], [1, pytest.approx(0.3)]]
    assert list(right.lines[2].get_ydata()) == [1, pytest.approx(0.7)]
    assert [label.get_text() for label in left.get_xticklabels()] == ["none", "logit"]


def test_a_reliability_diagram_shows_each_bin_and_its_interval():
    one = pd.DataFrame(
        {"mean_probability": [0.2, 0.9], "share_positive": [0.3, 1.0], "low": [0.1, np.nan], "high": [0.6, np.nan]}
    ).assign(n=[700, 600])
    figure = figures.reliability({"as trained": one, "Platt": one[:1]})
    left, right = figure.axes
    assert len(left.collections) == len(right.collections) == 1
    np.testing.assert_allclose(left.collections[0].get_segments(), [[[0.2, 0.1], [0.2, 0.6]]])
    hollow = [line for line in left.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[0.9, 1.0]]]
    shown = texts(figure)
    assert "as trained\n1,300 films" in shown and "Platt\n700 films" in shown
    assert "mean predicted probability" in shown and "share that is pneumonia" in shown


def test_the_remaining_figures_are_drawn():
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [1.0, 0.5], "val_loss": [1, 0.6], "val_auc": [0.5, 0.9], "best": [False, True]}
    )
    assert len(figures.training_curves(history).axes) == 2
    sizes = pd.DataFrame({"original_width": [10, None, 30], "original_height": [10, 5, 3], "label": [0, 1, 1]})
    assert "PNEUMONIA (1)" in texts(figures.original_sizes(sizes))
    outlines = {"red": FILMS > 128}
    assert len(figures.contact_sheet(FILMS, list("abc"), columns=2, outlines=outlines).axes) == 4
    assert "grey values" in texts(figures.mean_films(FILMS[0].astype(float), FILMS[1].astype(float)))


def test_an_ablation_has_the_best_arm_on_top_and_a_dot_a_seed():
    table = pd.DataFrame({"arm": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "difference": [-0.1, 0.0, 0.2, 0.1]})
    (axes,) = figures.ablation(table, "difference").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    seeds, means = (line for line in axes.lines if line.get_label() in ("a seed", "mean"))
    assert len(seeds.get_xdata()) == 4 and list(means.get_xdata()) == pytest.approx([0.15, -0.05])


def test_operating_points_lie_where_they_were_measured_one_curve_a_seed():
    films = pd.DataFrame({"label": [0, 1, 0, 1], "probability": [0.1, 0.4, 0.6, 0.9]})
    points = pd.DataFrame({"seed": [0], "threshold at": ["0.5"], "sensitivity": [0.5], "specificity": [0.5]})
    (axes,) = figures.operating_points({0: films, 1: films}, points).axes
    *curves, marked = axes.lines
    assert len(curves) == 2 and (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.5, 0.5)


def test_a_dot_an_arm_says_what_validation_foretold():
    table = pd.DataFrame({"a": [0.9, 0.92], "b": [0.5, 0.6], "test": [0.96, 0.97], "odd": [False, True]})
    left, right = figures.foretold(table, {"a": "one", "b": "two"}, "test", "odd").axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[0.9, 0.96]], [[0.92, 0.97]]]
    assert [line.get_xydata().tolist() for line in right.lines] == [[[0.5, 0.96]], [[0.6, 0.97]]]
    assert [line.get_label() for line in left.lines] == ["other arms", "odd"]
