"""A picture and a camera's path in; frames as recordings have them out, not as a camera alone would see the picture.

People and crowds that fill the view and come nearer, things nearer than the rest, captions and logos that stay where
they are, titles on plain ground, fades and dissolves, bars of black, low light, blur, held and blended frames. Lengths
are shares of the view's width. What the camera does is the path's: nothing here changes what the right label is.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from camera_paths import Path as CameraPath
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

TITLES: Final = 0.12
"""Share of clips that show writing on plain ground and nothing else."""
CROWDS: Final = 0.15
FILLING: Final = 0.2
"""Of clips with one thing that takes up to LARGEST of the view's width."""
LARGEST: Final = 0.8
CAPTIONS: Final = 0.2
FADES: Final = 0.12
BARRED: Final = 0.2
HELD: Final = 0.15
"""Of clips whose frames come twice or three times, as of a lower rate."""
BLENDED: Final = 0.1
BLURRED: Final = 0.3
GREY: Final = 0.1


class Thing(NamedTuple):
    """Something in the scene that has a shape and goes its own way."""

    picture: Image.Image
    mask: Image.Image
    width: float
    places: Floats
    """Of its middle, (T, 2), from the middle of the view at the start."""
    growth: Floats
    """Its size in each frame, 1 at the start."""
    depth: float
    """How far the camera's motion moves it: 0 for what the camera follows, 1 for the ground, more for what is near."""


def things_of(pictures: Pixels, num_frames: int, rng: np.random.Generator) -> list[Thing]:
    """What moves in a clip, the farthest first: pieces of other pictures (n, H, W, 3)."""
    time = np.linspace(-0.5, 0.5, num_frames)
    found = []

    def add(width: float, middle: Floats, way: Floats, growth: float, sway: float, depth: float) -> None:
        swings = [np.sin(2 * np.pi * (rng.uniform(0.3, 4) * time + rng.random())) for _ in range(2)]
        places = middle + time[:, None] * way + sway * np.stack(swings, axis=1) * [1, 0.6]
        picture, mask = _piece(pictures[rng.integers(len(pictures))], rng)
        found.append(Thing(picture, mask, width, places, growth ** (time + 0.5), depth))

    for _ in range(rng.integers(0, 3)):
        add(rng.uniform(0.08, 0.3), rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.6, 0.6, 2), rng.uniform(0.8, 1.25), 0, 1)
    if rng.random() < CROWDS:
        way, growth, size = rng.uniform(-0.35, 0.35, 2), math.exp(rng.uniform(-0.2, 0.7)), rng.uniform(0.08, 0.22)
        for _ in range(rng.integers(5, 13)):
            middle = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.1, 0.4)])
            own = way + rng.normal(0, 0.06, 2) + (growth - 1) * middle * 0.7  # what comes nearer spreads
            add(size * rng.uniform(0.7, 1.3), middle, own, growth, rng.uniform(0, 0.02), 1)
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 3)):
            add(rng.uniform(0.1, 0.35), rng.uniform(-0.5, 0.5, 2), np.zeros(2), 1, 0, rng.uniform(1.2, 2))
    if rng.random() < FILLING:
        middle, way = np.array([rng.uniform(-0.25, 0.25), rng.uniform(0, 0.25)]), rng.uniform(-0.15, 0.15, 2)
        depth = float(rng.choice([0.0, 0.3, 1.0]))
        width, growth = rng.uniform(0.3, LARGEST), math.exp(rng.uniform(-0.25, 0.25))
        add(width, middle, way, growth, rng.uniform(0, 0.05), depth)
    return found


