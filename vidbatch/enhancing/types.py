"""What goes from an enhancing actor into its child process and comes back: plain types that need no PyAV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from vidbatch.decoding.types import Bounds

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

Packets: TypeAlias = "Iterator[tuple[int, Packet[VideoStream]] | None]"
"""Packets of encoders, each with the number of its rung; None: it goes on, but there is no packet yet."""


class Network(NamedTuple):
    """A network of vidbatch.restoring that a step is done by: where it is, and what it is."""

    place: str
    digest: str
    kind: str
    num_frames: int


class Pace(NamedTuple):
    """How many frames there are behind the step `interpolate`; one of the two is None."""

    times: int | None = None
    """So many for each frame."""
    fps: tuple[int, int] | None = None
    """So many a second, a fraction."""

    def __str__(self) -> str:
        if self.fps is None:
            return f"{self.times}x"
        return f"{self.fps[0]}{'' if self.fps[1] == 1 else f'/{self.fps[1]}'}fps"


class Step(NamedTuple):
    """One step: what it is for, by which method, how strongly (0, not at all, to 1)."""

    name: str
    method: str
    strength: float
    network: Network | None = None
    """None: a filter of FFmpeg or OpenCV."""
    pace: Pace | None = None
    """Of the step `interpolate` only."""


UPSCALED: Final = 2
"""A step `upscale` makes frames so many times as wide and as high."""


def times_larger(steps: Iterable[Step]) -> int:
    """How many times as wide and as high frames are behind all steps."""
    return int(UPSCALED ** sum(step.name == "upscale" and step.strength > 0 for step in steps))


@dataclass(frozen=True)
class Encoding:
    """What an encoder is asked for; None: whatever it does by itself."""

    encoder: str
    """FFmpeg's name, as libx264."""
    crf: float | None
    bit_rate: int | None
    two_pass: bool
    gop: int
    preset: str | None
    pixel_format: str | None
    """None: the source's, or the nearest that the encoder takes."""
    options: dict[str, str]
    threads: int
    is_segmented: bool = False
    """Whether keyframes are where segments of a ladder begin, and nowhere else."""
    target_xpsnr_db: float | None = None
    """Each clip has the crf that reaches it."""

    def at(self, crf: float) -> Encoding:
        """The same at a crf."""
        return replace(self, crf=crf)


class Crfs(NamedTuple):
    """What an encoder allows, as far as it is of use, and what is tried to know how good each is."""

    allowed: tuple[float, float]
    tried: tuple[float, ...]


CRFS: Final = {
    "libx264": Crfs((8, 46), (18, 25, 32, 39)),
    "libx265": Crfs((8, 46), (18, 25, 32, 39)),
    "libvpx-vp9": Crfs((4, 62), (20, 32, 44, 56)),
    "libsvtav1": Crfs((4, 62), (20, 32, 44, 56)),
}
"""Encoders that can be asked for a quality."""


class Ladder(NamedTuple):
    """The heights in pixels in which a video is written, and how long segments are."""

    heights: tuple[int, ...]
    segment_seconds: float


MASTER: Final = "master.m3u8"
"""What a player of HLS opens; written last, so that where it is, all is."""


def in_writing_order(names: Iterable[str]) -> list[str]:
    """The files of a ladder so that none stands before what it names."""
    order = ("stream_", "media_", "manifest", "master")
    return sorted(names, key=lambda name: (next(n for n, begin in enumerate(order) if name.startswith(begin)), name))


class Trial(NamedTuple):
    """What encoding some frames at one crf gave; sums, so that trials of parts and of clips can be added."""

    crf: float
    size_bytes: float
    seconds: float
    distortion: float
    """10^(-XPSNR / 10), summed over frames."""
    num_frames: float

    @property
    def xpsnr_db(self) -> float:
        """Of the mean distortion."""
        return -10 * math.log10(self.distortion / self.num_frames)


def added_trials(trials: Sequence[Trial]) -> list[Trial]:
    """The sums of trials at the same crf, the least crf first."""
    sums: dict[float, list[float]] = {}
    for crf, *values in trials:
        sums[crf] = [a + b for a, b in zip(sums.get(crf, [0.0] * len(values)), values, strict=True)]
    return [Trial(crf, *sums[crf]) for crf in sorted(sums)]


