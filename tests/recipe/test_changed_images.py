"""Images with the look of the other class: what is changed, by how much, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from changed_images import (
    CHANGED,
    REFERENCE_SIDE,
    auc_lost,
    changed_images,
    sharpness_seen,
    values_of_other_class,
    values_of_own_class,
)

from cnn_xray import InputError
from cnn_xray.data import Dataset
from cnn_xray.geometry import View

SIDE = 160
VIEW = View(0.0, "squash", 64)


def test_ranks_are_swapped_by_hand():
    # ranks 1/6, 1/2 and 5/6 of the other class, between whose three values np.quantile interpolates
    found = values_of_other_class([2, 10, 1, 30, 3, 20], [0, 1, 0, 1, 0, 1])
    assert found == pytest.approx([20, 4 / 3, 40 / 3, 8 / 3, 80 / 3, 2])
    assert values_of_other_class([5, 5, 7], [0, 0, 1]) == pytest.approx([7, 7, 5])  # equal images stay equal


def test_the_null_swaps_values_within_a_class():
    values, labels = np.arange(40.0), np.arange(40) % 2
    found = values_of_own_class(values, labels, seed=3)
    for label in (0, 1):
        assert sorted(found[labels == label]) == values[labels == label].tolist()
    assert (found != values).mean() > 0.8
    assert (found == values_of_own_class(values, labels, seed=3)).all()


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 2]])
def test_one_class_alone_has_nothing_to_swap(labels):
    with pytest.raises(InputError, match="^Properties can be swapped between classes only where there are images of"):
        values_of_other_class([1.0, 2.0], labels)


def frames(images: list[np.ndarray], labels: list[int], proportions: list[float]) -> Dataset:
    size = {"original_width": np.round(1000 * np.exp(proportions)), "original_height": 1000}
    table = pd.DataFrame({"label": labels, "split": "train", **size})
    view = View(0.0, "squash", SIDE)
    return Dataset("images", Path(), table, view, np.stack(images), [], None, None, "", ())


def textured(seed: int, blur: float = 1.5, mean: float = 128) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), (0, 0), blur)
    return np.clip(mean + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def test_a_wider_image_loses_top_and_bottom_and_a_narrower_one_its_flanks():
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
    images = [ramp.T.copy(), ramp]  # grey tells how far down, how far to the right
    found = changed_images(frames(images, [0, 1], [0.0, np.log(2)]), np.array([0, 1]), VIEW)["proportions"]
    for canvas, along in ((found[0], 0), (found[1], 1)):
        profile = canvas.mean(axis=1 - along)
        assert profile[0] == pytest.approx(SIDE / 4, abs=2) and profile[-1] == pytest.approx(3 * SIDE / 4, abs=2)
        assert canvas.std(axis=1 - along).max() == 0


def test_what_is_changed_comes_near_and_the_rest_stays():
    images = [textured(0, blur=1.2, mean=100), textured(1, blur=1.7, mean=150)]
    found = changed_images(frames(images, [0, 1], [0.3, 0.3]), np.array([0, 1]), View(0.0, "squash", REFERENCE_SIDE))
    assert list(found) == ["sharpness", "exposure"]  # both have the same proportions
    for row, other in ((0, 1), (1, 0)):
        assert sharpness_seen(found["sharpness"][row]) == pytest.approx(sharpness_seen(images[other]), abs=0.2)
        assert found["sharpness"][row].mean() == pytest.approx(images[row].mean(), abs=1)
        assert found["exposure"][row].mean() == pytest.approx(images[other].mean(), abs=5)


def test_under_the_null_lone_images_of_a_class_stay_as_they_are():
    images = [textured(0), textured(1, blur=1.7)]
    view = View(0.0, "squash", SIDE)
    found = changed_images(frames(images, [0, 1], [0.0, 0.3]), np.array([0, 1]), view, null_seed=0)
    for name in CHANGED:
        assert (found[name] == np.stack(images)).all()


def test_a_letterbox_shows_the_new_proportions():
    images = [np.full((SIDE, SIDE), 200, np.uint8)] * 2
    squashed = frames(images, [0, 1], [0.0, np.log(2)])
    found = changed_images(squashed, np.array([0, 1]), View(0.0, "letterbox", 64))["proportions"]
    assert (found[0] > 0).mean() == pytest.approx(0.5, abs=0.02) and (found[1] > 0).mean() == 1


def test_without_rows_there_is_nothing_to_change():
    with pytest.raises(InputError, match="^There are no images to change"):
        changed_images(frames([textured(0), textured(1)], [0, 1], [0.0, 0.1]), np.array([], int), VIEW)


def test_only_the_rows_asked_for(monkeypatch):
    images = [textured(0), textured(1, 2.0), textured(2)]
    monkeypatch.setattr("changed_images.BLURS", np.array([1.0]))
    found = changed_images(frames(images, [0, 1, 0], [0.0, 0.1, 0.2]), np.array([2]), VIEW)
    assert tuple(found) == CHANGED
    assert {each.shape for each in found.values()} == {(1, 64, 64)}
    assert {each.dtype for each in found.values()} == {np.dtype(np.uint8)}


def test_what_is_lost_is_the_null_less_the_changed_by_hand():
    greys = {"own": [10, 20, 30, 40], "other": [10, 30, 20, 40]}  # of four pairs of the classes one turns round
    own, other = ({"exposure": np.full((4, 2, 2), 1, np.uint8) * np.reshape(greys[name], (4, 1, 1))} for name in greys)
    table = pd.DataFrame({"label": [0, 0, 1, 1], "patient": list("abcd")})
    found = auc_lost(lambda images: images.mean(axis=(1, 2)), other, own, table).loc["exposure"]
    assert (found["changed"], found["null"], found["lost"].value) == (0.75, 1, 0.25)
