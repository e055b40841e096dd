"""Enhanced frames go in, packets of H.264, HEVC, VP9 or AV1 come out, by what encoders the linked FFmpeg has.

Runs in the child process, and once in the driver to check what was asked for.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
from av.codec.codec import Codec, find_best_pix_fmt_of_list
from av.codec.context import CodecContext, Flags
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vidbatch.decoding.container import Video
from vidbatch.enhancing.chain import Timed
from vidbatch.enhancing.config import CODECS
from vidbatch.enhancing.filters import MATRIX_OF_RGB, is_rgb
from vidbatch.enhancing.ladder import Segments
from vidbatch.enhancing.timeline import Timeline
from vidbatch.enhancing.types import CRFS, Encoding, EnhanceJob, Facts, Packets, Picture, times_larger
from vidbatch.errors import ConfigError, VideoError

TWO_PASS: Final = ("libx264", "libx265")
SEGMENTED: Final = ("libx264", "libx265", "libsvtav1")
"""Encoders that begin a segment where they are asked to, and nowhere else."""
_QUALITY: Final = {"libx264": 20.0, "libx265": 22.0, "libvpx-vp9": 31.0, "libsvtav1": 32.0}
_DEFAULT_QUALITY: Final = 23.0
_TAKES_ODD_SIZES: Final = frozenset({"libvpx-vp9"})
_TAKEN_BY_ALL: Final = 4096
"""Width or height that every encoder takes, those of older hardware too."""
_DEFAULT_RATE: Final = Fraction(25)
_RATE_BY_PIXELS: Final = 0.75
_RATE_TOLERANCE: Final = 4_000_000
_ENDS_VIDEO: Final = frozenset({"corrupt", "truncated", "bounds"})
"""Damage behind which there is nothing to encode; what was before is kept."""


class Pass(NamedTuple):
    """One of two passes over a video, and the file of what the first one learnt."""

    number: int
    statistics: str

    def of_rung(self, rung: int) -> Pass:
        """The pass of one of several encoders."""
        return self._replace(statistics=f"{self.statistics}-{rung}")


class Rung(NamedTuple):
    """An encoder, and what makes frames as large as it wants them."""

    context: VideoCodecContext
    sized: Callable[[VideoFrame], VideoFrame]


def check_encoding(encoding: Encoding, container: str) -> None:
    """Raise ConfigError where this FFmpeg has no such encoder, or the encoder or the container cannot do it."""
    try:
        codec = Codec(encoding.encoder, "w")
        context = VideoCodecContext.create(encoding.encoder, "w")
    except ValueError:
        raise ConfigError(
            f"codec: {encoding.encoder!r} is not allowed: this FFmpeg has no such encoder; allowed: "
            f"{', '.join(CODECS)}, or the name of an encoder that it has"
        ) from None
    if codec.type != "video":
        raise ConfigError(f"codec: {encoding.encoder!r} is not allowed: it encodes {codec.type}")
    if container == "cmaf" and encoding.encoder not in SEGMENTED:
        raise ConfigError(f"codec: {encoding.encoder!r} is not allowed in cmaf; allowed: h264, hevc, av1")
    with av.open("/dev/null", "w", format="mp4" if container == "cmaf" else format_of(container)) as out:
        if codec.canonical_name not in out.supported_codecs:
            raise ConfigError(f"container: {container!r} is not allowed: it cannot hold {codec.canonical_name}")
    formats = [known.name for known in codec.video_formats or ()]
    if encoding.pixel_format is not None and encoding.pixel_format not in formats:
        raise ConfigError(
            f"pixel_format: {encoding.pixel_format!r} is not allowed: {encoding.encoder} takes {', '.join(formats)}"
        )
    if encoding.two_pass and encoding.encoder not in TWO_PASS:
        raise ConfigError(f"two_pass: True is not allowed with {encoding.encoder}; allowed: {', '.join(TWO_PASS)}")
    if encoding.target_xpsnr_db is not None and encoding.encoder not in CRFS:
        raise ConfigError(
            f"target_xpsnr: {encoding.target_xpsnr_db:g} is not allowed with {encoding.encoder}; "
            f"allowed: {', '.join(CRFS)}"
        )
    if encoding.bit_rate is None and _quality_option(context) is None:
        raise ConfigError(f"crf: {encoding.encoder} has no such mode; give a bitrate")
    if encoding.preset is not None and _preset_option(context) is None:
        raise ConfigError(f"preset: {encoding.preset!r} is not allowed: {encoding.encoder} has none")
    if encoding.encoder in CODECS.values():  # others may need hardware that only the workers have
        _check_opens(context, encoding, encoding.pixel_format or formats[0])


def _check_opens(context: Any, encoding: Encoding, pixel_format: str) -> None:
    """Raise ConfigError where the encoder itself refuses its settings."""
    configure(context, encoding, Picture(256, 256, pixel_format, (1, 25), (25, 1), (1, 1), (1, 2, 2, 2), None))
    try:
        context.open()
    except (av.FFmpegError, ValueError) as error:
        asked = {"crf": encoding.crf, "preset": encoding.preset, "bitrate": encoding.bit_rate, **encoding.options}
        given = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in asked.items()
            if value is not None
        )
        raise ConfigError(f"codec: {encoding.encoder} refuses {given}: {_words_of(error)}") from None


def _words_of(error: Exception) -> str:
    """What an encoder itself has said of why it does not open."""
    _, separator, said = str(error).rpartition("log: ")
    return str(said if separator else getattr(error, "strerror", said))


def format_of(container: str) -> str:
    """FFmpeg's name of a container."""
    return {"mkv": "matroska", "cmaf": "dash"}.get(container, container)


