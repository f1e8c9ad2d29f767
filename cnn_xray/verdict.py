"""The questions about the border, the figure that answers each, and the verdict filled in from the answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_xray import InputError, geometry, interventions
from cnn_xray.attention import Explainer, log2_density_ratio
from cnn_xray.cam import explained_heat, explained_sign
from cnn_xray.data import CLASSES, Dataset, load_dataset
from cnn_xray.interventions import Score, donor_pairs, swap_conflict
from cnn_xray.metrics import auc_difference, auc_with_interval, information_added
from cnn_xray.parameters import PHANTOM, ProbeParameters, ShortcutParameters
from cnn_xray.runs import Run, runs_of
from cnn_xray.statistics import Estimate, hodges_lehmann, pooled

YES, NO, OPEN, MISSING = "yes", "no", "not shown", "not available"
PARTS = ("border_outside_lungs", "between")  # seen by the probes of the border and of its neighbourhood
CONFLICTING = "conflict"  # the bias-conflicting set, whose artifact is on the wrong class
ASKED = ("val", "test")  # the splits that probes are asked on: the shortcut may be in images of one origin alone
NULLS = Path(__file__).with_name("nulls.csv")  # what the figures are where there is nothing (benchmarks/instruments.py)


# What counts was fixed on phantoms of seeds below 10, and is tried on others (benchmarks/instruments.py). An R of 0.05
# is what an artifact leaves that moves a tenth of the class difference and goes with the label at ρ = 0.5. What tells
# less than 0.01 nats settles less than a seventieth of even labels; two looks at one blur add up to that.
QUESTIONS = {  # by name: the figure that answers it, and from where on that counts (beyond its nulls: `thresholds`)
    "Available": (
        "nats of the label that the border alone gives away; 0: nothing, 0.69: all, if classes are even",
        0.01,
    ),
    "Used": ("R: share of the way from normal to pneumonia by which swapping the border moves the score", 0.05),
    "The border's own": ("nats that the border gives away beyond what lies between it and the lungs", 0.01),
    "Displayed": ("how much hotter a border of the image's own class is; 1: twice as hot, 2: four times", 0.0),
    "Harmful": ("AUC lost where the shortcut is on the wrong class", 0.02),
    "Harmful elsewhere": ("AUC still lost when every border is put right", 0.02),
}


@dataclass(frozen=True)
class Verdict:
    """``table``: one row a question; ``name`` and ``meaning`` sum them up; ``border_shortcut``: whether it is one."""

    table: pd.DataFrame
    name: str
    meaning: str
    border_shortcut: bool


# Answers to the first five questions (y: yes, n: no, any: whatever it is), and the name of the verdict, with its
# meaning. The first that fits counts. No line is an all-clear: the questions are about the border.
OWN = "The border gives the label away, the area beside it does not, and the network uses the border"
LOST = "AUC is lost where the artifact is on the wrong class"
VERDICTS: dict[tuple[str, str], str] = {
    ("y y y y any", "border shortcut"): f"{OWN}; the heatmap shows it.",
    ("y y y n any", "border shortcut that the heatmap hides"): f"{OWN}, but the heatmap does not show it.",
    ("y y y any any", "border shortcut, heatmap undecided"): f"{OWN}; whether the heatmap shows it is open.",
    ("y y n any any", "reliance that is not the border's own"): "The network uses the border. But the area between "
    "border and lungs, or the lungs' outline, gives the same hint: cropping the border would not remove it.",
    ("y y any any any", "reliance on the border"): "The border gives the label away, and the network uses it. "
    "Whether the border tells more than the area beside it is not decided.",
    ("any y any any any", "reliance without a known source"): "The decision moves with the border, but a network that "
    "sees the border alone is not shown to tell the classes. Either that network is too weak, or the border changes "
    "what is read elsewhere.",
    ("any n any any y", "not the border: harmed by another shortcut"): f"{LOST}, though hardly any of the "
    "decision moves with the border. The harm comes from elsewhere, and cropping this border would not remove it.",
    ("any any any any y", "harmed by a shortcut that is not found"): f"{LOST}. Whether this network uses the border "
    "is not shown, and not excluded.",
    ("y any any any any", "latent risk"): "The border gives the label away, but this network is not shown to use it.",
    (
        "any any any y any",
        "explanation artifact",
    ): "The border is hotter when it matches the class, but it is not shown to "
    "give the label away, nor the network to use it.",
    (
        "any any any any any",
        "no evidence of a border shortcut",
    ): "The border is not shown to give the label away, nor the "
    "network to use it. This is no all-clear: shortcuts elsewhere were not asked about.",
}
ELSEWHERE = ", and another elsewhere"  # added to the name of a border shortcut


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
        For a test split of one class, a conflict split of other images (`has_conflict_set`), and a border that covers
        no pixel of an image as networks or probes see it.
    """
    labels = data.table["label"].iloc[data.rows("test")]
    if labels.nunique() < 2:
        seen = [list(CLASSES)[label] for label in labels.unique()]
        has = f"{len(labels)} images, all {' '.join(seen) or 'unreadable'}"
        why = "the tests compare the classes, so it needs images of both."
        raise InputError(f"The test split of {data.name} has {has}; {why}")
    has_conflict_set(data)
    size = min(data.view.size, p.probe().side)
    geometry.part_alone(np.zeros((1, size, size), np.uint8), "border", p.border, None, np.arange(1))


