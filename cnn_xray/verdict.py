"""The verdict on the border, filled in from figures: what decided every line, and an honest "no evidence"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from cnn_xray.statistics import Comparison, Estimate, holm

LEVEL = 0.05  # of the Holm-adjusted p
YES, NO, OPEN, MISSING = "yes", "no", "not shown", "not available"


@dataclass(frozen=True)
class Question:
    """A question about the border, the figure that answers it, and the least value that counts as a yes."""

    name: str
    figure: str
    null: float
    threshold: float


QUESTIONS = (
    Question("Available", "AUC of a network that sees the outer ring alone", 0.5, 0.6),
    Question("Used", "R: share of the class difference that moves with the outer ring", 0.0, 0.05),
    Question("The border's own", "AUC of the outer ring alone − AUC of what lies between ring and lungs", 0.0, 0.05),
    Question("Displayed", "log2 border density, film − ring neutralised", 0.0, 0.5),
    Question("Harmful", "AUC lost where the shortcut does not help", 0.0, 0.02),
)


@dataclass(frozen=True)
class Verdict:
    """``table``: one row a question; ``border_shortcut``: whether the verdict is one of the two border shortcuts."""

    table: pd.DataFrame
    name: str
    meaning: str
    border_shortcut: bool


# Answers to Available, Used, the border's own, Displayed (None: any) → name, meaning. The first that fits counts.
ROWS: tuple[tuple[tuple[str | None, ...], str, str], ...] = (
    (
        (YES, YES, YES, YES),
        "border shortcut",
        "The label is in the border, the network uses it, and the heatmap shows it.",
    ),
    (
        (YES, YES, YES, None),
        "border shortcut that the heatmap hides",
        "The label is in the border and the network uses it, but its heatmap does not show it.",
    ),
    (
        (YES, YES, MISSING, None),
        "reliance on the border",
        "The label is in the border and the network uses it. Whether it is the border's own cannot be told without "
        "lung masks.",
    ),
    (
        (YES, YES, None, None),
        "reliance that is not the border's own",
        "The network reads the label in the border, but what lies between border and lungs tells it about as well: a "
        "crop leaves that.",
    ),
    (
        (None, YES, None, None),
        "reliance without a known source",
        "The decision moves with the border although a network that sees the border alone is not shown to tell the "
        "classes: that network is too weak, or the border modulates what is read elsewhere.",
    ),
    (
        (YES, None, None, None),
        "latent risk",
        "The label is in the border, but this network is not shown to use it.",
    ),
    (
        (None, None, None, YES),
        "padding or explanation artifact",
        "The heatmap is hot at the border, but the label is not shown to be there, nor the network to use it.",
    ),
    (
        (None, None, None, None),
        "no evidence of a border shortcut",
        "The label is not shown to be in the border, nor the network to use it.",
    ),
)


def judge(figures: dict[str, Comparison]) -> Verdict:
    """The verdict from one Comparison a question (by `Question.name`; a missing one counts as not available).

    The answer is *yes* when the Holm-adjusted p is below 0.05 and the value above the null and at least the
    threshold; *no* when the interval ends below the threshold; and *not shown* otherwise.
    """
    nothing = Comparison(math.nan, math.nan, math.nan, 0, math.nan)
    found = {question.name: figures.get(question.name, nothing) for question in QUESTIONS}
    adjusted = holm({name: one.p for name, one in found.items()})
    rows = {
        question.name: {
            "figure": question.figure,
            "value": found[question.name].value,
            "low": found[question.name].low,
            "high": found[question.name].high,
            "p (Holm)": adjusted[question.name],
            "counts from": question.threshold,
            "answer": _answer(question, found[question.name], float(adjusted[question.name])),
        }
        for question in QUESTIONS
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("question")
    name, meaning = _conclusion({str(name): answer for name, answer in table["answer"].items()})
    return Verdict(table, name, meaning, name.startswith("border shortcut"))


def _answer(question: Question, one: Comparison, adjusted: float) -> str:
    if math.isnan(one.value):
        return MISSING
    if adjusted < LEVEL and one.value >= question.threshold and one.value > question.null:
        return YES
    return NO if one.high < question.threshold else OPEN


def _conclusion(answers: dict[str, str]) -> tuple[str, str]:
    missing = [name for name in ("Available", "Used") if answers[name] == MISSING]
    if missing:
        return "not decided", f"{' and '.join(missing)}: the figure is not available, so there is no verdict."
    asked = [answers[question.name] for question in QUESTIONS[:4]]
    return next(
        (name, meaning)
        for wanted, name, meaning in ROWS
        if all(want in (None, got) for want, got in zip(wanted, asked, strict=True))
    )


def in_words(line: pd.Series) -> str:
    """One line of the verdict's table as ``yes: 0.91 [0.87, 0.94]``."""
    if line["answer"] == MISSING:
        return MISSING
    return f"{line['answer']}: {Estimate(line['value'], line['low'], line['high'], 0)}"


def harm(verdict: Verdict) -> str:
    """A sentence on what the Harmful line means together with the verdict on the border."""
    lost = "AUC is lost where the shortcut does not help"
    answer = verdict.table.loc["Harmful", "answer"]
    if answer == MISSING:
        return "Whether a shortcut does harm is not available."
    if answer != YES:
        return f"That {lost} is not shown."
    if verdict.border_shortcut:
        return f"{lost}, and the border carries a shortcut: cropping it can help."
    return f"{lost}, yet no shortcut of the border's own is shown: cropping cannot be expected to fix it."