def _private_options(context: Any) -> set[str]:
    return {option.name for option in context.supported_options.private}


def _quality_option(context: Any) -> str | None:
    return next((name for name in ("crf", "cq") if name in _private_options(context)), None)


def _preset_option(context: Any) -> str | None:
    return next((name for name in ("preset", "cpu-used") if name in _private_options(context)), None)


# --- what is encoded ------------------------------------------------------------------------------------------------


def rate_of(video: Video) -> Fraction:
    """Frames a second, on average, as the header says, or as is usual where it does not."""
    rate = video.stream.average_rate or video.stream.guessed_rate or _DEFAULT_RATE
    return Fraction(rate).limit_denominator(1_000_000)


def picture_of(
    video: Video, frame: VideoFrame, encoding: Encoding, factor: int = 1, timeline: Timeline | None = None
) -> Picture:
    """What a video's pictures will be, from its first frame; the same whichever clip asks.

    Args: `factor`, how many times as wide and as high they become; `timeline`, when they are shown if not as before.
    """
    name = frame.format.name.replace("yuvj", "yuv")
    formats = [known.name for known in Codec(encoding.encoder, "w").video_formats or ()]
    pixel_format = encoding.pixel_format or _nearest(name, formats)
    width, height = factor * frame.width, factor * frame.height
    if encoding.encoder not in _TAKES_ODD_SIZES:
        chroma = VideoFormat(pixel_format)
        width += width % 2 * (chroma.chroma_width(2) == 1)
        height += height % 2 * (chroma.chroma_height(2) == 1)
    colour = int(frame.color_range), int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)
    if name != frame.format.name:
        colour = 2, *colour[1:]
    if is_rgb(name) and not is_rgb(pixel_format):
        colour = 1, MATRIX_OF_RGB, *colour[2:]
    time_base, rate = video.time_base, rate_of(video)
    if timeline is not None:
        time_base, rate = timeline.file_time_base, timeline.file_rate
    aspect = video.stream.sample_aspect_ratio or Fraction(0)
    side_data: Any = frame.side_data
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    return Picture(
        width=width,
        height=height,
        pixel_format=pixel_format,
        time_base=time_base.as_integer_ratio(),
        rate=rate.limit_denominator(1_000_000).as_integer_ratio(),
        pixel_aspect=aspect.as_integer_ratio(),
        colour=colour,
        display_matrix=None if data is None else _moved(struct.unpack("=9i", bytes(data)[:36]), factor),
    )


