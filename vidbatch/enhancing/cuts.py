"""Two frames that follow each other go in; what lies between them comes out: movement, a cut, or nothing.

A cut is looked for in small pictures. How far two of them are apart is the mean difference of their luma, in levels,
where one is laid over the other as it fits best, so that a pan is none. It is a cut if that is much, and much more than
between the frames before and behind, so that neither fast movement nor a flash is one; or if it is very much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[Any]
"""uint8 (height, width)."""
Small = npt.NDArray[np.float32]
"""SMALL, 0 to 255."""
Verdict = Literal["moves", "cut", "same"]

SMALL: Final = (36, 64)
"""Rows and columns."""
_MUCH: Final = 10.0
_VERY_MUCH: Final = 35.0
_MORE_THAN_AROUND: Final = 2.0
_FARTHEST: Final = (6, 12)
"""Rows and columns that one small picture is shifted by, at most: a fifth of its width."""
_BLOCK: Final = 16
_NOTHING: Final = 1.0
"""Mean difference of a block, in levels, below which nothing moves in it."""


class Pair(NamedTuple):
    """What is known of two frames that follow each other."""

    apart: float
    """Levels, see above."""
    is_same: bool
    """Whether nothing moves, anywhere."""


def pair_of(small: tuple[Small, Small], luma_of: Callable[[], tuple[Luma, Luma]]) -> Pair:
    """Compare two frames of one size. Args: their small pictures, and what gives their luma, if that is wanted."""
    distance = apart(*small)
    return Pair(distance, distance < _NOTHING and is_same(*luma_of()))


def verdict(before: Pair | None, pair: Pair, after: Pair | None) -> Verdict:
    """What lies between two frames. Args: what is known of the pairs before and behind, None where there is none."""
    if pair.is_same:
        return "same"
    around = max((each.apart for each in (before, after) if each is not None), default=_VERY_MUCH)
    is_cut = pair.apart > _VERY_MUCH or (pair.apart > _MUCH and pair.apart > _MORE_THAN_AROUND * around)
    return "cut" if is_cut else "moves"


def apart(one: Small, other: Small) -> float:
    """Mean difference in levels, where one is laid over the other as it fits best."""
    least = float(np.abs(one - other).mean())
    if least <= _MUCH:
        return least
    height, width = one.shape
    for down in range(-_FARTHEST[0], _FARTHEST[0] + 1):
        for right in range(-_FARTHEST[1], _FARTHEST[1] + 1):
            here = one[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
            there = other[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
            least = min(least, float(np.abs(here - there).mean()))
    return least


def is_same(one: Luma, other: Luma) -> bool:
    """Whether no block of the picture has changed by what could be seen to move."""
    height, width = (side // _BLOCK * _BLOCK for side in one.shape)
    differences = np.abs(one.astype(np.int16) - other)
    blocks = differences[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).mean((1, 3))
    return float(differences.mean()) < _NOTHING and float(blocks.max(initial=0.0)) < _NOTHING
