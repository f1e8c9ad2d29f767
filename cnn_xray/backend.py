"""What is particular to TensorFlow or JAX: the quiet first import, device and threads, seeds, the gradient."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere: TensorFlow's C++ log lines ignore its own log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def start(seed: int | None = None) -> Any:
    """Import Keras without its back end's log lines, seed Python, NumPy and the back end; returns ``keras``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        import keras

        keras.ops.convert_to_numpy(keras.ops.zeros(1) + 1)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every second model that predicts
        if has_gpu():
            keras.mixed_precision.set_global_policy("mixed_float16" if name() == "tensorflow" else "mixed_bfloat16")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return keras


def name() -> str:
    """The Keras back end in use: ``tensorflow`` or ``jax``."""
    import keras

    return keras.backend.backend()


def has_gpu() -> bool:
    """Whether the back end sees a GPU."""
    if name() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return jax.default_backend() == "gpu"


def device() -> dict[str, str | int]:
    """What trained: device name, back end and thread counts, for the run record."""
    start()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads: dict[str, str | int] = {"omp_threads": int(os.environ.get("OMP_NUM_THREADS", cores))}
    if name() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        label = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
        threads["intra_op_threads"] = tf.config.threading.get_intra_op_parallelism_threads() or cores
        threads["inter_op_threads"] = tf.config.threading.get_inter_op_parallelism_threads() or cores
    else:
        import jax

        label = jax.devices()[0].device_kind
    return {"device": f"{label} ({name()}, {cores} cores)", **threads}


def feed(images: np.ndarray, batch_size: int = 64) -> dict[str, Any]:
    """Keyword arguments that give ``model.predict`` images (N, S, S) in batches.

    With TensorFlow a tf.data set without autotuning: the tuning thread sleeps ever longer, and at the end of each epoch
    Keras' own would wait for it to wake up (10 to 20 s an epoch with TensorFlow 2.21).
    """
    films = images[..., None]
    if name() != "tensorflow":
        return {"x": films, "batch_size": batch_size}
    import tensorflow as tf

    return {"x": _untuned(tf.data.Dataset.from_tensor_slices(films).batch(batch_size))}


def feed_training(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    class_weights: tuple[float, float] = (1.0, 1.0),
    mixers: Sequence[Callable[[dict[str, Any]], dict[str, Any]]] = (),
) -> dict[str, Any]:
    """Keyword arguments that give ``model.fit`` images (N, S, S) and labels (N,) in the given order.

    ``order`` (epochs, steps, batch) holds row numbers. ``mixers`` change a batch {images (B, S, S, 1), labels (B, 1)};
    the weight of a film follows from its label, mixed or not: ``class_weights`` are those of label 0 and 1.
    """
    films, targets = images[..., None], labels[:, None].astype(np.float32)
    of_normal, of_pneumonia = class_weights

    def batch(films: Any, targets: Any) -> tuple[Any, Any, Any]:
        for mix in mixers:
            mixed = mix({"images": films, "labels": targets})
            films, targets = mixed["images"], mixed["labels"]
        return films, targets, of_normal + (of_pneumonia - of_normal) * targets[:, 0]

    rows = order.reshape(-1, order.shape[-1])
    if name() != "tensorflow":
        return {"x": (batch(films[row], targets[row]) for row in rows), "steps_per_epoch": order.shape[1]}
    import tensorflow as tf

    all_films, all_targets = tf.constant(films), tf.constant(targets)
    data = tf.data.Dataset.from_tensor_slices(rows)
    data = data.map(lambda row: batch(tf.gather(all_films, row), tf.gather(all_targets, row)))
    return {"x": _untuned(data), "steps_per_epoch": order.shape[1], "shuffle": False}  # it is in order already


def _untuned(data: Any) -> Any:
    """The tf.data set with the next batches prepared, without autotuning."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


def gradient(head: Any, activations: Any) -> np.ndarray:
    """Gradient of ``head``'s single logit with respect to its input, image by image.

    ``head`` maps activations (N, h, w, K) to logits (N, 1); returns float32 (N, h, w, K). The sum over the batch is
    differentiated, which keeps images apart because no logit depends on another image's activations.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        watched = tf.convert_to_tensor(activations)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            total = tf.reduce_sum(head(watched, training=False))
        return tape.gradient(total, watched).numpy().astype(np.float32)
    import jax

    def total_logit(values):
        return head(values, training=False).sum()

    return np.asarray(jax.grad(total_logit)(activations), np.float32)
