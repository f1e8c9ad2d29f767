"""The questions about the border, the figure that answers each, and the verdict filled in from the answers."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import InputError, audit, geometry, interventions
from cnn_xray.data import CLASSES, Dataset, load_dataset
from cnn_xray.interventions import Score
from cnn_xray.metrics import auc_difference, auc_with_interval
from cnn_xray.parameters import ProbeParameters
from cnn_xray.runs import Run, run_of
from cnn_xray.statistics import Comparison, Estimate, holm, signed_rank

LEVEL = 0.05  # of the Holm-adjusted p
YES, NO, OPEN, MISSING = "yes", "no", "not shown", "not available"
CONFLICTING = "conflict"  # the bias-conflicting set, whose artifact is on the wrong class


@dataclass(frozen=True)
class Question:
    """A question about the border, the figure that answers it, and the least value that counts as a yes."""

    name: str
    figure: str
    counts_from: float


# What counts was fixed by trials on phantoms of seeds below 10, and is tried on others (benchmarks/instruments.py).
# An AUC below 0.6 tells little of any single image; a contrast below 0.5 is common where the border tells nothing.
QUESTIONS = (
    Question("Available", "AUC of a small network that sees the border alone", 0.6),
    Question("Used", "R: share of the class difference that moves with the border", 0.05),
    Question("The border's own", "AUC that the border adds to what lies between border and lungs", 0.05),
    Question("Displayed", "log2 border density, image − border neutralised", 0.5),
    Question("Harmful", "AUC lost where the shortcut does not help", 0.02),
)


@dataclass(frozen=True)
class Verdict:
    """``table``: one row a question; ``name`` and ``meaning`` sum them up; ``border_shortcut``: whether it is one."""

    table: pd.DataFrame
    name: str
    meaning: str
    border_shortcut: bool


# Answers to Available, Used, the border's own and Displayed (y: yes, n: no, any: whatever it is), and the name of the
# verdict, with its meaning. The first that fits counts.
OWN = "The label is in the border and not as well beside it, and the network uses it"
VERDICTS: dict[tuple[str, str], str] = {
    ("y y y y", "border shortcut"): f"{OWN}; the heatmap shows it.",
    ("y y y n", "border shortcut that the heatmap hides"): f"{OWN}, but its heatmap does not answer it.",
    ("y y y any", "border shortcut, heatmap undecided"): f"{OWN}; whether the heatmap shows it is open.",
    ("y y n any", "reliance that is not the border's own"): "The network reads the label in the border, but what lies "
    "between border and lungs, or the lungs' outline, tells it as well: a crop of the border leaves that.",
    ("y y any any", "reliance on the border"): "The label is in the border and the network uses it. Whether the border "
    "tells more than its neighbourhood is not decided.",
    ("any y any any", "reliance without a known source"): "The decision moves with the border although a network that "
    "sees the border alone is not shown to tell the classes: that network is too weak, or the border modulates what is "
    "read elsewhere.",
    ("y any any any", "latent risk"): "The label is in the border, but this network is not shown to use it.",
    ("any any any y", "explanation artifact"): "The heatmap answers the border, but the label is not shown to be "
    "there, nor the network to use it.",
    ("any any any any", "no evidence of a border shortcut"): "The label is not shown to be in the border, nor the "
    "network to use it.",
}


def check_test_split(p: ProbeParameters, data: Dataset) -> None:
    """Refuse, before anything is trained, test images or a border that leave the tests without an answer.

    Parameters
    ----------
    p
        Parameters of the tests.
    data
        The images.

    Raises
    ------
    InputError
        For a test split of one class, and for a border that covers no pixel of an image as networks or probes see it.
    """
    labels = data.table["label"].iloc[data.rows("test")]
    if labels.nunique() < 2:
        seen = [list(CLASSES)[label] for label in labels.unique()]
        has = f"{len(labels)} images, all {' '.join(seen) or 'unreadable'}"
        why = "the tests compare the classes, so it needs images of both."
        raise InputError(f"The test split of {data.name} has {has}; {why}")
    size = min(data.view.size, p.probe().side)
    geometry.part_alone(np.zeros((1, size, size), np.uint8), "border", p.border, None, np.arange(1))


def border_figures(
    score: Score, predictions: pd.DataFrame, p: ProbeParameters, data: Dataset, attended: pd.DataFrame | None = None
) -> dict[str, Comparison]:
    """The verdict's figures by question (`QUESTIONS`) for any classifier.

    With lung masks, the border is the border *outside the lungs*: a border may hold lung, above all after cropping,
    and disease is no shortcut. Then three probes are trained unless they are recorded: on that border, on all outside
    the lungs, and on what lies between border and lungs; *The border's own* is what the border adds to the latter.
    Without masks of both classes in every split there is one probe, on the whole border, and *The border's own* is
    missing. *Harmful* is the AUC lost on the bias-conflicting set, else on size-matched images, where there are such.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    predictions
        Of the same classifier, one row an image: label, split, patient, logit; the test split in the order of ``data``.
    p, data
        What the classifier was asked on; ``p`` also says how the probes are trained.
    attended
        `runs.Run.attention`; without it *Displayed* is missing.
    """
    seen = ("border_outside_lungs", "outside_lungs", "between")
    found, views = {}, {}
    with suppress(InputError):  # too few images have a lung mask
        views = {part: load_dataset(p.probe(keep=part)) for part in seen if data.lungs is not None}
    if views:
        border, outside, between = (run_of(p.probe(keep=part), view) for part, view in views.items())
        found["Available"] = available(border, p.seed)
        found["Used"] = used(score, p, data, "border outside the lungs")
        found["The border's own"] = auc_difference(outside.on("test"), between.on("test"), p.seed)
    else:
        found["Available"] = available(run_of(p.probe(keep="border")), p.seed)
        found["Used"] = used(score, p, data, "border")
    if attended is not None:
        found["Displayed"] = displayed(attended)
    harmed = harmful(predictions, p, data)
    return found if harmed is None else found | {"Harmful": harmed}


def available(probe: Run, seed: int = 0, split: str = "test") -> Comparison:
    """AUC of a run with its interval by patient; p against 0.5.

    Parameters
    ----------
    probe
        Run of a network that saw part of the image.
    seed
        Of the bootstrap.
    split
        One of the splits that the run scored.
    """
    test = probe.on(split)
    return auc_with_interval(test["label"], test["probability"], test["patient"], seed=seed)


def part_probes(p: ProbeParameters) -> tuple[dict[str, Run], dict[str, np.ndarray], list[str]]:
    """Train the small networks that see part of the image, each unless it is recorded.

    Parameters
    ----------
    p
        Data, border, seed, and how the probes are trained.

    Returns
    -------
    tuple
        By the part's name the runs, and the first test image of each class as each sees it (n, S, S) uint8; and notes:
        a probe that these data do not allow (no lung masks, no room) is told there.
    """
    probes, seen, notes = {}, {}, []
    for name, change in _parts(p).items():
        try:
            view = load_dataset(p.probe(**change))
        except InputError as reason:
            notes.append(f"{name}: not available. {reason}")
            continue
        probes[name] = run_of(p.probe(**change), view)
        first = np.unique(probes[name].on("test")["label"], return_index=True)[1]
        seen[name] = view.pixels[view.rows("test")[first]]
        notes += view.notes
    return probes, seen, notes


def _parts(p: ProbeParameters) -> dict[str, dict[str, Any]]:
    """Name of each part → what a probe of it changes."""
    widths = [width for width in (p.border / 2, p.border, 1.5 * p.border) if width < 0.5]
    return {
        "whole image": {},
        **{f"border {width:g}": {"keep": "border", "border": width} for width in widths},
        "all but the border": {"keep": "centre"},
        "border without lungs": {"keep": "border_outside_lungs"},
        "lung box black": {"keep": "outside_lung_box"},
        "own lungs black": {"keep": "outside_lungs"},
        "lung outline alone": {"keep": "lung_outline"},
        "between border and lungs": {"keep": "between"},
        **{f"labels permuted, draw {i + 1}": {"labels": "permuted", "seed": p.seed + i} for i in range(3)},
    }


def used(score: Score, p: ProbeParameters, data: Dataset, region: str) -> Comparison:
    """R of a region on the test images (`interventions.reliance`).

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p
        Donors, border and seed.
    data
        The images.
    region
        One of `interventions.REGIONS`.
    """
    rows = data.rows("test")
    labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
    pairs = interventions.donor_pairs(labels, patients, p.donors, p.seed)
    swapped = interventions.swap_effects(score, data, rows, pairs, region, p.border)
    return interventions.reliance(swapped, labels, score(data.pixels[rows]), patients, p.seed)["R"]


def displayed(attended: pd.DataFrame) -> Comparison:
    """log2 border density of the images less that with the border neutralised, a mean a patient.

    Hodges–Lehmann estimate with its interval, p by Wilcoxon's signed-rank test.

    Parameters
    ----------
    attended
        `runs.Run.attention`.
    """
    arms = attended.pivot(index=["path", "patient"], columns="arm", values="log2_border_density_ratio")
    contrast = arms["image"] - arms["neutralised border"]
    return signed_rank(contrast.groupby("patient").mean())


def harmful(predictions: pd.DataFrame, p: ProbeParameters, data: Dataset) -> Comparison | None:
    """AUC lost on the bias-conflicting set, else on images matched by size; None without either.

    Parameters
    ----------
    predictions
        As for `border_figures`.
    p
        Seed.
    data
        The images.
    """
    of_split = dict(iter(predictions.groupby("split")))
    test = of_split["test"].reset_index(drop=True)
    if CONFLICTING in of_split:
        return auc_difference(test, of_split[CONFLICTING], p.seed)
    images = data.table.iloc[data.rows("test")]
    size = audit.size_only_probe(data.table.iloc[data.rows("train", "val")], images, seed=p.seed)
    odds = audit.log_odds(size.probabilities)
    if pd.Series(odds).nunique() < 2:  # unknown sizes are NaN and do not count
        return None
    matched = audit.matched_auc(images["label"], test["logit"], odds, images["patient"], seed=p.seed)
    paired = test.iloc[matched.table.to_numpy().ravel()]
    return auc_difference(test, paired, p.seed) if len(paired) else None


def judge(figures: dict[str, Comparison]) -> Verdict:
    """The verdict from one Comparison a question (by `Question.name`; a missing one counts as not available).

    The answer is *yes* when the Holm-adjusted p is below 0.05 and the value at least what counts; *no* when the
    interval ends below what counts; and *not shown* otherwise.

    Parameters
    ----------
    figures
        By question.
    """
    table = pd.DataFrame(QUESTIONS).set_index("name").rename_axis("question")
    found = pd.DataFrame([figures.get(name, Comparison(math.nan)) for name in table.index], table.index)
    table = table[["figure"]].join(found[["value", "low", "high"]])
    table["p (Holm)"] = holm(found["p"])
    table["counts from"] = [question.counts_from for question in QUESTIONS]
    convincing = (table["p (Holm)"] < LEVEL) & (table["value"] >= table["counts from"])
    answers = [table["value"].isna(), convincing, table["high"] < table["counts from"]]
    table["answer"] = np.select(answers, [MISSING, YES, NO], OPEN)
    return Verdict(table, *_conclusion(table["answer"]))


def _conclusion(answers: pd.Series) -> tuple[str, str, bool]:
    """Name, meaning, and whether it is a border shortcut."""
    missing = [name for name in ("Available", "Used") if answers[name] == MISSING]
    if missing:
        return "not decided", f"{' and '.join(missing)}: the figure is not available, so there is no verdict.", False
    asked = answers.iloc[:4].map({YES: "y", NO: "n"})
    for (pattern, name), meaning in VERDICTS.items():
        if all(want in ("any", got) for want, got in zip(pattern.split(), asked, strict=True)):
            return name, meaning, pattern.startswith("y y y")
    raise AssertionError("the last pattern fits whatever the answers are")


def answer_in_words(line: pd.Series) -> str:
    """One line of the verdict's table as ``yes: 0.91 [0.87, 0.94]``.

    Parameters
    ----------
    line
        A row of `Verdict.table`.
    """
    if line["answer"] == MISSING:
        return MISSING
    return f"{line['answer']}: {Estimate(line['value'], line['low'], line['high'], 0)}"


def harm_sentence(verdict: Verdict, planted: bool) -> str:
    """What the Harmful line means together with the verdict on the border.

    Parameters
    ----------
    verdict
        Of `judge`.
    planted
        Whether what was reversed is an artifact in the image, which a crop may remove; else it is the images' size,
        which no crop removes.
    """
    answers = verdict.table["answer"]
    if answers["Harmful"] == MISSING:
        return "Whether a shortcut does harm is not available."
    if answers["Harmful"] != YES:
        return "That AUC is lost where the shortcut does not help is not shown."
    if not planted:
        return (
            "AUC is lost on images that their size hardly tells apart. Such images may also be harder in other ways; "
            "and a crop of the border does not take their size away."
        )
    lost = "AUC is lost where the artifact does not help"
    if verdict.border_shortcut:
        return f"{lost}, and the border carries a shortcut of its own: cropping it can help."
    if NO in (answers["Used"], answers["The border's own"]):
        return f"{lost}, yet the network has no shortcut of the border's own: cropping cannot fix it."
    return f"{lost}; whether cropping the border would help is not decided."
