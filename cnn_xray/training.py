"""Fit a network by its recipe (optimizer, schedule, balance), score it each epoch, and predict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_xray import InputError, backend
from cnn_xray.metrics import equal_bins
from cnn_xray.parameters import TrainParameters

WARM_UP = 0.1  # fraction of the steps over which the learning rate climbs
TTA_SHIFT = 0.04  # fraction of the side
Changes = Callable[[np.ndarray], tuple[dict[str, np.ndarray], Callable[..., Any] | None]]


def fit(
    model: Any,
    p: TrainParameters,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    changes: Changes | None = None,
    strata: np.ndarray | None = None,
) -> pd.DataFrame:
    """Train a model in place, leaving it with the weights of its best or its last epoch, and print a line an epoch.

    Parameters
    ----------
    model
        Of `network.build`.
    p
        The recipe.
    train, validation
        Images (N, S, S) uint8 and their labels (N,).
    changes
        From the rows of the training images as they come (epochs, steps, batch) to what is done to them
        (`swaps.planned`, `backend.feed_training`).
    strata : ndarray (N,) int, optional
        For ``balance`` propensity: within each of them the classes come equally often.

    Returns
    -------
    DataFrame
        One row an epoch: epoch (from 1), loss, val_loss (cross-entropy, nats), val_auc, best (the epoch kept), seconds.

    Raises
    ------
    InputError
        Where training diverges.
    """
    keras, p = backend.start(), p.resolved()
    images, labels = train
    order = _order(labels, p, strata)
    plan, change = changes(order) if changes else ({}, None)
    compile_model(model, p, steps=order.shape[0] * order.shape[1])
    stop = keras.callbacks.EarlyStopping("val_auc", mode="max", patience=p.patience, restore_best_weights=True)
    history = model.fit(
        **backend.feed_training(images, labels, order, _class_weights(labels, p), change, plan),
        epochs=len(order),
        callbacks=[_judge(model, validation, p), *[stop] * (p.keep_epoch == "best")],
        verbose=0,
    )
    table = pd.DataFrame(history.history)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    table["best"] = table.index == (stop.best_epoch if p.keep_epoch == "best" else len(table) - 1)
    return table


def compile_model(model: Any, p: TrainParameters, steps: int) -> None:
    """Give a model the recipe's loss and optimizer.

    Parameters
    ----------
    model
        Of `network.build`.
    p
        The recipe.
    steps
        In which the learning rate runs its course: up to its peak, then down to 0 along a cosine, or constant.
    """
    keras = backend.start()
    warm_up, least = int(WARM_UP * steps), 0.0 if p.schedule == "cosine" else 1.0
    climb = {"warmup_target": p.learning_rate, "warmup_steps": warm_up}
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warm_up, alpha=least, **climb)
    optimizer = keras.optimizers.AdamW(rate, p.weight_decay)
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=p.label_smoothing)
    loss = _consistent(keras, p) if p.consistency else loss
    # XLA is slower than TensorFlow's own kernels on a CPU.
    model.compile(optimizer, loss, jit_compile=not backend.is_tensorflow())


def _consistent(keras: Any, p: TrainParameters) -> Any:
    """Cross-entropy + ``consistency`` × (z(x) − z(swapped x))²; the second half of a batch is the first, swapped."""
    ops, entropy = keras.ops, keras.losses.binary_crossentropy

    def loss(labels: Any, logits: Any) -> Any:
        plain, swapped = ops.split(logits[:, 0], 2)
        apart = p.consistency * ops.square(plain - swapped)
        entropies = entropy(labels, logits, from_logits=True, label_smoothing=p.label_smoothing)
        return entropies + ops.concatenate([apart, apart])

    return loss


def refit_last_layer(
    model: Any, p: TrainParameters, train: tuple[np.ndarray, np.ndarray], patients: np.ndarray, changes: Changes
) -> None:
    """Fit a trained model's last layer anew, in place, on every training image as it is and swapped.

    A logistic regression on the pooled features, classes weighted alike, its penalty by log-loss cross-validated by
    patient (deep feature reweighting, Kirichenko et al. 2023, arXiv 2204.02937, here on the training images). The rest
    of the network stays, and the logit stays a sum over cells.

    Parameters
    ----------
    model
        Of `network.build`, trained.
    p
        The recipe.
    train
        Images (N, S, S) uint8 and their labels (N,).
    patients : ndarray (N,)
    changes
        As of `fit`, swapping all images.
    """
    keras, (images, labels) = backend.start(), train
    rows = np.resize(np.arange(len(labels)), (1, -(-len(labels) // p.batch_size), p.batch_size))
    plan, change = changes(rows)
    assert change, "without swaps there is nothing to fit on"
    features = keras.Model(model.input, model.get_layer("gap").output)
    seen = [features.predict(**backend.feed(images), verbose=0)]
    for step, some in enumerate(rows[0]):
        of_step = {name: one[0, step] for name, one in plan.items()}
        swapped = change(lambda array, which: keras.ops.take(array, which, axis=0), images[..., None], some, **of_step)
        seen.append(features.predict_on_batch(swapped))
    every = np.concatenate([np.arange(len(labels)), rows.ravel()])
    x, y, groups = np.concatenate(seen), labels[every], patients[every]
    folds = list(StratifiedGroupKFold().split(x, y, groups))  # a swap stays with its image, and its patient's
    last = LogisticRegressionCV(cv=folds, class_weight="balanced", scoring="neg_log_loss")
    scaler, last = make_pipeline(StandardScaler(), last).fit(x, y)
    kernel = last.coef_[0] / scaler.scale_
    model.get_layer("logit").set_weights([kernel[:, None], last.intercept_ - kernel @ scaler.mean_])


def _order(labels: np.ndarray, p: TrainParameters, strata: np.ndarray | None = None) -> np.ndarray:
    """Rows of the training images as they come: (epochs, steps, batch size) int, drawn anew each epoch.

    ``sampling`` draws as many images of either class, with replacement; else every image comes once an epoch, save the
    few that do not fill a batch. ``propensity`` draws as many of either class within each stratum, and none of a
    stratum that has one class alone.
    """
    assert p.epochs, "resolved parameters have epochs"
    rng = np.random.default_rng(p.chance)
    batch = min(p.batch_size, len(labels))
    if p.consistency:  # every image comes twice, the second time swapped
        half = _order(labels, p.model_copy(update={"consistency": 0.0, "batch_size": max(1, batch // 2)}), strata)
        return np.concatenate([half, half], axis=-1)
    shape = (p.epochs, len(labels) // batch, batch)
    if p.balance == "sampling":
        normal, pneumonia = (rng.choice(np.flatnonzero(labels == value), shape) for value in (0, 1))
        return np.where(rng.random(shape) < 0.5, normal, pneumonia)
    if p.balance == "propensity":
        assert strata is not None, "propensity needs strata"
        of_stratum = pd.DataFrame({"label": labels, "stratum": strata}).groupby("stratum")["label"]
        mean, count = of_stratum.transform("mean"), of_stratum.transform("size")
        own = np.where(labels == 1, mean, 1 - mean) * count  # images of the same class in the stratum
        each = np.where(mean % 1 == 0, 0, count / own)
        return rng.choice(len(labels), shape, p=each / each.sum())
    kept = shape[1] * batch
    return np.stack([rng.permutation(len(labels))[:kept] for _ in range(p.epochs)]).reshape(shape)


def propensity_strata(labels: np.ndarray, images: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Number of the stratum of each image: fifths of the class's log-odds by size, proportions and sharpness, (N,) int.

    Sharpness is the log variance of the Laplacian. Unknown sizes count as the median.

    Parameters
    ----------
    labels : ndarray (N,)
    images : ndarray (N, S, S) uint8
    sizes : ndarray (N, 2)
        Original width and height, px, NaN where unknown.
    """
    known = pd.DataFrame(np.log(sizes))  # of proportions and area too: a sum of logarithms
    sharpness = [np.log1p(cv2.Laplacian(image, cv2.CV_32F).var()) for image in images]
    features = known.fillna(known.median()).fillna(0).assign(sharpness=sharpness).to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    return equal_bins(np.round(model.decision_function(features), 9), 5)


