"""What a notebook may vary: strict, refused in sentences, written as its parameters cell and as a page of all.

``python assets/refresh_parameters.py`` writes the cells and the page anew, for whoever has changed something here.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from types import NoneType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cnn_xray import InputError
from cnn_xray.phantom import artifacts

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # of pydantic's constraints
PAGE = "notebooks/PARAMETERS.md"
PAGE_HEAD = """# All parameters

A notebook's first code cell lists the parameters it is about, in bold here. Every other one that its column names is
accepted in the same way, as in `-p zoom 0.2`; papermill then warns that it does not know the name, but what is really
unknown or impossible is refused by the notebook's second cell. This page is written by
`python assets/refresh_parameters.py`.

| parameter | takes | default | meaning | notebooks |
|---|---|---|---|---|
"""


class Parameters(BaseModel):
    """What all notebooks' parameters have in common: strict types, no unknown names, sentences for people.

    ``shown`` names the parameters that a notebook's parameters cell lists, in order; the others are accepted alike.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    shown: ClassVar[list[str]] = []

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Parameters from names and values.

        Parameters
        ----------
        values
            By name; what is not named has its default.

        Raises
        ------
        InputError
            With a sentence for each thing wrong.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = [_sentence(cls, problem) for problem in error.errors()]
        raise InputError("\n".join(problems))

    @classmethod
    def from_notebook(cls) -> Self:
        """Parameters from the cells of the running notebook that do nothing but assign literals.

        These are the parameters cell, the cell papermill injects after it, and any such cell run by hand;
        the values are the latest.

        Raises
        ------
        InputError
            With a sentence for each thing wrong, or outside a notebook.
        """
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        if shell is None:
            raise InputError("from_notebook() reads the cells of a notebook; elsewhere use from_mapping().")
        space = shell.user_ns
        names = literal_assignments(space["In"], known=set(cls.model_fields))
        return cls.from_mapping({name: space[name] for name in names if name in space})


def unknown_name(name: str, known: Collection[str]) -> str:
    """The sentence that refuses a name and gives the nearest known one.

    Parameters
    ----------
    name
        Of no parameter.
    known
        Names of the parameters there are.
    """
    nearest = difflib.get_close_matches(str(name), known, n=1)
    instead = f"the nearest one is {nearest[0]!r}" if nearest else f"{PAGE} lists them"
    return f"There is no parameter {name!r}; {instead}."


