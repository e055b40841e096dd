"""What goes from a decode actor into its child process: plain types that need neither pyarrow, pydantic nor PyAV."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from vidbatch.windows import WindowSpec


class TargetSize(NamedTuple):
    """The fields of schema.FrameSpec."""

    height: int
    width: int
    crop_share: float
    interpolation: str
    fit: str = "crop"


@dataclass(frozen=True)
class Bounds:
    """What a video may cost at most."""

    max_pixels: int = 2**26
    max_duration_seconds: float = 86_400.0
    max_packets: int = 50_000_000


@dataclass(frozen=True)
class Job:
    """One clip to decode, or one video to plan. `clip` is a row of schema.CLIP."""

    clip: dict[str, Any]
    sampling: str
    size: TargetSize | None = None
    """None: whole pictures, of the size at which they are displayed."""
    bounds: Bounds = field(default_factory=Bounds)
    clip_seconds: float = 120.0
    """About how long clips shall be; each time that so much is decoded, an empty record says that it goes on."""
    as_yuv: bool = False
    """Give the part of the picture that the size shows unscaled, as planes (yuv.py), where it is 8-bit YUV 4:2:0."""
    in_one_chunk: bool = False
    """Give the frames in one chunk, for one who keeps them all: in several if the header counts too few."""


@dataclass(frozen=True, kw_only=True)
class WindowJob(Job):
    """One video to decode as windows."""

    windows: WindowSpec
    positions: list[list[float]] | None = None
    """Seconds (or numbers) of each frame of each window, windows in order; None: all of the video, in their middles."""
    num_real: list[int] | None = None
    """How many frames of each window are no padding; given with `positions`."""
