"""Geometry: what is cut, where it lands on the canvas, and the way back, on cases that can be counted."""

import numpy as np
import pytest

from cnn_xray.geometry import FRAME, Placement, View, area_mean, border_cells, rectangle, to_frame


def test_crop_cuts_the_fraction_from_every_side():
    placement = View(crop=0.1, aspect="squash", size=50).place((200, 100))
    assert placement.window == (0.1, 0.1, 0.9, 0.9)
    assert placement.target == FRAME


def test_square_keeps_the_centre_of_the_longer_side():
    placement = View(aspect="square", size=50).place((200, 100))
    assert placement.window == (0.25, 0.0, 0.75, 1.0)


def test_square_of_a_squashed_file_uses_the_original_proportions():
    # A 200 × 100 film squashed to 80 × 80: its centre square is the middle half of the file's width.
    placement = View(aspect="square", size=40).place((80, 80), original_size=(200, 100))
    assert placement.window == (0.25, 0.0, 0.75, 1.0)


def test_letterbox_centres_the_film_on_black():
    view = View(aspect="letterbox", size=40)
    placement = view.place((200, 100))
    assert placement == Placement(FRAME, (0.0, 0.25, 1.0, 0.75))
    canvas = view.apply(np.full((100, 200), 9, np.uint8), placement)
    assert (canvas[10:30] == 9).all()
    assert (canvas[:10] == 0).all() and (canvas[30:] == 0).all()


def test_edges_are_whole_pixels_of_the_file():
    # 10 % of 25 px is 2.5 px; 2 are cut, and the window says so.
    placement = View(crop=0.1, aspect="squash", size=10).place((25, 25))
    assert placement.window[0] == pytest.approx(2 / 25)
    assert placement.window[2] == pytest.approx(23 / 25)


def test_apply_takes_exactly_the_window():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6, 2:6] = 200
    view = View(crop=0.25, aspect="squash", size=4)
    assert (view.apply(pixels, view.place((8, 8))) == 200).all()


def test_map_of_a_crop_returns_to_its_window_and_is_zero_outside():
    maps = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    framed = to_frame(maps, [Placement((0.25, 0.25, 0.75, 0.75), FRAME)], (4, 4))
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = [[1, 2], [3, 4]]
    np.testing.assert_allclose(framed[0], expected)


def test_frame_cells_partly_in_the_window_get_their_share():
    # The window's left edge is in the middle of the first of two frame columns: half of that cell shows a 1.
    framed = to_frame(np.ones((1, 3, 3)), [Placement((0.25, 0.0, 1.0, 1.0), FRAME)], (1, 2))
    np.testing.assert_allclose(framed[0], [[0.5, 1.0]])


def test_letterbox_padding_has_no_place_in_the_frame():
    maps = np.array([[[7.0, 7.0], [1.0, 2.0], [3.0, 4.0], [7.0, 7.0]]])
    framed = to_frame(maps, [Placement(FRAME, (0.0, 0.25, 1.0, 0.75))], (2, 2))
    np.testing.assert_allclose(framed[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
@pytest.mark.parametrize("crop", [0.0, 0.125, 0.3])
def test_a_uniform_map_fills_its_window_and_nothing_else(aspect, crop):
    placement = View(crop=crop, aspect=aspect, size=48).place((96, 64))
    framed = to_frame(np.ones((1, 48, 48)), [placement], (96, 96))
    np.testing.assert_allclose(framed[0], rectangle(placement.window, (96, 96)), atol=1e-5)


def test_area_mean_is_exact_where_cells_and_pixels_do_not_divide():
    # Three pixels over two cells: the middle pixel is shared half and half.
    areas = np.array([[[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(area_mean(areas, (1, 2)), [[[1 / 3, 1 / 3]]])


def test_ring_of_one_cell_and_of_half_a_cell():
    np.testing.assert_allclose(border_cells(0.25, (4, 4)), [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(border_cells(0.125, (4, 4))[1], [0.5, 0, 0, 0.5])
    assert border_cells(0.1, (16, 16)).mean() == pytest.approx(1 - 0.8**2)
