"""Films with the look of the other class: what is changed, by how much, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, counterfactual
from cnn_xray.counterfactual import CHANGED, REFERENCE_SIDE, changed, of_other_class, of_own_class, sharpness
from cnn_xray.data import Dataset
from cnn_xray.geometry import View

SIDE = 160
VIEW = View(0.0, "squash", 64)


def test_ranks_are_exchanged_by_hand():
    # ranks 1/6, 1/2 and 5/6 of the other class, between whose three values np.quantile interpolates
    found = of_other_class([2, 10, 1, 30, 3, 20], [0, 1, 0, 1, 0, 1])
    assert found == pytest.approx([20, 4 / 3, 40 / 3, 8 / 3, 80 / 3, 2])
    assert of_other_class([5, 5, 7], [0, 0, 1]) == pytest.approx([7, 7, 5])  # equal films stay equal


def test_the_null_exchanges_values_within_a_class():
    values, labels = np.arange(40.0), np.arange(40) % 2
    found = of_own_class(values, labels, seed=3)
    for label in (0, 1):
        assert sorted(found[labels == label]) == values[labels == label].tolist()
    assert (found != values).mean() > 0.8
    assert (found == of_own_class(values, labels, seed=3)).all()


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 2]])
def test_one_class_alone_has_nothing_to_exchange(labels):
    with pytest.raises(InputError, match="^Properties can be exchanged between classes only where there are films of"):
        of_other_class([1.0, 2.0], labels)


def frames(films: list[np.ndarray], labels: list[int], proportions: list[float]) -> Dataset:
    size = {"original_width": np.round(1000 * np.exp(proportions)), "original_height": 1000}
    table = pd.DataFrame({"label": labels, "split": "train", **size})
    view = View(0.0, "squash", SIDE)
    return Dataset("films", Path(), table, view, np.stack(films), [], None, None, "", ())


def textured(seed: int, blur: float = 1.5, mean: float = 128) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), (0, 0), blur)
    return np.clip(mean + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def test_a_wider_film_loses_top_and_bottom_and_a_narrower_one_its_flanks():
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
    films = [ramp.T.copy(), ramp]  # grey tells how far down, how far to the right
    found = changed(frames(films, [0, 1], [0.0, np.log(2)]), np.array([0, 1]), VIEW)["proportions"]
    for canvas, along in ((found[0], 0), (found[1], 1)):
        profile = canvas.mean(axis=1 - along)
        assert profile[0] == pytest.approx(SIDE / 4, abs=2) and profile[-1] == pytest.approx(3 * SIDE / 4, abs=2)
        assert canvas.std(axis=1 - along).max() == 0


def test_what_is_changed_comes_near_and_the_rest_stays():
    films = [textured(0, blur=1.2, mean=100), textured(1, blur=1.7, mean=150)]
    found = changed(frames(films, [0, 1], [0.3, 0.3]), np.array([0, 1]), View(0.0, "squash", REFERENCE_SIDE))
    assert list(found) == ["sharpness", "exposure"]  # both have the same proportions
    for row, other in ((0, 1), (1, 0)):
        assert sharpness(found["sharpness"][row]) == pytest.approx(sharpness(films[other]), abs=0.2)
        assert found["sharpness"][row].mean() == pytest.approx(films[row].mean(), abs=1)
        assert found["exposure"][row].mean() == pytest.approx(films[other].mean(), abs=5)


def test_under_the_null_lone_films_of_a_class_stay_as_they_are():
    films = [textured(0), textured(1, blur=1.7)]
    view = View(0.0, "squash", SIDE)
    found = changed(frames(films, [0, 1], [0.0, 0.3]), np.array([0, 1]), view, null_seed=0)
    for name in CHANGED:
        assert (found[name] == np.stack(films)).all()


def test_a_letterbox_shows_the_new_proportions():
    films = [np.full((SIDE, SIDE), 200, np.uint8)] * 2
    squashed = frames(films, [0, 1], [0.0, np.log(2)])
    found = changed(squashed, np.array([0, 1]), View(0.0, "letterbox", 64))["proportions"]
    assert (found[0] > 0).mean() == pytest.approx(0.5, abs=0.02) and (found[1] > 0).mean() == 1


def test_without_rows_there_is_nothing_to_change():
    with pytest.raises(InputError, match="^There are no films to change"):
        changed(frames([textured(0), textured(1)], [0, 1], [0.0, 0.1]), np.array([], int), VIEW)


def test_only_the_rows_asked_for(monkeypatch):
    films = [textured(0), textured(1, 2.0), textured(2)]
    monkeypatch.setattr(counterfactual, "BLURS", np.array([1.0]))
    found = changed(frames(films, [0, 1, 0], [0.0, 0.1, 0.2]), np.array([2]), VIEW)
    assert tuple(found) == CHANGED
    assert {each.shape for each in found.values()} == {(1, 64, 64)}
    assert {each.dtype for each in found.values()} == {np.dtype(np.uint8)}
