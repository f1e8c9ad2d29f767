"""The figures behind the verdict, worked by hand; and every row of the verdict."""

import itertools
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, verdict
from cnn_xray.cam import Evidence, evidence
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


def test_the_auc_of_a_probe_is_that_of_the_split_that_is_asked():
    scored = {"val": predictions([0, 1], [1, 0], "ab"), "test": predictions([0, 0, 1, 1], [0, 2, 1, 3], "cdef")}
    assert verdict.auc_of(SimpleNamespace(on=scored.get)).value == 0.75  # 3 of 4 pairs


def probe(logits, patients, labels=None, split=None):
    labels = np.arange(len(logits)) % 2 if labels is None else labels
    split = np.repeat(["val", "test"], len(logits) // 2) if split is None else split
    return SimpleNamespace(predictions=predictions(labels, logits, patients, split))


def test_what_probes_add_is_of_validation_and_test_images_and_a_mean_of_the_trainings():
    rng = np.random.default_rng(0)
    labels, patients = np.arange(1200) % 2, [str(i) for i in range(1200)]
    tells, nothing = (2 * labels - 1.0) * 3, rng.normal(size=(3, 1200))
    knows = verdict.added([probe(tells, patients)], None)
    assert knows.value == pytest.approx(math.log(2), abs=0.02) and knows.n == 1200
    assert verdict.added([probe(nothing[0], patients)], [probe(tells, patients)]).value == pytest.approx(0, abs=0.005)
    half = verdict.added(
        [probe(tells, patients), probe(nothing[0], patients)], [probe(one, patients) for one in nothing[1:]]
    )
    assert half.value == pytest.approx(math.log(2) / 2, abs=0.02) and half.low < 0.05 and half.high > 0.6
    assert verdict.added([probe(tells, patients)], None, splits=("test",)).n == 600


def test_displayed_is_the_heat_of_the_border_with_its_own_class_border_less_with_the_others(tiny):
    p, data = tiny
    test = data.rows("test")
    bright = np.where(data.table["label"].to_numpy() == 1, 200, 50).astype(np.uint8)
    pixels = np.full_like(data.pixels, 100)
    pixels[:, 0, :] = bright[:, None]  # the upper edge says the class
    plain = replace(data, pixels=pixels, lungs=None)

    def of_edge(images):  # evidence: 1 everywhere, and in the upper row of four cells 3 or −1 by the edge
        maps = np.ones((len(images), 4, 4), np.float32)
        maps[:, 0] = np.where(images[:, :1, 0] > 100, 3, -1)
        return Evidence(maps, np.where(images[:, 0, 0] > 100, 1.0, -1.0).astype(np.float32), 0.0)

    p = p.model_copy(update={"border": 0.25, "donors": 1})
    found = verdict.displayed(of_edge, p, plain, "border")
    # PNEUMONIA, border of 12 cells: (4·3 + 8) / 12 over 1 elsewhere, less (0 + 8) / 12 over 1: log2(20/8).
    # NORMAL: heat is −evidence, so all lies in the edge with its own border (limit 6), none with the other: no density.
    ill = math.log2(20 / 8)
    assert found.value == pytest.approx(ill) and found.n == (data.table["label"].iloc[test] == 1).sum()


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
    return verdict.border_figures(run.score, p, data, partial(evidence, run.model))


def test_few_parts_are_some_of_all_and_the_count_of_networks_is_of_those():
    every, few = (ShortcutParameters(probe_parts=parts) for parts in ("all", "few"))
    parts = {p.probe_parts: verdict._parts(p) for p in (every, few)}
    assert set(parts["few"]) < set(parts["all"])
    assert {"whole image", "own lungs black", "lung outline alone", "border 0.125"} < set(parts["few"])
    for p in (every, few):
        assert p.networks == p.n_seeds + len(parts[p.probe_parts]) + len(verdict.PARTS) * (p.probe_repeats - 1)


def test_the_figures_of_a_run_answer_every_question(tiny):
    p, data = tiny
    run = run_of(p, data)
    figures = answers(run, p, data)
    assert set(figures) == set(verdict.QUESTIONS)
    again = answers(run, p, data)
    for name, one in figures.items():
        assert np.isfinite(one.value), name
        assert one.value == pytest.approx(again[name].value, abs=1e-5)


def test_any_classifier_can_be_asked_and_without_its_maps_displayed_is_missing(tiny):
    p, data = tiny
    figures = verdict.border_figures(lambda images: images[:, :, :16].mean(axis=(1, 2)) - 100, p, data)
    assert set(verdict.QUESTIONS) - set(figures) == {"Displayed"}
    assert judge(figures).table.loc["Displayed", "answer"] == verdict.MISSING


def test_the_readmes_example_judges_a_network_from_elsewhere(tiny, capsys):
    p, data = tiny
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    given = 'ShortcutParameters(data="images/manifest.csv", image_size=224)'
    assert code.count(given) == 1

    class Model:
        def predict(self, images):
            assert images.shape[1:] == (32, 32, 1) and images.max() <= 1
            return images[:, :, :16].mean(axis=(1, 2)) * 255 - 100  # (n, 1), as Keras gives it

    exec(code.replace(given, "p"), {"p": p, "my_model": Model()})
    figures = verdict.border_figures(lambda images: images[:, :, :16].mean(axis=(1, 2)) - 100, p, data)
    found = verdict.judge(figures, verdict.has_conflict_set(data), verdict.kind_of(p))
    assert f"\n{found.name}\n{found.meaning}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classifier", "said"),
    [
        (lambda images: images.mean(axis=(1, 2))[:, None], r"an array of shape \(40, 1\) for 40 images"),
        (lambda images: np.full(len(images), np.nan), "40 values that are no numbers"),
        (lambda images: np.arange(len(images)) / len(images), "values from 0 to 1, as probabilities are"),
    ],
)
def test_what_is_no_logit_an_image_is_refused(tiny, classifier, said):
    p, data = tiny
    with pytest.raises(InputError, match=f"The classifier gave {said}"):
        verdict.figures_of_network(classifier, p, data, "border")


