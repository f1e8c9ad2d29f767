"""The figures behind the verdict, worked by hand; and every row of the verdict."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, verdict
from cnn_xray.data import _with_part, load_dataset
from cnn_xray.parameters import ShortcutParameters
from cnn_xray.runs import run_of
from cnn_xray.statistics import Comparison


def predictions(labels, logits, patients, split="test"):
    return pd.DataFrame(
        {
            "label": labels,
            "logit": logits,
            "probability": 1 / (1 + np.exp(-np.array(logits, float))),
            "patient": patients,
        }
    ).assign(split=split)


def test_available_counts_the_test_images_alone():
    scored = {"val": predictions([0, 1], [1, 0], "ab"), "test": predictions([0, 0, 1, 1], [0, 2, 1, 3], "cdef")}
    assert verdict.available(SimpleNamespace(on=scored.get)).value == 0.75  # 3 of 4 pairs


def test_displayed_is_the_contrast_of_each_patients_mean():
    arms = []
    for path, patient, real, neutral in (("1", "a", 3, 1), ("2", "a", 1, 1), ("3", "b", 4, 1), ("4", "c", 2, 0)):
        arms.append({"path": path, "patient": patient, "arm": "image", "log2_border_density_ratio": real})
        arms.append(
            {"path": path, "patient": patient, "arm": "neutralised border", "log2_border_density_ratio": neutral}
        )
    found = verdict.displayed(pd.DataFrame(arms))
    # differences 2 and 0 (patient a: 1), 3, 2; Walsh averages 1 1.5 2 2 2.5 3, whose median is 2
    assert found.value == 2 and found.n == 3 and found.effect == 1


def test_an_image_without_heat_in_one_arm_is_left_out():
    rows = [
        {"path": "1", "patient": "a", "arm": "image", "log2_border_density_ratio": 2.0},
        {"path": "1", "patient": "a", "arm": "neutralised border", "log2_border_density_ratio": np.nan},
        {"path": "2", "patient": "b", "arm": "image", "log2_border_density_ratio": 2.0},
        {"path": "2", "patient": "b", "arm": "neutralised border", "log2_border_density_ratio": 1.0},
    ]
    found = verdict.displayed(pd.DataFrame(rows))
    assert (found.value, found.n) == (1, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    place = tmp_path_factory.mktemp("shortcuts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_XRAY_CACHE", str(place / "cache"))
        small = {"phantom_images": 160, "image_size": 32, "probe_size": 32, "width": 8, "epochs": 10, "probe_epochs": 1}
        easy = {"phantom_signal": 2.0, "learning_rate": 0.01, "donors": 2, "runs": str(place / "runs")}
        p = ShortcutParameters.from_mapping(small | easy)
        yield p, load_dataset(p)


def answers(run, p, data):
    return verdict.border_figures(run.score, p, data, run.attention)


def test_the_figures_of_a_run_answer_every_question(tiny):
    p, data = tiny
    run = run_of(p, data)
    figures = answers(run, p, data)
    assert set(figures) == {question.name for question in verdict.QUESTIONS}
    again = answers(run, p, data)
    for name, one in figures.items():
        assert np.isfinite(one.value), name
        assert one.value == pytest.approx(again[name].value, abs=1e-5)


def test_any_classifier_can_be_asked_and_without_its_maps_displayed_is_missing(tiny):
    p, data = tiny
    figures = verdict.border_figures(lambda images: images[:, :, :16].mean(axis=(1, 2)) - 100, p, data)
    assert {question.name for question in verdict.QUESTIONS} - set(figures) == {"Displayed"}
    assert verdict.judge(figures, True).table.loc["Displayed", "answer"] == verdict.MISSING


def test_harm_is_asked_of_the_planted_conflict_set_and_else_of_one_made_by_swapping(tiny):
    p, data = tiny
    corner = data.artifacts[data.rows("train")].any(axis=0)  # where markers are: a classifier that reads them alone

    def of_markers(images):
        return images[:, corner].max(axis=1) / 10.0 - 20

    planted = verdict.border_figures(of_markers, p, data)["Harmful"]
    rows = data.rows("train", "val", "test")
    plain = replace(data, pixels=data.pixels[rows], lungs=data.lungs[rows], artifacts=data.artifacts[rows])
    plain = replace(plain, table=data.table.iloc[rows].reset_index(drop=True))
    swapped = verdict.border_figures(of_markers, p, plain)["Harmful"]
    assert 0.2 < swapped.value <= planted.value + 0.1 and swapped.low > 0
    inside = verdict.border_figures(lambda images: images[:, 14:18, 14:18].mean(axis=(1, 2)), p, plain)["Harmful"]
    assert inside.value == 0


def test_without_lung_masks_only_the_borders_own_share_is_missing(tiny):
    p, data = tiny
    figures = answers(run_of(p, data), p, replace(data, lungs=None))
    assert {question.name for question in verdict.QUESTIONS} - set(figures) == {"The border's own"}
    assert verdict.judge(figures, True).table.loc["The border's own", "answer"] == verdict.MISSING


def masked(data, has):
    """The data with the lung masks of some images only, and what loads a probe's part of them."""
    lungs = data.lungs.copy()
    lungs[~has] = False
    part = replace(data, lungs=lungs)
    return part, lambda p: _with_part(part, p)