def _class_weights(labels: np.ndarray, p: TrainParameters) -> list[float]:
    """Weight of a NORMAL and of a PNEUMONIA image in the loss."""
    return (len(labels) / (2 * np.bincount(labels, minlength=2))).tolist() if p.balance == "weights" else [1.0, 1.0]


def _judge(model: Any, validation: tuple[np.ndarray, np.ndarray], p: TrainParameters) -> Any:
    """A callback that scores the validation split exactly after each epoch, and says how far training is."""
    images, labels = validation
    times = [time.perf_counter()]  # of the beginning, and of the end of each epoch

    def judged(epoch, logs):
        logits = predict(model, images)
        if not np.isfinite(logits).all():
            diverged = f"Training diverged in epoch {epoch + 1}"
            raise InputError(f"{diverged}; try a learning_rate below {p.learning_rate:g}.")
        logs["val_loss"] = float(log_loss(labels, probability(logits), labels=[0, 1]))
        logs["val_auc"] = float(roc_auc_score(labels, logits))
        times.append(time.perf_counter())
        logs["seconds"] = times[-1] - times[-2]
        left = (times[-1] - times[0]) / (epoch + 1) * (p.epochs - epoch - 1)
        parts = [f"epoch {epoch + 1:2d}/{p.epochs}"]
        parts += [f"{name} {logs[name]:.4f}" for name in ("loss", "val_loss", "val_auc")]
        print("  ".join([*parts, f"{logs['seconds']:.1f} s, at most {left:.0f} s left"]), flush=True)

    return backend.start().callbacks.LambdaCallback(on_epoch_end=judged)


def predict(model: Any, images: np.ndarray, batch_size: int = 64, tta: str = "none") -> np.ndarray:
    """Logits (N,) float32, the mean over views of each image where there are several.

    Parameters
    ----------
    model
        Keras model with one logit.
    images : ndarray (N, S, S) uint8
    batch_size
        Images a forward pass.
    tta : {"none", "flip", "shifts"}
        Test-time augmentation. ``flip``: the image as it is and mirrored; ``shifts``: also moved by TTA_SHIFT of the
        side left, right, up and down, black beyond the edge, as it is and mirrored.
    """
    logits = [model.predict(**backend.feed(view, batch_size), verbose=0)[:, 0] for view in _views(images, tta)]
    return np.asarray(np.mean(logits, axis=0, dtype=np.float64), np.float32)


def _views(images: np.ndarray, tta: str) -> Iterator[np.ndarray]:
    side = images.shape[1]
    step = max(1, round(TTA_SHIFT * side))
    padded = np.pad(images, ((0, 0), (step, step), (step, step)))
    moves = [(0, 0), (0, step), (0, -step), (step, 0), (-step, 0)]
    for down, right in moves if tta == "shifts" else moves[:1]:
        moved = padded[:, step - down :, step - right :][:, :side, :side]
        yield moved
        if tta != "none":
            yield moved[:, :, ::-1]


def probability(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, float64, without overflow.

    Parameters
    ----------
    logits : ndarray (N,)
    """
    return expit(np.asarray(logits, np.float64))
