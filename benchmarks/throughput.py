"""How fast does training run, beside what the machine can do? Default recipe, random images, all timed in one run.

    python benchmarks/throughput.py

Prints images a second of training (augmentation on) and of the forward pass, and the machine's rate of matrix
multiplication; medians of repetitions taken turn and turn about, so that a busy moment hits all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from cnn_xray import backend, network, training
from cnn_xray.parameters import TrainParameters

STEPS, REPETITIONS, MATRIX = 20, 20, 2048


def main() -> None:
    """Time training steps, forward passes and one large matrix product on the back end's own kernels."""
    p = TrainParameters(data="images").resolved()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * p.batch_size, p.image_size, p.image_size)).astype(np.uint8)
    labels = np.arange(len(images)) % 2
    keras = backend.start(0)
    model = network.build(p, backend.training_policy(p.precision, p.width or 0))
    training.compile_model(model, p, steps=1000)
    order = np.arange(len(images)).reshape(1, STEPS, p.batch_size)
    a, b = (keras.ops.convert_to_tensor(rng.normal(size=(MATRIX, MATRIX)).astype(np.float32)) for _ in range(2))

    ways: dict[str, tuple[Callable[[], object], float, str]] = {
        "training": (
            lambda: model.fit(**backend.feed_training(images, labels, order), verbose=0),
            len(images),
            "images/s",
        ),
        "forward pass": (lambda: training.predict(model, images), len(images), "images/s"),
        "matrix product": (
            lambda: keras.ops.convert_to_numpy(keras.ops.matmul(a, b)),
            2 * MATRIX**3 / 1e9,
            "GFLOP/s",
        ),
    }
    for way, _, _ in ways.values():
        way()  # the first call compiles
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, (way, _, _) in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    print(f"{backend.device()['device']}; {p.image_size} px, {model.count_params():,} parameters")
    rates = {name: work / statistics.median(seconds[name]) for name, (_, work, _) in ways.items()}
    for name, (_, _, unit) in ways.items():
        print(f"{name:15s} {rates[name]:8.0f} {unit}")
    print(f"training runs at {rates['training'] / rates['forward pass']:.2f} of the forward pass")


if __name__ == "__main__":
    main()
