"""The questions about the border, the figure that answers each, and the verdict filled in from the answers."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import InputError, geometry, interventions
from cnn_xray.data import CLASSES, Dataset, load_dataset
from cnn_xray.interventions import Score, swap_conflict
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
    Question("Harmful", "AUC lost where the shortcut goes with the wrong class", 0.02),
)


@dataclass(frozen=True)
class Verdict:
    """``table``: one row a question; ``name`` and ``meaning`` sum them up; ``border_shortcut``: whether it is one."""

    table: pd.DataFrame
    name: str
    meaning: str
    border_shortcut: bool


# Answers in the order of QUESTIONS (y: yes, n: no, any: whatever it is), and the name of the verdict, with its meaning.
# The first that fits counts. No line is an all-clear: the questions are about the border.
OWN = "The label is in the border and not as well beside it, and the network uses it"
LOST = "AUC is lost where the artifact goes with the wrong class"
VERDICTS: dict[tuple[str, str], str] = {
    ("y y y y any", "border shortcut"): f"{OWN}; the heatmap shows it.",
    ("y y y n any", "border shortcut that the heatmap hides"): f"{OWN}, but its heatmap does not answer it.",
    ("y y y any any", "border shortcut, heatmap undecided"): f"{OWN}; whether the heatmap shows it is open.",
    ("y y n any any", "reliance that is not the border's own"): "The network reads the label in the border, but what "
    "lies between border and lungs, or the lungs' outline, tells it as well: a crop of the border leaves that.",
    ("y y any any any", "reliance on the border"): "The label is in the border and the network uses it. Whether the "
    "border tells more than its neighbourhood is not decided.",
    ("any y any any any", "reliance without a known source"): "The decision moves with the border although a network "
    "that sees the border alone is not shown to tell the classes: that network is too weak, or the border modulates "
    "what is read elsewhere.",
    ("any n any any y", "not the border: harmed by another shortcut"): f"{LOST}, and little of the decision moves "
    "with the border: most of the harm comes from elsewhere, and a crop of this border leaves it.",
    ("any any any any y", "harmed by a shortcut that is not found"): f"{LOST}. That this network uses the border "
    "is not shown, and not excluded.",
    ("y any any any any", "latent risk"): "The label is in the border, but this network is not shown to use it.",
    ("any any any y any", "explanation artifact"): "The heatmap answers the border, but the label is not shown to be "
    "there, nor the network to use it.",
    ("any any any any any", "no evidence of a border shortcut"): "The label is not shown to be in the border, nor the "
    "network to use it. This is no all-clear: shortcuts elsewhere were not asked about.",
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
    score: Score, p: ProbeParameters, data: Dataset, attended: pd.DataFrame | None = None
) -> dict[str, Comparison]:
    """The verdict's figures by question (`QUESTIONS`) for any classifier: `figures_of_data` and `figures_of_network`.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p, data
        What the classifier is asked on; ``p`` also says how the probes are trained.
    attended
        Of `runs.attention_of`; without it *Displayed* is missing.
    """
    of_data = figures_of_data(p, data)
    return of_data | figures_of_network(score, p, data, asked_region(of_data), attended)


def figures_of_data(p: ProbeParameters, data: Dataset) -> dict[str, Comparison]:
    """*Available* and *The border's own*, which are about the images and the same for every classifier.

    With lung masks, the border is the border *outside the lungs*: a border may hold lung, above all after cropping,
    and disease is no shortcut. Then three probes are trained unless they are recorded: on that border, on all outside
    the lungs, and on what lies between border and lungs; *The border's own* is what the border adds to the latter.
    Without masks of both classes in every split there is one probe, on the whole border, and *The border's own* is
    missing.

    Parameters
    ----------
    p, data
        The images, and how the probes are trained.
    """
    seen = ("border_outside_lungs", "outside_lungs", "between")
    views: dict[str, Dataset] = {}
    with suppress(InputError):  # too few images have a lung mask
        views = {part: load_dataset(p.probe(keep=part)) for part in seen if data.lungs is not None}
    if not views:
        return {"Available": available(run_of(p.probe(keep="border")), p.seed)}
    border, outside, between = (run_of(p.probe(keep=part), view) for part, view in views.items())
    own = auc_difference(outside.on("test"), between.on("test"), p.seed)
    return {"Available": available(border, p.seed), "The border's own": own}


def asked_region(of_data: dict[str, Comparison]) -> str:
    """The region that the verdict asks about, one of `interventions.REGIONS`.

    Parameters
    ----------
    of_data
        `figures_of_data`.
    """
    return "border outside the lungs" if "The border's own" in of_data else "border"


def figures_of_network(
    score: Score, p: ProbeParameters, data: Dataset, region: str, attended: pd.DataFrame | None = None
) -> dict[str, Comparison]:
    """*Used*, *Displayed* and *Harmful*.

    *Harmful* is the AUC lost on the bias-conflicting set; where the data have none, on one made by swapping the region
    (`interventions.swap_conflict`), which asks about the border alone.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p, data
        What the classifier is asked on.
    region
        `asked_region`.
    attended
        Of `runs.attention_of`; without it *Displayed* is missing.
    """
    swapped, relied = swap(score, p, data, region)
    found = {"Used": relied["R"]} | ({} if attended is None else {"Displayed": displayed(attended)})
    if not has_conflict_set(data):
        return found | {"Harmful": swap_conflict(swapped, p.seed)}
    sets = (data.rows("test"), data.rows(CONFLICTING))
    test, conflicting = (data.table.iloc[rows].assign(logit=score(data.pixels[rows])) for rows in sets)
    return found | {"Harmful": auc_difference(test, conflicting, p.seed)}


def has_conflict_set(data: Dataset) -> bool:
    """Whether the data have a bias-conflicting test set.

    Parameters
    ----------
    data
        The images.
    """
    return len(data.rows(CONFLICTING)) > 0


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
        "all but the border": {"keep": "without_border"},
        "border without lungs": {"keep": "border_outside_lungs"},
        "lung box black": {"keep": "outside_lung_box"},
        "own lungs black": {"keep": "outside_lungs"},
        "lung outline alone": {"keep": "lung_outline"},
        "between border and lungs": {"keep": "between"},
        **{f"labels permuted, draw {i + 1}": {"labels": "permuted", "seed": p.seed + i} for i in range(3)},
    }


def swap(
    score: Score, p: ProbeParameters, data: Dataset, region: str, like: np.ndarray | None = None, within: float = 0
) -> tuple[pd.DataFrame, dict[str, Comparison]]:
    """Swap a region of the test images: `interventions.swap_effects`, and the figures of `interventions.reliance`.

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
    like, within
        Which test images may give to which (`interventions.donor_pairs`).
    """
    rows = data.rows("test")
    labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
    pairs = interventions.donor_pairs(labels, patients, p.donors, p.seed, like, within)
    swapped = interventions.swap_effects(score, data, rows, pairs, region, p.border)
    return swapped, interventions.reliance(swapped, labels, score(data.pixels[rows]), patients, p.seed)


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


def judge(figures: dict[str, Comparison], planted: bool) -> Verdict:
    """The verdict from one Comparison a question (by `Question.name`; a missing one counts as not available).

    The answer is *yes* when the Holm-adjusted p is below 0.05 and the value at least what counts; *no* when the
    interval ends below what counts; and *not shown* otherwise.

    Parameters
    ----------
    figures
        By question.
    planted
        Whether *Harmful* is asked of a bias-conflicting set, whose artifact may lie anywhere (`has_conflict_set`); else
        it is asked of swapped borders, and says nothing of shortcuts elsewhere.
    """
    table = pd.DataFrame(QUESTIONS).set_index("name").rename_axis("question")
    found = pd.DataFrame([figures.get(name, Comparison(math.nan)) for name in table.index], table.index)
    table = table[["figure"]].join(found[["value", "low", "high"]])
    table["p (Holm)"] = holm(found["p"])
    table["counts from"] = [question.counts_from for question in QUESTIONS]
    convincing = (table["p (Holm)"] < LEVEL) & (table["value"] >= table["counts from"])
    answers = [table["value"].isna(), convincing, table["high"] < table["counts from"]]
    table["answer"] = np.select(answers, [MISSING, YES, NO], OPEN)
    name, meaning, shortcut = _conclusion(table["answer"], planted)
    return Verdict(table, name, f"{meaning} {_harm(table['answer'], shortcut, planted)}".strip(), shortcut)


def _conclusion(answers: pd.Series, planted: bool) -> tuple[str, str, bool]:
    """Name, meaning, and whether it is a border shortcut."""
    missing = [name for name in ("Available", "Used") if answers[name] == MISSING]
    if missing:
        return "not decided", f"{' and '.join(missing)}: the figure is not available, so there is no verdict.", False
    asked = answers.map({YES: "y", NO: "n"})
    if not planted:
        asked["Harmful"] = ""  # of swapped borders: no other shortcut shows there
    for (pattern, name), meaning in VERDICTS.items():
        if all(want in ("any", got) for want, got in zip(pattern.split(), asked, strict=True)):
            return name, meaning, pattern.startswith("y y y")
    raise AssertionError("the last pattern fits whatever the answers are")


def _harm(answers: pd.Series, border_shortcut: bool, planted: bool) -> str:
    """What the Harmful line adds to the verdict on the border."""
    what = "the artifact" if planted else "the border"
    if answers["Harmful"] == MISSING:
        return "Whether a shortcut does harm is not available."
    if answers["Harmful"] == NO:
        return f"Where {what} goes with the wrong class, less AUC is lost than counts."
    if answers["Harmful"] == OPEN:
        return f"Whether AUC is lost where {what} goes with the wrong class is not shown."
    if not planted:
        after_all = (
            "" if answers["Used"] == YES else ": the border is used, though R is not shown to be as large as counts"
        )
        return f"AUC is lost when every image gets a border from the other class instead of its own class{after_all}."
    if border_shortcut:
        return f"{LOST}, and the border carries a shortcut of its own: cropping it can help."
    if answers["Used"] != YES:
        return ""  # the verdict's name says it
    helps = (
        "cropping cannot fix it" if answers["The border's own"] == NO else "whether a crop would help is not decided"
    )
    return f"{LOST}; {helps}."


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