def from_yaml(text: str) -> dict[str, Any]:
    """Names and values; empty where there is nothing. Numbers such as 1e-3, text in YAML 1.1, are numbers.

    Parameters
    ----------
    text
        YAML.

    Raises
    ------
    InputError
        For what is no YAML, or no mapping by name.
    """
    try:
        values = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as problem:
        raise InputError(f"this is no YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError("names and values are needed, as in crop: 0.1")
    return values


class _Loader(yaml.SafeLoader):
    """YAML with numbers as Python writes them."""


NUMBER = re.compile(r"^[-+]?[0-9.]+[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def _sentence(cls: type[Parameters], problem: Any) -> str:
    if problem["type"] == "value_error":  # an InputError of a validator, a sentence already
        return str(problem["ctx"]["error"])
    name, value = str(problem["loc"][0]), problem["input"]
    if name not in cls.model_fields:
        return unknown_name(name, cls.model_fields)
    return f"{name} is {value!r}, but it must be {_allowed(cls.model_fields[name])}."


def _allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``a whole number at least 1 and at most 500, or None``."""
    kind, optional = _kind(field)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if kind is str and field.metadata:
        return "a text that is not empty"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}.get(kind)
    if words is None:
        return str(field.description)
    limits = [f"{BOUNDS[sign]} {limit}" for one in field.metadata for sign, limit in asdict(one).items()]
    return f"{words} {' and '.join(limits)}".strip() + (", or None" if optional else "")


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """A field's type without its None, and whether it had one."""
    parts = get_args(field.annotation)
    return (parts[0], True) if NoneType in parts else (field.annotation, False)


def literal_assignments(cells: Iterable[str], known: set[str]) -> list[str]:
    """Names assigned in those cells that do nothing but assign literals, annotated or not.

    A cell that assigns all the ``known`` names of an earlier one is taken for that cell, edited and run
    again: the earlier wording no longer counts, so that a misspelt name can be corrected.

    Parameters
    ----------
    cells
        Sources of the cells that were run, in that order.
    known
        Names of parameters.
    """
    kept: list[list[str]] = []
    for names in map(_assigned, cells):
        kept = [old for old in kept if not known & set(old) or not known & set(old) <= set(names)]
        kept.append(names)
    every = dict.fromkeys(name for names in kept for name in names)
    return [name for name in every if not name.startswith("PAPERMILL_")]  # of papermill's --inject-paths


def _assigned(cell: str) -> list[str]:
    """The names a cell assigns if literal assignments are all it holds, else nothing."""
    names = []
    try:
        for statement in ast.parse(cell).body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                return []
            # papermill injects these words, which must be refused and not overlooked
            if ast.unparse(statement.value) not in ("float('nan')", "float('inf')", "float('-inf')"):
                ast.literal_eval(statement.value)
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names += [ast.unparse(target) for target in targets]
    except (SyntaxError, ValueError, TypeError):  # a magic, a shell command, or what is no literal
        return []
    return names if all(map(str.isidentifier, names)) else []


def parameters_cell(cls: type[Parameters]) -> str:
    """Source of a notebook's parameters cell: a line ``name: type = default  # meaning`` for each that it shows.

    Optional types are quoted words because papermill's help skips a line whose annotation holds a ``|``; that the
    last line names the page of all parameters is seen there as well.

    Parameters
    ----------
    cls
        The notebook's class.
    """
    lines = []
    for name in cls.shown:
        field = cls.model_fields[name]
        kind, optional = _kind(field)
        choices = get_args(kind)
        word = "str" if choices else kind.__name__
        annotation = f'"{word} or None"' if optional else word
        default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        meaning = f"{field.description}: {' | '.join(choices)}" if choices else field.description
        lines.append(f"{name}: {annotation} = {default}  # {meaning}")
    return "\n".join(lines) + f"; all parameters: {PAGE}"


def parameters_page() -> str:
    """Markdown of the page that lists every parameter: what it takes, its default, its meaning, its notebooks."""
    notebooks: dict[tuple[str, ...], list[str]] = {}
    for notebook, cls in NOTEBOOKS.items():
        for name, field in cls.model_fields.items():
            row = (f"`{name}`", _allowed(field), f"`{field.default!r}`", str(field.description).replace("|", r"\|"))
            mark = "**" if name in cls.shown else ""
            notebooks.setdefault(row, []).append(mark + notebook.split("_")[0] + mark)
    rows = [f"| {' | '.join(row)} | {' '.join(names)} |" for row, names in notebooks.items()]
    return PAGE_HEAD + "\n".join(rows) + "\n"


PHANTOM = "phantom"
SMALLEST_MAP = 14  # cells a side of the last feature map: an outer border of one cell is then a quarter of it
SWAP: dict[str, Any] = {"swap": "outside_lungs", "consistency": 0.05}  # the way to train that 06_reduce proposes
RECIPES: dict[str, dict[str, Any]] = {  # what a parameter left at None becomes
    "phantom": {"image_size": 64, "width": 16, "epochs": 16},
    "plain": {"image_size": 128, "width": 32, "epochs": 32},
    "swap": {"image_size": 128, "width": 32, "epochs": 32, **SWAP},
    "large": {"image_size": 224, "width": 32, "epochs": 32},
}
Location = Literal["border", "inside", "border and inside", "global"]
BorderPart = Literal["border", "border_outside_lungs", "without_border"]  # of an image, what alone is seen
LungPart = Literal["outside_lung_box", "outside_lungs", "between", "lung_outline"]
Recipe = Literal["auto", "plain", "swap", "large"]
RECIPE = "fills in what is None (auto: swap for files)"
REDUCING = frozenset(  # parameters of training that are to reduce what is relied on
    "swap swap_layers swap_share swap_agrees swap_levels swap_aligned consistency evidence_penalty".split()
)
WIDEST_BORDER = 0.4  # of one that is swapped: its seam, a quarter of it, then ends in the middle of the image


def halvings(side: int) -> int:
    """How often the network halves an image of ``side`` px: as often as its last map keeps 14 cells a side.

    Parameters
    ----------
    side
        Of the image, px.
    """
    return max(1, int(math.log2(side / SMALLEST_MAP)))


def _check_side(name: str, side: int) -> None:
    """Refuse an image of which the network's maps, whole cells, would not cover the last pixels."""
    cell = 2 ** halvings(side)
    if side % cell:
        near = f"{side - side % cell} or {side - side % cell + cell}"
        raise InputError(f"{name} is {side}, but a network for that size sees cells of {cell} px: give {near}.")


def _field(default: Any, meaning: str, **limits: Any) -> Any:
    """A parameter, whose meaning is told wherever it is listed."""
    return Field(default, description=meaning, **limits)


def _option(off: Any, meaning: str, **limits: Any) -> Any:
    """A parameter that does nothing by default: a run's id leaves it out then, so that options can be added."""
    return _field(off, meaning, json_schema_extra={"off": off}, **limits)


class DataParameters(Parameters):
    """Which images, seen how."""

    data: str = _field(PHANTOM, "phantom, a chest_xray folder, or a manifest CSV", min_length=1)
    on_bad_image: Literal["error", "skip"] = _field("error", "unreadable images")
    seed: int = _field(0, "of the phantom, the split and the training", ge=0, lt=2**31)
    image_size: int | None = _field(None, "px a side; None: 64 phantom, 128 files, 224 large", ge=32, le=1024)
    crop: float = _field(0.0, "fraction cut from each side of the frame", ge=0, lt=0.5)
    crop_to: Literal["frame", "lungs"] = _option("frame", "what is cut out first (lungs: the box about them)")
    clahe: float = _option(0.0, "clip limit of local histogram equalisation; 0: none", ge=0, le=40)
    aspect: Literal["squash", "letterbox", "square"] = _field("squash", "how images become square")
    phantom_images: int = _field(1200, "training images, 15 % to validate", ge=80, le=50_000)
    artifact_rho: float | None = _field(
        None, "of artifact and label in training; None: 0.95 phantom, none in files", gt=-1, lt=1
    )
    artifact_location: Location = _field("border", "where the artifact lies")
    artifact_kinds: str = _field("marker", "kinds of artifact, separated by commas", min_length=1)
    artifact_amplitude: float = _field(1.0, "strength of the artifact", ge=0.05, le=3)
    artifact_share: float = _option(1.0, "of its images, those in which the artifact is seen", gt=0, le=1)
    phantom_signal: float = _field(0.4, "strength of the opacities", ge=0, le=2)
    border: float = _field(0.125, "width of the border, fraction of the side", gt=0, lt=0.5)
    keep: Literal["all", BorderPart, LungPart] = _field("all", "the part of the image that is seen")
    labels: Literal["true", "permuted"] = _field("true", "of the training images")
    repeat: int = _option(0, "another training on the same images, with other chance", ge=0, le=1000)
    runs: str = _field("runs", "folder of the run records", min_length=1)

    @model_validator(mode="after")
    def _possible_artifact(self) -> Self:
        artifacts.check(self.artifact_location, self.kinds())
        if self.crop_to == "lungs" and (self.crop, self.aspect) != (0, "squash"):
            asked = "crop_to = 'lungs' cuts out the box about the lungs"
            raise InputError(f"{asked}: leave crop at 0 and aspect at 'squash'.")
        return self

    @property
    def chance(self) -> int:
        """The seed of all that a training leaves to chance: weights, order, moves, and how labels are permuted."""
        return self.seed + 100_003 * self.repeat

    def kinds(self) -> tuple[str, ...]:
        """The kinds of artifact, one of which a marked image gets."""
        return tuple(kind.strip() for kind in self.artifact_kinds.split(","))

    def resolved(self) -> Self:
        """The same with every None filled in by the recipe, or by what suits the phantom."""
        filled = {name: value for name, value in self._recipe.items() if getattr(self, name, ...) is None}
        return self.model_copy(update={**filled, "artifact_rho": self.rho})

    @property
    def side(self) -> int:
        """Pixels a side: image_size, or the recipe's."""
        return self.image_size or self._recipe["image_size"]

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most."""
        return 0

    @property
    def _recipe(self) -> dict[str, Any]:
        recipe = getattr(self, "recipe", "plain")
        return RECIPES[PHANTOM if self.data == PHANTOM and recipe != "large" else recipe]

    @property
    def rho(self) -> float | None:
        """Correlation of artifact and label in training; None where nothing is planted."""
        return 0.95 if self.artifact_rho is None and self.data == PHANTOM else self.artifact_rho


class AuditParameters(DataParameters):
    """01_data_audit."""

    shown: ClassVar = """data on_bad_image seed image_size crop aspect border phantom_images
        artifact_rho artifact_location artifact_kinds artifact_amplitude duplicate_distance""".split()

    duplicate_distance: int = _field(64, "bits between hashes of duplicates", ge=0, le=96)


class TrainParameters(DataParameters):
    """How a network is trained."""

    recipe: Recipe = _field("plain", RECIPE)
    epochs: int | None = _field(None, "at most; None: by recipe", ge=1, le=500)
    batch_size: int = _field(32, "images a step", ge=1, le=1024)
    width: int | None = _field(None, "channels of the first block; None: by recipe", ge=4, le=256)
    depth: int = _field(3, "convolutions of the last block; inner ones one less", ge=2, le=8)
    padding: Literal["same", "reflect"] = _field("same", "of convolutions (same: zeros)")
    dropout: float = _field(0.2, "fraction dropped before the logit", ge=0, lt=1)
    learning_rate: float = _field(2e-3, "highest, after the warm-up", gt=0, le=1)
    schedule: Literal["cosine", "constant"] = _field("cosine", "of the learning rate, after the warm-up")
    weight_decay: float = _field(1e-3, "of AdamW", ge=0, le=1)
    label_smoothing: float = _option(0.0, "fraction of the label given to both classes", ge=0, lt=1)
    balance: Literal["weights", "sampling", "propensity", "none"] = _field("sampling", "classes made equal by")
    keep_epoch: Literal["best", "last"] = _field("last", "the one that is kept (best: by validation AUC)")
    patience: int = _field(6, "keep_epoch best: epochs without a better one, then stop", ge=1, le=500)
    flip: bool = _field(True, "mirror left and right at random")
    rotation: float = _field(8.0, "largest random angle, degrees", ge=0, le=180)
    shift: float = _field(0.05, "largest random move, fraction of the side", ge=0, lt=0.5)
    zoom: float = _field(0.15, "largest random |log scale|", ge=0, le=1)
    aspect_jitter: float = _field(0.6, "largest random |log of width to height|", ge=0, le=1)
    fill: Literal["constant", "reflect"] = _field("constant", "what lies beyond the edge")
    brightness: float = _field(0.1, "largest random offset, fraction of full white", ge=0, le=1)
    contrast: float = _field(0.4, "largest random change of contrast, fraction", ge=0, lt=1)
    blur: float = _field(0.012, "largest random Gaussian blur, sd as fraction of the side", ge=0, le=0.1)
    sharpen: float = _option(0.0, "largest random amount of unsharp masking", ge=0, le=5)
    erasing: float = _option(0.0, "share of images of which a random patch is greyed out", ge=0, le=1)
    swap: Literal["none", "border", "outside_lungs"] = _option(
        "none", "what training images take from another patient's, of either class"
    )
    swap_layers: Literal["all", "last"] = _option(
        "all", "what learns from swapped images (last: that layer, fitted anew on all images and swaps)"
    )
    swap_share: float = _option(0.5, "share of the training images that are swapped", gt=0, le=1)
    swap_agrees: float = _option(0.5, "share of donors of the image's own class; 0.5: a coin", ge=0, le=1)
    swap_levels: bool = _option(False, "make the donor's grey level that of the image, at the seam")
    swap_aligned: bool = _option(False, "bring the donor's lungs to where the image's are")
    consistency: float = _option(0.0, "weight of (z − z swapped)² in the loss; 0: none", ge=0, le=100)
    evidence_penalty: float = _option(
        0.0, "weight of mean |evidence| outside the lungs in the loss; 0: none", ge=0, le=100
    )
    tta: Literal["none", "flip", "shifts"] = _field(
        "shifts", "logits are the mean over (shifts: both ways, and flipped)"
    )
    explain: Literal["predicted", "pneumonia"] = _field("predicted", "what the evidence is for")
    precision: Literal["auto", "float32", "bfloat16"] = _option(
        "auto", "arithmetic of training (auto: half precision where the device is faster by it)"
    )
    rerun: bool = _field(False, "train again although the run is recorded")

    @model_validator(mode="before")
    @classmethod
    def _by_recipe(cls, values: Any) -> Any:
        given, recipe = dict(values), values.get("recipe", cls.model_fields["recipe"].default)
        if recipe == "auto":
            plain = given.get("data", PHANTOM) == PHANTOM or not REDUCING.isdisjoint(given)
            given["recipe"] = recipe = "plain" if plain else "swap"
        return (SWAP if recipe == "swap" else {}) | given

    def resolved(self) -> Self:
        """The same with every None filled in by the recipe, or by what suits the phantom; a size it can train at."""
        _check_side("image_size", self.side)
        return super().resolved()

    @model_validator(mode="after")
    def _swaps_what_it_compares(self) -> Self:
        if self.consistency and self.swap == "none":
            raise InputError("consistency compares images with swapped ones: say what is swapped with swap.")
        if self.swap_layers == "last" and (self.swap == "none" or self.consistency):
            raise InputError("swap_layers = 'last' fits the last layer on swaps: it needs swap, and no consistency.")
        if self.swap_aligned and self.swap != "outside_lungs":
            raise InputError("swap_aligned moves lungs onto lungs, which needs swap = 'outside_lungs'.")
        return self

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most."""
        return 1


class RecipeParameters(TrainParameters):
    """02_train."""

    shown: ClassVar = """data seed n_seeds recipe image_size epochs batch_size width learning_rate balance aspect_jitter
        zoom blur tta crop aspect artifact_rho artifact_location runs""".split()

    n_seeds: int = _field(6, "trainings, from seed upwards", ge=1, le=100)
    recipe: Recipe = _field("auto", RECIPE)

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most."""
        return self.n_seeds


class SelectionParameters(TrainParameters):
    """appendix_recipe_selection."""

    shown: ClassVar = """data seed recipe image_size width epochs batch_size
        aspect_jitter zoom balance tta runs""".split()

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most: one of all images, and one that many were kept from."""
        return 2


class AttentionParameters(TrainParameters):
    """03_attention."""

    shown: ClassVar = """data seed recipe image_size epochs crop border explain layer examples
        artifact_rho artifact_location artifact_kinds runs""".split()

    layer: str = _field("relu0a", "earlier layer at which gradient maps are compared", min_length=1)
    examples: int = _field(6, "images shown", ge=1, le=24)


class ProbeParameters(TrainParameters):
    """What the tests of a trained network share: small networks on part of the image, and region swaps."""

    probe_size: int | None = _field(None, "px a side of probes; None: 64 phantom, 96 files", ge=32, le=1024)
    probe_epochs: int | None = _field(None, "of each probe; None: 16 phantom, 8 files", ge=1, le=500)
    probe_repeats: int = _field(2, "trainings of each probe that the verdict rests on", ge=1, le=20)
    donors: int = _field(4, "images of each class whose region is pasted into an image", ge=1, le=100)

    @model_validator(mode="after")
    def _tests_whole_images(self) -> Self:
        for name, whole in (("keep", "all"), ("labels", "true")):
            if (given := getattr(self, name)) != whole:
                asked = f"{name} is {given!r}, but the networks tested here see whole images under their true labels"
                raise InputError(f"{asked}, and the probes set {name} themselves: leave it at {whole!r}.")
        if self.border > WIDEST_BORDER:
            lost = f"border is {self.border:g}, and with its seam a border so wide leaves nothing of the image"
            raise InputError(f"{lost}; give at most {WIDEST_BORDER:g}.")
        return self

    def resolved(self) -> Self:
        """The same with every None filled in by the recipe; sizes that it can train and probe at."""
        _check_side("probe_size", self.probe().side)
        return super().resolved()

    def probe(self, **changes: Any) -> TrainParameters:
        """The small network and budget that all probes share, on these data in this view; none is trained with swaps.

        Parameters
        ----------
        **changes
            Parameters that are to differ from it.
        """
        side = self.probe_size or (64 if self.data == PHANTOM else 96)
        epochs = self.probe_epochs or (16 if self.data == PHANTOM else 8)
        small = dict(image_size=side, width=16, epochs=epochs, patience=epochs, recipe="plain")
        fields = TrainParameters.model_fields
        same = {name: getattr(self, name) for name in fields} | {name: fields[name].default for name in REDUCING}
        return TrainParameters.from_mapping(same | small | changes)


class ShortcutParameters(ProbeParameters):
    """04_shortcut_tests."""

    shown: ClassVar = """data seed n_seeds recipe image_size epochs crop border donors probe_size probe_epochs
        probe_repeats explain artifact_rho artifact_location artifact_kinds artifact_amplitude runs""".split()

    n_seeds: int = _field(6, "trainings, from seed upwards; the evidence is of the first", ge=1, le=100)
    probe_parts: Literal["all", "few"] = _field(
        "all", "parts of the image that a probe sees (few: those that the argument needs)"
    )

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most: parts of the image, two repeated, and permuted labels."""
        parts = {"all": 10, "few": 6}[self.probe_parts]
        return self.n_seeds + parts + 2 * (self.probe_repeats - 1) + self.probe_repeats + 1


class CroppingParameters(ProbeParameters):
    """05_before_after_cropping."""

    shown: ClassVar = """data seed n_seeds n_judged recipe image_size epochs crop crop_after border donors
        probe_epochs explain artifact_rho artifact_location twin artifact_kinds runs""".split()

    crop_after: float = _field(0.125, "crop of the second arm; the first has crop", gt=0, lt=0.5)
    n_seeds: int | None = _field(None, "trainings an arm, from seed upwards; None: 2 phantom, 1 files", ge=1, le=100)
    n_judged: int | None = _field(None, "trainings the verdict is on; None: n_seeds phantom, 5 files", ge=1, le=100)
    twin: bool = _field(True, "phantom: beside a border artifact, the same data with it inside the lungs")

    @model_validator(mode="after")
    def _crops_more(self) -> Self:
        if self.crop_after <= self.crop:
            raise InputError(f"crop_after is {self.crop_after}, but it must be above crop, which is {self.crop}.")
        return self

    @property
    def seeds(self) -> range:
        """The seeds of each arm's trainings."""
        return range(self.seed, self.seed + (self.n_seeds or (2 if self.data == PHANTOM else 1)))

    @property
    def judged_seeds(self) -> range:
        """The seeds of those networks, uncropped and cropped, that the verdict is on."""
        usual = len(self.seeds) if self.data == PHANTOM else 5
        return range(self.seed, self.seed + (self.n_judged or usual))

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most: three arms, of two more seeds and probes; and one."""
        more = len(set(self.judged_seeds) - set(self.seeds))
        return 1 + len(self.locations) * (3 * len(self.seeds) + 2 * more + 4 * self.probe_repeats)

    @property
    def locations(self) -> list[str]:
        """Where the phantom's artifact lies in the arms compared: at the border, its twin lies inside the lungs."""
        movable = all(kind in artifacts.KINDS["inside"] for kind in self.kinds())
        twin = self.twin and self.data == PHANTOM and self.artifact_location == "border" and movable
        return [self.artifact_location, "inside"] if twin else [self.artifact_location]


class ReduceParameters(ProbeParameters):
    """06_reduce."""

    shown: ClassVar = "data study baseline arm margin seed runs".split()

    study: str = _field("benchmarks/reduce", "folder of the sweeps' tables", min_length=1)
    baseline: str = _field("plain", "the arm that the others are compared with", min_length=1)
    arm: str = _field("", "the arm that is proposed; empty: that of the study")
    margin: float = _field(0.005, "of AUC that an arm may lose and count as no worse", gt=0, lt=1)

    @property
    def networks(self) -> int:
        """How many networks the notebook asks for, at most: the two of its picture, and probes for the verdict."""
        return 2 + 2 * self.probe_repeats

    @property
    def proposed(self) -> str:
        """Name of the arm that is proposed."""
        return self.arm or ("swap 0.9" if self.data == PHANTOM else "outside swap, consistent")


# What makes the lesson's networks small, and their shortcut plain; every other parameter has its usual default.
LESSON: dict[str, Any] = {
    **{"phantom_images": 600, "image_size": 64, "width": 8, "epochs": 8, "learning_rate": 5e-3, "tta": "none"},
    **{"rotation": 4.0, "zoom": 0.05, "aspect_jitter": 0.1, "contrast": 0.2, "blur": 0.0, "dropout": 0.0},
    **{"phantom_signal": 0.6, "artifact_rho": 0.95, "artifact_kinds": "text", "artifact_amplitude": 2.0},
}


class LessonParameters(TrainParameters):
    """The notebooks in notebooks/class: small networks, trained in seconds."""

    shown: ClassVar = "data seed runs".split()

    @property
    def networks(self) -> int:
        """How many networks a notebook adds: eighteen in three, which share them."""
        return 6

    @model_validator(mode="before")
    @classmethod
    def _small(cls, values: Any) -> Any:
        return LESSON | dict(values)


NOTEBOOKS: dict[str, type[DataParameters]] = {
    "01_data_audit": AuditParameters,
    "02_train": RecipeParameters,
    "03_attention": AttentionParameters,
    "04_shortcut_tests": ShortcutParameters,
    "05_before_after_cropping": CroppingParameters,
    "06_reduce": ReduceParameters,
    "appendix_recipe_selection": SelectionParameters,
}
