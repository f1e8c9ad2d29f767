"""Strict parameters: read from a notebook's cells, refused in sentences, written as its parameters cell.

Every notebook's parameters: name, type, range, default and meaning.
"""

from __future__ import annotations

import ast
import difflib
import json
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cnn_xray import InputError

if TYPE_CHECKING:
    from cnn_xray.phantom.dataset import PhantomSpec


BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # of pydantic's constraints


class Parameters(BaseModel):
    """What all notebooks' parameters have in common: strict types, no unknown names, sentences for people."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Parameters from names and values. Raises one `InputError` with a sentence for each thing wrong."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = [_sentence(cls, problem) for problem in error.errors()]
        raise InputError("\n".join(problems))

    @classmethod
    def from_notebook(cls) -> Self:
        """Parameters from the cells of the running notebook that do nothing but assign literals.

        These are the parameters cell, the cell papermill injects after it, and any such cell run by hand;
        the values are the latest. Raises `InputError` as `from_mapping`.
        """
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        if shell is None:
            raise InputError("from_notebook() reads the cells of a notebook; elsewhere use from_mapping().")
        space = shell.user_ns
        names = literal_assignments(space["In"], known=set(cls.model_fields))
        return cls.from_mapping({name: space[name] for name in names if name in space})


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses a name and gives the nearest known one."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"There is no parameter {name!r}; the nearest one is {nearest[0]!r}."


def _sentence(cls: type[Parameters], problem: Any) -> str:
    if problem["type"] == "value_error":  # an InputError of a validator, a sentence already
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    if name not in cls.model_fields:
        return unknown_name(name, cls.model_fields)
    return f"{name} is {problem['input']!r}, but it must be {_allowed(cls.model_fields[name])}."


def _allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``a whole number from 1 to 500, or None``."""
    kind, optional = _kind(field)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    bounds = [
        f"{words} {getattr(limit, sign)}"
        for limit in field.metadata
        for sign, words in BOUNDS.items()
        if hasattr(limit, sign)
    ]
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[kind]
    if kind is str and field.metadata:
        return "a text that is not empty"
    return f"{words} {' and '.join(bounds)}".strip() + (", or None" if optional else "")


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """A field's type without its None, and whether it had one."""
    if get_origin(field.annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(field.annotation) if part is not types.NoneType)
        return kind, True
    return field.annotation, False


def literal_assignments(cells: Iterable[str], known: set[str]) -> list[str]:
    """Names assigned in those cells that do nothing but assign literals, annotated or not.

    A cell that assigns all the ``known`` names of an earlier one is taken for that cell, edited and run
    again: the earlier wording no longer counts, so that a misspelt name can be corrected.
    """
    kept: list[list[str]] = []
    for cell in cells:
        names = _assigned(cell)
        if names:
            kept = [old for old in kept if not known & set(old) or not known & set(old) <= set(names)]
            kept.append(names)
    every = dict.fromkeys(name for names in kept for name in names)
    return [name for name in every if not name.startswith("PAPERMILL_")]  # of papermill's --inject-paths


def _assigned(cell: str) -> list[str]:
    """The names a cell assigns if literal assignments are all it holds, else nothing."""
    names: list[str] = []
    try:
        statements = ast.parse(cell).body
    except (SyntaxError, ValueError):  # a magic or a shell command
        return []
    for statement in statements:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                targets = [target]
            case _:
                return []
        if not _is_literal(value) or not all(isinstance(target, ast.Name) for target in targets):
            return []
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _is_literal(value: ast.expr) -> bool:
    match value:
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str())], keywords=[]):
            return True  # papermill injects float('nan'), which must be refused and not overlooked
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def parameters_cell(cls: type[Parameters]) -> str:
    """Source of the notebook's parameters cell: a line ``name: type = default  # meaning`` for every field.

    Optional types are quoted words because papermill's help skips a line whose annotation holds a ``|``.
    """
    lines = []
    for name, field in cls.model_fields.items():
        kind, optional = _kind(field)
        word = "str" if get_origin(kind) is Literal else kind.__name__
        default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        annotation = f'"{word} or None"' if optional else word
        lines.append(f"{name}: {annotation} = {default}  # {field.description}")
    return "\n".join(lines)


