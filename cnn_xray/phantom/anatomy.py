"""Paint one radiograph of the phantom: anatomy, opacities, exposure and noise, with the exact masks.

Anatomy is drawn in a frame where x and y run from -1 to 1 over the image (x to the right, y downwards; the
patient's right is on the left, as in every chest radiograph), then carried to pixels by one random affine map.
Structures add up like the attenuation they stand for: tissue and bone brighten, air darkens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

AERATION = 0.45  # how much darker aerated lung is than soft tissue, in units of the grey range
CIRCLE = np.array([(math.cos(k * math.pi / 12), math.sin(k * math.pi / 12)) for k in range(24)])
STEPS = 6  # points of a smooth outline from one control point to the next
SUBPIXEL = 4  # OpenCV's fixed-point bits: outlines land between pixels


@dataclass(frozen=True)
class Radiograph:
    """``image`` (S, S) uint8, and its masks ``lungs`` (aerated lung) and ``opacity``, (S, S) bool."""

    image: np.ndarray
    lungs: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class _Canvas:
    """Where to draw: side of the image in px and the affine map (2, 3) from anatomy to pixels."""

    size: int
    affine: np.ndarray

    def fill(self, *outlines: np.ndarray) -> np.ndarray:
        """Coverage (S, S) float32 in 0..1 of filled outlines (n, 2), or stacks of them (m, n, 2)."""
        layer = np.zeros((self.size, self.size), np.uint8)
        for stack in outlines:
            placed = (stack @ self.affine[:, :2].T + self.affine[:, 2]) * 2**SUBPIXEL
            for outline in np.rint(placed).astype(np.int32).reshape(-1, *stack.shape[-2:]):
                cv2.fillPoly(layer, [outline], 255, cv2.LINE_AA, SUBPIXEL)
        return layer.astype(np.float32) / np.float32(255)

    def soften(self, layer: np.ndarray, blur: float) -> np.ndarray:
        """Gaussian blur, ``blur`` a fraction of the image's side; wide blurs are done on a coarse grid."""
        if blur * self.size < 3:
            return cv2.GaussianBlur(layer, (0, 0), blur * self.size)
        coarse = cv2.resize(layer, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), blur * self.size / 4)
        return cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_LINEAR)

    def field(self, rng: Generator, cells: int) -> np.ndarray:
        """Smooth noise (S, S) float32 of about unit variance, ``cells`` bumps a side."""
        coarse = rng.standard_normal((cells, cells), np.float32)
        return cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC)


def radiograph(size: int, label: int, signal: float, patient: Generator, visit: Generator) -> Radiograph:
    """A chest radiograph and its masks.

    Parameters
    ----------
    size
        Side, px.
    label
        1: one or two opacities in the lungs; 0: none.
    signal
        Fraction of the lung's air that an opacity of average density replaces.
    patient
        Draws what two images of one patient have in common (build, heart, ribs).
    visit
        Draws everything else.
    """
    build = patient.uniform(-1, 1, 12).tolist()
    canvas = _Canvas(size, _pose(size, visit))
    right, left, abdomen = _lungs(build)
    coverage = canvas.fill(right, left)
    lungs = coverage > 0.5

    opacity = np.zeros((size, size), np.float32)
    for _ in range(label * int(visit.integers(1, 3))):
        radius, density = visit.uniform(0.15, 0.27), signal * visit.uniform(0.6, 1.4)
        opacity = np.maximum(opacity, density * _patch(canvas, lungs, radius, visit))
    benign = np.zeros((size, size), np.float32)  # the same shapes, smaller and fainter, in both classes
    for _ in range(int(visit.integers(0, 4))):
        radius, density = visit.uniform(0.06, 0.14), visit.uniform(0.08, 0.25)
        benign = np.maximum(benign, density * _patch(canvas, lungs, radius, visit))
    haze = np.clip(0.08 + 0.05 * canvas.field(visit, 4), 0, 1)  # uneven aeration

    air = coverage * (1 - np.minimum(opacity, 0.95)) * (1 - benign) * (1 - haze)
    attenuation = _tissue(canvas, build, abdomen, visit) + _bones(canvas, build, coverage)
    attenuation += coverage * _vessels(canvas, visit) * (1 - 0.6 * np.minimum(opacity, 1)) - AERATION * air
    return Radiograph(_expose(canvas, attenuation, visit), lungs, (opacity > 0.25 * signal) & lungs)


