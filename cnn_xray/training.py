"""Fit a network: AdamW with warm-up and cosine decay, early stopping and best epoch by validation AUC."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from cnn_xray import backend
from cnn_xray.errors import InputError
from cnn_xray.parameters import TrainParameters

WARM_UP = 0.1  # fraction of the steps over which the learning rate climbs


def fit(
    model: Any, p: TrainParameters, train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """Train ``model`` in place and leave it with the weights of its best epoch.

    ``train`` and ``validation`` are (images (N, S, S) uint8, labels (N,) int). Prints one line an epoch. Returns one
    row an epoch: epoch (from 1), loss, val_loss (cross-entropy, nats), val_auc, best (the epoch kept), seconds.
    """
    keras = backend.start()
    images, labels = train
    steps = p.epochs * -(-len(images) // p.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - int(WARM_UP * steps), warmup_target=p.learning_rate, warmup_steps=int(WARM_UP * steps)
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=p.weight_decay),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=backend.name() != "tensorflow",  # XLA is slower than TensorFlow's own kernels on a CPU
    )
    frequency = np.bincount(labels, minlength=2)
    judge = _judge(keras, validation, p)
    stop = keras.callbacks.EarlyStopping("val_auc", mode="max", patience=p.patience, restore_best_weights=True)
    history = model.fit(
        **backend.feed(images, labels, p.batch_size, shuffle_seed=p.seed),
        epochs=p.epochs,
        class_weight={value: len(labels) / (2 * count) for value, count in enumerate(frequency)},
        callbacks=[judge, stop],
        verbose=0,
    )
    table = pd.DataFrame(history.history)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    table["best"] = table.index == stop.best_epoch
    return table


def _judge(keras: Any, validation: tuple[np.ndarray, np.ndarray], p: TrainParameters) -> Any:
    """A callback that scores the validation split exactly after each epoch, and says how far training is."""
    images, labels = validation

    class Judge(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.begun = time.perf_counter()

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch_begun = time.perf_counter()

        def on_epoch_end(self, epoch, logs):
            logits = predict(self.model, images)
            if not np.isfinite(logits).all():
                raise InputError(
                    f"Training diverged in epoch {epoch + 1}; try a learning_rate below {p.learning_rate:g}."
                )
            logs["val_loss"] = float(log_loss(labels, probability(logits), labels=[0, 1]))
            logs["val_auc"] = float(roc_auc_score(labels, logits))
            now = time.perf_counter()
            logs["seconds"] = now - self.epoch_begun
            left = (now - self.begun) / (epoch + 1) * (p.epochs - epoch - 1)
            print(
                f"epoch {epoch + 1:2d}/{p.epochs}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}  "
                f"val_auc {logs['val_auc']:.4f}  {logs['seconds']:.1f} s, at most {left:.0f} s left",
                flush=True,
            )

    return Judge()


def predict(model: Any, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Logits (N,) float32 of images (N, S, S) uint8."""
    return np.asarray(model.predict(**backend.feed(images, batch_size=batch_size), verbose=0)[:, 0], np.float32)


def pooled(model: Any, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """The features after global average pooling, (N, K) float32, of images (N, S, S) uint8."""
    keras = backend.start()
    below = keras.Model(model.input, model.get_layer("gap").output)
    return np.asarray(below.predict(**backend.feed(images, batch_size=batch_size), verbose=0), np.float32)


def probability(logits: np.ndarray) -> np.ndarray:
    """Sigmoid of logits (N,), float64, without overflow."""
    from scipy.special import expit

    return expit(np.asarray(logits, np.float64))
