"""Packets of pictures go in, and the source they are from; one file comes out, with the source's sound and all else.

Runs in the child process. Sound, subtitles, chapters, attachments and metadata are copied; what the container cannot
hold is encoded anew (sound) or left out, and said so in `changes`. Where the source's clock does not begin at zero but
later, all streams begin earlier by the same time, which is said too.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, cast

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
from vidbatch.enhancing import ladder
from vidbatch.enhancing.encode import Pass, configure, encoding_of, format_of
from vidbatch.enhancing.types import Encoding, EnhanceJob, Facts, JoinJob, Packets, Picture
from vidbatch.errors import VideoError

_BATCH_BYTES: Final = 4 * 2**20
_OF_THE_CONTAINER: Final = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
)
"""Metadata that describe the file that was, not the video."""
_NOTABLE_SECONDS: Final = 1
_SOUND_RATES: Final = (32_000, 44_100, 48_000)
_OF_LADDERS: Final = frozenset({"aac"})
"""Sound that every player of HLS and DASH takes."""


def write_file(
    job: EnhanceJob, picture: Picture, facts: Facts, source: Video,
    packets_of: Callable[[list[VideoCodecContext]], Packets], *, way: Pass | None = None,
) -> Iterator[None]:  # fmt: skip
    """Write job.file, or all files of a ladder beside it; yields now and then.

    Args: `source` is where everything but pictures is copied from; `packets_of` gives the packets, of encoders that
    are open, one a rung. Raises VideoError: `encode`, or that of a storage that fails.
    """
    rungs = ladder.rungs_of(picture, job.ladder)
    num_packets = [0 for _ in rungs]
    try:
        with av.open(
            job.file, "w", format=format_of(job.container), container_options=_options_of(job, source, len(rungs))
        ) as out:
            assert isinstance(out, OutputContainer)
            streams = [
                _stream_of(out, job, encoding_of(job.encoding, picture, rung), rung, way and way.of_rung(number))
                for number, rung in enumerate(rungs)
            ]
            shift = Fraction(max(0, source.container.start_time or 0), av.time_base)
            if shift:
                facts.changes.append(f"all times are {float(shift):.3f} s earlier: the source's clock began late")
            copied = _Copied(source.container, out, source.stream.index, job.container, shift, facts)
            out.start_encoding()
            ticks = round(shift / Fraction(*picture.time_base))
            languages = {at.index: at.metadata["language"] for at in out.streams if "language" in at.metadata}
            packets = packets_of([stream.codec_context for stream in streams])
            for given in packets if job.ladder is None else ladder.with_ends_of_fragments(packets):
                if given is not None:
                    number, packet = given
                    assert packet.pts is not None
                    assert packet.dts is not None
                    packet.stream, packet.time_base = streams[number], Fraction(*picture.time_base)
                    packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                    copied.mux_until(packet.dts * packet.time_base)
                    out.mux_one(packet)
                    num_packets[number] += 1
                yield
            copied.mux_until(None)
            facts.extradata = extradata_of([stream.codec_context for stream in streams])
            facts.file["codec"] = streams[0].codec_context.codec.canonical_name
            if job.ladder is not None:
                facts.file["heights"] = [rung.height for rung in rungs]
        if job.ladder is not None:
            ladder.finish(Path(job.media_folder), languages)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("encode", f"{job.container}: {error}") from None
    source.check_source()
    paths = [job.file]
    if job.ladder is not None:
        paths = [f"{job.media_folder}/{ladder.stream_file(number)}" for number in range(len(rungs))]
    for path, found, rung in zip(paths, num_packets, rungs, strict=True):
        yield from _verify(path, found, rung)
    with av.open(paths[0]) as written:
        _say_what_is_lost(written, rungs[0], source.container, facts)


def extradata_of(contexts: list[VideoCodecContext]) -> str:
    """What the encoders say once for all packets, as hex digits."""
    return ",".join((context.extradata or b"").hex() for context in contexts)


def _options_of(job: EnhanceJob, source: Video, num_rungs: int) -> dict[str, str]:
    if job.ladder is not None:
        Path(job.media_folder).mkdir(exist_ok=True)
        num_sounds = sum(stream.codec_context is not None for stream in source.container.streams.audio)
        return ladder.options_of(job.ladder, num_rungs=num_rungs, num_sounds=num_sounds)
    return {"movflags": "+faststart"} if job.container == "mp4" else {}


def _stream_of(
    out: OutputContainer, job: EnhanceJob, encoding: Encoding, rung: Picture, way: Pass | None
) -> VideoStream:
    """A stream for the pictures of one rung."""
    stream = cast(VideoStream, out.add_stream(
        job.encoding.encoder, rate=Fraction(*rung.rate), time_base=Fraction(*rung.time_base)
    ))  # fmt: skip
    configure(stream.codec_context, encoding, rung, way)
    if stream.codec_context.codec.canonical_name == "hevc" and job.container in ("mp4", "cmaf"):
        # With FFmpeg's own choice, hev1, Apple's players show nothing.
        stream.codec_context.codec_tag = "hvc1"
    if rung.display_matrix is not None:
        stream.set_display_matrix(rung.display_matrix)
    return stream


def _verify(path: str, num_packets: int, picture: Picture) -> Iterator[None]:
    """Read the pictures of the file that was written: it has to hold every frame."""
    with av.open(path) as written:
        found = 0
        for packet in written.demux(written.streams.video[0]):
            found += packet.size > 0
            yield
        if found != num_packets:
            size = f"{picture.width}x{picture.height}"
            raise VideoError("encode", f"{num_packets} frames of {size} were written, the file holds {found}")


def _say_what_is_lost(written: InputContainer, picture: Picture, source: InputContainer, facts: Facts) -> None:
    aspect = Fraction(*picture.pixel_aspect) or 1
    if (written.streams.video[0].sample_aspect_ratio or 1) != aspect:
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
            if container in ("webm", "cmaf"):
                self._changes.append(f"{len(chapters)} chapters left out: {container} cannot hold them")
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
        can_hold = name in _OF_LADDERS if container == "cmaf" else name in self._out.supported_codecs
        if stream.type in ("audio", "subtitle") and can_hold:
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
    times: dict[int, list[int]] = defaultdict(list)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, schema.PACKETS) as out:
        rows: list[dict[str, Any]] = []
        num_bytes = 0
        for given in packets:
            if given is not None:
                rung, packet = given
                assert packet.pts is not None
                times[rung].append(packet.pts)
                rows.append({"rung": rung, "pts": packet.pts, "duration": packet.duration or 0,
                             "is_keyframe": packet.is_keyframe, "data": bytes(packet)})  # fmt: skip
                num_bytes += packet.size
            if num_bytes >= _BATCH_BYTES:
                out.write_batch(pa.RecordBatch.from_pylist(rows, schema.PACKETS))
                rows, num_bytes = [], 0
            yield
        out.write_batch(pa.RecordBatch.from_pylist(rows, schema.PACKETS))
    facts.reorder_depth = max(map(reorder_depth, times.values()), default=0)


def reorder_depth(times: list[int]) -> int:
    """How many packets late, at most, a frame comes: of presentation times in decoding order."""
    if not times:
        return 0
    turn = np.empty(len(times), np.int64)
    turn[np.argsort(np.array(times), kind="stable")] = np.arange(len(times))
    return int((np.arange(len(times)) - turn).max())


def joined_packets(job: JoinJob, depth: int) -> Packets:
    """The packets of all clips, one after the other, with decoding times that rise over the joins too."""
    ticks = _frame_ticks(job)
    clocks: dict[int, _DecodingClock] = defaultdict(lambda: _DecodingClock(depth, ticks))
    for url in job.urls:
        with storage.open_read(url) as stream, pa.ipc.open_stream(stream) as batches:
            for batch in batches:
                for row in batch.to_pylist():
                    for packet in clocks[row["rung"]].push(_packet(row)):
                        yield row["rung"], packet
    for rung, clock in clocks.items():
        for packet in clock.flush():
            yield rung, packet


class _DecodingClock:
    """Gives packets of one encoder, which come in decoding order, their decoding times.

    That is the presentation time whose turn comes `depth` packets before a packet's own, as encoders have it.
    """

    def __init__(self, depth: int, frame_ticks: int) -> None:
        self._depth = depth
        self._frame_ticks = frame_ticks
        self._waiting: list[int] = []
        self._first: list[Packet[VideoStream]] = []

    def push(self, packet: Packet[VideoStream]) -> Iterator[Packet[VideoStream]]:
        """Take the next packet; give those whose time is known."""
        assert packet.pts is not None
        heapq.heappush(self._waiting, packet.pts)
        if len(self._waiting) <= self._depth:
            self._first.append(packet)
            return
        yield from self.flush()
        packet.dts = heapq.heappop(self._waiting)
        yield packet

    def flush(self) -> Iterator[Packet[VideoStream]]:
        """The first packets, decoded before any frame is shown."""
        for number, packet in enumerate(self._first):
            packet.dts = self._waiting[0] - (len(self._first) - number) * self._frame_ticks
            yield packet
        self._first = []


def _packet(row: dict[str, Any]) -> Packet[VideoStream]:
    packet = cast("Packet[VideoStream]", Packet(row["data"]))
    packet.pts, packet.duration = row["pts"], row["duration"]
    packet.is_keyframe = row["is_keyframe"]
    return packet


def _frame_ticks(job: JoinJob) -> int:
    picture = next(facts.picture for facts in job.facts if facts.picture is not None)
    return max(1, round(1 / (Fraction(*picture.rate) * Fraction(*picture.time_base))))
