"""What evidence maps cost beside a plain forward pass: 624 films at 128 px, all ways timed in one run.

Prints seconds (median of five repetitions, turn and turn about) and the ratio to the forward pass.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from cnn_xray import backend, cam, network, training
from cnn_xray.parameters import TrainParameters

FILMS, REPETITIONS, BATCH = 624, 5, 64


def main() -> None:
    """Time the forward pass, the closed form and gradient Grad-CAM on the same random films."""
    p = TrainParameters(image_size=128, width=32)  # as on real films
    films = np.random.default_rng(0).integers(0, 256, (FILMS, 128, 128)).astype(np.uint8)
    model = network.build(p)
    mapper = cam.evidence_model(model)
    ways = {
        "forward pass": lambda: training.predict(model, films, BATCH),
        "closed form": lambda: mapper.predict(**backend.feed(films, batch_size=BATCH), verbose=0),
        "gradient Grad-CAM": lambda: cam.gradient_map(model, films, batch_size=BATCH),
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
    print(f"{FILMS} films at {p.image_size} px, {model.count_params():,} parameters")
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:18s} {median:6.2f} s   {FILMS / median:6.0f} films/s   {median / forward:5.2f} × forward")


if __name__ == "__main__":
    main()
