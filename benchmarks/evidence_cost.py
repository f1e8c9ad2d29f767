"""What evidence maps cost beside a plain forward pass: 624 images at 128 px, all ways timed in one run.

Prints seconds (median of five repetitions, turn and turn about) and the ratio to the forward pass.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from cnn_xray import backend, cam, network, training
from cnn_xray.parameters import TrainParameters

IMAGES, REPETITIONS, BATCH = 624, 5, 64


def main() -> None:
    """Time the forward pass, the closed form and gradient Grad-CAM on the same random images."""
    p = TrainParameters(image_size=128, width=32)  # the default recipe
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 128, 128)).astype(np.uint8)
    model = network.build(p)
    mapper = cam.evidence_model(model)
    ways = {
        "forward pass": lambda: training.predict(model, images, BATCH),
        "closed form": lambda: mapper.predict(**backend.feed(images, batch_size=BATCH), verbose=0),
        "gradient Grad-CAM": lambda: cam.gradient_map(model, images, batch_size=BATCH),
    }
    for way in ways.values():
        way()  # the first call compiles
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    forward = statistics.median(seconds["forward pass"])
    print(f"{IMAGES} images at {p.image_size} px, {model.count_params():,} parameters")
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:18s} {median:6.2f} s   {IMAGES / median:6.0f} images/s   {median / forward:5.2f} × forward")


if __name__ == "__main__":
    main()
