"""The phantom as a data set: images written to a folder with a manifest, and what an ideal observer makes of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
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

RECIPE = 1  # raise it whenever the same spec would paint other images, so that none are mixed
NOTHING = "masks/nothing.png"  # the one empty mask that all images without an opacity or artifact share
CLASSES = ("NORMAL", "PNEUMONIA")
COLUMNS = ["path", "label", "split", "patient", "lung_mask", "artifact_mask", "opacity_mask", "artifact"]


@dataclass(frozen=True)
class PhantomSpec:
    """What decides every pixel of a phantom; `parameters.DataParameters` says what is possible.

    In training images and in the test set ``test``, an artifact is there with probability ``share`` (1 + ``rho``) / 2
    if the image shows a pneumonia and ``share`` (1 - ``rho``) / 2 if not.
    """

    images: int = 1200  # to train on; validation is split off later
    test_images: int = 300  # in each of the four paired test sets
    size: int = 128  # side of an image, px
    rho: float = 0.95  # correlation of artifact and label, -1..1
    share: float = 1.0  # of the images due to have the artifact, those in which it is to be seen
    location: str = "border"  # of the artifact: one of artifacts.KINDS
    kinds: tuple[str, ...] = ("marker",)  # of artifacts; an image gets one of them
    amplitude: float = 1.0  # strength of the artifact, 1 = plain to see
    signal: float = 0.4  # fraction of the lung's air that an opacity replaces
    seed: int = 0

    @property
    def identifier(self) -> str:
        """A readable name of the folder, unique to the spec."""
        digest = hashlib.sha256(f"{RECIPE} {sorted(asdict(self).items())}".encode()).hexdigest()[:8]
        artifact = f"{self.location.replace(' ', '_')}-{'+'.join(self.kinds)}-rho{self.rho:g}"
        return f"phantom-{artifact}-n{self.images}-seed{self.seed}-{digest}"


def write(spec: PhantomSpec, folder: Path) -> Path:
    """The folder of a phantom, rendered unless it is there; it appears whole or not at all.

    It holds PNG images, masks (0 / 255) of the aerated lungs, the opacities and the artifact, and ``manifest.csv``
    with the columns path, label, split, patient, lung_mask, artifact_mask, opacity_mask, artifact (0/1),
    original_width and original_height. Splits: train; test (artifact as in training), neutral (ρ = 0), conflict
    (ρ = -1) and clean (no artifact). Image i of the four test sets is one image, with its artifact (always the same)
    or without; no patient of theirs is in train, where every seventh patient has two images. Half of the patients
    have pneumonia. Image i depends neither on how many there are nor on ρ or the artifact, so phantoms that differ
    in those alone are paired as well.

    Parameters
    ----------
    spec
        What to render.
    folder
        Where the phantom's own folder is made.

    Raises
    ------
    InputError
        Where nothing can be written.
    """
    finished = folder / spec.identifier
    if (finished / "manifest.csv").is_file():
        return finished
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".phantom-") as draft:
            _render(spec, Path(draft) / "phantom")
            os.replace(Path(draft) / "phantom", finished)
    except OSError as problem:
        if not (finished / "manifest.csv").is_file():  # else another process was faster: same images
            raise InputError(
                f"The phantom cannot be written to {finished} ({problem.strerror}): make room there, or choose "
                "another folder; a folder of that name without manifest.csv is incomplete and can be deleted."
            ) from problem
    return finished


def _render(spec: PhantomSpec, folder: Path) -> None:
    splits = ("train", *artifacts.test_sets(spec.rho))
    for name in (*splits, "masks"):
        (folder / name).mkdir(parents=True)
    _png(folder / NOTHING, np.zeros((spec.size, spec.size), np.uint8))
    tasks = [("train", i) for i in range(spec.images)] + [("test", i) for i in range(spec.test_images)]
    workers = Parallel(n_jobs=min(4, os.cpu_count() or 1), prefer="threads", batch_size=16)
    versions = workers(delayed(_versions)(spec, folder, *task) for task in tasks)
    table = pd.DataFrame([row for rows in versions for row in rows], columns=COLUMNS)
    table = table.assign(original_width=spec.size, original_height=spec.size)
    pd.concat([table[table["split"] == name] for name in splits]).to_csv(folder / "manifest.csv", index=False)


def _versions(spec: PhantomSpec, folder: Path, people: str, index: int) -> list[tuple[str | int, ...]]:
    """Paint image ``index`` of training or test data, write all its versions, return their manifest rows."""
    patient, visit = _patient(index) if people == "train" else (index, 0)
    label, group = patient % 2, ("train", "test").index(people)  # the two draw from different random streams
    keys = [(group, patient, draw, purpose) for purpose, draw in enumerate((0, visit, visit, visit))]
    streams = [np.random.SeedSequence(spec.seed, spawn_key=key) for key in keys]
    of_patient, of_visit, rng, seen = (np.random.default_rng(stream) for stream in streams)

    plain = radiograph(spec.size, label, spec.signal, of_patient, of_visit)
    luck, kind = (rng.random(), seen.random()), spec.kinds[rng.integers(len(spec.kinds))]
    painted, changed = artifacts.paint(plain.image, plain.lungs, spec.location, kind, rng, spec.amplitude)
    sets = {"train": spec.rho} if people == "train" else artifacts.test_sets(spec.rho)
    has = {split: artifacts.marked(label, luck, rho, spec.share) for split, rho in sets.items()}

    name = f"{people}-{index:05d}"
    masks = {"lungs": plain.lungs, "artifact": changed & any(has.values()), "opacity": plain.opacity}
    paths = {part: f"masks/{name}-{part}.png" if mask.any() else NOTHING for part, mask in masks.items()}
    for part, path in paths.items():
        if path != NOTHING:
            _png(folder / path, masks[part] * np.uint8(255))
    rows: list[tuple[str | int, ...]] = []
    for split, artifact in has.items():
        path, own = f"{split}/{name}.png", paths["artifact"] if artifact else NOTHING
        _png(folder / path, painted if artifact else plain.image)
        said = (path, CLASSES[label], split, f"{people}-{patient:05d}")
        rows.append((*said, paths["lungs"], own, paths["opacity"], int(artifact)))
    return rows


def _patient(index: int) -> tuple[int, int]:
    """Patient and visit of a training image: every seventh patient has two."""
    block, place = divmod(index, 8)
    return 7 * block + min(place, 6), int(place == 7)


def _png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def oracle_auc(
    d: np.ndarray | float, rho: np.ndarray | float, rho_test: np.ndarray | float, share: float = 1.0
) -> np.ndarray:
    """AUC of the ideal observer of a signal and a binary artifact; arguments broadcast.

    The observer learned how artifact and label correlate, and adds the log-likelihood ratios of signal and artifact.
    With s the share, L = log((1+ρ)/(1-ρ)) − log((2-s-sρ)/(2-s+sρ)) the difference that the artifact makes to the
    log-likelihood ratio, p₁ = s (1+ρ_test)/2 and p₀ = s (1-ρ_test)/2 its frequency in the classes, and A = Φ(d/√2)

        AUC = p₁(1-p₀) Φ((d²+L)/(d√2)) + (p₁p₀ + (1-p₁)(1-p₀)) A + (1-p₁)p₀ Φ((d²-L)/(d√2))

    Parameters
    ----------
    d
        Detectability d' of the signal, above 0.
    rho
        Correlation of artifact and label that was learned, -1 < ρ < 1.
    rho_test
        Correlation where the observer is tested, -1..1.
    share
        Of the images due to have the artifact, those in which it is to be seen, 0..1.

    Raises
    ------
    InputError
        Outside of these ranges.
    """
    d, rho, rho_test = np.asarray(d, float), np.asarray(rho, float), np.asarray(rho_test, float)
    if not (np.all(d > 0) and np.all(np.abs(rho) < 1) and np.all(np.abs(rho_test) <= 1)):
        raise InputError("The oracle needs d > 0, -1 < rho < 1 and -1 <= rho_test <= 1.")
    weight = np.log((1 + rho) / (1 - rho)) - np.log((2 - share - share * rho) / (2 - share + share * rho))
    ill, healthy = share * (1 + rho_test) / 2, share * (1 - rho_test) / 2
    along, alike, against = (ndtr((d**2 + sign * weight) / (d * np.sqrt(2))) for sign in (1, 0, -1))
    either = ill * healthy + (1 - ill) * (1 - healthy)
    return ill * (1 - healthy) * along + either * alike + (1 - ill) * healthy * against


def d_prime(auc: np.ndarray | float) -> np.ndarray:
    """Detectability d' = √2 Φ⁻¹(AUC) of two normal distributions of equal variance.

    Parameters
    ----------
    auc
        0..1.
    """
    return np.sqrt(2) * ndtri(np.asarray(auc, float))


def oracle_aucs(clean_auc: float, rho: float, share: float = 1.0) -> dict[str, float]:
    """AUC of the ideal reader on the bias-aligned, the neutral and the bias-conflicting set: test, neutral, conflict.

    Parameters
    ----------
    clean_auc
        Of a network on images without an artifact: the reader's disease signal is that of this network.
    rho
        Correlation of artifact and label in training, -1 < ρ < 1.
    share
        Of the images due to have the artifact, those in which it is to be seen, 0..1.

    Returns
    -------
    dict
        Empty where the AUC is not between 0.5 and 1, so that there is no such signal.
    """
    signal = float(d_prime(clean_auc))
    sets = artifacts.test_sets(rho) if 0 < signal < np.inf else {}
    return {name: float(oracle_auc(signal, rho, of_set, share)) for name, of_set in sets.items() if of_set is not None}
