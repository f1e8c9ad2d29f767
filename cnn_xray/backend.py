"""What is particular to TensorFlow or JAX: the quiet first import, seeds, device and threads, batches, the gradient.

TensorFlow is the default; ``KERAS_BACKEND=jax`` before the first import chooses JAX. No other file knows which it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count

THREADS = {  # as the run record names them: the variable that limits them
    "omp_threads": "OMP_NUM_THREADS",
    "intra_op_threads": "TF_NUM_INTRAOP_THREADS",
    "inter_op_threads": "TF_NUM_INTEROP_THREADS",
}
AT_ONCE = 4  # trainings side by side at most: each takes some 2 GB of memory


def start(seed: int | None = None) -> Any:
    """Import Keras without its back end's log lines, and return it.

    Parameters
    ----------
    seed
        Of Python, NumPy and the back end, where one is to be set.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        import keras

        keras.ops.convert_to_numpy(keras.ops.zeros(1) + 1)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every second model that predicts
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return keras


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


def is_tensorflow() -> bool:
    """Whether Keras runs on TensorFlow; else it runs on JAX."""
    import keras

    return keras.backend.backend() == "tensorflow"


def _gpu_name() -> str:
    """The first GPU that the back end sees, or ""."""
    if is_tensorflow():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else ""
    import jax

    return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else ""


def device() -> dict[str, str | int]:
    """Name of the device, back end and thread counts, for the run record."""
    name = start().backend.backend()
    cores = cpu_count()
    threads = {told: int(os.environ.get(variable, str(cores)).split(",")[0]) for told, variable in THREADS.items()}
    return {"device": f"{_gpu_name() or 'CPU'} ({name}, {cores} cores)", **threads}


def trainings_at_once(wanted: int) -> int:
    """How many networks to train side by side: one a core, up to `AT_ONCE`; one by JAX or on a GPU, which it fills.

    Parameters
    ----------
    wanted
        Networks to be trained.
    """
    at_most = min(wanted, cpu_count(), AT_ONCE)
    if at_most > 1:
        start()
        if not is_tensorflow() or _gpu_name():
            return 1
    return at_most


def limited(threads: int) -> dict[str, str]:
    """The environment of a process that is to use so many threads, set before the back end starts.

    Parameters
    ----------
    threads
        At least 1.
    """
    return dict.fromkeys(THREADS.values(), str(max(1, threads)))


def training_policy(precision: str, channels: int) -> str:
    """Name of Keras' dtype policy that networks are trained with: mixed half precision, or ``float32``.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        ``auto``: half precision where the device is faster by it: a GPU, or a processor with bfloat16 of its own, if
        the network is not small (1.4 times as fast from 32 channels, no faster at 16; where bfloat16 is emulated, half
        as fast).
    channels
        Of the network's first block.
    """
    if precision != "auto":
        return {"bfloat16": "mixed_bfloat16"}.get(precision, precision)
    if _gpu_name():
        return "mixed_float16" if is_tensorflow() else "mixed_bfloat16"
    return "mixed_bfloat16" if is_tensorflow() and channels >= 32 and _has_bfloat16() else "float32"


def _has_bfloat16() -> bool:
    """Whether the processor says that it multiplies bfloat16 (x86 under Linux)."""
    with suppress(OSError):
        return bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    return False


def feed(images: np.ndarray, batch_size: int = 64) -> dict[str, Any]:
    """Keyword arguments that give ``model.predict`` images in batches.

    With TensorFlow a tf.data set without autotuning: the tuning thread sleeps ever longer, and at the end of each epoch
    Keras' own would wait for it to wake up (10 to 20 s an epoch with TensorFlow 2.21).

    Parameters
    ----------
    images : ndarray (N, S, S)
    batch_size
        Images a batch.
    """
    if not is_tensorflow():
        return {"x": images[..., None], "batch_size": batch_size}
    import tensorflow as tf

    return {"x": _untuned(tf.data.Dataset.from_tensor_slices(images[..., None]).batch(batch_size))}


def feed_training(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    class_weights: Sequence[float] = (1.0, 1.0),
    change: Callable[..., Any] | None = None,
    plan: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Keyword arguments that give ``model.fit`` images and labels in a given order.

    Parameters
    ----------
    images : ndarray (N, S, S)
    labels : ndarray (N,)
    order : ndarray (epochs, steps, batch) int
        Row numbers.
    class_weights
        Weights of label 0 and 1 in the loss.
    change
        Makes the inputs of a batch: a function of ``take``, which picks rows of an array (N, …) of
        the training images, the images (N, S, S, 1), the batch's rows (B,) and its part of the plan.
    plan
        Arrays (epochs, steps, batch, …) by name.
    """
    inputs, targets = images[..., None], labels[:, None].astype(np.float32)
    of_normal, of_pneumonia = class_weights

    def batch(take: Any, step: dict[str, Any], inputs: Any, targets: Any) -> tuple[Any, Any, Any]:
        rows = step.pop("rows")
        inputs, targets = change(take, inputs, rows, **step) if change else take(inputs, rows), take(targets, rows)
        return inputs, targets, of_normal + (of_pneumonia - of_normal) * targets[:, 0]

    steps = {name: one.reshape(-1, *one.shape[2:]) for name, one in {"rows": order, **(plan or {})}.items()}
    if not is_tensorflow():
        every = ({name: one[i] for name, one in steps.items()} for i in range(len(steps["rows"])))
        made = (batch(lambda array, rows: array[rows], step, inputs, targets) for step in every)
        return {"x": made, "steps_per_epoch": order.shape[1]}
    import tensorflow as tf

    all_inputs, all_targets = tf.constant(inputs), tf.constant(targets)
    data = tf.data.Dataset.from_tensor_slices(steps)
    data = data.map(lambda step: batch(tf.gather, dict(step), all_inputs, all_targets))
    return {"x": _untuned(data), "steps_per_epoch": order.shape[1], "shuffle": False}  # it is in order already


def _untuned(data: Any) -> Any:
    """The tf.data set with the next batches prepared, without autotuning."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled for JAX, which would else start a kernel for each of its operations.

    With TensorFlow it is the function itself: `feed_training` makes it part of a graph.

    Parameters
    ----------
    function
        Of tensors, lists of them, or None.
    """
    if is_tensorflow():
        return function
    import jax

    return jax.jit(function)


def gradient(head: Any, activations: Any) -> np.ndarray:
    """Gradient of a model's single logit with respect to its input, image by image: float32 (N, h, w, K).

    The sum over the batch is differentiated, which keeps images apart because no logit depends on another image's
    activations.

    Parameters
    ----------
    head
        Model from activations to logits (N, 1).
    activations : array (N, h, w, K)
    """
    if is_tensorflow():
        import tensorflow as tf

        watched = tf.convert_to_tensor(activations)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            total = tf.reduce_sum(head(watched, training=False))
        return tape.gradient(total, watched).numpy().astype(np.float32)
    import jax

    return np.asarray(jax.grad(lambda values: head(values, training=False).sum())(activations), np.float32)
