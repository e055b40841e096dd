"""Frames through filters of OpenCV, each by itself: 8-bit YUV 4:2:0 in and out. Needs the extra `opencv`.

                                                                    CPU ms a frame of 720p
    denoise   fastnlmeans   non-local means, plane by plane           1400    h up to 20
    colour    clahe         contrast of luma, tile by tile             3.6    mixed in

Runs in the child process, as a link of chain.Chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vidbatch.enhancing.filters import rows_of, tagged


class OpenCVLink:
    """One filter. Args: `strength` is above 0 and up to 1."""

    def __init__(self, method: str, strength: float) -> None:
        import cv2

        self._cv2 = cv2
        cv2.setNumThreads(1)
        self._change = {"fastnlmeans": self._fastnlmeans, "clahe": self._clahe}[method]
        self._strength = strength

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The changed frame."""
        made = VideoFrame(frame.width, frame.height, "yuv420p")
        for number in range(3):
            rows_of(made, number)[...] = self._change(np.ascontiguousarray(rows_of(frame, number)), number)
        yield tagged(made, frame)

    def flush(self) -> Iterator[VideoFrame]:
        """Nothing: no frame waits for another."""
        yield from ()

    def _fastnlmeans(self, plane: Any, _number: int) -> Any:
        return self._cv2.fastNlMeansDenoising(plane, None, 20 * self._strength, 7, 21)

    def _clahe(self, plane: Any, number: int) -> Any:
        if number > 0:
            return plane
        made = self._cv2.createCLAHE(3.0, (8, 8)).apply(plane)
        return self._cv2.addWeighted(made, self._strength, plane, 1 - self._strength, 0)
