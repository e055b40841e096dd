"""Packets of pictures go in, and the source they are from; one file comes out, with the source's sound and all else.

Runs in the child process. Sound, subtitles, chapters, attachments and metadata are copied; what the container cannot
hold is encoded anew (sound) or left out, and said so in `changes`. Where the source's clock does not begin at zero but
later, all streams begin earlier by the same time, which is said too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final, TypeAlias, cast

import av
import numpy as np
import pyarrow as pa
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.container.output import OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vidbatch import schema, storage
from vidbatch.decoding.container import Video
from vidbatch.enhancing.encode import Pass, configure, format_of
from vidbatch.enhancing.types import EnhanceJob, Facts, JoinJob, Picture
from vidbatch.errors import VideoError

_BATCH_BYTES: Final = 4 * 2**20
_OF_THE_CONTAINER: Final = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
)
"""Metadata that describe the file that was, not the video."""
_NOTABLE_SECONDS: Final = 1
_SOUND_RATES: Final = (32_000, 44_100, 48_000)

Packets: TypeAlias = "Iterator[Packet[VideoStream] | None]"
"""None: it goes on, but there is no packet yet."""


def write_file(
    job: EnhanceJob, picture: Picture, facts: Facts, source: Video,
    packets_of: Callable[[VideoCodecContext], Packets], *, way: Pass | None = None,
) -> Iterator[None]:  # fmt: skip
    """Write job.file; yields now and then.

    Args: `source` is where everything but pictures is copied from; `packets_of` gives the packets, of an encoder that
    is open. Raises VideoError: `encode`, or that of a storage that fails.
    """
    options = {"movflags": "+faststart"} if job.container == "mp4" else {}
    num_packets = 0
    try:
        with av.open(job.file, "w", format=format_of(job.container), container_options=options) as out:
            assert isinstance(out, OutputContainer)
            stream = cast(VideoStream, out.add_stream(
                job.encoding.encoder, rate=Fraction(*picture.rate), time_base=Fraction(*picture.time_base)
            ))  # fmt: skip
            configure(stream.codec_context, job.encoding, picture, way)
            if stream.codec_context.codec.canonical_name == "hevc" and job.container == "mp4":
                # With FFmpeg's own choice, hev1, Apple's players show nothing.
                stream.codec_context.codec_tag = "hvc1"
            if picture.display_matrix is not None:
                stream.set_display_matrix(picture.display_matrix)
            shift = Fraction(max(0, source.container.start_time or 0), av.time_base)
            if shift:
                facts.changes.append(f"all times are {float(shift):.3f} s earlier: the source's clock began late")
            copied = _Copied(source.container, out, source.stream.index, job.container, shift, facts)
            out.start_encoding()
            ticks = round(shift / Fraction(*picture.time_base))
            for packet in packets_of(stream.codec_context):
                if packet is not None:
                    assert packet.pts is not None
                    assert packet.dts is not None
                    packet.stream, packet.time_base = stream, Fraction(*picture.time_base)
                    packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                    copied.mux_until(packet.dts * packet.time_base)
                    out.mux_one(packet)
                    num_packets += 1
                yield
            copied.mux_until(None)
            facts.extradata = (stream.codec_context.extradata or b"").hex()
            facts.file["codec"] = stream.codec_context.codec.canonical_name
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("encode", f"{job.container}: {error}") from None
    source.check_source()
    yield from _verify(job.file, num_packets, picture, source.container, facts)


def _verify(path: str, num_packets: int, picture: Picture, source: InputContainer, facts: Facts) -> Iterator[None]:
    """Read the file that was written: it has to hold every frame. What else it does not hold is said."""
    with av.open(path) as written:
        stream = written.streams.video[0]
        found = 0
        for packet in written.demux(stream):
            found += packet.size > 0
            yield
        if found != num_packets:
            raise VideoError("encode", f"{num_packets} frames were written, the file holds {found}")
        aspect = Fraction(*picture.pixel_aspect) or 1
        if (stream.sample_aspect_ratio or 1) != aspect:
            facts.changes.append(f"pixels of {aspect} became square: this codec and container cannot hold that")
        lost = {name for name in source.metadata if name.lower() not in _OF_THE_CONTAINER}
        lost -= {name for name in lost for kept in written.metadata if kept.lower() == name.lower()}
        if lost:
            facts.changes.append(f"metadata left out: {', '.join(sorted(lost))}")


class _Copied:
    """The streams of a source beside its pictures, muxed as their turn comes."""

    def __init__(
        self, source: InputContainer, out: OutputContainer, video_index: int, container: str, shift: Fraction,
        facts: Facts,
    ) -> None:  # fmt: skip
        self._out = out
        self._shift = shift
        self._changes = facts.changes
        self._has_chapters = bool(source.chapters())
        self._streams: dict[int, Stream] = {}
        self._recoded: dict[int, AudioStream] = {}
        for stream in source.streams:
            if stream.index != video_index:
                change = self._take(stream, container)
                if change is not None:
                    self._changes.append(change)
        wanted = self._streams.keys() | self._recoded.keys()
        for stream in source.streams:
            stream.discard = Discard.default if stream.index in wanted else Discard.all
        out.metadata.update({n: v for n, v in source.metadata.items() if n.lower() not in _OF_THE_CONTAINER})
        if chapters := source.chapters():
            if container == "webm":
                self._changes.append(f"{len(chapters)} chapters left out: webm cannot hold them")
            else:
                out.set_chapters([_earlier(chapter, shift) for chapter in chapters])
        self._packets = self._demuxed(source, [source.streams[index] for index in sorted(wanted)])
        self._next: Packet[Any] | None = None
        self._has_begun = False

    def _take(self, stream: Stream, container: str) -> str | None:
        """Make room for a stream, or say why there is none."""
        if isinstance(stream, AttachmentStream):
            if container == "mkv":
                self._out.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data or b"")
                return None
            return f"attachment {stream.name!r} left out: {container} cannot hold it"
        if stream.type == "data" and self._has_chapters:
            return None  # mp4 keeps their titles as a stream
        kind = "sound" if stream.type == "audio" else stream.type
        name = stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"
        what = f"{kind} of stream {stream.index} ({name})"
        if stream.type in ("audio", "subtitle") and name in self._out.supported_codecs:
            try:
                copy = self._out.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError) as error:
                return f"{what} left out: {error}"
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._streams[stream.index] = copy
            return None
        if isinstance(stream, AudioStream) and stream.codec_context is not None:
            codec = "libopus" if container == "webm" else "aac"
            rate = stream.rate if stream.rate in _SOUND_RATES and codec == "aac" else _SOUND_RATES[-1]
            sound = cast(AudioStream, self._out.add_stream(codec, rate=rate))
            sound.layout = "stereo" if stream.layout.nb_channels > 1 else "mono"
            sound.metadata.update(stream.metadata)
            self._recoded[stream.index] = sound
            return f"{what} encoded anew ({codec}): {container} cannot hold it"
        if stream.type == "video":
            return f"{what} left out: only the main pictures are enhanced"
        return f"{what} left out: {container} cannot hold it"

    def mux_until(self, seconds: Fraction | None) -> None:
        """Write what is due before a time of the file; None: the rest."""
        if not self._has_begun:  # the file has its header by now, which decides on the clock of each stream
            self._has_begun, self._next = True, next(self._packets, None)
        while self._next is not None and (seconds is None or _seconds(self._next) <= seconds):
            self._out.mux_one(self._next)
            self._next = next(self._packets, None)

    def _demuxed(self, source: InputContainer, streams: list[Stream]) -> Iterator[Packet[Any]]:
        last: dict[int, int] = {}
        if not streams:
            return
        try:
            for packet in source.demux(streams):
                index = packet.stream.index
                if index in self._recoded:
                    yield from self._sound(packet)
                elif packet.dts is not None and packet.size:
                    self._put_in_order(packet, last)
                    yield packet
        except av.FFmpegError:
            return  # damage, which reading the pictures has met too
        for sound in self._recoded.values():
            yield from sound.encode(None)

    def _put_in_order(self, packet: Packet[Any], last: dict[int, int]) -> None:
        """Give a packet its place and time in the file: containers want times that rise, as those of joined recordings
        do not."""
        assert packet.dts is not None
        stream = self._streams[packet.stream.index]
        base = stream.time_base
        assert base is not None
        dts, pts = (
            round((tick * packet.time_base - self._shift) / base)
            for tick in (packet.dts, packet.dts if packet.pts is None else packet.pts)
        )
        packet.duration = round((packet.duration or 0) * packet.time_base / base)
        packet.stream, packet.time_base = stream, base
        least = last.get(stream.index, dts - 1) + 1
        if (least - dts) * base > _NOTABLE_SECONDS:
            change = f"{stream.type} of stream {stream.index} of the file is not in time: the source's clock falls back"
            self._changes += [] if change in self._changes else [change]
        packet.dts = last[stream.index] = max(dts, least)
        packet.pts = max(packet.dts, pts)

    def _sound(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        try:
            frames: list[Any] = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(self._shift / frame.time_base)
            yield from self._recoded[packet.stream.index].encode(frame)


def _seconds(packet: Packet[Any]) -> Fraction:
    tick = packet.dts if packet.dts is not None else packet.pts or 0
    return tick * packet.time_base


def _earlier(chapter: Any, shift: Fraction) -> Any:
    ticks = round(shift / chapter["time_base"])
    return {**chapter, "start": chapter["start"] - ticks, "end": chapter["end"] - ticks}


# --- clips of a video ------------------------------------------------------------------------------------------------


def write_packets(path: str, packets: Packets, facts: Facts) -> Iterator[None]:
    """Write the packets of one clip of several, in decoding order, as a stream of schema.PACKETS; yields at times."""
    times: list[int] = []
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, schema.PACKETS) as out:
        rows: list[dict[str, Any]] = []
        num_bytes = 0
        for packet in packets:
            if packet is not None:
                assert packet.pts is not None
                times.append(packet.pts)
                rows.append({"pts": packet.pts, "duration": packet.duration or 0, "is_keyframe": packet.is_keyframe,
                             "data": bytes(packet)})  # fmt: skip
                num_bytes += packet.size
            if num_bytes >= _BATCH_BYTES:
                out.write_batch(pa.RecordBatch.from_pylist(rows, schema.PACKETS))
                rows, num_bytes = [], 0
            yield
        out.write_batch(pa.RecordBatch.from_pylist(rows, schema.PACKETS))
    facts.reorder_depth = reorder_depth(times)


def reorder_depth(times: list[int]) -> int:
    """How many packets late, at most, a frame comes: of presentation times in decoding order."""
    if not times:
        return 0
    turn = np.empty(len(times), np.int64)
    turn[np.argsort(np.array(times), kind="stable")] = np.arange(len(times))
    return int((np.arange(len(times)) - turn).max())


def joined_packets(job: JoinJob, depth: int) -> Packets:
    """The packets of all clips, one after the other, with decoding times that rise over the joins too.

    A packet's decoding time is the presentation time whose turn comes `depth` packets before it, as encoders have it.
    """
    waiting: list[int] = []
    first: list[Packet[VideoStream]] = []
    ticks = _frame_ticks(job)
    for url in job.urls:
        with storage.open_read(url) as stream, pa.ipc.open_stream(stream) as batches:
            for batch in batches:
                for row in batch.to_pylist():
                    packet = _packet(row)
                    heapq.heappush(waiting, row["pts"])
                    if len(waiting) <= depth:
                        first.append(packet)
                        continue
                    yield from _begin(first, waiting[0], ticks)
                    first = []
                    packet.dts = heapq.heappop(waiting)
                    yield packet
    yield from _begin(first, waiting[0] if waiting else 0, ticks)


def _begin(first: list[Packet[VideoStream]], earliest: int, ticks: int) -> Packets:
    """The first packets, decoded before any frame is shown."""
    for number, packet in enumerate(first):
        packet.dts = earliest - (len(first) - number) * ticks
        yield packet


def _packet(row: dict[str, Any]) -> Packet[VideoStream]:
    packet = cast("Packet[VideoStream]", Packet(row["data"]))
    packet.pts, packet.duration = row["pts"], row["duration"]
    packet.is_keyframe = row["is_keyframe"]
    return packet


def _frame_ticks(job: JoinJob) -> int:
    picture = next(facts.picture for facts in job.facts if facts.picture is not None)
    return max(1, round(1 / (Fraction(*picture.rate) * Fraction(*picture.time_base))))