def _moved(matrix: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """The matrix for larger pictures: what turns one also moves it by its width or height."""
    across, down = (max(-(2**31), min(factor * by, 2**31 - 1)) for by in matrix[6:8])
    return (*matrix[:6], across, down, *matrix[8:])


def check_size(picture: Picture, job: EnhanceJob) -> None:
    """Raise VideoError for upscaled pictures that are larger than the run allows or the encoder takes."""
    if times_larger(job.steps) == 1:
        return
    encoder, size = job.encoding.encoder, f"{picture.width}x{picture.height}"
    if picture.width * picture.height > job.bounds.max_pixels:
        raise VideoError("bounds", f"{size} pictures, upscaled; {job.bounds.max_pixels} pixels are allowed")
    if max(picture.width, picture.height) <= _TAKEN_BY_ALL:
        return
    context = VideoCodecContext.create(encoder, "w")
    assert isinstance(context, VideoCodecContext)
    configure(context, job.encoding, picture)
    try:
        context.open()
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("encode", f"{encoder} takes no pictures of {size}, upscaled: {_words_of(error)}") from None


def encoding_of(encoding: Encoding, picture: Picture, rung: Picture) -> Encoding:
    """What the encoder of a rung is asked for: of a bitrate a part, as smaller pictures have more to say by pixel."""
    if encoding.bit_rate is None or rung == picture:
        return encoding
    share = rung.width * rung.height / (picture.width * picture.height)
    return replace(encoding, bit_rate=round(encoding.bit_rate * min(1.0, share**_RATE_BY_PIXELS)))


def encoder_of(encoding: Encoding, picture: Picture, rung: Picture, way: Pass | None = None) -> VideoCodecContext:
    """The encoder of a rung, set up but not open."""
    context = CodecContext.create(encoding.encoder, "w")
    assert isinstance(context, VideoCodecContext)
    configure(context, encoding_of(encoding, picture, rung), rung, way)
    return context


def _nearest(name: str, formats: list[str]) -> str:
    if not formats or name in formats:
        return name
    planar = [known for known in formats if known.startswith("yuv") and not known.startswith("yuvj")]
    has_alpha = VideoFormat(name).name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya"))
    best, _loss = find_best_pix_fmt_of_list(planar or formats, name, has_alpha)
    return name if best is None else best.name


def configure(context: VideoCodecContext, encoding: Encoding, picture: Picture, way: Pass | None = None) -> None:
    """Set all of an encoder before it is opened; the same settings give the same `extradata`."""
    context.width, context.height, context.pix_fmt = picture.width, picture.height, picture.pixel_format
    context.time_base = Fraction(*picture.time_base)
    context.framerate = Fraction(*picture.rate)
    context.gop_size = encoding.gop
    context.thread_count = encoding.threads
    context.flags |= Flags.global_header | Flags.closed_gop
    if picture.pixel_aspect[0]:
        context.sample_aspect_ratio = Fraction(*picture.pixel_aspect)
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = picture.colour
    options = _options(context, encoding, way)
    if encoding.bit_rate is not None:
        context.bit_rate = encoding.bit_rate
    context.bit_rate_tolerance = _RATE_TOLERANCE
    context.options = options | encoding.options


def _options(context: VideoCodecContext, encoding: Encoding, way: Pass | None) -> dict[str, str]:
    options: dict[str, str] = {}
    if encoding.bit_rate is None and (name := _quality_option(context)) is not None:
        crf = _QUALITY.get(encoding.encoder, _DEFAULT_QUALITY) if encoding.crf is None else encoding.crf
        options[name] = f"{crf:g}"
    if encoding.preset is not None and (name := _preset_option(context)) is not None:
        options[name] = encoding.preset
    passes = [] if way is None else [f"pass={way.number}", f"stats={way.statistics}"]
    if encoding.is_segmented and encoding.encoder in TWO_PASS:
        options["forced-idr"] = "1"
        passes.append("scenecut=0")
    if encoding.target_xpsnr_db is not None:  # clips of another crf are joined: headers must not depend on it
        passes += {"libx264": ["stitchable=1"], "libx265": ["info=0"]}.get(encoding.encoder, [])
    if encoding.encoder == "libx264" and passes:
        options["x264-params"] = ":".join(passes)
    elif encoding.encoder == "libx265":
        options["x265-params"] = ":".join(["log-level=error", "open-gop=0", f"pools={encoding.threads}", *passes])
    elif encoding.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # only errors; else it tells stderr about each video
        options["svtav1-params"] = f"lp={encoding.threads}"
    elif encoding.encoder == "libvpx-vp9":
        options = {"row-mt": "1", "cpu-used": "4"} | options | ({} if encoding.bit_rate else {"b": "0"})
    return options


def encoded(rungs: list[Rung], frames: Iterable[Timed], facts: Facts, segments: Segments | None = None) -> Packets:
    """The packets of frames by each encoder, in decoding order; None for a frame that was taken and gave none.

    With `segments` a keyframe begins each. Damage ends the frames, and is noted in `facts`. Raises VideoError where it
    is not the end of the frames that is wrong.
    """
    durations: list[dict[int, int]] = [{} for _ in rungs]
    source = iter(frames)
    while True:
        try:
            enhanced = next(source, None)
        except VideoError as error:
            if error.kind not in _ENDS_VIDEO:
                raise
            facts.error_kind, facts.error_message = error.kind, error.message
            enhanced = None
        began = time.perf_counter()
        is_first = False
        if enhanced is not None:
            facts.num_frames += 1
            facts.num_interpolated += enhanced.is_made
            is_first = segments is not None and segments.begins(enhanced.tick * Fraction(enhanced.frame.time_base or 0))
        given: list[tuple[int, Packet[VideoStream]]] = []
        for number, rung in enumerate(rungs):
            if enhanced is not None:
                durations[number][enhanced.tick] = enhanced.end - enhanced.tick
            given += [(number, packet) for packet in _encode(rung, enhanced, is_first=is_first)]
        facts.encode_seconds += time.perf_counter() - began
        for number, packet in given:
            if packet.pts is not None and (packet.dts is None or packet.dts > packet.pts):
                packet.dts = packet.pts  # libx265 makes up a time for the only frame of a video
            packet.duration = durations[number].pop(packet.pts, 0) if packet.pts is not None else 0
            yield number, packet
        if enhanced is None:
            return
        if not given:
            yield None


def _encode(rung: Rung, enhanced: Timed | None, *, is_first: bool) -> list[Packet[VideoStream]]:
    """What an encoder gives for a frame, or at the end. Args: `is_first`, whether a segment begins with it."""
    try:
        if enhanced is None:
            return rung.context.encode(None)
        frame = rung.sized(enhanced.frame)
        frame.pict_type = PictureType.I if is_first else PictureType.NONE
        return rung.context.encode(frame)
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        raise VideoError("encode", f"{rung.context.name}: {error}") from None
