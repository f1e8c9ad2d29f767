"""Films of which one part is left: what is kept is untouched, what is taken tells nothing."""

import numpy as np
import pytest

from cnn_xray import InputError, geometry

FILMS = np.random.default_rng(0).integers(1, 255, (4, 8, 8)).astype(np.uint8)  # no pixel is black or white
LUNGS = np.zeros((4, 8, 8), bool)
LUNGS[0, 2:6, 2:4] = LUNGS[1, 2:5, 4:6] = LUNGS[2:, 1:7, 1:7] = True  # the last two are no training films
TRAIN = np.array([0, 1])


def kept(part, width=0.25, lungs=LUNGS):
    return geometry.part_alone(FILMS, part, width, lungs, TRAIN)


def test_ring_and_centre_share_the_film_out_between_them():
    ring, centre = kept("border", lungs=None), kept("centre", lungs=None)
    assert (ring[:, 2:6, 2:6] == 128).all()
    np.testing.assert_array_equal(centre[:, 2:6, 2:6], FILMS[:, 2:6, 2:6])
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    np.testing.assert_array_equal(ring[:, ~inside], FILMS[:, ~inside])
    assert (centre[:, ~inside] == 128).all()
    assert ring.dtype == centre.dtype == np.uint8


@pytest.mark.parametrize("part", ["border", "centre", "between"])
@pytest.mark.parametrize(("width", "said"), [(0.49, "every pixel of a film of 8 px"), (0.01, "no pixel of a film")])
def test_a_ring_of_all_or_nothing_is_refused(part, width, said):
    with pytest.raises(InputError, match=said):
        kept(part, width)


def test_the_black_box_is_the_same_on_every_film_and_comes_from_training_masks():
    found = kept("outside_lung_box")
    box = np.zeros((8, 8), bool)
    box[2:6, 2:6] = True  # both lungs of the training films, each in half of them
    assert (found[:, box] == 0).all()
    np.testing.assert_array_equal(found[:, ~box], FILMS[:, ~box])


def test_blackened_lungs_are_black_exactly_on_their_mask():
    found = kept("outside_lungs")
    np.testing.assert_array_equal(found == 0, LUNGS)
    np.testing.assert_array_equal(found[~LUNGS], FILMS[~LUNGS])
    assert found.dtype == np.uint8


def test_between_is_left_of_the_film_without_ring_and_lungs():
    found = kept("between")
    np.testing.assert_array_equal(found, np.where(LUNGS, 0, kept("centre")))
    assert (found[0, 2:6, 2:4] == 0).all() and (found[0, :2] == 128).all()
    np.testing.assert_array_equal(found[0, 2:6, 4:6], FILMS[0, 2:6, 4:6])


def test_an_outline_holds_nothing_of_the_film():
    np.testing.assert_array_equal(kept("lung_outline"), np.where(LUNGS, 255, 0))
    assert kept("lung_outline").dtype == np.uint8


@pytest.mark.parametrize("part", geometry.NEED_LUNGS)
def test_missing_masks_are_said_in_a_sentence(part):
    with pytest.raises(InputError, match=f"keep is '{part}', which needs lung masks, and these data have none."):
        kept(part, lungs=None)


def test_a_ring_without_lungs_shows_their_outline_in_the_ring_alone():
    lungs = np.zeros_like(LUNGS)
    lungs[:, 0:5, 3] = True  # in the ring and below it
    found = kept("border_outside_lungs", lungs=lungs)
    assert (found[:, 0:2, 3] == 0).all() and (found[:, 2:6, 2:6] == 128).all()
    ring = kept("border", lungs=None)
    np.testing.assert_array_equal(found[~lungs], ring[~lungs])


def test_between_shows_the_same_outline_as_all_outside_the_lungs():
    lungs = np.zeros_like(LUNGS)
    lungs[:, 0:5, 3] = True
    between, outside = kept("between", lungs=lungs), kept("outside_lungs", lungs=lungs)
    assert (between[lungs] == 0).all() and (outside[lungs] == 0).all()
    assert (between[:, 0, 0] == 128).all() and (outside[:, 0, 0] != 128).any()
