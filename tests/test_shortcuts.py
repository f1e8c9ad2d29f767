"""The figures behind the verdict: worked by hand on small predictions and attention tables."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, verdict
from cnn_xray.data import _with_part, load_dataset
from cnn_xray.parameters import ShortcutParameters
from cnn_xray.runs import run_of


def predictions(labels, logits, patients, split="test"):
    return pd.DataFrame(
        {
            "label": labels,
            "logit": logits,
            "probability": 1 / (1 + np.exp(-np.array(logits, float))),
            "patient": patients,
        }
    ).assign(split=split)


def test_auc_lost_is_the_difference_of_two_aucs_counted_by_hand():
    good = predictions([0, 0, 1, 1], [0, 1, 2, 3], list("abcd"))  # 4 of 4 pairs
    bad = predictions([0, 0, 1, 1], [0, 3, 2, 1], list("abcd"))  # 2 beats 0, 1 beats 0: 2 of 4 pairs
    found = verdict.auc_lost(good, bad)
    assert found.value == pytest.approx(1.0 - 0.5)
    assert np.isnan(found.low)  # of four patients many a draw lacks one class


def test_auc_lost_has_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    good, bad = (predictions(labels, labels * gap + rng.normal(size=60), np.arange(60)) for gap in (3, 1))
    found = verdict.auc_lost(good, bad)
    assert 0 < found.low < found.value < found.high and found.p < 0.05


def test_the_patients_of_both_sets_are_drawn_together():
    one = predictions([0, 1] * 20, list(np.random.default_rng(0).normal(size=40)), np.arange(40))
    found = verdict.auc_lost(one, one.iloc[::-1])
    assert (found.value, found.low, found.high) == (0, 0, 0)  # the same films under the same weights cancel


def test_a_set_without_one_class_is_undefined_not_zero():
    found = verdict.auc_lost(predictions([0, 1], [0, 1], "ab"), predictions([1, 1], [0, 1], "ab"))
    assert np.isnan(found.value) and np.isnan(found.p)


def test_available_counts_the_test_films_alone():
    run = SimpleNamespace(
        predictions=pd.concat(
            [
                predictions([0, 1], [1, 0], "ab", "val"),
                predictions([0, 0, 1, 1], [0, 2, 1, 3], "cdef"),  # 3 of 4 pairs
            ]
        )
    )
    assert verdict.available(run).value == 0.75


def test_displayed_is_the_contrast_of_each_patients_mean():
    arms = []
    for path, patient, real, neutral in (("1", "a", 3, 1), ("2", "a", 1, 1), ("3", "b", 4, 1), ("4", "c", 2, 0)):
        arms.append({"path": path, "patient": patient, "arm": "image", "log2_border_density_ratio": real})
        arms.append(
            {"path": path, "patient": patient, "arm": "neutralised border", "log2_border_density_ratio": neutral}
        )
    found = verdict.displayed(SimpleNamespace(attention=pd.DataFrame(arms)))
    # differences 2 and 0 (patient a: 1), 3, 2; Walsh averages 1 1.5 2 2 2.5 3, whose median is 2
    assert found.value == 2 and found.n == 3 and found.effect == 1


def test_an_image_without_heat_in_one_arm_is_left_out():
    rows = [
        {"path": "1", "patient": "a", "arm": "image", "log2_border_density_ratio": 2.0},
        {"path": "1", "patient": "a", "arm": "neutralised border", "log2_border_density_ratio": np.nan},
        {"path": "2", "patient": "b", "arm": "image", "log2_border_density_ratio": 2.0},
        {"path": "2", "patient": "b", "arm": "neutralised border", "log2_border_density_ratio": 1.0},
    ]
    found = verdict.displayed(SimpleNamespace(attention=pd.DataFrame(rows)))
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


def test_the_figures_of_a_run_answer_every_question(tiny):
    p, data = tiny
    run = run_of(p, data)
    figures = verdict.border_figures(run, p, data)
    assert set(figures) == {question.name for question in verdict.QUESTIONS}
    again = verdict.border_figures(run, p, data)
    for name, one in figures.items():
        assert np.isfinite(one.value), name
        assert one.value == pytest.approx(again[name].value, abs=1e-5)


def test_without_lung_masks_only_the_borders_own_share_is_missing(tiny):
    p, data = tiny
    figures = verdict.border_figures(run_of(p, data), p, replace(data, lungs=None))
    assert {question.name for question in verdict.QUESTIONS} - set(figures) == {"The border's own"}
    assert verdict.judge(figures).table.loc["The border's own", "answer"] == verdict.MISSING


def masked(data, has):
    """The data with the lung masks of some films only, and what loads a probe's part of them."""
    lungs = data.lungs.copy()
    lungs[~has] = False
    part = replace(data, lungs=lungs)
    return part, lambda p: _with_part(part, p)


def test_too_few_lung_masks_leave_out_the_borders_own_share_and_nothing_else(tiny, monkeypatch):
    p, data = tiny
    part, loaded = masked(data, (data.table["label"] == 1).to_numpy())
    run = run_of(p, data)
    monkeypatch.setattr(verdict, "load_dataset", loaded)
    figures = verdict.border_figures(run, p, part)
    assert {question.name for question in verdict.QUESTIONS} - set(figures) == {"The border's own"}


def test_the_borders_own_share_compares_the_films_with_a_mask(tiny, monkeypatch):
    p, data = tiny
    has = np.random.default_rng(0).random(len(data.table)) < 0.5
    part, loaded = masked(data, has)
    part = replace(part, fingerprint="some masks")
    run = run_of(p, data)
    monkeypatch.setattr(verdict, "load_dataset", lambda p: replace(loaded(p), fingerprint="some masks"))
    compared = []
    monkeypatch.setattr(verdict, "auc_lost", lambda one, other, seed: compared.append((one, other)))
    verdict.border_figures(run, p, part)
    one, other = compared[0]
    test = data.table[(data.table["split"] == "test") & has]
    assert set(one["path"]) == set(other["path"]) == set(test["path"]) and len(one) == len(test)


def test_test_films_of_one_class_are_refused_in_a_sentence(tiny):
    p, data = tiny
    verdict.check_test_split(p, data)
    table = data.table[(data.table["split"] != "test") | (data.table["label"] == 1)].reset_index(drop=True)
    count = (table["split"] == "test").sum()
    with pytest.raises(InputError, match=f"has {count} films, all PNEUMONIA; .* needs films of both"):
        verdict.check_test_split(p, replace(data, table=table))


def test_a_ring_that_covers_no_pixel_is_refused_before_training(tiny):
    p, data = tiny
    with pytest.raises(InputError, match="ring is 0.01, which is no pixel of a film of 32 px"):
        verdict.check_test_split(p.model_copy(update={"border": 0.01}), data)
