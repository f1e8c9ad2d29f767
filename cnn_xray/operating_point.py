"""Where to call a film PNEUMONIA: thresholds from validation films or a known prevalence, and what each gives."""

from __future__ import annotations

import pandas as pd

from cnn_xray.calibration import prior_shift
from cnn_xray.scores import classification_metrics, sensitivity_threshold, youden_threshold

LOCKED = "0.5"  # where a network trained on balanced classes is undecided: nothing to choose
SENSITIVITY = 0.95
ADVISED = f"validation, {SENSITIVITY:.0%} sensitivity"


def thresholds(validation: pd.DataFrame, learnt_prevalence: float, new_prevalence: float) -> dict[str, float]:
    """Name → threshold on the probability, from the validation films (columns label, probability).

    0.5; Youden's and that of 95 % sensitivity on validation; 0.5 corrected for the prevalence of the films to come,
    which somebody has to know. ``learnt_prevalence`` is the one that the probabilities speak of
    (`calibration.prior_shift`). Raises InputError when validation lacks a class.
    """
    labels, probabilities = validation["label"], validation["probability"]
    return {
        LOCKED: 0.5,
        "validation, Youden": youden_threshold(labels, probabilities),
        ADVISED: sensitivity_threshold(labels, probabilities, SENSITIVITY),
        f"0.5 for a prevalence of {new_prevalence:.3g}": prior_shift(learnt_prevalence, new_prevalence),
    }


def at(films: pd.DataFrame, chosen: dict[str, float]) -> pd.DataFrame:
    """The metrics of films (columns label, probability) at each threshold: index ``threshold at``."""
    rows = {
        name: {"threshold": threshold, **classification_metrics(films["label"], films["probability"], threshold)}
        for name, threshold in chosen.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold at")


def learnt_prevalence(balance: str, labels: pd.Series) -> float:
    """The prevalence that a network learns: 0.5 when training makes the classes equal, else that of its labels."""
    return float(labels.mean()) if balance == "none" else 0.5