def _pose(size: int, rng: Generator) -> np.ndarray:
    """A small random rotation, scale and shift, from the anatomy's frame to pixels."""
    angle, half = np.radians(rng.normal(0, 2.0)), size / 2
    scale = half * np.clip(rng.normal(1, 0.03, 2), 0.92, 1.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    shift = half * (1 + np.clip(rng.normal(0, 0.025, 2), -0.06, 0.06)) - 0.5
    return np.column_stack([turn, shift])


@cache
def _spline(count: int, closed: bool) -> np.ndarray:
    """Matrix that takes ``count`` control points to a Catmull-Rom curve through them."""
    t = np.arange(STEPS)[:, None] / STEPS
    basis = np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2
    weights = t ** np.arange(4) @ basis.T
    spans = count if closed else count - 1
    near = np.arange(spans)[:, None] + np.arange(-1, 3)  # the four control points of each span
    near = near % count if closed else np.clip(near, 0, count - 1)
    return (weights @ np.eye(count)[near]).reshape(-1, count)


def _curve(points: list[tuple[float, float]] | np.ndarray, closed: bool = True) -> np.ndarray:
    return _spline(len(points), closed) @ np.asarray(points, float)


def _wall(y: np.ndarray | float, build: list[float]) -> np.ndarray:
    """Half-width of the rib cage at height y: an ellipse narrowing to the apex."""
    return (0.72 + 0.03 * build[0]) * np.sqrt(np.clip(1 - ((0.38 - np.asarray(y)) / 1.22) ** 2, 0.02, 1))


def _lungs(build: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outlines of the right lung (wider), the left (heart's notch, lower diaphragm) and the abdomen."""
    heart, dome, apex, base = 0.05 * build[1], 0.05 * build[2], 0.03 * build[3], 0.05 * build[4]
    heights = np.array([-0.60, -0.38, -0.12, 0.14, 0.36])
    lateral = np.column_stack([_wall(heights, build) - 0.025, heights])
    corner = float(_wall(0.5, build)) - 0.03
    right = [(0.13, -0.36), (0.15, -0.60), (0.27, -0.775 + apex), *lateral]
    right += [(corner, 0.54 + base), (corner - 0.03, 0.55 + base), (corner - 0.17, 0.40 + base)]
    right += [(0.38, 0.33 + base - dome), (0.22, 0.37 + base), (0.14, 0.41 + base)]
    right += [(0.18 + heart / 2, 0.22), (0.175 + heart / 2, 0.05), (0.12, -0.12)]
    left = [(0.15, -0.38), (0.14, -0.62), (0.26, -0.775 + apex), *lateral]
    left += [(corner, 0.60 + base), (corner - 0.03, 0.61 + base), (corner - 0.13, 0.49 + base)]
    left += [(0.50, 0.44 + base - dome), (0.43 + heart, 0.43 + base - dome)]
    left += [(0.41 + heart, 0.26), (0.33 + heart, 0.06), (0.20, -0.10), (0.14, -0.22)]
    curves = _curve(np.array(right) * [-1, 1]), _curve(left)
    domes = curves[0][8 * STEPS : 13 * STEPS], curves[1][12 * STEPS : 8 * STEPS - 1 : -1]  # corner to heart and back
    return *curves, np.vstack([*domes, [(0.9, 1.4), (-0.9, 1.4)]])


def _tissue(canvas: _Canvas, build: list[float], abdomen: np.ndarray, rng: Generator) -> np.ndarray:
    """Soft tissue: trunk, neck, arms, heart and mediastinum, abdomen, breasts, trachea and stomach bubble."""
    stout = 0.04 * build[5]
    half = [(0.15, -1.3), (0.16, -0.98), (0.30, -0.87), (0.58, -0.80), (0.78, -0.68), (0.82, -0.45)]
    half += [(0.77 + stout, -0.2), (0.80 + stout, 0.1), (0.84 + stout, 0.5), (0.86 + stout, 1.3)]
    trunk = _curve(half + [(-x, y) for x, y in reversed(half)])
    arms = [_arm(side, build[6] + rng.uniform(-0.3, 0.3)) for side in (-1, 1)]
    heart = 0.05 * build[1]
    shadow = [(-0.08, -0.95), (-0.12, -0.5), (-0.13, -0.1), (-0.19 - heart / 2, 0.12), (-0.16, 0.4), (0.1, 0.52)]
    shadow += [(0.36 + heart, 0.46), (0.42 + heart, 0.28), (0.33 + heart, 0.06), (0.18, -0.12), (0.16, -0.33)]
    dense = canvas.fill(_curve([*shadow, (0.11, -0.5), (0.08, -0.95)]), abdomen)
    bust = canvas.fill(*(_disc(side * 0.42, 0.33, 0.30, 0.24) for side in (-1, 1)))
    airway = canvas.fill(np.array([(-0.035, -1.3), (0.035, -1.3), (0.045, -0.30), (-0.045, -0.30)]))
    bubble = canvas.fill(_disc(0.44, 0.62, rng.uniform(0.10, 0.20), rng.uniform(0.05, 0.10)))
    inner = canvas.soften(canvas.fill(trunk) + max(0.0, 0.5 * build[7]) * bust, 0.045)
    texture = 0.020 * canvas.field(rng, 5) + 0.012 * canvas.field(rng, 14)
    gas = 0.08 * airway + max(0.0, rng.uniform(-0.12, 0.12)) * bubble
    return canvas.fill(trunk, *arms) * (0.33 + 0.20 * inner + 0.11 * dense - gas + texture)


def _arm(side: int, lift: float) -> np.ndarray:
    """Outline of an upper arm, hanging out of the shoulder; ``lift`` about -1..1 raises it."""
    angle = math.radians(50 - 20 * lift)
    along = np.array([math.cos(angle), math.sin(angle)])
    turn = np.array([along, [-along[1], along[0]]])
    upper = [(-0.12, 0.0), (-0.06, -0.12), (0.1, -0.16), (0.5, -0.14), (1.3, -0.11)]
    lower = [(1.3, 0.11), (0.5, 0.12), (0.1, 0.13)]
    return _curve(np.array(upper + lower) @ turn + [0.74, -0.60]) * [side, 1]


def _disc(x: float, y: float, a: float, b: float) -> np.ndarray:
    return CIRCLE * [a, b] + [x, y]


def _bones(canvas: _Canvas, build: list[float], aerated: np.ndarray) -> np.ndarray:
    """Ribs, clavicles, shoulder and spine; bone stands out over air and drowns in dense tissue."""
    behind, before = _ribs(build)
    collar = [(0.06, -0.60), (0.18, -0.63), (0.40, -0.72), (0.70, -0.70)]
    humerus = [(0.77, -0.60), (0.95, -0.42), (1.3, 0.0)]
    limbs, blades = [], []
    for side in (-1, 1):
        limbs.append(_band(_curve(collar, closed=False) * [side, 1], 0.028))
        limbs += [_disc(side * 0.77, -0.60, 0.07, 0.08), _band(np.array(humerus) * [side, 1], 0.045)]
        blade = [(0.58, -0.60), (0.69, -0.45), (0.67, -0.15), (0.57, -0.2), (0.53, -0.45)]
        blades.append(_curve(blade) * [side, 1])
    tops = np.arange(-1.2, 1.1, 0.118) + 0.03 * build[8]
    waist = np.array([(-1, 0), (-0.82, 0.04), (-1, 0.08), (1, 0.08), (0.82, 0.04), (1, 0)])
    slabs = waist * np.stack([0.078 + 0.015 * (tops + 1), np.ones(len(tops))], -1)[:, None]
    spine = canvas.fill(slabs + np.stack([np.zeros(len(tops)), tops], -1)[:, None])
    over_air = 0.30 + 0.70 * aerated
    ribs = (0.10 + 0.02 * build[9]) * canvas.fill(behind) + 0.045 * canvas.fill(before)
    return ribs * over_air + 0.11 * canvas.fill(*limbs) + 0.03 * canvas.fill(*blades) + 0.07 * spine


def _ribs(build: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Outlines (n, 2t, 2) of the posterior arcs, from the spine outwards, and the anterior, back and down."""
    number = np.arange(10)[:, None]
    gap = 0.122 + 0.006 * build[10]
    root = -0.80 + gap * number
    drop = 0.13 + 0.013 * number + 0.02 * build[11]
    wide = _wall(root + drop, build) + 0.01
    turn = np.linspace(0.0, 1.0, 14)[None] * np.pi / 2
    x = 0.08 + (wide - 0.08) * np.sin(turn)
    y = root - 0.05 * np.sin(2 * turn) * (number < 8) + drop * (1 - np.cos(turn))
    behind = _band(np.stack([x, y], -1), 0.021)
    x = 0.38 + (wide - 0.38) * np.cos(turn)
    y = root + drop + (0.22 + 0.01 * number) * np.sin(turn)
    before = _band(np.stack([x, y], -1)[:6], 0.023)
    mirror = np.array([-1, 1])
    return np.concatenate([behind, behind * mirror]), np.concatenate([before, before * mirror])


def _band(line: np.ndarray, half_width: float | np.ndarray) -> np.ndarray:
    """Outline (..., 2n, 2) of a band along the polylines (..., n, 2)."""
    step = np.diff(line, axis=-2)
    along = np.concatenate([step[..., :1, :], step[..., 1:, :] + step[..., :-1, :], step[..., -1:, :]], -2)
    length = np.hypot(along[..., 0], along[..., 1]) + 1e-9
    across = np.stack([-along[..., 1] / length, along[..., 0] / length], -1) * half_width
    return np.concatenate([line + across, (line - across)[..., ::-1, :]], axis=-2)


def _vessels(canvas: _Canvas, rng: Generator) -> np.ndarray:
    """Density (S, S) of the hila and of the vessels that fan out from them, branch once and taper."""
    count, t = 7, np.linspace(0, 1, 7)
    side = np.repeat([-1.0, 1.0], count)[:, None]
    angle = np.concatenate([np.linspace(-1.3, 1.4, count)] * 2)[:, None] + rng.normal(0, 0.15, (2 * count, 1))
    reach = rng.uniform(0.30, 0.55, (2 * count, 1)) * (1 + 0.35 * np.abs(np.sin(angle)))
    bend = angle + rng.normal(0, 0.25, (2 * count, 1)) * t
    trunk = np.stack([0.17 + reach * t * np.cos(bend), -0.10 + 0.03 * side + reach * t * np.sin(bend)], -1)
    fork = bend[:, 2] + np.array([0.55, -0.55, 0.35])[:, None] + rng.normal(0, 0.15, (3, 2 * count))
    length = reach[:, 0] * rng.uniform(0.3, 0.6, (3, 2 * count))
    start = trunk[:, 2:5].transpose(1, 0, 2)[:, :, None]
    twigs = start + (np.stack([np.cos(fork), np.sin(fork)], -1) * length[..., None])[:, :, None] * t[:, None]
    mirror = np.stack([side, np.ones_like(side)], -1)
    thick, thin = (0.017 * (1 - 0.7 * t))[:, None], (0.010 * (1 - 0.6 * t))[:, None]
    branches = [_band(trunk * mirror, thick), _band((twigs * mirror).reshape(-1, 7, 2), thin)]
    hila = canvas.soften(canvas.fill(*(_disc(s * 0.18, -0.08 + 0.03 * s, 0.07, 0.13) for s in (-1, 1))), 0.022)
    return rng.uniform(0.06, 0.12) * canvas.fill(*branches) + rng.uniform(0.04, 0.12) * hila


def _patch(canvas: _Canvas, lungs: np.ndarray, radius: float, rng: Generator) -> np.ndarray:
    """A soft-edged, ragged patch (S, S) float32 in 0..1 with its centre in the lungs."""
    inside = np.flatnonzero(lungs)
    row, column = divmod(int(inside[rng.integers(len(inside))]), canvas.size)
    coarse = _Canvas(canvas.size // 2, canvas.affine)  # it is smooth: half the resolution is enough
    axis = np.arange(coarse.size, dtype=np.float32) * (2 / coarse.size)
    dx, dy = axis - 2 * column / canvas.size, axis[:, None] - 2 * row / canvas.size
    stretch, tilt = rng.uniform(0.75, 1.3), rng.uniform(0, math.pi)
    cos, sin = math.cos(tilt) / radius, math.sin(tilt) / radius
    distance = ((dx * cos + dy * sin) * stretch) ** 2 + ((dy * cos - dx * sin) / stretch) ** 2
    ragged = distance + 0.35 * coarse.field(rng, 9) + 0.2 * coarse.field(rng, 20)
    edge = np.clip(1.3 - 0.8 * ragged, 0, 1)
    patch = edge * edge * (3 - 2 * edge)
    return cv2.resize(patch, (canvas.size, canvas.size), interpolation=cv2.INTER_LINEAR)


def _expose(canvas: _Canvas, attenuation: np.ndarray, rng: Generator) -> np.ndarray:
    """Attenuation to grey values (S, S) uint8: focal blur, scatter, exposure jitter, sensor noise."""
    sharp = canvas.soften(attenuation, 0.0052)
    tone = np.clip(0.06 + 0.92 * sharp + 0.12 * canvas.soften(sharp, 0.10), 0, None)
    gain, gamma, floor = rng.uniform(0.88, 1.15), rng.uniform(0.85, 1.2), rng.uniform(0.0, 0.05)
    noise = rng.standard_normal((canvas.size, canvas.size), np.float32) * rng.uniform(0.012, 0.025)
    grey = floor + gain * cv2.pow(tone, gamma) + noise
    return cv2.convertScaleAbs(np.maximum(grey, 0), alpha=255)  # rounds, and saturates at 255
