"""Two pictures in, where everything moves to out: OpenCV's DIS flow, which the interpolating network begins with.

Kroeger et al., "Fast optical flow using dense inverse search" (2016). Pictures are halved first: their flow is then as
good as what OpenCV makes of whole ones by default, which are halved inside. OpenCV is an extra, `vidbatch[opencv]`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt

from vidbatch.errors import ConfigError

Plane = npt.NDArray[np.uint8]
Flows = npt.NDArray[np.float32]
SMALLEST: Final = 24
"""Side, in pixels, of pictures that DIS can look at: its patches are 8 wide, at halves of halves."""


def has_opencv() -> bool:
    """Whether OpenCV is installed."""
    return find_spec("cv2") is not None


def check_opencv(what: str) -> None:
    """Raise ConfigError where OpenCV is not installed. Args: `what` names the setting that wants it."""
    if not has_opencv():
        raise ConfigError(f"{what} needs OpenCV: pip install 'vidbatch[opencv]'")


def between(
    before: Plane | None, first: Plane, last: Plane, after: Plane | None,
    find: Callable[[Plane, Plane], Flows] | None = None,
) -> Flows:  # fmt: skip
    """Flows (4, 2, height/2, width/2) of luma (height, width), even sides: all that an Interpolator takes.

    From first to last, from last to first, from first to the frame before, and from last to the one after: what these
    say of how things speed up. Where there is none, and where it leads to something else, things are said to go on as
    they do. Args: `find` is one_way, or gives what it gave before.
    """
    find = find or one_way
    there, back = find(first, last), find(last, first)
    ago = -there if before is None else _believed(first, last, before, there, find(first, before))
    onwards = -back if after is None else _believed(last, first, after, back, find(last, after))
    return np.stack([there, back, ago, onwards])


def one_way(first: Plane, last: Plane) -> Flows:
    """Flow (2, height/2, width/2), x, then y, in pixels of the halved picture.

    What is at (y, x) of the first is at (y + flow[1], x + flow[0]) of the last.
    """
    import cv2

    cv2.setNumThreads(1)  # how many there are changes what is found
    one, other = _halved(first), _halved(last)
    height, width = one.shape
    if min(height, width) < SMALLEST:
        return np.zeros((2, height, width), np.float32)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    found = dis.calc(one, other, np.zeros((height, width, 2), np.float32))
    return np.ascontiguousarray(found.transpose(2, 0, 1), np.float32)


def _believed(here: Plane, inner: Plane, outer: Plane, inwards: Flows, outwards: Flows) -> Flows:
    """The flow outwards, as far as it leads to what is here about as well as the one inwards does; else its reverse.

    On a fast pan it often leads nowhere: what is believed then costs 3 dB, and half as much of it is gained elsewhere.
    """
    wrong_inwards, wrong = (
        _mismatch(_halved(here), _halved(there), flow) for there, flow in ((inner, inwards), (outer, outwards))
    )
    belief = np.clip(2 - wrong / (1.5 * wrong_inwards + 4), 0, 1)
    found: Flows = belief * (inwards + outwards) - inwards
    return found


def _mismatch(one: Plane, other: Plane, flow: Flows) -> Flows:
    """Levels by which what is around each place differs from what is where the flow leads, float32 (h, w)."""
    import cv2

    rows, columns = np.indices(one.shape, np.float32)
    moved = cv2.remap(other, columns + flow[0], rows + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.blur(cv2.absdiff(one, moved).astype(np.float32), (9, 9)))


def _halved(plane: Plane) -> Plane:
    import cv2

    height, width = plane.shape
    return np.asarray(cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