def border_figures(
    score: Score, p: ProbeParameters, data: Dataset, explainer: Explainer | None = None
) -> dict[str, Estimate]:
    """The verdict's figures by question (`QUESTIONS`) for any classifier: `figures_of_data` and `figures_of_network`.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p, data
        What the classifier is asked on; ``p`` also says how the probes are trained.
    explainer
        Images (N, S, S) uint8 → evidence; without it *Displayed* is missing.
    """
    of_data = figures_of_data(p, data)
    return of_data | figures_of_network(score, p, data, asked_region(of_data), explainer)


def figures_of_data(p: ProbeParameters, data: Dataset) -> dict[str, Estimate]:
    """*Available* and *The border's own*, which are about the images and the same for every classifier.

    Parameters
    ----------
    p, data
        The images, and how the probes are trained.
    """
    border, *between = probed(p, data).values()
    figures = {"Available": added(border, None, p.seed)}
    return figures | ({"The border's own": added(border, between[0], p.seed)} if between else {})


def probed(p: ProbeParameters, data: Dataset) -> dict[str, list[Run]]:
    """Every training of the probes that the verdict rests on, by the part they see, each unless it is recorded.

    With lung masks, the border is the border *outside the lungs*: a border may hold lung, above all after cropping,
    and disease is no shortcut. Probes are trained on that border and on what lies between border and lungs, each
    ``p.probe_repeats`` times. Without masks of both classes in every split, there is one probe, of the whole border.

    Parameters
    ----------
    p, data
        The images, and how the probes are trained.
    """
    views: dict[str, Dataset] = {}
    with suppress(InputError):  # too few images have a lung mask
        views = {part: load_dataset(p.probe(keep=part)) for part in PARTS if data.lungs is not None}
    views = views or {"border": load_dataset(p.probe(keep="border"))}
    asked = [(p.probe(keep=part, repeat=i), view) for part, view in views.items() for i in range(p.probe_repeats)]
    found = iter(runs_of(asked))
    return {part: [next(found) for _ in range(p.probe_repeats)] for part in views}


def added(
    probes: Sequence[Run], known: Sequence[Run] | None, seed: int = 0, splits: tuple[str, ...] = ASKED
) -> Estimate:
    """What probes tell of the label, or add to what others know of it, in nats an image (`metrics.information_added`).

    Parameters
    ----------
    probes
        Trainings of one probe.
    known
        As many of another, on the same images; None: nothing is known.
    seed
        Of folds and bootstrap.
    splits
        The images asked.
    """
    asked = [one.predictions[one.predictions["split"].isin(splits)] for one in (*probes, *(known or ()))]
    logits = np.stack([one["logit"] for one in asked])
    new, old = logits[: len(probes)], logits[len(probes) :] if known else None
    first = asked[0]
    return information_added(first["label"], old, new, first["patient"], first["split"], seed)


def asked_region(of_data: dict[str, Estimate]) -> str:
    """The region that the verdict asks about, one of `interventions.REGIONS`.

    Parameters
    ----------
    of_data
        `figures_of_data`.
    """
    return "border outside the lungs" if "The border's own" in of_data else "border"


