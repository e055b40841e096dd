"""Paths of clips in; how the picture moves in each, by tracks and a robust fit, out: the classical way.

    .venv-peers/bin/python benchmarks/lucas_kanade.py

It runs in .venv-peers (scripts/install.sh peers), where OpenCV is, and answers lines of JSON on stdin, one a clip:
`file`, and any of SETTINGS. A line of FEATURES comes back.

Corners (Shi and Tomasi) of a frame are looked for in the next by pyramidal Lucas-Kanade, kept if the way back leads to
where they came from, and a shift, turn and zoom is fitted to them by RANSAC. Lengths are in view widths.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from typing import Any, Final

SETTINGS: Final = {"every": (2, 3), "window": (11, 21)}
"""What is tried: every so many frames one is looked at; side of the window that is matched, pixels."""
FEATURES: Final = (
    "right", "down", "zoom", "turn",  # from end to end: lengths, logarithm, radians
    "restless_right", "restless_down", "restless_turn",  # root mean square about the mean of a step
    "found",  # share of the steps with a fit
)  # fmt: skip
MAX_CORNERS: Final = 150
BACK_PIXELS: Final = 1.0


def features_of(file: str, *, every: int, window: int) -> list[float]:
    """FEATURES of a clip."""
    import cv2
    import numpy as np

    cv2.setRNGSeed(0)
    cv2.setNumThreads(1)
    video = cv2.VideoCapture(file)
    frames = []
    while True:
        is_there, picture = video.read()
        if not is_there:
            break
        frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
    frames = frames[::every]
    found = [_step(before, after, window) for before, after in itertools.pairwise(frames)]
    steps = np.array([step for step in found if step is not None]).reshape(-1, 4)
    if not len(steps):
        return [0.0] * len(FEATURES)
    total = steps.mean(axis=0) * len(found)
    restless = steps.std(axis=0)
    return [*total.tolist(), *restless[[0, 1, 3]].tolist(), len(steps) / len(found)]


def _step(before: Any, after: Any, window: int) -> tuple[float, float, float, float] | None:
    """How the picture moves about its centre between two frames: right, down, logarithm of zoom, turn."""
    import cv2
    import numpy as np

    corners = cv2.goodFeaturesToTrack(before, MAX_CORNERS, 0.01, 4)
    if corners is None:
        return None
    options = {"winSize": (window, window), "maxLevel": 3}
    there, is_found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, **options)
    back, is_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **options)
    good = (is_found & is_back).ravel().astype(bool) & (np.abs(back - corners).max(axis=(1, 2)) < BACK_PIXELS)
    if good.sum() < 4:
        return None
    rows, columns = before.shape
    centre = np.array([columns / 2, rows / 2], np.float32)
    fit, _ = cv2.estimateAffinePartial2D(
        corners[good] - centre, there[good] - centre, method=cv2.RANSAC, ransacReprojThreshold=1.0
    )
    if fit is None:
        return None
    zoom, turn = math.hypot(fit[0, 0], fit[1, 0]), math.atan2(fit[1, 0], fit[0, 0])
    return fit[0, 2] / columns, fit[1, 2] / columns, math.log(max(zoom, 1e-6)), turn


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(features_of(asked["file"], every=asked["every"], window=asked["window"])), flush=True)


if __name__ == "__main__":
    main()
