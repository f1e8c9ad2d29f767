"""The lesson of notebooks/class: networks trained when first asked for, and exercises checked on one's own seed.

Solutions stand in the notebooks alone, in cells that are tagged for nbgrader; `student_version` takes them out. What a
check compares an answer with is computed from the same networks by the functions below, so that no check holds a number
that another seed would make wrong.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cnn_xray import InputError, attention, audit, cam, interventions, metrics
from cnn_xray.data import ORIGINAL, Dataset, load_dataset
from cnn_xray.geometry import border_cells
from cnn_xray.parameters import PHANTOM, LessonParameters
from cnn_xray.phantom.dataset import d_prime, oracle_auc
from cnn_xray.runs import Run, run_of
from cnn_xray.statistics import Comparison

ARMS: dict[str, dict[str, Any]] = {  # name of a network: what makes it differ from the shortcut's
    "shortcut": {},
    "honest": {"artifact_rho": 0.0},
    "shortcut, cropped": {"crop": 0.125},
    "inside": {"artifact_location": "inside"},
    "inside, cropped": {"artifact_location": "inside", "crop": 0.125},
    "swapped": {"swap": "border", "swap_share": 0.9},
    "penalised": {"artifact_location": "inside", "evidence_penalty": 0.3},
    "outline": {"keep": "lung_outline"},
    "other start": {"repeat": 1},
    "border probe": {"keep": "border", "epochs": 3},
}
RHOS = (0.0, 0.5, 0.8, 0.95)
GRIDS = (7, 14, 28)  # cells a side
DONORS = 4  # of either class an image
DRAWS = 6  # probes trained on permuted labels
STUDENT, SOLUTION = "answer", "solution"  # tags: of the cell a student fills, in the student's and in the teacher's


@dataclass(frozen=True)
class Network:
    """A trained network with the images it is asked on: parameters ``p``, ``data``, ``run``."""

    p: LessonParameters
    data: Dataset
    run: Run

    def auc(self, images: str = "test") -> float:
        """AUC on one of its test sets.

        Parameters
        ----------
        images
            ``test`` (the artifact goes with the class as in training), ``neutral``, ``conflict`` or ``clean``.
        """
        return self.run.metrics[f"{images}_auc"]

    @cached_property
    def images(self) -> np.ndarray:
        """Its test images as it sees them, (N, S, S) uint8."""
        return self.data.pixels[self.data.rows("test")]

    @cached_property
    def evidence(self) -> cam.Evidence:
        """Of its test images."""
        return cam.evidence(self.run.model, self.images)

    @cached_property
    def heat(self) -> pd.DataFrame:
        """Means over the test images of every figure of the maps (`attention.attention_metrics`), one row a null."""
        return self.run.attention.groupby("arm").mean(numeric_only=True).drop(columns="label")

    @property
    def enrichment(self) -> float:
        """Lung enrichment of the heat, the mean over its test images; even heat has 1."""
        return float(self.run.attention.query("arm == 'image'")["lung_enrichment"].mean())

    def swapped(self, region: str = "border") -> tuple[pd.DataFrame, dict[str, Comparison]]:
        """Every swap of a region, and what is relied on (`interventions.swap`).

        Parameters
        ----------
        region
            One of `interventions.REGIONS`.
        """
        return interventions.swap(self.run.score, self.p, self.data, region, DONORS)


class Lesson:
    """The networks and exercises of one seed.

    Parameters
    ----------
    p
        Data, seed, and where runs are recorded.
    """

    def __init__(self, p: LessonParameters):
        self.p = p
        self._networks: dict[LessonParameters, Network] = {}
        self._truths: dict[int, list[float]] = {}
        self._guesses: dict[int, str] = {}

    @property
    def runs(self) -> list[str]:
        """Ids of the networks asked for so far."""
        return [one.run.id for one in self._networks.values()]

    def network(self, arm: str = "shortcut", **changes: Any) -> Network:
        """A network, trained unless it is recorded.

        Parameters
        ----------
        arm
            One of `ARMS`.
        **changes
            Parameters that are to differ from the arm's.

        Raises
        ------
        InputError
            For an arm or a parameter that there is not.
        """
        if arm not in ARMS:
            raise InputError(f"There is no network {arm!r} in the lesson; there are {', '.join(ARMS)}.")
        p = LessonParameters.from_mapping(dict(self.p) | ARMS[arm] | changes).resolved()
        if p not in self._networks:
            data = load_dataset(p)
            self._networks[p] = Network(p, data, run_of(p, data))
        return self._networks[p]

    def predict(self, number: int, choice: str) -> None:
        """Remember a guess and say so; an empty one changes nothing.

        Parameters
        ----------
        number
            Of the guess.
        choice
            Such as ``A``.
        """
        guess = str(choice).strip().upper()
        if guess not in ("", *"ABCD"):
            print("A guess is one letter, such as A.")
        elif guess:
            print(f"Your guess: {guess}.")
            self._guesses[number] = guess

    def predicted(self, number: int) -> str:
        """A sentence that says what was guessed; empty where nothing was.

        Parameters
        ----------
        number
            Of the guess.
        """
        guess = self._guesses.get(number)
        return f"Your guess was {guess}." if guess else ""

    def nulls(self) -> list[Network]:
        """The border's probe trained on permuted labels, `DRAWS` times."""
        return [self.network("border probe", labels="permuted", repeat=i) for i in range(DRAWS)]

    def sizes(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Two tables, to fit and to test: label, patient, original_width, original_height (px), where they are known.

        The phantom is square. Its table is drawn: files of all sizes, wider in proportion where there is pneumonia.
        """
        if self.p.data != PHANTOM:
            table = load_dataset(self.p.model_copy(update={"artifact_rho": None})).table.dropna(subset=ORIGINAL)
            return table[table["split"].isin(("train", "val"))], table[table["split"] == "test"]
        rng = np.random.default_rng(self.p.seed)
        label = np.arange(900) % 2
        area, shape = rng.normal(14, 0.5, 900), rng.normal(np.where(label, 0.36, 0.18), 0.12)
        sides = {"original_width": area + shape, "original_height": area - shape}
        table = pd.DataFrame({"label": label, "patient": np.arange(900).astype(str)})
        table = table.assign(**{name: np.exp(side / 2).round().astype(int) for name, side in sides.items()})
        return table[:600], table[600:]

    def checks(self, *numbers: int) -> list[Callable[[Any], str]]:
        """The checks of some exercises, each from an answer to a sentence.

        Parameters
        ----------
        *numbers
            Of the exercises.
        """
        return [partial(self.check, number) for number in numbers]

    def check(self, number: int, answer: Any) -> str:
        """``Right …`` or ``Not yet …`` with a hint; never an exception, whatever the answer is.

        Parameters
        ----------
        number
            Of the exercise.
        answer
            A number, or as many numbers as are asked for, in a list, tuple, dict, array or Series.
        """
        exercise, given = EXERCISES[number], _numbers(answer)
        if given is None or len(given) != len(exercise.numbers):
            return f"Not yet: the answer is {exercise.asked}."
        try:
            truth = self.truth(number)
        except InputError as problem:  # this lesson's networks leave the exercise without an answer
            return f"Not yet: {problem}"
        near = np.abs(np.subtract(given, truth)) <= exercise.within
        if not near.any() and (np.abs(np.array(given) / 100 - truth) <= exercise.within).all():
            return "Not yet: give shares from 0 to 1, not percent."
        if not near.all():
            far = [name for name, one in zip(exercise.numbers, near, strict=True) if not one]
            return f"Not yet ({'; '.join(far)}): {exercise.hint}"
        return f"Right ({', '.join(f'{one:.3g}' for one in given)}): {exercise.moral}"

    def truth(self, number: int) -> list[float]:
        """What a check compares with, computed on this lesson's own networks.

        Parameters
        ----------
        number
            Of the exercise.
        """
        if number not in self._truths:
            self._truths[number] = [float(value) for value in EXERCISES[number].truth(self)]
        return self._truths[number]


def _numbers(answer: Any) -> list[float] | None:
    """The numbers of an answer, or None where it has something else, or nothing."""
    parts: Any = answer.values() if isinstance(answer, dict) else answer
    parts = [parts] if isinstance(parts, str) or not hasattr(parts, "__iter__") else parts
    try:
        values = (getattr(one, "value", one) for one in parts)  # an Estimate counts as its value
        found = [float(one.item() if isinstance(one, np.ndarray) else one) for one in values]  # an array as its number
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found and all(map(math.isfinite, found)) else None


# ---- the exercises: what is asked, the truth on the student's own networks, a hint, and what it means


@dataclass(frozen=True)
class Exercise:
    """An exercise: ``numbers``, the names of what is asked for; ``truth``, as many values, of a lesson.

    ``within``: how far an answer may lie off. ``hint``, ``moral``: what a check says. ``finding``: what a class is to
    see, in words, and ``holds``, whether it does, from the values: benchmarks/lesson.py tries it on several seeds.
    """

    truth: Callable[[Lesson], Any]
    holds: Callable[..., bool]
    numbers: tuple[str, ...]
    within: float
    hint: str
    moral: str
    finding: str

    @property
    def asked(self) -> str:
        """What is asked for, in words."""
        return f"{len(self.numbers)} number{'s' * (len(self.numbers) > 1)}: {'; '.join(self.numbers)}"


def constant_fraction(network: Network) -> float:
    """Share of |evidence| that a network puts into the border of an image that is one grey all over.

    Parameters
    ----------
    network
        Of the lesson.
    """
    maps = np.abs(cam.evidence(network.run.model, np.full_like(network.images[:1], 128)).maps)
    return float(attention.border_fraction(maps, border_cells(network.p.border, maps.shape[1:]))[0])


def moved_and_reliance(network: Network) -> tuple[float, float]:
    """How far a border of the other class moves the logit at all, as a share of the class difference; and R.

    Parameters
    ----------
    network
        Of the lesson.
    """
    swapped, relied = network.swapped()
    means = network.run.on("test").groupby("label")["logit"].mean()
    crossed = swapped[swapped["cross"]]
    return float((crossed["composite"] - crossed["z"]).abs().mean() / (means[1] - means[0])), relied["R"].value


def sensitivities(network: Network) -> tuple[float, float]:
    """Sensitivity on the test and on the conflict set, at the threshold that gives 95 % on validation images.

    Parameters
    ----------
    network
        Of the lesson.
    """
    known = network.run.on("val")
    threshold = metrics.sensitivity_threshold(known["label"], known["probability"])
    ill = (network.run.on(images).query("label == 1")["probability"] for images in ("test", "conflict"))
    test, conflict = (float((probability >= threshold).mean()) for probability in ill)
    return test, conflict


def crop_gain(lesson: Lesson, arm: str) -> Comparison:
    """AUC that cropping gains on the conflict set, with its interval by patient.

    Parameters
    ----------
    lesson
        Whose networks are asked.
    arm
        ``shortcut`` or ``inside``.
    """
    after, before = (lesson.network(name).run.on("conflict") for name in (f"{arm}, cropped", arm))
    return metrics.auc_difference(after, before, lesson.p.seed)


def null_probes(lesson: Lesson) -> tuple[list[Comparison], float]:
    """AUC of each probe trained on permuted labels, and the share of them, and of the probe, at least as far off 0.5.

    Parameters
    ----------
    lesson
        Whose probes are asked.
    """
    probes = [one.run.on("test") for one in (lesson.network("border probe"), *lesson.nulls())]
    found = [metrics.auc_with_interval(one["label"], one["probability"], one["patient"]) for one in probes]
    far = [abs(one.value - 0.5) for one in found]
    return found[1:], float(np.mean([one >= far[0] for one in far]))


def map_agreement(lesson: Lesson) -> tuple[float, float]:
    """Rank agreement of the shortcut's maps with those of its copy with random weights, and with another training's.

    Parameters
    ----------
    lesson
        Whose networks are asked.
    """
    one, other = lesson.network("shortcut"), lesson.network("other start")
    redrawn = cam.parameter_randomisation(one.run.model, one.images, lesson.p.seed)
    return redrawn["signed"].iloc[-1], float(np.nanmean(cam.rank_agreement(one.evidence.maps, other.evidence.maps)))


def _uniform_and_grey(lesson: Lesson) -> list[float]:
    even = [attention.border_fraction(np.ones((1, n, n)), border_cells(1 / n, (n, n)))[0] for n in GRIDS]
    return [*even, constant_fraction(lesson.network("honest"))]


def _oracle(lesson: Lesson) -> np.ndarray:
    return oracle_auc(d_prime(lesson.network("honest").auc("clean")), np.array(RHOS), -1)


def _significant(lesson: Lesson) -> tuple[int, float]:
    nulls, share = null_probes(lesson)
    return sum(one.p < 0.05 for one in nulls), share


def _penalised(lesson: Lesson) -> tuple[float, float]:
    after, before = (lesson.network(arm) for arm in ("penalised", "inside"))
    return after.enrichment - before.enrichment, after.auc("conflict") - before.auc("conflict")


COMPUTED: dict[int, tuple[Callable[[Lesson], Any], Callable[..., bool]]] = {  # truth, and whether the finding holds
    1: (lambda lesson: [audit.size_only_probe(*lesson.sizes()).auc.value], lambda auc: auc > 0.75),
    2: (_uniform_and_grey, lambda *fractions: fractions[3] < 0.4),
    3: (_oracle, lambda *aucs: aucs[0] > 0.8 and aucs[3] < 0.5),
    4: (
        lambda lesson: [crop_gain(lesson, arm).value for arm in ("shortcut", "inside")],
        lambda border, inside: border > 0.4 and abs(inside) < 0.15,
    ),
    5: (lambda lesson: [crop_gain(lesson, "shortcut").low], lambda low: low > 0.2),
    6: (
        lambda lesson: moved_and_reliance(lesson.network("honest")),
        lambda moved, reliance: moved > 0.2 and abs(reliance) < 0.15,
    ),
    7: (map_agreement, lambda random, other: abs(random) < 0.3 and random < other < 0.9),
    8: (lambda lesson: sensitivities(lesson.network("shortcut")), lambda test, conflict: test - conflict > 0.3),
    9: (_significant, lambda significant, share: significant >= 2 and share < 1.5 / (DRAWS + 1)),
    10: (
        lambda lesson: [lesson.network(arm).swapped()[1]["R"].value for arm in ("shortcut", "swapped")],
        lambda before, after: before > 0.3 and after < before / 2,
    ),
    11: (_penalised, lambda picture, decision: picture > 0.5 and abs(decision) < 0.1),
    12: (
        lambda lesson: [lesson.network("outline").enrichment, lesson.network("outline").auc("clean")],
        lambda enriched, auc: enriched > 1.05 and abs(auc - 0.5) < 0.15,
    ),
}
TEXTS = yaml.safe_load(Path(__file__).with_name("exercises.yaml").read_text(encoding="utf-8"))
EXERCISES = {number: Exercise(*COMPUTED[number], **texts) for number, texts in TEXTS.items()}


# ---- the student's version


def student_version(notebook: Any) -> Any:
    """A copy of a class notebook without solutions and outputs; what was a solution assigns None to its answer.

    Parameters
    ----------
    notebook
        As nbformat reads it. Cells tagged ``solution`` assign ``answer_<number>``.

    Raises
    ------
    InputError
        For a solution that assigns no answer.
    """
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        if SOLUTION in cell.metadata.get("tags", []):
            number = re.search(r"^answer_(\d+) = ", cell.source, re.MULTILINE)
            if not number:
                raise InputError(f"A solution assigns no answer_<number>: {cell.source.splitlines()[0]} …")
            asked, name = EXERCISES[int(number[1])].asked, f"answer_{number[1]}"
            cell.source = f"# The answer is {asked}.\n{name} = None\nsay(check_{number[1]}({name}))"
            cell.metadata["tags"] = [STUDENT if tag == SOLUTION else tag for tag in cell.metadata["tags"]]
    return made