def figures_of_network(
    score: Score, p: ProbeParameters, data: Dataset, region: str, explainer: Explainer | None = None
) -> dict[str, Estimate]:
    """*Used*, *Displayed*, *Harmful* and *Harmful elsewhere*.

    *Harmful* is the AUC lost on the bias-conflicting set; where the data have none, on one made by swapping the region
    (`interventions.swap_conflict`), which asks about the border alone; then *Harmful elsewhere* is missing.

    Parameters
    ----------
    score
        Images (N, S, S) uint8 → logits (N,).
    p, data
        What the classifier is asked on.
    region
        `asked_region`.
    explainer
        Images (N, S, S) uint8 → evidence; without it *Displayed* is missing.

    Raises
    ------
    InputError
        For a classifier that does not give one finite logit an image.
    """
    _check_logits(score(data.pixels[data.rows("test")]), len(data.rows("test")))
    swapped, relied = interventions.swap(score, p, data, region, p.donors)
    found: dict[str, Estimate] = {"Used": relied["R"]}
    if explainer is not None:
        found["Displayed"] = displayed(explainer, p, data, region)
    if not has_conflict_set(data):
        return found | {"Harmful": swap_conflict(swapped, p.seed)}
    sets = (data.rows("test"), data.rows(CONFLICTING))
    test, conflicting = (data.table.iloc[rows].assign(logit=score(data.pixels[rows])) for rows in sets)
    lost = auc_difference(test, conflicting, p.seed)
    return found | {"Harmful": lost, "Harmful elsewhere": _harmful_elsewhere(score, p, data)}


def _check_logits(given: np.ndarray, images: int) -> None:
    """Refuse what is no logit an image: a verdict of it would look like one."""
    needed = "the tests need one logit an image, shape (N,), below 0 for NORMAL and above for PNEUMONIA"
    if np.shape(given) != (images,):
        raise InputError(f"The classifier gave an array of shape {np.shape(given)} for {images} images; {needed}.")
    if not np.isfinite(given).all():
        raise InputError(f"The classifier gave {np.sum(~np.isfinite(given))} values that are no numbers; {needed}.")
    if given.min() >= 0 and given.max() <= 1 and np.ptp(given) > 0.5:  # less is seen of a network hardly trained
        raise InputError(f"The classifier gave values from 0 to 1, as probabilities are; {needed}.")


def _harmful_elsewhere(score: Score, p: ProbeParameters, data: Dataset) -> Estimate:
    """AUC lost on the bias-conflicting set when all images, there and in the test set, get a right border.

    Right is that of a test image of the same class; the same for both of a pair of twins. A logit is the mean over the
    donors.
    """
    test, conflicting = data.rows("test"), data.rows(CONFLICTING)
    labels, patients = (data.table[name].to_numpy()[test] for name in ("label", "patient"))
    pairs = donor_pairs(labels, patients, p.donors, p.seed).query("not cross")
    taker, giver = pairs["recipient"].to_numpy(), pairs["donor"].to_numpy()
    tables = []
    for rows in (test, conflicting):
        logits = score(interventions.composites(data, rows[taker], test[giver], "border", p.border))
        mean = pd.Series(logits).groupby(taker).mean()
        tables.append(data.table.iloc[rows[mean.index]].assign(logit=mean.to_numpy()))
    return auc_difference(tables[0], tables[1], p.seed)


def helped(score: Score, without: Score, p: ProbeParameters, data: Dataset) -> Estimate:
    """AUC that a network gains by being trained without the border, on images whose shortcut is on the wrong class.

    These are the bias-conflicting set; where there is none, the test images with everything outside the lungs (the
    whole border, where there are no masks) from images of the other class.

    Parameters
    ----------
    score
        Of the network that was trained on whole images: images (N, S, S) uint8 → logits (N,).
    without
        Of the one that was trained without the border, asked on the same images.
    p, data
        The images, as the first network sees them.
    """
    if has_conflict_set(data):
        table, images = data.table.iloc[data.rows(CONFLICTING)], data.pixels[data.rows(CONFLICTING)]
    else:
        region, rows = "border" if data.lungs is None else "outside the lungs", data.rows("test")
        labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
        pairs = donor_pairs(labels, patients, p.donors, p.seed).query("cross")
        pairs = interventions.pairs_with(region, data, rows, pairs, p.border)
        taker, giver = (rows[pairs[name]] for name in ("recipient", "donor"))
        table, images = data.table.iloc[taker], interventions.composites(data, taker, giver, region, p.border)
    return auc_difference(table.assign(logit=without(images)), table.assign(logit=score(images)), p.seed)


def figures_of_recipe(networks: Sequence[dict[str, Estimate]]) -> dict[str, Estimate]:
    """The figures of a way of training: the mean over its networks, each with `statistics.pooled`'s interval.

    Parameters
    ----------
    networks
        `figures_of_network` of several seeds, on the same images.
    """
    return {name: pooled([one[name] for one in networks]) for name in networks[0]}


