"""What is cut, where it lands and the way back, the masks of regions, and what a part of an image leaves: by hand."""

import numpy as np
import pytest

from cnn_xray import InputError, geometry
from cnn_xray.geometry import FRAME, Placement, View, area_mean, border_cells, rectangle, to_frame

# ---- a view, and the way back


@pytest.mark.parametrize(
    ("view", "file_size", "original_size", "window"),
    [
        (View(crop=0.1), (200, 100), None, (0.1, 0.1, 0.9, 0.9)),
        (View(aspect="square"), (200, 100), None, (0.25, 0, 0.75, 1)),
        # A 200 × 100 image squashed to 80 × 80: its centre square is the middle half of the file's width.
        (View(aspect="square"), (80, 80), (200, 100), (0.25, 0, 0.75, 1)),
        # 10 % of 25 px is 2.5 px; 2 are cut, and the window says so.
        (View(crop=0.1), (25, 25), None, (2 / 25, 2 / 25, 23 / 25, 23 / 25)),
    ],
)
def test_what_a_view_cuts(view, file_size, original_size, window):
    placement = view.place(file_size, original_size)
    assert placement.window == pytest.approx(window) and placement.target == FRAME


def test_letterbox_centres_the_image_on_black():
    view = View(aspect="letterbox", size=40)
    placement = view.place((200, 100))
    assert placement == Placement(FRAME, (0.0, 0.25, 1.0, 0.75))
    canvas = view.apply(np.full((100, 200), 9, np.uint8), placement)
    assert (canvas[10:30] == 9).all() and not canvas[:10].any() and not canvas[30:].any()


def test_apply_takes_exactly_the_window():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6, 2:6] = 200
    view = View(crop=0.25, size=4)
    assert (view.apply(pixels, view.place((8, 8))) == 200).all()


@pytest.mark.parametrize(
    ("one", "placement", "expected"),
    [
        (
            [[1, 2], [3, 4]],
            Placement((0.25, 0.25, 0.75, 0.75), FRAME),
            [[0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]],
        ),
        # The window's left edge is in the middle of the first of two frame columns: half of that cell shows a 1.
        ([[1, 1], [1, 1]], Placement((0.25, 0.0, 1.0, 1.0), FRAME), [[0.5, 1]]),
        # A letterbox's padding, here 7, has no place in the frame.
        ([[7, 7], [1, 2], [3, 4], [7, 7]], Placement(FRAME, (0.0, 0.25, 1.0, 0.75)), [[1, 2], [3, 4]]),
    ],
)
def test_a_map_returns_to_its_window_and_is_zero_outside(one, placement, expected):
    np.testing.assert_allclose(to_frame(np.array([one], float), [placement], np.shape(expected)), [expected])


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
@pytest.mark.parametrize("crop", [0.0, 0.3])
def test_a_uniform_map_fills_its_window_and_nothing_else(aspect, crop):
    placement = View(crop=crop, aspect=aspect, size=48).place((96, 64))
    framed = to_frame(np.ones((1, 48, 48)), [placement], (96, 96))
    np.testing.assert_allclose(framed[0], rectangle(placement.window, (96, 96)), atol=1e-5)


def test_area_mean_is_exact_where_cells_and_pixels_do_not_divide():
    # Three pixels over two cells: the middle pixel is shared half and half.
    np.testing.assert_allclose(area_mean(np.array([[[0, 1, 0]]]), (1, 2)), [[[1 / 3, 1 / 3]]])