def _piece(picture: Pixels, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A part of a picture, and its shape: round, or a head over shoulders."""
    high, wide = picture.shape[:2]
    size = int(rng.integers(high // 4, high * 3 // 4))
    left, top = int(rng.integers(wide - size)), int(rng.integers(high - size))
    mask = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(mask)
    if rng.random() < 0.5:
        pen.ellipse((0, 0, size - 1, size - 1), fill=255)
    else:
        pen.ellipse((size * 0.3, 0, size * 0.7, size * 0.48), fill=255)
        pen.rounded_rectangle((size * 0.08, size * 0.42, size * 0.92, size * 1.2), size * 0.25, fill=255)
    return Image.fromarray(picture[top : top + size, left : left + size]), mask.filter(ImageFilter.GaussianBlur(1.5))


def put(things: list[Thing], seen: Image.Image, path: CameraPath, index: int) -> None:
    """Draw the things over what the camera sees of the ground in one frame."""
    cos, sin = math.cos(path.angle[index]), math.sin(path.angle[index])
    for thing in things:
        near = 1 + (path.size[index] - 1) * thing.depth
        x, y = thing.places[index] - thing.depth * np.array([path.x[index], path.y[index]])
        turned = np.array([cos * x + sin * y, cos * y - sin * x]) if thing.depth else np.array([x, y])
        side = int(thing.width * thing.growth[index] / near * seen.width)
        if 2 <= side <= 2 * seen.width:
            corner = np.round(turned / near * seen.width + np.array(seen.size) / 2 - side / 2).astype(int).tolist()
            seen.paste(thing.picture.resize((side, side)), tuple(corner), thing.mask.resize((side, side)))


def title(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Some lines of writing on plain ground, light on dark or dark on light, which the view may miss."""
    ground, ink = (tuple(rng.integers(*shades, 3).tolist()) for shades in ((0, 90), (150, 256)))
    if rng.random() < 0.4:
        ground, ink = (0, 0, 0), (255, 255, 255)
    made = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(made)
    few = rng.random() < 0.5
    for _ in range(rng.integers(1, 4) if few else rng.integers(3, 12)):
        low, high = (0.3, 0.6) if few else (0.0, 0.85)
        place = (rng.uniform(low, high, 2) * size).tolist()
        pen.text(place, _words(rng), fill=ink, font=ImageFont.load_default(int(rng.integers(8, 40))))
    for _ in range(rng.integers(0, 3)):  # as logos are
        x, y, side = *(rng.random(2) * size).tolist(), float(rng.uniform(10, 60))
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape((x, y, x + side, y + side * float(rng.uniform(0.4, 1))), outline=ink, width=int(rng.integers(2, 8)))
    return made if rng.random() < 0.7 else ImageOps.invert(made)


def _words(rng: np.random.Generator) -> str:
    return "".join(chr(letter) for letter in rng.integers(65, 91, rng.integers(3, 16)))


def filmed(frames: Pixels, rng: np.random.Generator) -> Pixels:
    """The frames (T, H, W, 3) as they come from a recording: captions, fades, light, noise, bars, held frames."""
    if rng.random() < CAPTIONS:
        frames = _captioned(frames, rng)
    light = np.ones(len(frames))
    if rng.random() < FADES:
        light = np.clip(np.linspace(rng.uniform(-0.3, 0.6), rng.uniform(1, 3), len(frames)), 0.02, 1)
        light = light[::-1] if rng.random() < 0.5 else light
    values = frames.astype(np.float32) / 255
    if rng.random() < GREY:
        values = np.repeat(values.mean(axis=3, keepdims=True), 3, axis=3)
    values = values ** np.float32(math.exp(rng.uniform(-0.5, 0.6)))
    if rng.random() < BLENDED:
        values = _blended(values)
    flicker = rng.normal(0, max(0.0, rng.uniform(-0.02, 0.02)), len(frames))  # half of all have none
    exposure = math.exp(rng.uniform(-0.9, 0.2)) * light * (1 + flicker)
    noise = rng.standard_normal(frames.shape, np.float32) * np.float32(max(0.0, rng.uniform(-3, 7)) ** 1.2)
    shown = np.clip(values * exposure[:, None, None, None] * 255 + noise, 0, 255).astype(np.uint8)
    if rng.random() < BLURRED:
        blur = ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.5)))
        shown = np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in shown])
    if rng.random() < HELD:
        every = int(rng.integers(2, 4))
        shown = shown[np.arange(len(shown)) // every * every]
    if rng.random() < BARRED:
        bar = int(shown.shape[1] * rng.uniform(0.06, 0.17))
        shown = shown.copy()
        shown[:, :bar] = shown[:, -bar:] = 0
    return shown


def _blended(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each frame with half of the one before it, as when rates are converted."""
    return (values + values[np.maximum(0, np.arange(len(values)) - 1)]) / 2


def _captioned(frames: Pixels, rng: np.random.Generator) -> Pixels:
    """Writing, or a logo, that stays where it is on the screen, perhaps on a band, from some moment on."""
    high, wide = frames.shape[1:3]
    layer, mask = Image.new("RGB", (wide, high)), Image.new("L", (wide, high), 0)
    pen, pen_of_mask = ImageDraw.Draw(layer), ImageDraw.Draw(mask)
    ink, top = tuple(rng.integers(120, 256, 3).tolist()), float(rng.uniform(0, 0.85)) * high
    if rng.random() < 0.3:
        band = (0, top, wide, top + high * float(rng.uniform(0.1, 0.25)))
        pen.rectangle(band, fill=tuple(rng.integers(0, 256, 3).tolist()))
        pen_of_mask.rectangle(band, fill=255)
    place, font = (float(rng.uniform(0, 0.7)) * wide, top), ImageFont.load_default(int(rng.integers(7, 20)))
    words = _words(rng)
    pen.text(place, words, fill=ink, font=font)
    pen_of_mask.text(place, words, fill=255, font=font)
    share = np.asarray(mask, np.float32)[None, :, :, None] / 255
    start = rng.integers(-len(frames), len(frames)) if rng.random() < 0.7 else 0
    shown = (np.arange(len(frames)) >= start).astype(np.float32)[:, None, None, None] * share
    return (frames * (1 - shown) + np.asarray(layer, np.float32) * shown).astype(np.uint8)
