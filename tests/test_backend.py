"""The two back ends: JAX trains, predicts and explains as TensorFlow does, in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cnn_xray import backend

TWO_STEPS = """
import json, sys
import numpy as np
from cnn_xray import backend, cam, network, swaps, training
from cnn_xray.parameters import TrainParameters

still = dict(flip=False, rotation=0.0, shift=0.0, zoom=0.0, aspect_jitter=0.0, brightness=0.0, contrast=0.0, blur=0.0)
p = TrainParameters(image_size=32, width=4, epochs=1, batch_size=8, dropout=0.0, balance="none", **still,
                    swap="outside_lungs", swap_share=1.0, swap_aligned=True, swap_levels=True)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (16, 32, 32)).astype(np.uint8), np.arange(16) % 2
lungs = rng.random((16, 32, 32)) < np.linspace(0.01, 0.1, 16)[:, None, None]
model = network.build(p)
for i, layer in enumerate(model.layers):  # the same first weights whatever the back end draws
    draw = np.random.default_rng(i)
    layer.set_weights([w + 0.05 * draw.normal(size=w.shape) if w.ndim > 1 else w for w in
                       [np.zeros(w.shape) if w.ndim > 1 else w for w in layer.get_weights()]])
swapping = lambda order: swaps.planned(order, p, labels, np.arange(16), lungs)
history = training.fit(model, p, (images, labels), (images, labels), swapping)
plan, change = swapping(np.arange(16).reshape(1, 2, 8))
told = {name: one[0, 0] for name, one in plan.items()}
swapped = change(lambda array, rows: np.asarray(array)[rows], images[..., None], np.arange(8), **told)
found = cam.evidence(model, images)
print(json.dumps({
    "backend": "tensorflow" if backend.is_tensorflow() else "jax", "device": backend.device()["device"],
    "loss": history["loss"].tolist(), "logits": training.predict(model, images).tolist(),
    "residual": float(found.residual().max()), "map": found.maps[0].tolist(),
    "swapped": np.asarray(swapped).ravel().tolist(),
    "gradient": cam.gradient_map(model, images[:1])[0].tolist(),
}), file=sys.stderr)
"""


@pytest.mark.slow
def test_jax_trains_predicts_and_explains_as_tensorflow_does():
    pytest.importorskip("jax")
    told = {}
    for name in ("tensorflow", "jax"):
        environment = {**os.environ, "KERAS_BACKEND": name, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", TWO_STEPS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told[name] = json.loads(done.stderr.splitlines()[-1])
        assert told[name]["backend"] == name and name in told[name]["device"]
        assert told[name]["residual"] < 1e-4
        np.testing.assert_allclose(told[name]["gradient"], told[name]["map"], atol=1e-4)
    np.testing.assert_allclose(told["jax"]["swapped"], told["tensorflow"]["swapped"], atol=0.05)  # of 255 grey values
    assert np.ptp(told["jax"]["swapped"]) > 100
    for name in ("loss", "logits", "map"):
        np.testing.assert_allclose(told["jax"][name], told["tensorflow"][name], atol=2e-3)
    assert np.ptp(told["jax"]["logits"]) > 1e-3


def test_training_takes_half_precision_only_where_it_is_faster(monkeypatch):
    for has, channels, wanted in ((True, 32, "mixed_bfloat16"), (True, 16, "float32"), (False, 32, "float32")):
        monkeypatch.setattr(backend, "_has_bfloat16", lambda has=has: has)
        assert backend.training_policy("auto", channels) == wanted
    assert backend.training_policy("float32", 32) == "float32"
    assert backend.training_policy("bfloat16", 16) == "mixed_bfloat16"
