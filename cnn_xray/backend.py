"""What is particular to TensorFlow or JAX: the quiet first import, device and threads, seeds, the gradient."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
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


def feed(
    images: np.ndarray, labels: np.ndarray | None = None, batch_size: int = 64, shuffle_seed: int | None = None
) -> dict[str, Any]:
    """Keyword arguments that give ``model.fit`` or ``model.predict`` images (N, S, S) and labels (N,) in batches.

    With TensorFlow a tf.data set without autotuning: the tuning thread sleeps ever longer, and at the end of each epoch
    Keras' own would wait for it to wake up (10 to 20 s an epoch with TensorFlow 2.21). With ``shuffle_seed`` the order
    is drawn anew each epoch.
    """
    films = images[..., None]
    targets = None if labels is None else labels[:, None].astype(np.float32)
    if name() != "tensorflow":
        arrays = {"x": films} if targets is None else {"x": films, "y": targets, "shuffle": shuffle_seed is not None}
        return {**arrays, "batch_size": batch_size}
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices(films if targets is None else (films, targets))
    if shuffle_seed is not None:
        data = data.shuffle(len(films), seed=shuffle_seed)
    batches = {"x": data.batch(batch_size).prefetch(2).with_options(options)}
    return batches if targets is None else {**batches, "shuffle": False}  # it is shuffled already


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