def test_a_conflict_split_of_other_images_is_refused_before_anything_is_trained(tiny):
    p, data = tiny
    table = data.table.copy()
    assert verdict.has_conflict_set(data)
    first = data.rows("conflict")[0]
    for change in ({"patient": "somebody else"}, {"split": "neutral"}):
        (name, value), *_ = change.items()
        other = replace(data, table=table.assign(**{name: table[name].where(table.index != first, value)}))
        with pytest.raises(InputError, match="is to hold the test images again"):
            verdict.check_test_split(p, other)


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
    assert "Harmful elsewhere" not in verdict.border_figures(of_markers, p, plain)
    inside = verdict.border_figures(lambda images: images[:, 14:18, 14:18].mean(axis=(1, 2)), p, plain)["Harmful"]
    assert inside.value == 0


def marker_and_middle(data):
    """Two classifiers of a phantom: of the places where border markers are, and of a spot in the middle."""
    corner = data.artifacts[data.rows("train")].any(axis=0)

    def of_markers(images):
        return images[:, corner].max(axis=1) / 10.0 - 20

    def of_middle(images):
        return images[:, 14:18, 14:18].mean(axis=(1, 2)) / 10.0 - 10

    return of_markers, of_middle


def test_harm_goes_with_right_borders_unless_it_lies_elsewhere(tiny):
    p, data = tiny
    of_markers, _ = marker_and_middle(data)
    found = verdict.border_figures(of_markers, p, data)
    assert found["Harmful"].low > 0.2 and abs(found["Harmful elsewhere"].value) < 0.05
    spot = data.pixels.copy()  # a second artifact, in the middle, with the first
    spot[data.table["artifact"].astype(int).to_numpy() == 1, 15:17, 15:17] = 255

    def of_both(images):
        return of_markers(images) + (images[:, 15, 15] == 255) * 4.0

    both = verdict.border_figures(of_both, p, replace(data, pixels=spot))
    assert both["Harmful elsewhere"].low > 0.3


def test_a_network_without_the_border_helps_where_the_shortcut_is_there(tiny):
    p, data = tiny
    of_markers, of_middle = marker_and_middle(data)
    rows = data.rows("train", "val", "test")
    plain = replace(data, pixels=data.pixels[rows], lungs=data.lungs[rows], artifacts=data.artifacts[rows])
    plain = replace(plain, table=data.table.iloc[rows].reset_index(drop=True))
    for images in (data, plain):  # with a conflict set, and with one made by swapping
        gained = verdict.helped(of_markers, of_middle, p, images)
        assert gained.low > 0.05
        lost = verdict.helped(of_middle, of_markers, p, images)
        assert lost.value == pytest.approx(-gained.value)
        assert verdict.helped(of_middle, of_middle, p, images).value == 0


