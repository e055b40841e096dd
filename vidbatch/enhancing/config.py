"""What a user can set of an `enhance` run, checked as a whole before the first task starts."""

from __future__ import annotations

import hashlib
import json
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vidbatch import schema, storage
from vidbatch.config import LabelConfig, RunSettings, absolute, load_settings, path_as_text
from vidbatch.enhancing.types import Encoding, Ladder, Network, Pace, Step
from vidbatch.errors import ConfigError
from vidbatch.restoring.spec import SHIPPED, read_enhancer

CODECS: Final = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
"""The encoder of each codec that can be asked for by its name."""
RESULTS_VERSION: Final = 1
"""Raised when the same settings give other videos than before: enhances everything anew."""

_READING: Final = (
    "limit", "decode_timeout_seconds", "decode_memory_mb", "clip_seconds", "long_video_mb", "max_pixels",
    "max_duration_seconds", "max_packets", "max_failed_share", "stage_seconds", "retry_failed", "partition_by",
    "buckets",
)  # fmt: skip
"""Settings that an `enhance` run shares with `label`, by name."""
_BIT_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)([kM]?)")
_LABEL: Final = {name: LabelConfig.model_fields[name] for name in _READING}

FILTERS: Final = {
    "denoise": ("nlmeans", "bm3d", "fftdnoiz", "atadenoise", "deblock"),
    "colour": ("normalize", "greyedge", "grayworld", "colorcorrect"),
    "upscale": ("lanczos",),
    "interpolate": ("minterpolate", "blend"),
}
"""Methods that are filters of FFmpeg; see filters.METHODS and interpolating.py."""
OPENCV: Final[dict[str, tuple[str, ...]]] = {
    "denoise": ("fastnlmeans",), "colour": ("clahe",), "upscale": (), "interpolate": ("dis",),
}  # fmt: skip
"""Methods that are of OpenCV, which the extra `opencv` brings along."""
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "denoise": ("denoise", "artefacts"), "colour": ("colour",), "upscale": ("upscale",),
    "interpolate": ("interpolate",),
}  # fmt: skip
"""Of networks that a step takes."""
NETWORKS: Final[dict[str, dict[str, str]]] = {
    "denoise": {"network": f"{SHIPPED}denoise", "artefacts": f"{SHIPPED}artefacts"},
    "colour": {"network": f"{SHIPPED}colour"},
    "upscale": {"network": f"{SHIPPED}upscale"},
    "interpolate": {"network": f"{SHIPPED}interpolate"},
}  # fmt: skip
"""Methods that are networks which come with vidbatch, and their places."""
_HEIGHTS: Final = (1080, 720, 480, 360)
_HEIGHTS_SAID: Final = ",".join(map(str, _HEIGHTS))
_SEGMENT_SECONDS: Final = 4.0
_MOST_FPS: Final = 960
_LARGEST_DENOMINATOR: Final = 1_001_000
_DEFAULT_STRENGTH: Final = 0.5
"""Of filters; a network's is 1."""


def _as_for_label(name: str, default: Any = None, description: str | None = None) -> Any:
    field = _LABEL[name]
    given = field.default if default is None else default
    bounds: dict[str, Any] = {}
    for bound in field.metadata:
        for kind in ("ge", "gt", "le"):
            if (value := getattr(bound, kind, None)) is not None:
                bounds[kind] = value
    return Field(given, description=description or field.description, **bounds)


def _strength() -> Any:
    said = "0: not at all, frames stay as they are; 1: most. Default: 1 of networks, else 0.5."
    return Field(None, ge=0, le=1, description=said)