@dataclass(frozen=True)
class EnhanceJob:
    """One clip to enhance. `clip` is a row of schema.CLIP."""

    clip: dict[str, Any]
    steps: tuple[Step, ...]
    encoding: Encoding
    container: str
    """mp4 | mkv | webm | cmaf."""
    folder: str
    """Where the child may write: the file, or the packets of one clip of several, under the names below."""
    bounds: Bounds = field(default_factory=Bounds)
    contact_sheet: bool = False
    device: str = "cpu"
    """Where networks run: cpu or cuda."""
    ladder: Ladder | None = None
    """Of cmaf only."""

    @property
    def is_whole(self) -> bool:
        """Whether the clip is all of its video."""
        return bool(self.clip["num_clips"] == 1)

    @property
    def file(self) -> str:
        """Path of the finished video; of a ladder, that of its manifest, in a folder of its own."""
        return f"{self.folder}/video.{self.container}" if self.ladder is None else f"{self.media_folder}/manifest.mpd"

    @property
    def media_folder(self) -> str:
        """Where the files of a ladder are."""
        return f"{self.folder}/ladder"

    @property
    def packets(self) -> str:
        """Path of the packets of one clip of several."""
        return f"{self.folder}/packets.arrow"

    @property
    def sheet(self) -> str:
        """Path of the contact sheet."""
        return f"{self.folder}/sheet.jpg"


@dataclass(frozen=True)
class JoinJob(EnhanceJob):
    """The clips of one video to join: `urls` of their packets, `facts` of each, in their order."""

    urls: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()

    @classmethod
    def of(cls, job: EnhanceJob, urls: Iterable[str], facts: Iterable[Facts]) -> JoinJob:
        """What joins the clips that were made by such jobs."""
        given = {name: getattr(job, name) for name in EnhanceJob.__dataclass_fields__}
        return cls(**given, urls=tuple(urls), facts=tuple(facts))


@dataclass(frozen=True)
class Picture:
    """What an encoder and a container have to know of a video's pictures."""

    width: int
    height: int
    pixel_format: str
    time_base: tuple[int, int]
    rate: tuple[int, int]
    """Average frames a second."""
    pixel_aspect: tuple[int, int]
    """Width of a pixel by its height; (0, 1): unknown."""
    colour: tuple[int, int, int, int]
    """Range, matrix, primaries, transfer: FFmpeg's numbers."""
    display_matrix: tuple[int, ...] | None
    """9 numbers that turn the picture upright; None: it is."""


@dataclass
class Facts:
    """What is to say of one clip, or of one file; sums, so that clips of a video can be added."""

    header: dict[str, Any] = field(default_factory=dict)
    error_kind: str | None = None
    error_message: str | None = None
    picture: Picture | None = None
    num_frames_decoded: int = 0
    num_frames: int = 0
    num_interpolated: int = 0
    """Of these, made between two others."""
    num_measured: int = 0
    error_power: float = 0.0
    """Mean squared error by the square of the greatest value; summed over measured frames, as what follows."""
    ssim: float = 0.0
    sharpness_before: float = 0.0
    sharpness_after: float = 0.0
    noise_before: float = 0.0
    noise_after: float = 0.0
    decode_seconds: float = 0.0
    enhance_seconds: float = 0.0
    encode_seconds: float = 0.0
    write_seconds: float = 0.0
    read_bytes: int = 0
    first_seconds: float | None = None
    """When the first frame is shown and the last one ends, on the source's clock."""
    end_seconds: float | None = None
    extradata: str = ""
    """What the encoder says once for all packets, as hex digits; of a ladder, what each of them says."""
    crf_of_frames: float = 0.0
    """The crf found for a target, summed over frames."""
    trials: list[list[float]] = field(default_factory=list)
    """The fields of each Trial."""
    reorder_depth: int = 0
    """How many packets, at most, come between a frame's turn to be decoded and its turn to be shown."""
    changes: list[str] = field(default_factory=list)
    thumbnails: list[list[str]] = field(default_factory=list)
    """Pairs of small pictures before and after, JPEG in base64."""
    file: dict[str, Any] = field(default_factory=dict)
    """Of the finished file: size_bytes, codec; its url once it is in storage."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Facts:
        """The facts that `to_dict` gave."""
        values = dict(values)
        if (picture := values.get("picture")) is not None:
            plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in picture.items()}
            values["picture"] = Picture(**plain)
        return cls(**values)

    def add(self, other: Facts) -> None:
        """Add what another clip of the same video says, one that comes later."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("picture", "first_seconds"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(other, name))
        self.header = self.header or other.header
        self.end_seconds = other.end_seconds if other.end_seconds is not None else self.end_seconds
        if self.error_kind is None:
            self.error_kind, self.error_message = other.error_kind, other.error_message
        self.reorder_depth = max(self.reorder_depth, other.reorder_depth)
        self.changes += [change for change in other.changes if change not in self.changes]
        self.thumbnails = self.thumbnails + other.thumbnails


_SUMMED = (
    "num_frames_decoded", "num_frames", "num_interpolated", "num_measured", "error_power", "ssim", "sharpness_before",
    "sharpness_after", "noise_before", "noise_after", "decode_seconds", "enhance_seconds", "encode_seconds",
    "write_seconds", "read_bytes", "crf_of_frames", "trials",
)  # fmt: skip