def has_conflict_set(data: Dataset) -> bool:
    """Whether the data have a bias-conflicting test set.

    Parameters
    ----------
    data
        The images.

    Raises
    ------
    InputError
        Where it is not of the test images: another AUC might then be owed to other images.
    """
    test, conflicting = (data.table.iloc[data.rows(split)][["patient", "label"]] for split in ("test", CONFLICTING))
    if len(conflicting) and not np.array_equal(test, conflicting):
        needed = "the test images again, artifacts on the wrong class: the same patients and labels, path by path"
        raise InputError(f"The split {CONFLICTING} of {data.name} is to hold {needed}; other images belong in test.")
    return len(conflicting) > 0


def auc_of(probe: Run, seed: int = 0) -> Estimate:
    """AUC of a run on test images with its interval by patient.

    Parameters
    ----------
    probe
        Run of a network that saw part of the image.
    seed
        Of the bootstrap.
    """
    test = probe.on("test")
    return auc_with_interval(test["label"], test["probability"], test["patient"], seed=seed)


def part_probes(p: ShortcutParameters) -> tuple[dict[str, Run], dict[str, np.ndarray], list[str]]:
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
    asked, seen, notes = {}, {}, []
    for name, change in _parts(p).items():
        try:
            view = load_dataset(p.probe(**change))
        except InputError as reason:
            notes.append(f"{name}: not available. {reason}")
            continue
        asked[name] = p.probe(**change), view
        test = view.rows("test")
        seen[name] = view.pixels[test[np.unique(view.table["label"].iloc[test], return_index=True)[1]]]
        notes += view.notes
    return dict(zip(asked, runs_of([*asked.values()]), strict=True)), seen, notes


def _parts(p: ShortcutParameters) -> dict[str, dict[str, Any]]:
    """Name of each part → what a probe of it changes."""
    few, draws = p.probe_parts == "few", range(p.probe_repeats + 1)
    widths = [width for width in (p.border / 2, p.border, 1.5 * p.border) if width < 0.5]
    return {
        "whole image": {},
        **{f"border {width:g}": {"keep": "border", "border": width} for width in ([p.border] if few else widths)},
        **({} if few else {"all but the border": {"keep": "without_border"}}),
        "border without lungs": {"keep": "border_outside_lungs"},
        **({} if few else {"lung box black": {"keep": "outside_lung_box"}}),
        "own lungs black": {"keep": "outside_lungs"},
        "lung outline alone": {"keep": "lung_outline"},
        "between border and lungs": {"keep": "between"},
        **{f"labels permuted, draw {i + 1}": {"labels": "permuted", "seed": p.seed + i} for i in draws},
    }


def displayed(explainer: Explainer, p: ProbeParameters, data: Dataset, region: str) -> Estimate:
    """By how much the heat in the region answers what the region tells of the label.

    log2 heat density in the border (`attention.log2_density_ratio`) of each test image with a region from another image
    of its class, less the same with one of the other class; heat is evidence for what was decided on the image as it
    is. The seam cancels, as far as it is the same within and between classes. Hodges–Lehmann estimate over patients.

    Parameters
    ----------
    explainer
        Images (N, S, S) uint8 → evidence.
    p
        Donors, border and seed.
    data
        The images.
    region
        `asked_region`: the border, or what of it lies outside the lungs.
    """
    rows = data.rows("test")
    labels, patients = (data.table[name].to_numpy()[rows] for name in ("label", "patient"))
    pairs = interventions.pairs_with(region, data, rows, donor_pairs(labels, patients, p.donors, p.seed), p.border)
    taker, giver = pairs["recipient"].to_numpy(), pairs["donor"].to_numpy()
    sign = explained_sign(explainer(data.pixels[rows]).logits, p.explain)
    maps = explainer(interventions.composites(data, rows[taker], rows[giver], region, p.border)).maps
    border = np.broadcast_to(geometry.border_cells(p.border, maps.shape[1:]), maps.shape)
    if region == "border outside the lungs" and data.lungs is not None:
        border = border * (1 - geometry.area_mean(data.lungs[rows], maps.shape[1:])[taker])
    dense = pairs.assign(density=log2_density_ratio(explained_heat(maps, sign[taker]), border))
    arms = dense.groupby(["recipient", "cross"])["density"].mean().unstack()
    return hodges_lehmann((arms[False] - arms[True]).groupby(patients[arms.index]).mean())