def test_without_lung_masks_only_the_borders_own_share_is_missing(tiny):
    p, data = tiny
    figures = answers(run_of(p, data), p, replace(data, lungs=None))
    assert set(verdict.QUESTIONS) - set(figures) == {"The border's own"}
    assert judge(figures).table.loc["The border's own", "answer"] == verdict.MISSING


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
    assert set(verdict.QUESTIONS) - set(figures) == {"The border's own"}


def test_the_borders_own_share_compares_the_images_with_a_mask(tiny, monkeypatch):
    p, data = tiny
    has = np.random.default_rng(0).random(len(data.table)) < 0.5
    part, loaded = masked(data, has)
    part = replace(part, fingerprint="some masks")
    run = run_of(p, data)
    monkeypatch.setattr(verdict, "load_dataset", lambda p: replace(loaded(p), fingerprint="some masks"))
    asked = data.table[data.table["split"].isin(["val", "test"]) & has]
    figures = answers(run, p, part)
    assert figures["Available"].n == figures["The border's own"].n == len(asked)


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
    "Available": Comparison(0.4, 0.35, 0.45, 100),
    "Used": Comparison(0.5, 0.4, 0.6, 100),
    "The border's own": Comparison(0.3, 0.2, 0.4, 100),
    "Displayed": Comparison(1.5, 1.2, 1.8, 100),
    "Harmful": Comparison(0.3, 0.2, 0.4, 100),
    "Harmful elsewhere": Comparison(0.3, 0.2, 0.4, 100),
}
NO = {
    "Available": Comparison(-0.002, -0.007, 0.001, 100),
    "Used": Comparison(0.01, -0.01, 0.03, 100),
    "The border's own": Comparison(-0.003, -0.006, 0.0, 100),
    "Displayed": Comparison(0.0, -0.01, 0.01, 100),
    "Harmful": Comparison(0.0, -0.01, 0.01, 100),
    "Harmful elsewhere": Comparison(0.0, -0.01, 0.01, 100),
}
OPEN = {
    "Available": Comparison(0.02, -0.02, 0.06, 100),
    "Used": Comparison(0.04, -0.01, 0.09, 100),
    "The border's own": Comparison(0.02, -0.02, 0.04, 100),
    "Displayed": Comparison(0.1, -0.3, 0.5, 100),
    "Harmful": Comparison(0.03, -0.01, 0.07, 100),
    "Harmful elsewhere": Comparison(0.03, -0.01, 0.07, 100),
}
LETTERS = {"y": YES, "n": NO, "o": OPEN}


def judge(figures, planted=True):
    return verdict.judge(figures, planted, "phantom")


def judged(pattern: str, planted: bool = True) -> verdict.Verdict:
    """y, n or o (open) for each question in order; a dash leaves it out. Five letters: nothing is said of elsewhere."""
    chosen = zip(YES, pattern.ljust(6, "-"), strict=True)
    return judge({name: LETTERS[letter][name] for name, letter in chosen if letter != "-"}, planted)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("yyyyy", "border shortcut"),
        ("yyyyyn", "border shortcut"),
        ("yyyyyo", "border shortcut"),
        ("yyyyyy", "border shortcut, and another elsewhere"),
        ("yyynyy", "border shortcut that the heatmap hides, and another elsewhere"),
        ("yynyyy", "reliance that is not the border's own"),
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
    names = list(verdict.QUESTIONS)
    every = (verdict.YES, verdict.NO, verdict.OPEN, verdict.MISSING)
    for *answers, planted in itertools.product(*[every] * 6, (True, False)):
        name, meaning, shortcut = verdict._conclusion(pd.Series(dict(zip(names, answers, strict=True))), planted)
        assert name and meaning and shortcut == (answers[:3] == [verdict.YES] * 3)


def test_no_network_that_is_harmed_gets_a_line_that_reads_as_an_all_clear():
    names = list(verdict.QUESTIONS)
    for answers in itertools.product((verdict.YES, verdict.NO, verdict.OPEN, verdict.MISSING), repeat=5):
        harmed = (*answers[:4], verdict.YES, answers[4])
        name, _, _ = verdict._conclusion(pd.Series(dict(zip(names, harmed, strict=True))), True)
        assert not name.startswith("no evidence") and name not in ("latent risk", "explanation artifact")
    assert "no all-clear" in judged("nnnnn").meaning


