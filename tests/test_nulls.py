"""Nulls: the neutral ring is neutral, the interior is untouched, every arm is there and paired."""

import numpy as np
import pandas as pd
import pytest

from cnn_xray import attention, network
from cnn_xray.data import Dataset
from cnn_xray.geometry import FRAME, Placement, View
from cnn_xray.parameters import TrainParameters


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 0, 1])
    pixels = rng.integers(0, 256, (6, 32, 32)).astype(np.uint8)
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(6)],
            "label": labels,
            "split": ["train"] * 4 + ["test"] * 2,
            "patient": list("abcdef"),
        }
    )
    lungs = np.zeros((6, 32, 32), bool)
    lungs[:, 8:24, 8:24] = True
    place = [Placement(FRAME, FRAME)] * 6
    return Dataset("tiny", None, table, View(size=32), pixels, place, lungs, None, "f", ())


def test_the_neutral_film_weighs_the_classes_equally(data):
    expected = (data.pixels[:3].mean(axis=0) + data.pixels[3]) / 2
    np.testing.assert_allclose(attention.neutral_image(data), expected, atol=1e-3)


def test_the_ring_is_replaced_and_the_interior_untouched():
    images = np.full((2, 20, 20), 200, np.uint8)
    found = attention.neutralised(images, np.full((20, 20), 50, np.float32), width=0.2)
    # Four pixels of 20 on each side are replaced; the fifth is blended, its centre half way into the seam.
    assert (found[:, :4] == 50).all() and (found[:, :, -4:] == 50).all()
    assert (found[:, 4, 5:15] == 125).all()
    assert (found[:, 5:15, 5:15] == 200).all()


def test_every_arm_has_a_row_an_image(data):
    p = TrainParameters(image_size=32, width=4, seed=0)
    found = attention.metrics_beside_nulls(network.build(p), p, data, data.rows("test"))
    arms = ["image", "neutralised border", "constant image", "randomised weights", "uniform"]
    assert found["arm"].unique().tolist() == arms
    assert (found.groupby("arm")["path"].apply(list).map(lambda paths: paths == ["4.png", "5.png"])).all()
    wide = found.pivot(index="path", columns="arm", values="signed_border_evidence")
    assert (wide["image"] - wide["neutralised border"]).abs().min() > 0
    assert wide["constant image"].nunique() == 1
    assert found["artifact_sensitivity"].isna().all()
