"""Before and after a crop in the original frame, on maps that can be counted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnn_xray import attention
from cnn_xray.data import Dataset
from cnn_xray.geometry import FRAME, Placement, View
from cnn_xray.parameters import DataParameters

WINDOW = [Placement((0.25, 0.25, 0.75, 0.75), FRAME)]  # of a 16 × 16 frame: rows and columns 4 to 11


def frame(*blocks):
    """A 16 × 16 map, zero but for (rows, columns, value)."""
    one = np.zeros((1, 16, 16), np.float32)
    for rows, columns, value in blocks:
        one[0, rows, columns] = value
    return one


def measured(maps, lungs=None, ring=0.25, sign=1.0):
    return attention.window_metrics(maps, np.array([sign]), WINDOW, lungs, ring).iloc[0]


def test_heat_outside_the_window_is_counted():
    maps = frame((slice(0, 2), slice(0, 2), 1.0), (slice(6, 10), slice(6, 10), 0.75))  # 4 outside, 12 inside
    assert measured(maps)["heat_outside_window"] == pytest.approx(4 / 16)


def test_the_new_edge_is_compared_with_the_rest_of_the_window_alone():
    # The window has 64 cells: 48 in its ring of a quarter of the side, 16 in the core. Heat outside does not matter.
    maps = frame(
        (slice(4, 12), slice(4, 12), 1.0), (slice(6, 10), slice(6, 10), 4.0), (slice(0, 1), slice(0, 16), 99.0)
    )
    assert measured(maps)["inner_border_log2_density_ratio"] == pytest.approx(np.log2(1 / 4))


def test_lung_enrichment_counts_only_what_lies_in_the_window():
    lungs = frame((slice(0, 16), slice(0, 8), 1.0))  # the left half, half of the window
    maps = frame((slice(4, 12), slice(4, 8), 3.0), (slice(4, 12), slice(8, 12), 1.0), (slice(0, 2), slice(0, 2), 99.0))
    assert measured(maps, lungs)["lung_enrichment_in_window"] == pytest.approx((3 / 4) / (1 / 2))


def test_no_heat_and_no_lungs_are_nan():
    found = measured(frame())
    assert found.isna().all()
    assert np.isnan(measured(frame((slice(6, 10), slice(6, 10), 1.0)))["lung_enrichment_in_window"])
    assert np.isnan(measured(frame((slice(6, 10), slice(6, 10), 1.0)), sign=-1.0)["heat_outside_window"])


def test_lung_loss_by_hand():
    # A film 100 × 100; one lung fills the frame, the other its middle half. A crop of 0.1 leaves 0.64 and all.
    lungs = np.zeros((3, 20, 20), bool)
    lungs[0] = True
    lungs[1, 5:15, 5:15] = True
    table = pd.DataFrame(
        {"has_lung": [True, True, False], "original_width": [100, 100, 100], "original_height": [100, 100, 100]}
    )
    data = Dataset("d", None, table, View(0.0, "squash", 20), lungs, WINDOW * 3, lungs, None, "f", ())
    loss = attention.lung_loss(data, (0.0, 0.1), "squash", np.arange(3))
    assert loss.loc[0.0, "median"] == pytest.approx(0)
    assert loss.loc[0.1, "median"] == pytest.approx(0.36 / 2)
    assert loss.loc[0.1, "percentile_95"] == pytest.approx(0.36 * 0.95)
    wide = replace(data, table=table.assign(original_width=200))
    # The centre square of a film twice as wide as high: half of the full lung is outside it before any crop.
    assert attention.lung_loss(wide, (0.0,), "square", np.array([0])).loc[0.0, "median"] == pytest.approx(0.5)


def test_a_masked_border_is_not_seen():
    data = SimpleNamespace(placements=[Placement((0.1, 0.1, 0.9, 0.9), (0, 0, 1, 1))])
    p = DataParameters(keep="centre", border=0.25)
    assert attention.seen_windows(data, [0], p)[0] == pytest.approx((0.3, 0.3, 0.7, 0.7))
    assert attention.seen_windows(data, [0], DataParameters())[0] == (0.1, 0.1, 0.9, 0.9)
