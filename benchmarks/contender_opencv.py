"""One filter of OpenCV over one file, in the environment of the peers: python contender_opencv.py FILTER X IN OUT.npy

Frames are read as BGR, and come out as uint8 RGB (T, height, width, 3).
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

cv2.setNumThreads(1)


def fast_nl_means(frame: Any, x: float) -> Any:
    """Non-local means of lightness and colour apart."""
    return cv2.fastNlMeansDenoisingColored(frame, None, x, x, 7, 21)


def clahe(frame: Any, x: float) -> Any:
    """Lightness stretched tile by tile."""
    lab = cv2.cvtColor(frame, cv2.COLOR_BGR2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=x, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)


FILTERS = {"fastNlMeans": fast_nl_means, "CLAHE": clahe}


def main() -> None:
    name, x, source, target = sys.argv[1:]
    video, frames = cv2.VideoCapture(source), []
    while True:
        is_there, frame = video.read()
        if not is_there:
            break
        frames.append(FILTERS[name](frame, float(x))[..., ::-1])
    np.save(target, np.stack(frames))


if __name__ == "__main__":
    main()
