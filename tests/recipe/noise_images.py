"""A data set of noise, for the tests of what asks for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cnn_xray.data import Dataset
from cnn_xray.geometry import View

N = 120


def noise_dataset(seed: int = 0, **columns) -> Dataset:
    """Images of noise, half of either class, that give nothing away; two thirds to train, the rest val and test."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(N)],
            "label": np.arange(N) % 2,
            "split": np.repeat(["train", "val", "test"], [80, 20, 20]),
            "patient": [f"p{row}" for row in range(N)],
            "original_width": rng.integers(900, 1100, N),
            "original_height": rng.integers(700, 900, N),
        }
    ).assign(**columns)
    table = table.astype({"original_width": "Int64", "original_height": "Int64"})
    pixels = rng.integers(50, 200, (N, 16, 16)).astype(np.uint8)
    return Dataset("images", Path("."), table, View(0.0, "squash", 16), pixels, [], None, None, "0123", ())