def test_a_border_of_one_cell_and_of_half_a_cell():
    np.testing.assert_allclose(border_cells(0.25, (4, 4)), [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(border_cells(0.125, (4, 4))[1], [0.5, 0, 0, 0.5])
    assert border_cells(0.1, (16, 16)).mean() == pytest.approx(1 - 0.8**2)


# ---- soft masks


def test_the_border_is_whole_and_its_seam_lies_inwards():
    found = geometry.soft_border(20, 0.2)
    # Four pixels of 20 are the border; the seam is a quarter of it, one pixel, whose centre lies half way.
    np.testing.assert_allclose(found[10], [1] * 4 + [0.5] + [0] * 10 + [0.5] + [1] * 4, atol=1e-6)
    assert found.sum() == pytest.approx((400 - 12**2) + (12**2 - 10**2) / 2, abs=1e-4)
    np.testing.assert_array_equal(found, found.T)
    assert found.dtype == np.float32


def test_the_inner_border_begins_where_the_outer_one_ends():
    inner, outer = geometry.soft_inner_border(40, 0.1), geometry.soft_border(40, 0.1)
    # Outer: 4 pixels, 1 of seam. Inner: up to the 8th, then a seam of 2 pixels (a quarter of 8).
    np.testing.assert_allclose(inner[20, :20], [0] * 4 + [0.5] + [1] * 3 + [0.75, 0.25] + [0] * 10, atol=1e-6)
    assert not inner[outer == 1].any()
    np.testing.assert_allclose(inner + outer, geometry.soft_border(40, 0.2), atol=1e-6)


def test_an_inner_border_needs_room():
    found = geometry.soft_inner_border(40, 0.2)
    assert found[20, 15] == 1 and found[20, 19] == pytest.approx(0.125)  # the seam ends in the very middle
    for width in (0.21, 0.3, 0.49):
        with pytest.raises(InputError, match=f"border is {width}, and a second band"):
            geometry.soft_inner_border(64, width)


def test_a_box_is_whole_and_its_seam_lies_outwards():
    window = (0.25, 0.5, 0.75, 1.0)  # left, top, right, bottom
    hard = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(geometry.soft_box(4, window), hard)
    # Pixel centres lie 1/8 and 3/8 from the box's edge, a quarter and three quarters of a seam of 1/2.
    soft = [[0.25] * 4, [0.75] * 4, [0.75, 1, 1, 0.75], [0.75, 1, 1, 0.75]]
    np.testing.assert_allclose(geometry.soft_box(4, window, seam=0.5), soft)


def test_outside_grows_with_the_distance_from_the_area():
    areas = np.zeros((3, 4, 4), bool)
    areas[0, 0, 0] = True
    areas[2] = True
    found = geometry.soft_outside(geometry.distance_from(areas), seam=0.75)  # three pixels
    np.testing.assert_allclose(found[0, 0], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert found[0, 1, 1] == pytest.approx(np.sqrt(2) / 3)
    assert (found[1] == 1).all() and (found[2] == 0).all()
    np.testing.assert_array_equal(geometry.soft_outside(geometry.distance_from(areas), seam=0.0), ~areas)


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


def test_blending_is_linear_in_grey_values():
    below, above = np.array([[[100, 100, 100, 7]]], np.uint8), np.array([[[200, 200, 202, 9]]], np.uint8)
    found = geometry.blend(below, above, np.array([[0, 1, 0.25, 0.5]], np.float32))
    assert found.dtype == np.uint8 and found.tolist() == [[[100, 200, 126, 8]]]


# ---- one part of an image

IMAGES = np.random.default_rng(0).integers(1, 127, (4, 8, 8)).astype(np.uint8)  # no pixel is black, grey or white
LUNGS = np.zeros((4, 8, 8), bool)
LUNGS[0, 2:6, 2:4] = LUNGS[1, 2:5, 4:6] = LUNGS[2:, 1:7, 1:7] = True  # the last two are no training images
LUNGS[0, 0:5, 3] = True  # through the border
CENTRE, BOX = np.zeros((2, 8, 8), bool)
CENTRE[2:6, 2:6] = True
BOX[0:6, 2:6] = True  # around both lungs of the training images, each in half of them


def part(name, width=0.25, lungs=LUNGS):
    return geometry.part_alone(IMAGES, name, width, lungs, train=np.array([0, 1]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("border", np.where(CENTRE, 128, IMAGES)),
        ("without_border", np.where(CENTRE, IMAGES, 0)),
        ("outside_lungs", np.where(LUNGS, 0, IMAGES)),
        ("lung_outline", np.where(LUNGS, 255, 0)),
        # The box comes from training masks alone and is the same on every image.
        ("outside_lung_box", np.where(BOX, 0, IMAGES)),
        # Grey over black: no outline is seen further in. Black over grey: all of the outline is seen.
        ("border_outside_lungs", np.where(CENTRE, 128, np.where(LUNGS, 0, IMAGES))),
        ("between", np.where(LUNGS, 0, np.where(CENTRE, IMAGES, 128))),
    ],
)
def test_what_is_left_of_an_image(name, expected):
    found = part(name)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("name", ["border", "without_border"])
def test_border_and_what_it_leaves_need_no_lungs(name):
    np.testing.assert_array_equal(part(name, lungs=None), part(name))


@pytest.mark.parametrize("size", [8, 33, 64])
@pytest.mark.parametrize("width", [0.0625, 0.1, 0.25])
def test_the_borders_pixels_are_those_that_are_painted(size, width):
    white = np.full((1, size, size), 255, np.uint8)
    left = geometry.part_alone(white, "without_border", width, None, np.arange(1)) if size * width > 0.5 else white
    assert (left[0, size // 2] == 0).sum() == 2 * geometry.border_pixels(size, width)


@pytest.mark.parametrize("name", geometry.NEED_LUNGS)
def test_missing_masks_are_said_in_a_sentence(name):
    with pytest.raises(InputError, match=f"keep is '{name}', which needs lung masks, and these data have none."):
        part(name, lungs=None)


@pytest.mark.parametrize("name", ["border", "border_outside_lungs", "without_border", "between"])
@pytest.mark.parametrize(("width", "said"), [(0.49, "every pixel of an image of 8 px"), (0.01, "no pixel of an image")])
def test_a_border_of_all_or_nothing_is_refused(name, width, said):
    with pytest.raises(InputError, match=f"border is {width}, which is {said}"):
        part(name, width)
