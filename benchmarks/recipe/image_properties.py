"""Crude properties of a whole image, and what each alone says of its class."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cnn_xray.data import FITTING, Dataset

PROPERTIES = ("size", "proportions", "sharpness", "exposure", "contrast")


def image_properties(data: Dataset) -> pd.DataFrame:
    """One row an image, the columns of PROPERTIES.

    None of them needs a look at the lungs; but the last three change with consolidation too, and the first two follow
    age, positioning and collimation besides the scanner.

    Parameters
    ----------
    data
        Its images and their original sizes. One of unknown size counts as of the median outside the test-like splits.

    Returns
    -------
    DataFrame
        size: log of width × height in original pixels; proportions: log of width to height; sharpness: as
        `laplacian_sharpness`; exposure: mean grey value; contrast: standard deviation of the grey values. The last
        three are of the pixels as loaded, 0..255.
    """
    width, height = (
        data.table[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        for name in ("original_width", "original_height")
    )
    found = pd.DataFrame(
        {
            "size": np.log(width * height),
            "proportions": np.log(width / height),
            "sharpness": [laplacian_sharpness(image) for image in data.pixels],
            "exposure": data.pixels.mean(axis=(1, 2)),
            "contrast": data.pixels.std(axis=(1, 2)),
        }
    )
    return found.fillna(found.iloc[data.rows(*FITTING)].median()).fillna(0.0)


def laplacian_sharpness(image: NDArray[np.uint8]) -> float:
    """Log of the standard deviation of an image's Laplacian.

    Parameters
    ----------
    image : ndarray (S, S) uint8
    """
    return float(np.log(cv2.Laplacian(image, cv2.CV_32F).std() + 1e-3))


def log_odds_by_property(data: Dataset) -> pd.DataFrame:
    """One row an image: the log-odds of pneumonia by each property alone, less the prior's.

    Logistic regressions on a property and its square, fitted on all images outside the test-like splits.

    Parameters
    ----------
    data
        Images with labels.

    Returns
    -------
    DataFrame
        Columns PROPERTIES; above 0 the property speaks for pneumonia. Rounded, so that equal images tie.
    """
    known = image_properties(data)
    fitting, labels = data.rows(*FITTING), data.table["label"].to_numpy()
    found = {}
    for name in PROPERTIES:
        x = known[[name]].to_numpy()
        steps = (StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler())
        probe = make_pipeline(*steps, LogisticRegression(max_iter=5000)).fit(x[fitting], labels[fitting])
        found[name] = (probe.decision_function(x) - logit(labels[fitting].mean())).round(9)
    return pd.DataFrame(found)


def against_class(log_odds: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """How much each property speaks against the class that an image really has.

    Parameters
    ----------
    log_odds
        Of pneumonia, one row an image (`log_odds_by_property`).
    labels : Series (N,) int
        In the same order.
    """
    return log_odds.mul(np.where(labels == 1, -1.0, 1.0), axis=0)
