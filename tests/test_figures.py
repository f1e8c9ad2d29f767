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
IMAGES = RNG.integers(0, 256, (3, 16, 16)).astype(np.uint8)
MAPS = RNG.normal(size=(3, 4, 4))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_all_maps_of_a_figure_share_one_symmetric_scale_with_a_unit():
    figure = figures.evidence_maps(IMAGES, {"small": MAPS, "large": 10 * MAPS}, ["a", "b", "c"])
    limits = {
        image.get_clim() for image in figure.findobj(matplotlib.image.AxesImage) if image.get_cmap().name == "RdBu_r"
    }
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high and high > 5
    assert "logits per cell" in texts(figure)


def test_a_map_lies_exactly_on_its_image():
    figure = figures.evidence_maps(IMAGES[:1], {"map": MAPS[:1]}, ["a"])
    image, overlay = figure.axes[1].images
    assert image.get_extent() == [-0.5, 15.5, 15.5, -0.5] and list(overlay.get_extent()) == image.get_extent()


def test_what_the_network_never_saw_is_covered():
    window = (0.25, 0.25, 0.75, 0.75)
    figure = figures.evidence_maps(
        IMAGES[:1], {"before": MAPS[:1], "after": MAPS[:1]}, ["a"], windows={"before": [FRAME], "after": [window]}
    )
    covered = [sum(patch.get_width() * patch.get_height() for patch in axes.patches) for axes in figure.axes[1:3]]
    assert covered == pytest.approx([0, 16 * 16 * 0.75])


def test_a_column_may_have_images_of_its_own():
    other = np.zeros_like(IMAGES)
    figure = figures.evidence_maps(IMAGES, {"map": MAPS}, list("abc"), below={"map": other})
    assert figure.axes[0].images[0].get_array().max() > 0 and figure.axes[1].images[0].get_array().max() == 0


def test_a_figure_of_zero_maps_is_drawn():
    figure = figures.evidence_maps(IMAGES, {"nothing": 0 * MAPS}, list("abc"))
    assert len(figure.axes[1].images) == 2 and np.isfinite(figure.axes[1].images[1].get_clim()).all()


def test_intervals_reach_from_low_to_high():
    table = pd.DataFrame({"value": [1.0, 2.0], "low": [0.5, np.nan], "high": [2.0, np.nan]}, index=["one", "two"])
    figure = figures.intervals(table, "logits", null=0, null_label="none")
    segments = figure.axes[0].collections[0].get_segments()
    assert segments[0][:, 0].tolist() == pytest.approx([0.5, 2.0])
    assert {"one", "two", "logits", "none"} <= set(texts(figure).split())


def test_a_contact_sheet_outlines_each_mask_in_its_colour_on_white():
    figure = figures.contact_sheet(IMAGES, list("abc"), columns=2, outlines={"red": IMAGES > 128})
    assert len(figure.axes) == 4 and {"a", "b", "c"} <= set(texts(figure).split())
    assert [len(axes.collections) for axes in figure.axes] == [2, 2, 2, 0]
    below, above = figure.axes[0].collections
    assert below.get_edgecolor()[0].tolist() == [1, 1, 1, 1] and above.get_edgecolor()[0].tolist() == [1, 0, 0, 1]
    assert below.get_linewidths()[0] > above.get_linewidths()[0]
