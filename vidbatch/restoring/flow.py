"""Two pictures in, where everything moves to out: OpenCV's DIS flow, which the interpolating network begins with.

Kroeger et al., "Fast optical flow using dense inverse search" (2016). Pictures are halved first: their flow is then as
good as what OpenCV makes of whole ones by default, which are halved inside. OpenCV is an extra, `vidbatch[opencv]`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt

from vidbatch.errors import ConfigError

Plane = npt.NDArray[np.uint8]
SMALLEST: Final = 24
"""Side, in pixels, of pictures that DIS can look at: its patches are 8 wide, at halves of halves."""


def check_opencv(what: str) -> None:
    """Raise ConfigError where OpenCV is not installed. Args: `what` names the setting that wants it."""
    if find_spec("cv2") is None:
        raise ConfigError(f"{what} needs OpenCV: pip install 'vidbatch[opencv]'")


def between(before: Plane | None, first: Plane, last: Plane, after: Plane | None) -> npt.NDArray[np.float32]:
    """Flows (4, 2, height/2, width/2) of luma (height, width), even sides: all that an Interpolator takes.

    From first to last, from last to first, from first to the frame before, and from last to the one after: what these
    say of how things speed up. Where there is none, things are said to go on as they do.
    """
    there, back = one_way(first, last), one_way(last, first)
    ago = -there if before is None else one_way(first, before)
    onwards = -back if after is None else one_way(last, after)
    return np.stack([there, back, ago, onwards])


def one_way(first: Plane, last: Plane) -> npt.NDArray[np.float32]:
    """Flow (2, height/2, width/2), x, then y, in pixels of the halved picture.

    What is at (y, x) of the first is at (y + flow[1], x + flow[0]) of the last.
    """
    import cv2

    cv2.setNumThreads(1)  # how many there are changes what is found
    height, width = (side // 2 for side in first.shape)
    if min(height, width) < SMALLEST:
        return np.zeros((2, height, width), np.float32)
    one, other = (cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in (first, last))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    found = dis.calc(one, other, np.zeros((height, width, 2), np.float32))
    return np.ascontiguousarray(found.transpose(2, 0, 1), np.float32)