def test_the_thresholds_and_the_deciding_interval_are_in_the_table():
    table = judged("ynnnyo").table
    assert list(table.index) == list(verdict.QUESTIONS)
    assert list(table["answer"]) == ["yes", "no", "no", "no", "yes", "not shown"]
    assert (table.loc["Used", ["value", "low", "high"]] == [0.01, -0.01, 0.03]).all()
    assert list(table["counts from"]) == list(verdict.thresholds("phantom"))


def test_what_has_no_threshold_of_its_own_counts_from_two_deviations_above_its_nulls(tmp_path, monkeypatch):
    values = {"Available": (0.0, 0.02), "The border's own": (-0.01, 0.01), "Displayed": (0.1, 0.3)}
    rows = [("phantom", name, one) for name, both in values.items() for one in both]
    rows += [("files", name, one + 1) for name, both in values.items() if name != "Displayed" for one in both]
    pd.DataFrame(rows, columns=["kind", "question", "value"]).to_csv(tmp_path / "nulls.csv", index=False)
    monkeypatch.setattr(verdict, "NULLS", tmp_path / "nulls.csv")
    found = verdict.thresholds("phantom")
    assert found["Used"] == 0.05 and found["Harmful"] == found["Harmful elsewhere"] == 0.02
    assert found["Available"] == pytest.approx(0.01 + 2 * 0.02 / math.sqrt(2))
    assert found["The border's own"] == pytest.approx(2 * 0.02 / math.sqrt(2))  # mean 0
    assert verdict.thresholds("files")["Available"] == pytest.approx(1 + found["Available"])
    assert verdict.thresholds("files")["Displayed"] == found["Displayed"]  # from phantoms for either


def test_nulls_below_what_matters_do_not_lower_what_counts(tmp_path, monkeypatch):
    rows = [("phantom", question, one) for question in verdict.QUESTIONS for one in (-1.0, -1.001)]
    pd.DataFrame(rows, columns=["kind", "question", "value"]).to_csv(tmp_path / "nulls.csv", index=False)
    monkeypatch.setattr(verdict, "NULLS", tmp_path / "nulls.csv")
    assert list(verdict.thresholds("phantom")) == [0.01, 0.05, 0.01, 0.0, 0.02, 0.02]


def test_the_recorded_nulls_are_enough_and_of_either_kind():
    nulls = pd.read_csv(verdict.NULLS)
    counts = nulls.groupby(["kind", "question"]).size()
    for kind in ("phantom", "files"):
        assert counts[kind, "Available"] >= 20 and counts[kind, "The border's own"] >= 20
    assert counts["phantom", "Displayed"] >= 10
    for kind in ("phantom", "files"):
        assert np.isfinite(verdict.thresholds(kind)).all()


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((0.051, 0.4), "yes"), ((0.049, 0.4), "not shown"), ((0.0, 0.051), "not shown"), ((-0.1, 0.049), "no")],
)
def test_an_answer_needs_its_whole_interval_on_one_side_of_what_counts(interval, answer):
    figures = {"Used": Comparison(sum(interval) / 2, *interval, 100)}
    assert judge(figures).table.loc["Used", "answer"] == answer


def test_a_recipe_has_one_figure_of_all_its_networks(tiny):
    networks = [{"Used": Comparison(value, value - 0.1, value + 0.1, 9)} for value in (0.2, 0.4)]
    found = verdict.figures_of_recipe(networks)
    assert found["Used"].value == pytest.approx(0.3) and found["Used"].high - found["Used"].low > 0.2


def test_a_value_without_an_interval_is_not_shown_and_no_value_is_not_available():
    one_patient = Comparison(0.9, math.nan, math.nan, 3, math.nan)
    table = judge({"Available": one_patient}).table
    assert table.loc["Available", "answer"] == "not shown"
    assert table.loc["Used", "answer"] == "not available"


@pytest.mark.parametrize(
    ("pattern", "planted", "sentence"),
    [
        ("yyyyyn", True, "cropping the border can help"),
        ("yyyyyy", True, "cropping the border would not remove that"),
        ("nnnny", True, "cropping this border would not remove it"),  # nothing is used there
        ("yynyyy", True, "cropping the border would not remove that"),  # the neighbourhood tells it as well
        ("yyyyyo", True, "is not decided"),
        ("yyoyy", True, "is not decided"),
        ("yooyy", True, "is not shown, and not excluded"),
        ("yyyyy", False, "gets a border of the other class"),
        ("yyyyn", True, "less AUC is lost than counts"),
        ("yyyyo", True, "is of the wrong class is not shown"),
        ("yyyyo", False, "where the border is of the wrong class is not shown"),
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