class EnhanceConfig(RunSettings):
    """Settings of one `enhance` run; immutable. Field descriptions are also the help texts of the flags."""

    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="Directories, prefixes, globs, files, tar shards or manifests; local, s3://, gs://, az:// or http(s)://.",
    )
    output: str = Field(
        min_length=1, description="Directory or s3://, gs:// or az:// prefix of the videos and of their table."
    )
    steps: tuple[Literal["denoise", "colour", "upscale", "interpolate"], ...] = Field(
        ("denoise",),
        description="What is done, in this order: denoise, colour, upscale, interpolate; none: encode anew only.",
    )
    denoise: str = Field(
        "atadenoise",
        description="How: the networks network (against noise) and artefacts (against what codecs leave); nlmeans, "
        "bm3d or OpenCV's fastnlmeans (strong, slow), fftdnoiz, atadenoise or deblock (fast); or the folder or prefix "
        "of a network that `train-enhancer` has made.",
    )
    denoise_strength: float | None = _strength()
    colour: str = Field(
        "normalize",
        description="How: network (white balance, exposure, contrast), normalize (contrast, white balance), greyedge, "
        "grayworld or colorcorrect (white balance), OpenCV's clahe (contrast), or the folder or prefix of a network.",
    )
    colour_strength: float | None = _strength()
    upscale: str = Field(
        "lanczos",
        description="To twice the width and height, how: lanczos, network (sharper), or the folder or prefix of a "
        "network.",
    )
    interpolate: str = Field(
        "dis",
        description="More frames a second, how: dis (OpenCV's optical flow), network, minterpolate (slow), blend, or "
        "the folder or prefix of a network.",
    )
    times: int | None = Field(
        None, ge=2, le=16, description="Frames that interpolate makes of each; default: 2, or what --fps wants."
    )
    fps: str | None = Field(
        None, description="Frames a second that interpolate gives instead: 60, 59.94 or 60000/1001."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks run: auto, cpu or cuda.")
    workers_per_gpu: int = Field(4, ge=1, le=64, description="Actors that share a GPU, if networks run there.")
    codec: str = Field(
        "h264", min_length=1, description="h264, hevc, vp9, av1, or the name of an encoder of FFmpeg (h264_nvenc)."
    )
    crf: float | None = Field(
        None, ge=0, le=63, description="Constant quality, lower is better; default: 20, 22, 31 or 32 by codec."
    )
    bitrate: str | None = Field(
        None, description="Bits a second instead of a quality: 800k, 4M. Long videos are then encoded in one piece."
    )
    target_xpsnr: float | None = Field(
        None, ge=20, le=60,
        description="Quality to reach instead: each clip gets the crf that gives it so much XPSNR (dB), by trials on "
        "parts of it; 32 is fair, 36 good, 40 hard to tell from the original.",
    )  # fmt: skip
    two_pass: bool = Field(False, description="Look through each video first; with --bitrate, for h264 and hevc.")
    gop: int = Field(250, ge=1, le=10_000, description="Frames between keyframes, at most.")
    preset: str | None = Field(None, description="The encoder's own, as fast or slow; a number for vp9 and av1.")
    pixel_format: str | None = Field(None, description="As yuv420p; default: as it was, or the nearest that works.")
    encoder_options: dict[str, str] = Field({}, description="Further options of the encoder, by FFmpeg's names.")
    container: Literal["mp4", "mkv", "webm", "cmaf"] = Field(
        "mp4",
        description="Kind of file: mp4, mkv or webm; cmaf: a folder of several heights that plays as HLS and DASH.",
    )
    heights: tuple[Annotated[int, Field(ge=16, le=16_384)], ...] = Field(
        (), description=f"Of cmaf, in pixels, none higher than the video; default: {_HEIGHTS_SAID}."
    )
    segment_seconds: float | None = Field(
        None, ge=0.5, le=60, description="Of cmaf: a keyframe begins so often, where players may change the height; 4."
    )
    contact_sheet: bool = Field(False, description="Also write a picture of before and after for each video.")
    workers: int | None = Field(None, ge=1, description="Actors that enhance; default: one a CPU.")
    threads: int = Field(1, ge=1, le=64, description="Threads of each encoder.")
    limit: int | None = _as_for_label("limit")
    decode_timeout_seconds: float = _as_for_label(
        "decode_timeout_seconds",
        description="A worker that has not got one frame further for so long is killed, and the clip tried once more.",
    )
    decode_memory_mb: int = _as_for_label(
        "decode_memory_mb", 6144, "A worker's process that grows beyond this is killed (MiB); 4K and av1 take most."
    )
    clip_seconds: float = _as_for_label("clip_seconds")
    long_video_mb: int = _as_for_label("long_video_mb")
    max_pixels: int = _as_for_label("max_pixels")
    max_duration_seconds: float = _as_for_label("max_duration_seconds")
    max_packets: int = _as_for_label("max_packets")
    max_failed_share: float = _as_for_label("max_failed_share")
    stage_seconds: float = _as_for_label("stage_seconds")
    retry_failed: bool = _as_for_label("retry_failed")
    partition_by: Literal["none", "date"] = _as_for_label("partition_by")
    buckets: int = _as_for_label("buckets")

    @field_validator("steps", mode="before")
    @classmethod
    def _steps_are_a_list(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return () if value in (("none",), ["none"]) else value

    @field_validator("heights", mode="before")
    @classmethod
    def _heights_are_a_list(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        heights = value if isinstance(value, list | tuple) else (value,)
        if not all(str(height).isdigit() for height in heights):
            raise ValueError("pixels, as 1080,720,360, are")
        return tuple(heights)

    @field_validator("denoise", "colour", "upscale", "interpolate", mode="before")
    @classmethod
    def _place_is_text(cls, value: object) -> object:
        return path_as_text(value)

    @field_validator("denoise", "colour", "upscale", "interpolate")
    @classmethod
    def _method_is_known(cls, value: str, info: ValidationInfo) -> str:
        step = str(info.field_name)
        if "/" in value or value.startswith("file:"):
            return absolute(value.removeprefix("file:"))
        known = (*NETWORKS[step], *FILTERS[step], *OPENCV[step])
        if value not in known:
            raise ValueError(f"{', '.join(known)}, or the folder or prefix of a network (./name for one here) is")
        return value

    @field_validator("encoder_options", mode="before")
    @classmethod
    def _options_are_json(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                raise ValueError('a JSON object like {"tune": "film"} is') from None
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("fps", mode="before")
    @classmethod
    def _fps_parses(cls, value: object) -> object:
        if value is None:
            return None
        try:
            rate = Fraction(str(value).strip())
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 1 <= rate <= _MOST_FPS or rate.denominator > _LARGEST_DENOMINATOR:
            raise ValueError(f"frames a second, from 1 to {_MOST_FPS}, as 60, 59.94 or 60000/1001, are")
        return str(rate)

    @field_validator("bitrate", mode="before")
    @classmethod
    def _bitrate_parses(cls, value: object) -> object:
        if value is None:
            return None
        if _BIT_RATE.fullmatch(str(value)) is None:
            raise ValueError("bits a second, as 800k or 4M, are")
        return str(value)

    @model_validator(mode="after")
    def _fits_together(self) -> EnhanceConfig:
        if self.crf is not None and self.bitrate is not None:
            raise ValueError(f"crf: {self.crf:g} is not allowed together with bitrate {self.bitrate}: give one of them")
        if self.target_xpsnr is not None:
            for name, value in (("crf", self.crf), ("bitrate", self.bitrate)):
                if value is not None:
                    raise ValueError(
                        f"target_xpsnr: {self.target_xpsnr:g} is not allowed together with {name} {value}: give one"
                    )
        if self.two_pass and self.bitrate is None:
            raise ValueError("two_pass: True is not allowed without a bitrate")
        for name in ("heights", "segment_seconds"):
            if (value := getattr(self, name)) and self.container != "cmaf":
                said = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
                raise ValueError(f"{name}: {said} is not allowed in {self.container}: only with --container cmaf")
        self._check_pace()
        return self

    def _check_pace(self) -> None:
        if self.times is not None and self.fps is not None:
            raise ValueError(f"fps: {self.fps} is not allowed together with times {self.times}: give one of them")
        for name in ("times", "fps"):
            if (value := getattr(self, name)) is not None and "interpolate" not in self.steps:
                raise ValueError(f"{name}: {value} is not allowed without interpolate among the steps")
        if self.steps.count("interpolate") > 1:
            raise ValueError("steps: interpolate is allowed once: say how many frames it makes by times or fps")

    @property
    def pace(self) -> Pace:
        """How many frames interpolation gives."""
        if self.fps is None:
            return Pace(times=2 if self.times is None else self.times)
        return Pace(fps=Fraction(self.fps).as_integer_ratio())

    @property
    def wanted_steps(self) -> tuple[Step, ...]:
        """The steps that do something, in order."""
        ways = {
            "denoise": (self.denoise, self.denoise_strength),
            "colour": (self.colour, self.colour_strength),
            "upscale": (self.upscale, 1.0),
            "interpolate": (self.interpolate, 1.0),
        }
        steps = [_step(name, *ways[name]) for name in self.steps]
        steps = [step._replace(pace=self.pace) if step.name == "interpolate" else step for step in steps]
        return tuple(step for step in steps if step.strength > 0)

    @property
    def has_networks(self) -> bool:
        """Whether a step is done by a network."""
        return any(step.network is not None for step in self.wanted_steps)

    @property
    def encoding(self) -> Encoding:
        """What the encoder is asked for."""
        bits: int | None = None
        if self.bitrate is not None and (found := _BIT_RATE.fullmatch(self.bitrate)) is not None:
            bits = round(float(found[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[found[2]])
        return Encoding(
            encoder=CODECS.get(self.codec, self.codec),
            crf=self.crf,
            bit_rate=bits,
            two_pass=self.two_pass,
            gop=self.gop,
            preset=self.preset,
            # Else browsers show nothing of many videos, though it plays elsewhere.
            pixel_format=self.pixel_format or ("yuv420p" if self.container == "cmaf" else None),
            options=self.encoder_options,
            threads=self.threads,
            is_segmented=self.container == "cmaf",
            target_xpsnr_db=self.target_xpsnr,
        )

    @property
    def ladder(self) -> Ladder | None:
        """The heights of a ladder, and its segments; None: one file is written."""
        if self.container != "cmaf":
            return None
        seconds = _SEGMENT_SECONDS if self.segment_seconds is None else self.segment_seconds
        return Ladder(tuple(sorted(set(self.heights or _HEIGHTS), reverse=True)), seconds)

    @property
    def is_cut(self) -> bool:
        """Whether long videos are encoded clip by clip: an encoder that aims at a bitrate has to see all of one."""
        return self.bitrate is None

    @property
    def reading(self) -> LabelConfig:
        """The settings by which archives are listed, planned and published: of a `label` run that wants every frame."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _READING if name in self.model_fields_set}
        return LabelConfig(inputs=self.inputs, output=self.output, sampling="all", **given)


def _step(name: str, method: str, strength: float | None) -> Step:
    """A step. Raises ConfigError for a network that is none, or one for something else."""
    if method in FILTERS[name] + OPENCV[name]:
        return Step(name, method, _DEFAULT_STRENGTH if strength is None else strength)
    strength = 1.0 if strength is None else strength
    return Step(name, method, strength, _network(name, NETWORKS[name].get(method, method)) if strength else None)


@lru_cache(maxsize=16)
def _network(name: str, place: str) -> Network:
    try:
        enhancer = read_enhancer(place)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    spec = enhancer.spec
    if spec.kind not in _KINDS[name]:
        raise ConfigError(f"{name}: {storage.redact(place)!r} is not allowed: it is a network for {spec.kind}")
    return Network(place, enhancer.digest, spec.kind, spec.num_frames)


def describe(steps: tuple[Step, ...]) -> str:
    """As the table has it: denoise=nlmeans:0.5,colour=network@0123456789ab:1,interpolate=dis:2x; none."""
    return ",".join(f"{step.name}={_called(step)}:{step.pace or f'{step.strength:g}'}" for step in steps) or "none"


def _called(step: Step) -> str:
    """A network by its digest: it may lie elsewhere tomorrow."""
    if step.network is None:
        return step.method
    return f"network@{step.network.digest}"


def enhance_digest(config: EnhanceConfig) -> str:
    """32 hex digits over everything that changes a result, and nothing else."""
    encoding = config.encoding
    parts = {
        "results_version": RESULTS_VERSION,
        "schema_version": schema.SCHEMA_VERSION,
        "steps": describe(config.wanted_steps),
        "encoding": [
            encoding.encoder, encoding.crf, encoding.bit_rate, encoding.two_pass, encoding.gop, encoding.preset,
            encoding.pixel_format, sorted(encoding.options.items()),
        ],
        "container": config.container,
        "contact_sheet": config.contact_sheet,
    }  # fmt: skip
    if config.ladder is not None:
        parts["ladder"] = config.ladder
    if config.target_xpsnr is not None:
        parts["target_xpsnr"] = config.target_xpsnr
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_enhance_config(settings: dict[str, Any], config_file: str | Path | None = None) -> EnhanceConfig:
    """Merge a YAML file and explicit settings (which win; None means not given) into a checked EnhanceConfig.

    Raises ConfigError with one sentence that names the first wrong field, its value and what is allowed.
    """
    return load_settings(EnhanceConfig, settings, config_file)