def kind_of(p: ProbeParameters) -> str:
    """Kind of the data, for `thresholds`: phantom or files.

    Parameters
    ----------
    p
        Names the data.
    """
    return PHANTOM if p.data == PHANTOM else "files"


def thresholds(kind: str) -> pd.Series:
    """From where on each figure counts, by question.

    R and losses of AUC count from where they matter (`QUESTIONS`). The other figures must also lie beyond mean + 2 SD
    of what they are where there is nothing (`NULLS`). For *Available* and *The border's own* that is from border probes
    trained on permuted labels; for *Displayed* from networks of phantoms whose artifact tells nothing.

    Parameters
    ----------
    kind
        Of the data (`kind_of`).
    """
    nulls = pd.read_csv(NULLS)
    shown = nulls["question"] == "Displayed"  # from phantoms for either kind
    of_kind = nulls[(nulls["kind"] == kind) | shown].groupby("question")["value"].agg(["mean", "std"])
    beyond = of_kind["mean"] + 2 * of_kind["std"]
    return pd.Series({name: max(counts, beyond.get(name, 0.0)) for name, (_, counts) in QUESTIONS.items()})


def judge(figures: dict[str, Estimate], planted: bool, kind: str) -> Verdict:
    """The verdict from one Estimate a question (by name, as in `QUESTIONS`; a missing one counts as not available).

    The answer is *yes* when the interval lies above what counts, *no* when it lies below, and else *not shown*.

    Parameters
    ----------
    figures
        By question.
    planted
        Whether *Harmful* is asked of a bias-conflicting set, whose artifact may lie anywhere (`has_conflict_set`); else
        it is asked of swapped borders, and says nothing of shortcuts elsewhere.
    kind
        Of the data, for `thresholds`.
    """
    table = pd.DataFrame({"figure": {name: figure for name, (figure, _) in QUESTIONS.items()}})
    found = pd.DataFrame([figures.get(name, Estimate(math.nan)) for name in table.index], table.index)
    table = table.rename_axis("question").join(found[["value", "low", "high"]])
    table["counts from"] = thresholds(kind)
    answers = [table["value"].isna(), table["low"] > table["counts from"], table["high"] < table["counts from"]]
    table["answer"] = np.select(answers, [MISSING, YES, NO], OPEN)
    name, meaning, shortcut = _conclusion(table["answer"], planted)
    return Verdict(table, name, f"{meaning} {_harm(table['answer'], shortcut, planted)}".strip(), shortcut)


def _conclusion(answers: pd.Series, planted: bool) -> tuple[str, str, bool]:
    """Name, meaning, and whether it is a border shortcut."""
    missing = [name for name in ("Available", "Used") if answers[name] == MISSING]
    if missing:
        return "not decided", f"{' and '.join(missing)}: the figure is not available, so there is no verdict.", False
    asked = answers.map({YES: "y", NO: "n"}).drop("Harmful elsewhere")
    if not planted:
        asked["Harmful"] = ""  # of swapped borders: no other shortcut shows there
    for (pattern, name), meaning in VERDICTS.items():
        if all(want in ("any", got) for want, got in zip(pattern.split(), asked, strict=True)):
            shortcut = pattern.startswith("y y y")
            return name + ELSEWHERE * (shortcut and answers["Harmful elsewhere"] == YES), meaning, shortcut
    raise AssertionError("the last pattern fits whatever the answers are")


def _harm(answers: pd.Series, border_shortcut: bool, planted: bool) -> str:
    """What the Harmful line adds to the verdict on the border."""
    what = "the artifact" if planted else "the border"
    if answers["Harmful"] == MISSING:
        return "Whether a shortcut does harm is not available."
    if answers["Harmful"] == NO:
        return f"Where {what} is of the wrong class, less AUC is lost than counts."
    if answers["Harmful"] == OPEN:
        return f"Whether AUC is lost where {what} is of the wrong class is not shown."
    if not planted:
        used = "" if answers["Used"] == YES else ": the border is used, though R is not shown to be as large as counts"
        return f"AUC is lost when every image gets a border of the other class instead of its own class{used}."
    if answers["Used"] != YES:
        return ""  # the verdict's name says it
    if answers["Harmful elsewhere"] == YES:
        return f"{LOST}, and is still lost when the borders are put right: cropping the border would not remove that."
    if answers["Harmful elsewhere"] == NO and border_shortcut:
        return f"{LOST}, and none that counts when the borders are put right: cropping the border can help."
    return f"{LOST}; whether a crop would help is not decided."


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