def test_too_few_lung_masks_leave_out_the_borders_own_share_and_nothing_else(tiny, monkeypatch):
    p, data = tiny
    part, loaded = masked(data, (data.table["label"] == 1).to_numpy())
    run = run_of(p, data)
    monkeypatch.setattr(verdict, "load_dataset", loaded)
    figures = answers(run, p, part)
    assert {question.name for question in verdict.QUESTIONS} - set(figures) == {"The border's own"}


def test_the_borders_own_share_compares_the_images_with_a_mask(tiny, monkeypatch):
    p, data = tiny
    has = np.random.default_rng(0).random(len(data.table)) < 0.5
    part, loaded = masked(data, has)
    part = replace(part, fingerprint="some masks")
    run = run_of(p, data)
    monkeypatch.setattr(verdict, "load_dataset", lambda p: replace(loaded(p), fingerprint="some masks"))
    compared = []
    monkeypatch.setattr(verdict, "auc_difference", lambda one, other, seed: compared.append((one, other)))
    answers(run, p, part)
    one, other = compared[0]
    test = data.table[(data.table["split"] == "test") & has]
    assert set(one["path"]) == set(other["path"]) == set(test["path"]) and len(one) == len(test)


def test_test_images_of_one_class_are_refused_in_a_sentence(tiny):
    p, data = tiny
    verdict.check_test_split(p, data)
    table = data.table[(data.table["split"] != "test") | (data.table["label"] == 1)].reset_index(drop=True)
    count = (table["split"] == "test").sum()
    with pytest.raises(InputError, match=f"has {count} images, all PNEUMONIA; .* needs images of both"):
        verdict.check_test_split(p, replace(data, table=table))


def test_a_border_that_covers_no_pixel_is_refused_before_training(tiny):
    p, data = tiny
    with pytest.raises(InputError, match="border is 0.01, which is no pixel of"):
        verdict.check_test_split(p.model_copy(update={"border": 0.01}), data)


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


def judged(pattern: str, planted: bool = True) -> verdict.Verdict:
    """y, n or o (open) for each question in order; a dash leaves it out."""
    chosen = zip(YES, pattern, strict=True)
    return verdict.judge({name: LETTERS[letter][name] for name, letter in chosen if letter != "-"}, planted)


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
        ("ynnny", "not the border: harmed by another shortcut"),
        ("nnnyy", "not the border: harmed by another shortcut"),
        ("nonny", "harmed by a shortcut that is not found"),
        ("yoyyy", "harmed by a shortcut that is not found"),
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
    every = (verdict.YES, verdict.NO, verdict.OPEN, verdict.MISSING)
    for *answers, planted in itertools.product(*[every] * 5, (True, False)):
        name, meaning, shortcut = verdict._conclusion(pd.Series(dict(zip(names, answers, strict=True))), planted)
        assert name and meaning and shortcut == (answers[:3] == [verdict.YES] * 3)


