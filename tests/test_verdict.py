"""The verdict: answers by threshold, interval and Holm's p; every row of the table; what is missing stays missing."""

import itertools
import math

import pytest

from cnn_xray import verdict
from cnn_xray.statistics import Comparison

YES = {
    "Available": Comparison(0.9, 0.85, 0.95, 100, 0.0001),
    "Used": Comparison(0.5, 0.4, 0.6, 100, 0.0001),
    "The border's own": Comparison(0.8, 0.6, 1.0, 100, 0.0001),
    "Displayed": Comparison(1.5, 1.2, 1.8, 100, 0.0001),
    "Harmful": Comparison(0.3, 0.2, 0.4, 100, 0.0001),
}
NO = {
    "Available": Comparison(0.51, 0.45, 0.57, 100, 0.8),
    "Used": Comparison(0.01, -0.01, 0.03, 100, 0.5),
    "The border's own": Comparison(-0.8, -1.0, -0.6, 100, 0.0001),
    "Displayed": Comparison(0.0, -0.1, 0.1, 100, 0.9),
    "Harmful": Comparison(0.0, -0.01, 0.01, 100, 0.9),
}


OPEN = {
    "Available": Comparison(0.58, 0.50, 0.66, 100, 0.06),
    "Used": Comparison(0.04, -0.01, 0.09, 100, 0.1),
    "The border's own": Comparison(0.15, -0.02, 0.32, 100, 0.08),
    "Displayed": Comparison(0.45, 0.30, 0.60, 100, 0.00001),
    "Harmful": Comparison(0.03, -0.01, 0.07, 100, 0.1),
}
LETTERS = {"y": YES, "n": NO, "o": OPEN}


def judged(pattern: str) -> verdict.Verdict:
    """y, n or o (open) for each question in order; a dash leaves it out."""
    chosen = zip(YES, pattern, strict=True)
    return verdict.judge({name: LETTERS[letter][name] for name, letter in chosen if letter != "-"})


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("yyyyy", "border shortcut"),
        ("yyyny", "border shortcut that the heatmap hides"),
        ("yyyoy", "border shortcut, heatmap undecided"),
        ("yyy-y", "border shortcut, heatmap undecided"),
        ("yynyy", "reliance that is not the border's own"),
        ("yynny", "reliance that is not the border's own"),
        ("yyoyy", "reliance on the border"),
        ("yy-nn", "reliance on the border"),
        ("nyyyn", "reliance without a known source"),
        ("oynnn", "reliance without a known source"),
        ("ynyyn", "latent risk"),
        ("yonnn", "latent risk"),
        ("nnnyn", "explanation artifact"),
        ("ooyyn", "explanation artifact"),
        ("nnnnn", "no evidence of a border shortcut"),
        ("ooooo", "no evidence of a border shortcut"),
        ("-yyyy", "not decided"),
        ("y-yyy", "not decided"),
    ],
)
def test_the_answers_lead_to_the_verdict(pattern, name):
    found = judged(pattern)
    assert found.name == name
    assert found.border_shortcut == name.startswith("border shortcut")


def test_every_combination_of_answers_has_a_verdict():
    names = [question.name for question in verdict.QUESTIONS]
    for answers in itertools.product((verdict.YES, verdict.NO, verdict.OPEN, verdict.MISSING), repeat=5):
        name, meaning, shortcut = verdict._conclusion(dict(zip(names, answers, strict=True)))
        assert name and meaning and shortcut == (answers[:3] == (verdict.YES,) * 3)


def test_the_thresholds_and_the_deciding_interval_are_in_the_table():
    table = judged("ynnny").table
    assert list(table.index) == [question.name for question in verdict.QUESTIONS]
    assert list(table["counts from"]) == [0.6, 0.05, 0.05, 0.5, 0.02]
    assert list(table["answer"]) == ["yes", "no", "no", "no", "yes"]
    assert (table.loc["Used", ["value", "low", "high"]] == [0.01, -0.01, 0.03]).all()


def test_a_small_p_below_the_threshold_is_no_yes():
    table = verdict.judge({"Used": Comparison(0.03, 0.02, 0.04, 100, 0.0001)}).table
    assert table.loc["Used", "answer"] == "no"


def test_an_interval_that_reaches_what_counts_is_not_shown_rather_than_no():
    assert verdict.judge({"Used": Comparison(0.04, -0.02, 0.10, 100, 0.2)}).table.loc["Used", "answer"] == "not shown"


def test_the_p_is_that_of_holm_over_the_questions_asked():
    alone = Comparison(0.2, 0.01, 0.4, 100, 0.04)
    assert verdict.judge({"Used": alone}).table.loc["Used", "answer"] == "yes"
    two = verdict.judge({"Used": alone, "Harmful": Comparison(0.1, -0.1, 0.2, 100, 0.03)}).table
    assert list(two.loc[["Used", "Harmful"], "p (Holm)"]) == [0.06, 0.06]  # 2 × 0.03, then at least that
    assert two.loc["Used", "answer"] == "not shown"


def test_a_value_without_an_interval_is_not_shown_and_no_value_is_not_available():
    one_patient = Comparison(0.9, math.nan, math.nan, 3, math.nan)
    table = verdict.judge({"Available": one_patient}).table
    assert table.loc["Available", "answer"] == "not shown"
    assert table.loc["Used", "answer"] == "not available"


@pytest.mark.parametrize(
    ("pattern", "planted", "sentence"),
    [
        ("yyyyy", True, "cropping it can help"),
        ("nnnny", True, "cropping cannot fix it"),  # nothing is used there
        ("yynyy", True, "cropping cannot fix it"),  # the neighbourhood tells it as well
        ("yyoyy", True, "is not decided"),
        ("yooyy", True, "is not decided"),
        ("yyyyy", False, "does not take their size away"),
        ("yyyyn", True, "is not shown"),
        ("yyyy-", True, "not available"),
    ],
)
def test_the_sentence_on_harm_depends_on_where_the_shortcut_is(pattern, planted, sentence):
    assert sentence in verdict.harm_sentence(judged(pattern), planted)
