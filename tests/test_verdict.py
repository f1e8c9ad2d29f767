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


def judged(pattern: str) -> verdict.Verdict:
    """y or n for each question in order; a dash leaves it out."""
    chosen = zip(YES, pattern, strict=True)
    return verdict.judge({name: (YES if letter == "y" else NO)[name] for name, letter in chosen if letter != "-"})


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("yyyyy", "border shortcut"),
        ("yyyny", "border shortcut that the heatmap hides"),
        ("yynyy", "reliance that is not the border's own"),
        ("yynny", "reliance that is not the border's own"),
        ("nyyyn", "reliance without a known source"),
        ("nynnn", "reliance without a known source"),
        ("ynyyn", "latent risk"),
        ("ynnnn", "latent risk"),
        ("nnnyn", "padding or explanation artifact"),
        ("nnyyn", "padding or explanation artifact"),
        ("nnnnn", "no evidence of a border shortcut"),
        ("nnynn", "no evidence of a border shortcut"),
        ("yy-yy", "reliance on the border"),
        ("yy-nn", "reliance on the border"),
        ("-yyyy", "not decided"),
        ("y-yyy", "not decided"),
    ],
)
def test_the_answers_lead_to_the_verdict(pattern, name):
    found = judged(pattern)
    assert found.name == name
    assert found.border_shortcut == name.startswith("border shortcut")


def test_every_combination_of_answers_has_a_verdict():
    for letters in itertools.product("yn", repeat=5):
        assert judged("".join(letters)).meaning


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


def test_the_sentence_on_harm_depends_on_where_the_shortcut_is():
    assert "cropping it can help" in verdict.harm(judged("yyyyy"))
    assert "cannot be expected to fix it" in verdict.harm(judged("nnnny"))
    assert "cannot be expected to fix it" in verdict.harm(judged("yynyy"))
    assert "not shown" in verdict.harm(judged("nnnnn"))
    assert "not available" in verdict.harm(judged("nnnn-"))