PHANTOM = "phantom"
RECIPES: dict[str, dict[str, int]] = {  # what a parameter left at None becomes
    "phantom": {"image_size": 64, "width": 16, "epochs": 16},
    "default": {"image_size": 128, "width": 32, "epochs": 32},
    "large": {"image_size": 224, "width": 32, "epochs": 32},
}
WIDEST_BORDER = 0.4  # of a ring that is exchanged: its seam, a quarter of it, then ends in the middle of the film


def _off(value: Any) -> dict[str, Any]:
    """Mark the value at which a parameter does nothing: a run's id leaves it out, so that options can be added."""
    return {"off": value}


class DataParameters(Parameters):
    """Which images, seen how."""

    data: str = Field(PHANTOM, min_length=1, description="phantom, a chest_xray folder, or a manifest CSV")
    on_bad_image: Literal["error", "skip"] = Field("error", description="unreadable images: error | skip")
    seed: int = Field(0, ge=0, lt=2**31, description="of the phantom, the split and the training")
    image_size: int | None = Field(
        None, ge=32, le=1024, description="px a side (large: 224); None: 64 phantom, 128 files"
    )
    crop: float = Field(0.0, ge=0, lt=0.5, description="fraction cut from each side of the frame")
    aspect: Literal["squash", "letterbox", "square"] = Field("squash", description="squash | letterbox | square")
    phantom_images: int = Field(1200, ge=80, le=50_000, description="training films, 15 % to validate")
    artifact_rho: float | None = Field(
        None,
        gt=-1,
        lt=1,
        description="of artifact and label in training; None: 0.95 phantom, none in files",
    )
    artifact_location: Literal["border", "inside", "global"] = Field(
        "border", description="of the artifact: border | inside | global"
    )
    artifact_kinds: str = Field("marker", min_length=1, description="kinds of artifact, separated by commas")
    artifact_amplitude: float = Field(1.0, ge=0.05, le=3, description="strength of the artifact")
    phantom_signal: float = Field(0.4, ge=0, le=2, description="strength of the opacities")
    border: float = Field(0.125, gt=0, lt=0.5, description="width of the border, fraction of the side")
    keep: Literal[
        "all",
        "border",
        "border_outside_lungs",
        "centre",
        "outside_lung_box",
        "outside_lungs",
        "between",
        "lung_outline",
    ] = Field("all", description="the part of the film that is seen; parts.py says what each is")
    labels: Literal["true", "permuted"] = Field("true", description="of the training films: true | permuted")
    runs: str = Field("runs", min_length=1, description="folder of the run records")

    @model_validator(mode="after")
    def _possible_artifact(self) -> Self:
        from cnn_xray.phantom import artifacts

        artifacts.check(self.artifact_location, self.kinds())
        return self

    def kinds(self) -> tuple[str, ...]:
        """The kinds of artifact, one of which a marked film gets."""
        return tuple(kind.strip() for kind in self.artifact_kinds.split(","))

    def resolved(self) -> Self:
        """The same with every None filled in by what suits the data."""
        return self.model_copy(update={"image_size": self.side, "artifact_rho": self.rho})

    @property
    def side(self) -> int:
        """Pixels a side: image_size, or what suits the data."""
        return self.image_size or RECIPES[PHANTOM if self.data == PHANTOM else "default"]["image_size"]

    @property
    def rho(self) -> float | None:
        """Correlation of artifact and label in training; None where nothing is planted."""
        return 0.95 if self.artifact_rho is None and self.data == PHANTOM else self.artifact_rho

    def phantom_spec(self) -> PhantomSpec:
        """The phantom these parameters describe; a test set is a quarter of its training films, 24..300."""
        from cnn_xray.phantom.dataset import PhantomSpec

        return PhantomSpec(
            images=self.phantom_images,
            test_images=min(max(self.phantom_images // 4, 24), 300),
            size=max(self.side, 128),
            rho=0.95 if self.rho is None else self.rho,
            location=self.artifact_location,
            kinds=self.kinds(),
            amplitude=self.artifact_amplitude,
            signal=self.phantom_signal,
            seed=self.seed,
        )


class AuditParameters(DataParameters):
    """01_data_audit."""

    duplicate_distance: int = Field(64, ge=0, le=96, description="bits between hashes of duplicates")


class TrainParameters(DataParameters):
    """How a network is trained."""

    recipe: Literal["default", "large"] = Field("default", description="fills in what is None: default | large")
    epochs: int | None = Field(None, ge=1, le=500, description="at most; None: by recipe")
    batch_size: int = Field(32, ge=1, le=1024, description="images a step")
    width: int | None = Field(None, ge=4, le=256, description="channels of the first block; None: by recipe")
    depth: int = Field(3, ge=2, le=8, description="convolutions of the last block; inner ones one less")
    padding: Literal["same", "reflect"] = Field("same", description="of convolutions: same (zeros) | reflect")
    dropout: float = Field(0.2, ge=0, lt=1, description="fraction dropped before the logit")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="highest, after the warm-up")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up: cosine | constant")
    weight_decay: float = Field(1e-3, ge=0, le=1, description="of AdamW")
    clip_norm: float = Field(
        0.0,
        json_schema_extra=_off(0.0),
        ge=0,
        le=1000,
        description="largest global norm of the gradient; 0: no clipping",
    )
    ema: float = Field(
        0.0, json_schema_extra=_off(0.0), ge=0, lt=1, description="momentum of the weights' moving average; 0: none"
    )
    label_smoothing: float = Field(
        0.0, json_schema_extra=_off(0.0), ge=0, lt=1, description="fraction of the label given to both classes"
    )
    balance: Literal["weights", "sampling", "none"] = Field(
        "sampling", description="classes made equal by: weights | sampling | none"
    )
    keep_epoch: Literal["best", "last"] = Field("last", description="by validation AUC: best | or the last")
    patience: int = Field(6, ge=1, le=500, description="keep_epoch best: epochs without a better one, then stop")
    flip: bool = Field(True, description="mirror left and right at random")
    rotation: float = Field(8.0, ge=0, le=180, description="largest random angle, degrees")
    shift: float = Field(0.05, ge=0, lt=0.5, description="largest random move, fraction of the side")
    zoom: float = Field(0.15, ge=0, le=1, description="largest random |log scale|")
    aspect_jitter: float = Field(0.6, ge=0, le=1, description="largest random |log of width to height|")
    fill: Literal["constant", "reflect"] = Field("constant", description="constant | reflect, beyond the edge")
    brightness: float = Field(0.1, ge=0, le=1, description="largest random offset, fraction of full white")
    contrast: float = Field(0.4, ge=0, lt=1, description="largest random change of contrast, fraction")
    gamma: float = Field(
        0.0, json_schema_extra=_off(0.0), ge=0, le=2, description="largest random |log of the grey scale's exponent|"
    )
    blur: float = Field(0.012, ge=0, le=0.1, description="largest random Gaussian blur, sd as fraction of the side")
    sharpen: float = Field(
        0.0, json_schema_extra=_off(0.0), ge=0, le=5, description="largest random amount of unsharp masking"
    )
    erasing: float = Field(
        0.0, json_schema_extra=_off(0.0), ge=0, le=1, description="share of films of which a random patch is greyed out"
    )
    mixup: float = Field(0.0, json_schema_extra=_off(0.0), ge=0, le=1, description="alpha of MixUp; 0: none")
    cutmix: float = Field(0.0, json_schema_extra=_off(0.0), ge=0, le=1, description="alpha of CutMix; 0: none")
    tta: Literal["none", "flip", "shifts"] = Field(
        "shifts", description="logits are the mean over: none | flip | shifts (both ways, and flipped)"
    )
    explain: Literal["predicted", "pneumonia"] = Field("predicted", description="evidence for: predicted | pneumonia")
    rerun: bool = Field(False, description="train again although the run is recorded")

    def resolved(self) -> Self:
        """The same with every None filled in by the recipe, or by what suits the phantom."""
        filled = {name: value for name, value in self._recipe.items() if getattr(self, name) is None}
        return self.model_copy(update={**filled, "artifact_rho": self.rho})

    @property
    def side(self) -> int:
        """Pixels a side: image_size, or the recipe's."""
        return self.image_size or self._recipe["image_size"]

    @property
    def _recipe(self) -> dict[str, int]:
        return RECIPES[PHANTOM if self.data == PHANTOM and self.recipe == "default" else self.recipe]


class RecipeParameters(TrainParameters):
    """02_train."""

    n_seeds: int = Field(6, ge=1, le=100, description="trainings, from seed upwards")


class AttentionParameters(TrainParameters):
    """03_attention."""

    layer: str = Field("", description="layer of the gradient Grad-CAM; empty: the last feature map")
    examples: int = Field(6, ge=1, le=24, description="images shown")


class ProbeParameters(TrainParameters):
    """What the tests of a trained network share: small networks on part of the film, and transplants."""

    probe_size: int | None = Field(None, ge=32, le=1024, description="px a side of probes; None: 64 phantom, 96 files")
    probe_epochs: int = Field(8, ge=1, le=500, description="of the small networks that see part of the film")
    donors: int = Field(4, ge=1, le=100, description="films of each class whose region is pasted into a film")

    @model_validator(mode="after")
    def _whole_films(self) -> Self:
        for name, whole in (("keep", "all"), ("labels", "true")):
            if getattr(self, name) != whole:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, but the networks tested here see whole films under their true "
                    f"labels, and the probes set {name} themselves: leave it at {whole!r}."
                )
        if self.border > WIDEST_BORDER:
            raise InputError(
                f"border is {self.border:g}, and with its seam a ring so wide leaves nothing of the film; give at most "
                f"{WIDEST_BORDER:g}."
            )
        return self

    def probe(self, **changes: Any) -> TrainParameters:
        """The small network and budget that all probes share, on these data in this view, with ``changes``."""
        small = {
            "image_size": self.probe_size or (64 if self.data == PHANTOM else 96),
            "width": 16,
            "epochs": self.probe_epochs,
            "patience": self.probe_epochs,
        }
        same = {name: getattr(self, name) for name in TrainParameters.model_fields}
        return TrainParameters.from_mapping(same | small | changes)


