"""Stressed validation: how good is a network on the films where what the scanner left behind points the wrong way?

Most validation films are easy twice over: the disease shows, and size, proportions, sharpness or exposure of the film
go with the class. A plain validation AUC therefore rewards a network for either. Here are two harder ones, made of
the training patients alone (give them a data set without its test split: nothing else is needed):

- *discordant pairs* of the validation films: a film with pneumonia and one without that a probe of such a property
  orders wrongly. A network that follows the property scores 0 there, one without any idea 0.5.
- *left-out strata*: of each property, the films of either class that speak most against their class are held out, and
  the network is trained on what is left, where the property tells more than it ever did. The other properties still
  go with the class there, so a mean over strata can hide that a network follows one of them
  (`cnn_xray.counterfactual` changes one at a time).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cnn_xray import InputError
from cnn_xray.data import FITTING, Dataset
from cnn_xray.statistics import Estimate, Patients, estimate, sample_and_replicates

PROPERTIES = ("size", "proportions", "sharpness", "exposure", "contrast")
LEFT_OUT = 0.12  # fraction of the films of either class that each property holds out


def properties(data: Dataset) -> pd.DataFrame:
    """Crude properties of the whole film: a row an image, the columns of PROPERTIES.

    None of them needs a look at the lungs; but the last three change with consolidation too, and the first two follow
    age, positioning and collimation besides the scanner.

    size: log of width × height in original pixels; proportions: log of width to height; sharpness: log of the standard
    deviation of the Laplacian; exposure: mean grey value; contrast: standard deviation of the grey values (the last
    three of the pixels as loaded, 0..255). A film of unknown original size counts as of the median outside
    the test-like splits.
    """
    width, height = (
        data.table[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        for name in ("original_width", "original_height")
    )
    sharpness = [laplacian_sharpness(film) for film in data.pixels]
    found = pd.DataFrame(
        {
            "size": np.log(width * height),
            "proportions": np.log(width / height),
            "sharpness": sharpness,
            "exposure": data.pixels.mean(axis=(1, 2)),
            "contrast": data.pixels.std(axis=(1, 2)),
        }
    )
    return found.fillna(found.iloc[data.rows(*FITTING)].median()).fillna(0.0)


def laplacian_sharpness(film: NDArray[np.uint8]) -> float:
    """Log of the standard deviation of the Laplacian of a film (S, S)."""
    return float(np.log(cv2.Laplacian(film, cv2.CV_32F).std() + 1e-3))


def suspicion(data: Dataset) -> pd.DataFrame:
    """How much each property alone speaks for pneumonia: a row an image, columns PROPERTIES, log-odds less the prior's.

    Logistic regressions on a property and its square, fitted on all films of ``data`` outside the test-like splits;
    rounded so that equal films tie.
    """
    known = properties(data)
    fitting, labels = data.rows(*FITTING), data.table["label"].to_numpy()
    told = {}
    for name in PROPERTIES:
        x = known[[name]].to_numpy()
        steps = (StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler())
        probe = make_pipeline(*steps, LogisticRegression(max_iter=5000)).fit(x[fitting], labels[fitting])
        told[name] = (probe.decision_function(x) - logit(labels[fitting].mean())).round(9)
    return pd.DataFrame(told)


def left_out(table: pd.DataFrame, suspected: pd.DataFrame, fraction: float = LEFT_OUT) -> pd.DataFrame:
    """Which films speak most against their class: (N, properties) bool, a column a property.

    Of each class at most ``fraction`` of the films, whole patients at a time, by the mean of their films' ``suspected``
    (a patient with films of both classes takes them all along). ``table`` has label and patient. A property that is the
    same on all films has no column, nor has one that finds no patient of a class so small that it fits.
    """
    against = suspected.mul(np.where(table["label"] == 1, -1.0, 1.0), axis=0)
    chosen = {}
    for name in suspected.columns[suspected.nunique() > 1]:
        values = against[name]
        patients = values.groupby([table["label"], table["patient"]]).agg(["mean", "size"]).reset_index()
        patients = patients.sort_values(["label", "mean", "patient"], ascending=[True, False, True])
        of_class = patients.groupby("label")["size"]
        taken = patients[of_class.cumsum() <= fraction * of_class.transform("sum")]
        if taken["label"].nunique() == 2:
            chosen[name] = table["patient"].isin(taken["patient"])
    return pd.DataFrame(chosen)


def without_strata(data: Dataset, strata: pd.DataFrame) -> Dataset:
    """The same films with every stratum (a column of `left_out`) as ``val`` and the others as ``train``.

    Raises InputError when ``data`` hold test films, which must neither train nor choose, and when a class is missing
    among the films held out or among the others.
    """
    if len(data.rows(*FITTING)) < len(data.table):
        raise InputError("Stressed validation is made of training patients: load the data with splits=split.FITTING.")
    outside = strata.any(axis=1).to_numpy(bool)
    table = data.table.assign(split=np.where(outside, "val", "train"))
    if len(table.groupby(["split", "label"])) < 4:
        raise InputError(
            "Stressed validation needs films of both classes held out and kept; these data have too few patients."
        )
    mark = hashlib.blake2b(outside.tobytes(), digest_size=4).hexdigest()
    return replace(data, table=table, fingerprint=f"{data.fingerprint}-{mark}")


def left_out_auc(table: pd.DataFrame, scores: ArrayLike, strata: pd.DataFrame) -> pd.Series:
    """AUC of ``scores`` (N,) on the films that each property holds out, one value a property."""
    s = np.asarray(scores)
    return pd.Series(
        {name: roc_auc_score(table["label"][inside], s[inside]) for name, inside in strata.items()}, dtype=float
    )


def discordant_auc(labels: ArrayLike, scores: ArrayLike, suspected: ArrayLike, patients: Patients) -> Estimate:
    """Share of the discordant pairs that ``scores`` order rightly, ties counted half, with its patient interval.

    labels (N,) in {0, 1}; scores, suspected (N,) float. A pair of a positive i and a negative j is discordant when
    suspected[i] < suspected[j]. ``n`` counts the films in such pairs; NaN where there is none.
    Raises InputError on other labels and unequal lengths.
    """
    y, s, q = np.asarray(labels), np.asarray(scores, np.float64), np.asarray(suspected, np.float64)
    names = np.asarray(patients)
    if y.ndim != 1 or not (y.shape == s.shape == q.shape == names.shape) or not np.isin(y, (0, 1)).all():
        raise InputError(
            "Discordant pairs need a label (0 or 1), a score, a suspicion and a patient for each film: got "
            f"labels {y.shape}, scores {s.shape}, suspicions {q.shape}, patients {names.shape}."
        )
    positive, negative = y == 1, y == 0
    pairs = (q[positive][:, None] < q[negative][None, :]).astype(np.float64)
    ahead = s[positive][:, None] - s[negative][None, :]
    right = pairs * ((ahead > 0) + 0.5 * (ahead == 0))
    weights = sample_and_replicates(names).astype(np.float64)
    with np.errstate(invalid="ignore"):
        values = _sum(weights[:, positive], right, weights[:, negative])
        values /= _sum(weights[:, positive], pairs, weights[:, negative])
    inside = np.zeros(len(y), bool)
    inside[positive], inside[negative] = pairs.any(axis=1), pairs.any(axis=0)
    return estimate(float(values[0]), values[1:], names[inside])


def _sum(left: NDArray[np.float64], matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """leftᵣ · matrix · rightᵣ for every replicate r: (n, P), (P, N), (n, N) → (n,)."""
    return ((left @ matrix) * right).sum(axis=1)
