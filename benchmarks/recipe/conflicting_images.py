"""Bias-conflicting images: how good is a network where a property of the image speaks against its class?

Most validation images are easy twice over: the disease shows, and size, proportions, sharpness or exposure of the image
go with the class. A plain validation AUC therefore rewards a network for either. Here are two harder ones, made of
the training patients alone (give them a data set without its test split: nothing else is needed):

- *discordant pairs* of the validation images: one with pneumonia and one without that a property orders wrongly. A
  network that follows the property scores 0 there, one without any idea 0.5.
- *left-out strata*: of each property, the images of either class that speak most against their class are held out, and
  the network is trained on what is left, where the property tells more than it ever did. The other properties still
  go with the class there, so a mean over strata can hide that a network follows one of them (`changed_images` changes
  one at a time).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
from image_properties import against_class
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError
from cnn_xray.data import FITTING, Dataset
from cnn_xray.statistics import Estimate, Patients, checked_columns, estimate, sample_and_replicates

LEFT_OUT = 0.12  # fraction of the images of either class that each property holds out


def left_out_strata(table: pd.DataFrame, log_odds: pd.DataFrame, fraction: float = LEFT_OUT) -> pd.DataFrame:
    """Which images speak most against their class: (N, properties) bool, one column a property.

    Parameters
    ----------
    table
        Columns label and patient, one row an image.
    log_odds
        Of pneumonia by each property, in the same order (`image_properties.log_odds_by_property`).
    fraction
        Of the images of each class at most this share is taken: whole patients at a time, by the mean of their images.
        A patient with images of both classes takes them all along.

    Returns
    -------
    DataFrame
        A property that is the same on all images has no column, nor has one that finds no patient of a class so small
        that it fits.
    """
    against = against_class(log_odds, table["label"])
    chosen = {}
    for name in log_odds.columns[log_odds.nunique() > 1]:
        values = against[name]
        patients = values.groupby([table["label"], table["patient"]]).agg(["mean", "size"]).reset_index()
        patients = patients.sort_values(["label", "mean", "patient"], ascending=[True, False, True])
        of_class = patients.groupby("label")["size"]
        taken = patients[of_class.cumsum() <= fraction * of_class.transform("sum")]
        if taken["label"].nunique() == 2:
            chosen[name] = table["patient"].isin(taken["patient"])
    return pd.DataFrame(chosen)


def without_strata(data: Dataset, strata: pd.DataFrame) -> Dataset:
    """The same images with every stratum as ``val`` and the others as ``train``.

    Parameters
    ----------
    data
        Training patients alone.
    strata
        Of `left_out_strata`.

    Raises
    ------
    InputError
        Where ``data`` hold test images, which must neither train nor choose, and where a class is missing among the
        images held out or among the others.
    """
    if len(data.rows(*FITTING)) < len(data.table):
        raise InputError("Left-out strata are made of training patients: load the data with splits=FITTING.")
    outside = strata.any(axis=1).to_numpy(bool)
    table = data.table.assign(split=np.where(outside, "val", "train"))
    if len(table.groupby(["split", "label"])) < 4:
        raise InputError(
            "Left-out strata need images of both classes held out and kept; these data have too few patients."
        )
    mark = hashlib.blake2b(outside.tobytes(), digest_size=4).hexdigest()
    return replace(data, table=table, fingerprint=f"{data.fingerprint}-{mark}")


def auc_by_stratum(labels: pd.Series, scores: ArrayLike, strata: pd.DataFrame) -> pd.Series:
    """AUC of the scores on the images that each property holds out, one value a property.

    Parameters
    ----------
    labels : Series (N,) int
    scores : array_like (N,) float
        Read inside the strata alone.
    strata
        Of `left_out_strata`.
    """
    s = np.asarray(scores)
    return pd.Series({name: roc_auc_score(labels[inside], s[inside]) for name, inside in strata.items()}, dtype=float)


def discordant_auc(labels: ArrayLike, scores: ArrayLike, log_odds: ArrayLike, patients: Patients) -> Estimate:
    """Share of the discordant pairs that the scores order rightly, ties counted half, with its patient interval.

    A pair of a positive i and a negative j is discordant when log_odds[i] < log_odds[j].

    Parameters
    ----------
    labels : array_like (N,)
        0 or 1.
    scores, log_odds : array_like (N,) float
        Of the network and of the property.
    patients : array_like (N,)

    Returns
    -------
    Estimate
        ``n`` counts the images in such pairs; NaN where there is none.

    Raises
    ------
    InputError
        On other labels, unequal lengths, scores that are not finite, and without images.
    """
    columns = {"labels": labels, "scores": scores, "log_odds": log_odds, "patients": patients}
    y, s, q, names = checked_columns(**columns)
    positive, negative = y == 1, y == 0
    pairs = (q[positive][:, None] < q[negative][None, :]).astype(np.float64)
    ahead = s[positive][:, None] - s[negative][None, :]
    right = pairs * ((ahead > 0) + 0.5 * (ahead == 0))
    weights = sample_and_replicates(names).astype(np.float64)
    with np.errstate(invalid="ignore"):
        values = _weighted_sums(weights[:, positive], right, weights[:, negative])
        values /= _weighted_sums(weights[:, positive], pairs, weights[:, negative])
    inside = np.zeros(len(y), bool)
    inside[positive], inside[negative] = pairs.any(axis=1), pairs.any(axis=0)
    return estimate(float(values[0]), values[1:], names[inside])


def errors_by_property(errors: ArrayLike, labels: pd.Series, log_odds: pd.DataFrame) -> pd.DataFrame:
    """Error rate of each class where a property speaks least, and most, against that class: one row a property.

    Parameters
    ----------
    errors : array_like (N,) float
        1 where an image is called wrongly; the mean over several networks.
    labels : Series (N,) int
    log_odds
        Of pneumonia by each property. One that is the same on all images has no row.

    Returns
    -------
    DataFrame
        Columns (class label, "least" or "most"): of the images of that class the third that the property speaks least
        or most against, by rank.
    """
    wrong, classes = pd.Series(np.asarray(errors)), labels.reset_index(drop=True)
    against = against_class(log_odds.reset_index(drop=True), classes)
    rates = {}
    for name in against.columns[log_odds.nunique() > 1]:
        rank = against[name].groupby(classes).rank(pct=True)
        thirds = {"least": rank <= 1 / 3, "most": rank > 2 / 3}
        rates[name] = {
            (label, words): wrong[third & (classes == label)].mean()
            for label in (0, 1)
            for words, third in thirds.items()
        }
    return pd.DataFrame.from_dict(rates, orient="index")


def most_wrong(labels: pd.Series, logits: ArrayLike, log_odds: pd.DataFrame, count: int = 6) -> pd.DataFrame:
    """The images of either class that a network gets most wrong, those with pneumonia first: one row an image.

    Parameters
    ----------
    labels : Series (N,) int
    logits : array_like (N,) float
    log_odds
        Of pneumonia by each property.
    count
        Images a class.

    Returns
    -------
    DataFrame
        place (among the N), label, logit, and against: the property that speaks most against the class, or "nothing".
    """
    classes = labels.reset_index(drop=True)
    against = against_class(log_odds.reset_index(drop=True), classes)
    accused = against.idxmax(axis=1).where(against.max(axis=1) > 0, "nothing")
    every = pd.DataFrame({"label": classes, "logit": np.asarray(logits), "against": accused}).rename_axis("place")
    margin = every["logit"] * np.where(classes == 1, 1, -1)
    places = [place for label in (1, 0) for place in margin[classes == label].nsmallest(count).index]
    return every.loc[places].reset_index()


def _weighted_sums(
    left: NDArray[np.float64], matrix: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """leftᵣ · matrix · rightᵣ for every replicate r: (n, P), (P, N), (n, N) → (n,)."""
    return ((left @ matrix) * right).sum(axis=1)
