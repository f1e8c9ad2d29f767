"""Soft masks worked out by hand on grids small enough to count."""

import numpy as np
import pytest

from cnn_xray import InputError, geometry


def test_the_outer_ring_is_whole_and_its_seam_lies_inwards():
    found = geometry.soft_border(20, 0.2)
    # Four pixels of 20 are the ring; the seam is a quarter of it, one pixel, whose centre lies half way.
    np.testing.assert_allclose(found[10], [1] * 4 + [0.5] + [0] * 10 + [0.5] + [1] * 4, atol=1e-6)
    assert found.sum() == pytest.approx((400 - 12**2) + (12**2 - 10**2) / 2, abs=1e-4)
    np.testing.assert_array_equal(found, found.T)
    assert found.dtype == np.float32


def test_the_inner_ring_begins_where_the_outer_one_ends():
    inner, outer = geometry.soft_inner_border(40, 0.1), geometry.soft_border(40, 0.1)
    # Outer: 4 pixels, 1 of seam. Inner: up to the 8th, then a seam of 2 pixels (a quarter of 8).
    np.testing.assert_allclose(inner[20, :20], [0] * 4 + [0.5] + [1] * 3 + [0.75, 0.25] + [0] * 10, atol=1e-6)
    assert not inner[outer == 1].any()
    np.testing.assert_allclose(inner + outer, geometry.soft_border(40, 0.2), atol=1e-6)


def test_a_second_ring_needs_room():
    found = geometry.soft_inner_border(40, 0.2)
    assert found[20, 15] == 1 and found[20, 19] == pytest.approx(0.125)  # the seam ends in the very middle
    for width in (0.21, 0.3, 0.49):
        with pytest.raises(InputError, match=f"ring is {width}, and a second ring"):
            geometry.soft_inner_border(64, width)


def test_a_box_is_whole_and_its_seam_lies_outwards():
    window = (0.25, 0.5, 0.75, 1.0)  # left, top, right, bottom
    hard = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(geometry.soft_box(4, window), hard)
    # Pixel centres lie 1/8 and 3/8 from the box's edge, a quarter and three quarters of a seam of 1/2.
    soft = [[0.25] * 4, [0.75] * 4, [0.75, 1, 1, 0.75], [0.75, 1, 1, 0.75]]
    np.testing.assert_allclose(geometry.soft_box(4, window, seam=0.5), soft)


def test_the_lung_box_holds_what_is_lung_in_half_of_the_masks():
    lungs = np.zeros((5, 4, 4), bool)
    lungs[:2, 1, 2] = lungs[2:4, 2, 1] = True  # each in two of the four masks that are not empty
    lungs[0, 0, 0] = lungs[1, 3, 3] = True  # in one of four
    assert geometry.lung_box(lungs) == (0.25, 0.25, 0.75, 0.75)
    lungs[2, 0, 0] = True
    assert geometry.lung_box(lungs) == (0, 0, 0.75, 0.75)


@pytest.mark.parametrize("lungs", [np.zeros((0, 4, 4), bool), np.zeros((3, 4, 4), bool), np.eye(16, dtype=bool)])
def test_without_a_pixel_in_common_there_is_no_lung_box(lungs):
    with pytest.raises(InputError, match="there is no lung box"):
        geometry.lung_box(lungs.reshape(-1, 4, 4))


def test_outside_grows_with_the_distance_from_the_area():
    areas = np.zeros((3, 4, 4), bool)
    areas[0, 0, 0] = True
    areas[2] = True
    found = geometry.soft_outside(areas, seam=0.75)  # three pixels
    np.testing.assert_allclose(found[0, 0], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert found[0, 1, 1] == pytest.approx(np.sqrt(2) / 3)
    assert (found[1] == 1).all() and (found[2] == 0).all()
    np.testing.assert_array_equal(geometry.soft_outside(areas, seam=0.0), ~areas)


def test_blending_is_linear_in_grey_values():
    below, above = np.array([[[100, 100, 100, 7]]], np.uint8), np.array([[[200, 200, 202, 9]]], np.uint8)
    found = geometry.blend(below, above, np.array([[0, 1, 0.25, 0.5]], np.float32))
    assert found.dtype == np.uint8 and found.tolist() == [[[100, 200, 126, 8]]]