def test_no_network_that_is_harmed_gets_a_line_that_reads_as_an_all_clear():
    names = [question.name for question in verdict.QUESTIONS]
    for answers in itertools.product((verdict.YES, verdict.NO, verdict.OPEN, verdict.MISSING), repeat=4):
        name, _, _ = verdict._conclusion(pd.Series(dict(zip(names, (*answers, verdict.YES), strict=True))), True)
        assert not name.startswith("no evidence") and name not in ("latent risk", "explanation artifact")
    assert "no all-clear" in judged("nnnnn").meaning


def test_the_thresholds_and_the_deciding_interval_are_in_the_table():
    table = judged("ynnny").table
    assert list(table.index) == [question.name for question in verdict.QUESTIONS]
    assert list(table["counts from"]) == [0.6, 0.05, 0.05, 0.5, 0.02]
    assert list(table["answer"]) == ["yes", "no", "no", "no", "yes"]
    assert (table.loc["Used", ["value", "low", "high"]] == [0.01, -0.01, 0.03]).all()


def test_a_small_p_below_the_threshold_is_no_yes():
    table = verdict.judge({"Used": Comparison(0.03, 0.02, 0.04, 100, 0.0001)}, True).table
    assert table.loc["Used", "answer"] == "no"


def test_an_interval_that_reaches_what_counts_is_not_shown_rather_than_no():
    assert (
        verdict.judge({"Used": Comparison(0.04, -0.02, 0.10, 100, 0.2)}, True).table.loc["Used", "answer"]
        == "not shown"
    )


def test_the_p_is_that_of_holm_over_the_questions_asked():
    alone = Comparison(0.2, 0.01, 0.4, 100, 0.04)
    assert verdict.judge({"Used": alone}, True).table.loc["Used", "answer"] == "yes"
    two = verdict.judge({"Used": alone, "Harmful": Comparison(0.1, -0.1, 0.2, 100, 0.03)}, True).table
    assert list(two.loc[["Used", "Harmful"], "p (Holm)"]) == [0.06, 0.06]  # 2 × 0.03, then at least that
    assert two.loc["Used", "answer"] == "not shown"


def test_a_value_without_an_interval_is_not_shown_and_no_value_is_not_available():
    one_patient = Comparison(0.9, math.nan, math.nan, 3, math.nan)
    table = verdict.judge({"Available": one_patient}, True).table
    assert table.loc["Available", "answer"] == "not shown"
    assert table.loc["Used", "answer"] == "not available"


@pytest.mark.parametrize(
    ("pattern", "planted", "sentence"),
    [
        ("yyyyy", True, "cropping it can help"),
        ("nnnny", True, "a crop of this border leaves it"),  # nothing is used there
        ("yynyy", True, "cropping cannot fix it"),  # the neighbourhood tells it as well
        ("yyoyy", True, "is not decided"),
        ("yooyy", True, "is not shown, and not excluded"),
        ("yyyyy", False, "gets a border from the other class"),
        ("yyyyn", True, "less AUC is lost than counts"),
        ("yyyyo", True, "goes with the wrong class is not shown"),
        ("yyyyo", False, "where the border goes with the wrong class is not shown"),
        ("yyyy-", True, "not available"),
    ],
)
def test_the_sentence_on_harm_depends_on_where_the_shortcut_is(pattern, planted, sentence):
    assert sentence in judged(pattern, planted).meaning


@pytest.mark.parametrize("pattern", ["yoyyy", "ynyyy"])
def test_who_loses_by_swapped_borders_uses_them_though_r_does_not_say_so(pattern):
    found = judged(pattern, planted=False)
    assert found.name == "latent risk" and "the border is used, though R is not shown" in found.meaning
    assert "uses" not in judged(pattern[:4] + "n", planted=False).meaning