class ShortcutParameters(ProbeParameters):
    """04_shortcut_tests."""

    layer: str = Field("relu0a", min_length=1, description="earlier layer at which gradient maps are compared")
    n_seeds: int = Field(2, ge=1, le=100, description="trainings, from seed upwards; the tests are of the first")


class CroppingParameters(ProbeParameters):
    """05_before_after_cropping."""

    crop_after: float = Field(0.125, gt=0, lt=0.5, description="crop of the second arm; the first has crop")
    n_seeds: int = Field(2, ge=1, le=100, description="trainings an arm, from seed upwards")

    @model_validator(mode="after")
    def _crops_more(self) -> Self:
        if self.crop_after <= self.crop:
            raise InputError(f"crop_after is {self.crop_after}, but it must be above crop, which is {self.crop}.")
        return self

    @property
    def locations(self) -> list[str]:
        """Where the phantom's artifact lies in the arms compared: a border artifact has its twin inside the lungs."""
        from cnn_xray.phantom import artifacts

        movable = all(kind in artifacts.KINDS["inside"] for kind in self.kinds())
        twin = self.data == PHANTOM and self.artifact_location == "border" and movable
        return [self.artifact_location, "inside"] if twin else [self.artifact_location]


NOTEBOOKS: dict[str, type[DataParameters]] = {
    "01_data_audit": AuditParameters,
    "02_train": RecipeParameters,
    "03_attention": AttentionParameters,
    "04_shortcut_tests": ShortcutParameters,
    "05_before_after_cropping": CroppingParameters,
}
