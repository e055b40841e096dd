"""A camera motion's name and a random generator in; where the camera looks in each frame out. Arithmetic only.

What the camera does, not what the picture does: in `pan_left` the camera turns left and what it sees moves to the
right; in `tilt_up` what it sees moves down; in `zoom_in` it grows. Lengths are shares of the view's width at the start,
angles radians, y points down.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LABELS: Final = (
    "static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "shake",
)  # fmt: skip
OPPOSITE: Final = {
    "pan_left": "pan_right", "pan_right": "pan_left", "tilt_up": "tilt_down", "tilt_down": "tilt_up",
    "zoom_in": "zoom_out", "zoom_out": "zoom_in",
}  # fmt: skip
"""What a clip shows when its frames are reversed; of the other labels a reversed clip shows the same."""
EASINGS: Final = ("linear", "in", "out", "in_out")

PAN: Final = (0.12, 0.6)
"""Least and greatest way of a pan, in view widths; of 128 pixels in 24 frames: 0.7 to 3.3 pixels a frame."""
TILT: Final = (0.15, 0.6)
"""Of a tilt, in view heights."""
ZOOM: Final = (1.18, 1.8)
"""Least and greatest factor of a zoom from end to end."""
ROLL: Final = (math.radians(8), math.radians(35))
SHAKE: Final = (0.012, 0.035)
"""Amplitude of a shake, in view widths."""
DRIFT: Final = 0.1
"""A hand is not a tripod head: how much of a motion may go across it."""
TREMOR: Final = 0.003
"""Greatest amplitude of the tremor that half of all clips have, in view widths: 0.4 of 128 pixels."""


class Recorded(NamedTuple):
    """What is otherwise when a hand holds the camera; the numbers are of the units above."""

    pan: tuple[float, float] = (0.05, 0.6)
    tilt: tuple[float, float] = (0.06, 0.6)
    zoom: tuple[float, float] = (1.03, 1.8)
    shake: tuple[float, float] = (0.02, 0.05)
    drift: float = 0.2
    tremor: float = 0.009
    """Of a camera that is held still: greatest amplitude of its tremor."""
    sway: float = 0.01
    """And of how slowly it goes to and fro."""
    held: float = 0.12
    """Greatest amplitude of the tremor of a motion, as a share of how far it moves the picture."""
    aside: float = 0.25
    """How far from the middle of the view a zoom may go to."""


RECORDED: Final = Recorded()


class Path(NamedTuple):
    """Where the camera looks: arrays of length T, relative to the start of the motion."""

    x: Floats
    y: Floats
    size: Floats
    """Of the view: 1 is the base, smaller is zoomed in."""
    angle: Floats
    easing: str
    amount: float
    """Size of the motion in the unit of its range above, 0 for static."""


def path_of(
    label: str, num_frames: int, rng: np.random.Generator, *, aspect: float = 4 / 3, recorded: bool = False
) -> Path:
    """A path of one of LABELS, with random size, speed and easing, a little drift and, in half of all, some tremor.

    Args: `aspect` is the view's width by its height; `recorded` makes motions slower and hands less steady.
    """
    if recorded:
        return _held(label, num_frames, rng, aspect)
    easing = EASINGS[rng.integers(len(EASINGS))]
    way = eased(np.linspace(0, 1, num_frames), easing)
    x, y, angle = (np.zeros(num_frames) for _ in range(3))
    size = np.ones(num_frames)
    amount, across = 0.0, rng.uniform(-DRIFT, DRIFT)
    if label.startswith("pan"):
        amount = _between(PAN, rng)
        x, y = amount * way, across * amount * way
        x = -x if label == "pan_left" else x
    elif label.startswith("tilt"):
        amount = _between(TILT, rng)
        y, x = amount / aspect * way, across * amount / aspect * way
        y = -y if label == "tilt_up" else y
    elif label.startswith("zoom"):
        amount = _between(ZOOM, rng)
        size = amount ** (-way if label == "zoom_in" else way)  # each frame by the same factor
        x, y = 0.3 * across * way, 0.3 * rng.uniform(-DRIFT, DRIFT) * way
    elif label == "roll":
        amount = _between(ROLL, rng)
        angle = amount * way * rng.choice([-1, 1])
        x, y = 0.3 * across * way, 0.3 * rng.uniform(-DRIFT, DRIFT) * way
    elif label == "shake":
        amount = _between(SHAKE, rng)
        x, y = (amount * _trembling(num_frames, rng, 3, 8) for _ in range(2))
        angle = 0.3 * amount * _trembling(num_frames, rng, 3, 8)
    elif label != "static":
        raise ValueError(f"{label!r} is none of {', '.join(LABELS)}")
    if rng.random() < 0.5:
        tremor = rng.uniform(0, TREMOR)
        x, y = (place + tremor * _trembling(num_frames, rng, 1, 5) for place in (x, y))
    return Path(x, y, size, angle, easing, amount)


def _held(label: str, num_frames: int, rng: np.random.Generator, aspect: float) -> Path:
    """As path_of, of a camera in a hand: slower and smaller motions, more tremor, drift of all kinds."""
    easing = EASINGS[rng.integers(len(EASINGS))]
    late, early = rng.uniform(0, 0.2, 2) if rng.random() < 0.25 else (0.0, 0.0)
    way = eased(np.clip((np.linspace(0, 1, num_frames) - late) / (1 - late - early), 0, 1), easing)
    x, y, angle = (np.zeros(num_frames) for _ in range(3))
    size = np.ones(num_frames)
    amount, far, across = 0.0, 0.0, rng.uniform(-RECORDED.drift, RECORDED.drift)
    if label.startswith(("pan", "tilt")):
        amount = _between(RECORDED.pan if label.startswith("pan") else RECORDED.tilt, rng)
        far = amount if label.startswith("pan") else amount / aspect
        along = far * way * (-1 if label in ("pan_left", "tilt_up") else 1)
        x, y = (along, across * along) if label.startswith("pan") else (across * along, along)
        size = np.exp(rng.uniform(-0.3, 0.3) * far * way)
    elif label.startswith("zoom"):
        amount = _between(RECORDED.zoom, rng)
        size = amount ** (-way if label == "zoom_in" else way)
        x, y = (rng.uniform(-RECORDED.aside, RECORDED.aside) * (1 - size) for _ in range(2))
        far = (amount - 1) / 2  # at the sides of the view
    elif label == "roll":
        amount = _between(ROLL, rng)
        angle = amount * way * rng.choice([-1, 1])
        x, y = (0.3 * rng.uniform(-DRIFT, DRIFT) * way for _ in range(2))
        far = amount / 2
    elif label == "shake":
        amount = _between(RECORDED.shake, rng)
        x, y = (amount * _trembling(num_frames, rng, 3, 9) for _ in range(2))
        angle = 0.3 * amount * _trembling(num_frames, rng, 3, 9)
    elif label != "static":
        raise ValueError(f"{label!r} is none of {', '.join(LABELS)}")
    if label != "shake" and rng.random() < 0.7:
        still = label == "static"
        tremor = rng.uniform(0, RECORDED.tremor if still else min(0.015, RECORDED.held * far))
        sway = rng.uniform(0, RECORDED.sway if still else RECORDED.held * far / 2)
        x, y = (
            place + tremor * _trembling(num_frames, rng, 1, 7) + sway * _trembling(num_frames, rng, 0.2, 1) / 1.4
            for place in (x, y)
        )
        angle = angle + 0.2 * tremor * _trembling(num_frames, rng, 1, 7)
    return Path(x, y, size, angle, easing, amount)


def eased(places: Floats, easing: str) -> Floats:
    """How far a motion has come, 0 to 1, when a share of its time is over."""
    if easing == "in":
        return places**1.7
    if easing == "out":
        return 1 - (1 - places) ** 1.7
    if easing == "in_out":
        return places * places * (3 - 2 * places)
    return places


def corners_of(path: Path, *, aspect: float = 4 / 3) -> Floats:
    """The four corners of the view in each frame, float64 (T, 4, 2), in view widths from the start's centre."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * [1, 1 / aspect]
    cos, sin = np.cos(path.angle), np.sin(path.angle)
    turned = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    centres = np.stack([path.x, path.y], -1)
    corners: Floats = np.einsum("tij,cj->tci", turned, half) * path.size[:, None, None] + centres[:, None]
    return corners


def _between(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Evenly on a logarithmic scale: slow motions are as frequent as fast ones."""
    return float(np.exp(rng.uniform(*np.log(limits))))


def _trembling(num_frames: int, rng: np.random.Generator, slowest: float, fastest: float) -> Floats:
    """Three sine waves of random phase and of `slowest` to `fastest` periods in the clip; root mean square about 1."""
    time = np.linspace(0, 1, num_frames)
    waves = [np.sin(2 * np.pi * (rng.uniform(slowest, fastest) * time + rng.random())) for _ in range(3)]
    return np.asarray(np.sum(waves, axis=0) * math.sqrt(2 / 3))
