"""The phantom: a data set of chest-like films whose truth is known, written as a folder with a manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.special import ndtr, ndtri

from cnn_xray import InputError
from cnn_xray.phantom import artifacts
from cnn_xray.phantom.anatomy import radiograph

RECIPE = 1  # raise it whenever the same spec would paint other films, so that none are mixed
NOTHING = "masks/nothing.png"  # the one empty mask that all films without an opacity or artifact share
CLASSES = ("NORMAL", "PNEUMONIA")
TRAIN, TEST = 0, 1  # patients of the two are drawn from different random streams
ANATOMY, VISIT, ARTIFACT = 0, 1, 2


@dataclass(frozen=True)
class PhantomSpec:
    """What decides every pixel of a phantom. Raises `InputError` for impossible values.

    In training films and in the test set ``test``, an artifact is there with probability (1 + ``rho``) / 2 if
    the film shows a pneumonia and (1 - ``rho``) / 2 if not.
    """

    images: int = 1200  # training films; validation is split off later
    test_images: int = 300  # films in each of the four paired test sets
    size: int = 128  # side of a film, px
    rho: float = 0.95  # correlation of artifact and label, -1..1
    location: str = "border"  # of the artifact: border | inside | global
    kinds: tuple[str, ...] = ("marker",)  # of artifacts; a film gets one of them
    amplitude: float = 1.0  # strength of the artifact, 1 = plain to see
    artifact_size: float = 1.0  # 1 = as a radiographer would place it; border artifacts stay in their ring
    position_jitter: float = 1.0  # of the artifact, 0 (always the same place) .. 2
    signal: float = 0.4  # fraction of the lung's air that an opacity replaces
    prevalence: float = 0.5  # of pneumonia
    seed: int = 0

    def __post_init__(self) -> None:
        artifacts.check(self.location, self.kinds)
        for name, low, high in (
            ("images", 2, 1_000_000),
            ("test_images", 2, 1_000_000),
            ("size", 64, 1024),
            ("rho", -1, 1),
            ("amplitude", 0.05, 3),
            ("artifact_size", 0.25, 3),
            ("position_jitter", 0, 2),
            ("signal", 0, 2),
            ("prevalence", 0.05, 0.95),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"The phantom's {name} is {value}; it must lie in {low} to {high}.")

    @property
    def identifier(self) -> str:
        """A readable name of the folder, unique to the spec."""
        digest = hashlib.sha256(f"{RECIPE} {sorted(asdict(self).items())}".encode()).hexdigest()[:8]
        artifact = f"{self.location}-{'+'.join(self.kinds)}-rho{self.rho:g}"
        return f"phantom-{artifact}-n{self.images}-seed{self.seed}-{digest}"


def write(spec: PhantomSpec, folder: Path) -> Path:
    """Render a phantom into ``folder``/phantom-…; a finished one is returned as it is.

    Writes PNG films, masks (0 / 255) of the aerated lungs, the opacities and the artifact, and
    ``manifest.csv`` with the columns path, label, split, patient, original_width, original_height, lung_mask,
    artifact_mask, opacity_mask and artifact (0/1). Splits: train; test (artifact as in training), neutral
    (ρ = 0), conflict (ρ = -1) and clean (no artifact). Film i of the four test sets is one film, with its
    artifact (always the same) or without; no patient of theirs is in train, where every seventh patient has
    two films. Film i depends neither on how many there are nor on ρ or the artifact, so phantoms that differ
    in those alone are paired as well.

    The folder appears whole or not at all. Raises `InputError` where nothing can be written.
    """
    finished = folder / spec.identifier
    if (finished / "manifest.csv").is_file():
        return finished
    draft = folder / f".{spec.identifier}-{uuid.uuid4().hex[:8]}"
    try:
        _render(spec, draft)
        try:
            os.replace(draft, finished)
        except OSError:
            if not (finished / "manifest.csv").is_file():  # else another process was faster: same films
                raise
    except OSError as problem:
        raise InputError(
            f"The phantom cannot be written to {finished} ({problem.strerror}): make room there, or choose "
            "another folder; a folder of that name without manifest.csv is incomplete and can be deleted."
        ) from problem
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return finished


def _render(spec: PhantomSpec, folder: Path) -> None:
    for name in ("train", *artifacts.test_sets(spec.rho), "masks"):
        (folder / name).mkdir(parents=True)
    _png(folder / NOTHING, np.zeros((spec.size, spec.size), bool))
    tasks = [(TRAIN, i) for i in range(spec.images)] + [(TEST, i) for i in range(spec.test_images)]
    workers = Parallel(n_jobs=min(4, os.cpu_count() or 1), prefer="threads", batch_size=16)
    films = workers(delayed(_films)(spec, folder, *task) for task in tasks)
    table = pd.DataFrame([row for versions in films for row in versions])
    order = {name: place for place, name in enumerate(("train", *artifacts.test_sets(spec.rho)))}
    table = table.sort_values("split", key=lambda split: split.map(order), kind="stable")
    table.to_csv(folder / "manifest.csv", index=False)


def _films(spec: PhantomSpec, folder: Path, group: int, index: int) -> list[dict[str, object]]:
    """Paint film ``index`` of training or test data, write all its versions, return their manifest rows."""
    patient, visit = _patient(index) if group == TRAIN else (index, 0)
    until = [int(number * spec.prevalence + 1e-9) for number in (patient, patient + 1)]
    label = until[1] - until[0]  # pneumonias evenly spread, so that the prevalence is exact

    def stream(purpose: int, visit: int) -> np.random.Generator:
        key = (group, patient, visit, purpose)
        return np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key))

    plain = radiograph(spec.size, label, spec.signal, stream(ANATOMY, 0), stream(VISIT, visit))
    rng = stream(ARTIFACT, visit)
    luck, kind = rng.random(), spec.kinds[rng.integers(len(spec.kinds))]
    look = (spec.amplitude, spec.artifact_size, spec.position_jitter)
    painted, changed = artifacts.paint(plain.image, plain.lungs, spec.location, kind, rng, *look)
    sets = {"train": spec.rho} if group == TRAIN else artifacts.test_sets(spec.rho)
    has = {name: artifacts.marked(label, luck, rho) for name, rho in sets.items()}

    people = "train" if group == TRAIN else "test"
    name = f"{people}-{index:05d}"
    masks = {part: f"masks/{name}-{part}.png" for part in ("lungs", "opacity", "artifact")}
    for part, mask in (("lungs", plain.lungs), ("opacity", plain.opacity), ("artifact", changed)):
        if mask.any() and (part != "artifact" or any(has.values())):
            _png(folder / masks[part], mask)
        else:
            masks[part] = NOTHING
    encoded = {version: _encode(painted if version else plain.image) for version in set(has.values())}
    rows = []
    for split in sets:
        path = f"{split}/{name}.png"
        (folder / path).write_bytes(encoded[has[split]])
        rows.append(
            {
                "path": path,
                "label": CLASSES[label],
                "split": split,
                "patient": f"{people}-{patient:05d}",
                "original_width": spec.size,
                "original_height": spec.size,
                "lung_mask": masks["lungs"],
                "artifact_mask": masks["artifact"] if has[split] else NOTHING,
                "opacity_mask": masks["opacity"],
                "artifact": int(has[split]),
            }
        )
    return rows


def _patient(index: int) -> tuple[int, int]:
    """Patient and visit of a training film: every seventh patient has two films."""
    block, place = divmod(index, 8)
    return 7 * block + min(place, 6), int(place == 7)


def _png(path: Path, mask: np.ndarray) -> None:
    path.write_bytes(_encode(mask.astype(np.uint8) * np.uint8(255)))


def _encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def oracle_auc(d: np.ndarray | float, rho: np.ndarray | float, rho_test: np.ndarray | float) -> np.ndarray:
    """AUC of the ideal observer of a signal of detectability ``d`` = d' and a binary artifact.

    The observer learnt that artifact and label correlate with ``rho`` (-1 < ρ < 1) and is tested where they
    correlate with ``rho_test`` (-1..1). It adds the log-likelihood ratios of the signal and of the artifact;
    with L = log((1+ρ)/(1-ρ)), p = (1+ρ_test)/2 and A = Φ(d/√2)

        AUC = p² Φ((d²+2L)/(d√2)) + 2p(1-p) A + (1-p)² Φ((d²-2L)/(d√2))

    Arguments broadcast. Raises `InputError` unless d > 0, |ρ| < 1 and |ρ_test| ≤ 1.
    """
    d, rho, rho_test = np.asarray(d, float), np.asarray(rho, float), np.asarray(rho_test, float)
    if not (np.all(d > 0) and np.all(np.abs(rho) < 1) and np.all(np.abs(rho_test) <= 1)):
        raise InputError("The oracle needs d > 0, -1 < rho < 1 and -1 <= rho_test <= 1.")
    p, weight = (1 + rho_test) / 2, np.log((1 + rho) / (1 - rho))
    along, against = (ndtr((d**2 + sign * 2 * weight) / (d * np.sqrt(2))) for sign in (1, -1))
    return p**2 * along + 2 * p * (1 - p) * ndtr(d / np.sqrt(2)) + (1 - p) ** 2 * against


def d_prime(auc: np.ndarray | float) -> np.ndarray:
    """Detectability d' = √2 Φ⁻¹(AUC) of two normal distributions of equal variance, from an AUC in 0..1."""
    return np.sqrt(2) * ndtri(np.asarray(auc, float))
