"""How fast does training run, beside what the machine can do? Default recipe, random images, all timed in one run.

    python benchmarks/throughput.py [large]

Prints images a second of training (augmentation on), also with swaps, and of the forward pass, and the machine's rate
of matrix multiplication in the precision of training, of which training reaches a share (three forward passes of its
convolutions a step). Medians of repetitions taken turn and turn about, so that a busy moment hits all alike.
``large``: that recipe and a larger matrix, for a GPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_xray import backend, network, swaps, training
from cnn_xray.parameters import TrainParameters

STEPS, REPETITIONS = 20, 20
SWAPPED = {  # training with swaps, the dearest ways last
    "border swapped": {"swap": "border"},
    "outside swapped": {"swap": "outside_lungs"},
    "and aligned": {"swap": "outside_lungs", "swap_aligned": True, "swap_levels": True},
}


def main() -> None:
    """Time training steps, forward passes and one large matrix product on the back end's own kernels."""
    large = sys.argv[1:] == ["large"]
    p = TrainParameters(data="images", recipe="large" if large else "plain").resolved()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * p.batch_size, p.image_size, p.image_size)).astype(np.uint8)
    labels = np.arange(len(images)) % 2
    keras = backend.start(0)
    policy = backend.training_policy(p.precision, p.width or 0)
    model = network.build(p, policy)
    training.compile_model(model, p, steps=1000)
    order = np.arange(len(images)).reshape(1, STEPS, p.batch_size)
    lungs = np.zeros(images.shape, bool)
    lungs[:, p.side // 4 : -p.side // 4, p.side // 8 : -p.side // 8] = True

    def fit(**more: object) -> Callable[[], object]:
        """Training by these parameters; what is done once a training is done here."""
        plan, change = swaps.planned(order, p.model_copy(update=more), labels, np.arange(len(labels)), lungs)
        return lambda: model.fit(**backend.feed_training(images, labels, order, (1, 1), change, plan), verbose=0)

    matrix, exact = 8192 if large else 2048, keras.dtype_policies.get(policy).compute_dtype
    a, b = (keras.ops.cast(rng.normal(size=(matrix, matrix)).astype(np.float32), exact) for _ in range(2))

    ways: dict[str, tuple[Callable[[], object], float, str]] = {
        "training": (fit(), len(images), "images/s"),
        **{name: (fit(**more), len(images), "images/s") for name, more in SWAPPED.items()},
        "forward pass": (lambda: training.predict(model, images), len(images), "images/s"),
        "matrix product": (
            lambda: float(keras.ops.matmul(a, b)[0, 0]),  # one number: the rest stays there
            2 * matrix**3 / 1e9,
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
    print(f"{backend.device()['device']}; {p.image_size} px, {model.count_params():,} parameters, {exact}")
    rates = {name: work / statistics.median(seconds[name]) for name, (_, work, _) in ways.items()}
    for name, (_, _, unit) in ways.items():
        print(f"{name:15s} {rates[name]:8.0f} {unit}")
    print(f"training runs at {rates['training'] / rates['forward pass']:.2f} of the forward pass")
    for name in SWAPPED:
        print(f"{name}: {rates[name] / rates['training']:.2f} of training")
    done = rates["training"] * 3 * flops(model) / 1e9  # forward, and backward to inputs and to weights
    print(f"training does {done:.0f} GFLOP/s, {done / rates['matrix product']:.0%} of the matrix product")


def flops(model: Any) -> float:
    """Floating-point operations of a model's convolutions for one image."""
    layers = [layer for layer in model.layers if layer.name.startswith("conv")]
    return sum(2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]) for layer in layers)


if __name__ == "__main__":
    main()
