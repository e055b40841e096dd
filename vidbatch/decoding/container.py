"""Bytes of a stranger's file go in; an opened container with its one picture stream comes out, or a VideoError.

Runs in the decoder's child process. FFmpeg is shown only the stream it is handed: demuxers that open other files
(playlists, image sequences, session descriptions) are not on the list, and every nested open is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, NoReturn

import av
from av.container.core import Flags
from av.index import IndexEntries
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from vidbatch import storage
from vidbatch.decoding import sniff, waiting
from vidbatch.decoding.log import Log
from vidbatch.decoding.types import Bounds
from vidbatch.errors import ErrorKind, VideoError
from vidbatch.storage import Reader, redact

_DEMUXERS: Final = (
    # Containers of video, then raw streams of one codec, then sound: known only to be called `audio_only`.
    "mov,mp4,matroska,webm,avi,mpegts,mpegtsraw,mpeg,asf,asf_o,flv,live_flv,kux,ogg,rm,gif,apng,mxf,gxf,"
    "nut,dv,swf,wtv,nsv,nuv,roq,smk,bink,ivf,iv8,yuv4mpegpipe,ea,film_cpk,flic,pva,ty,dhav,vivo,thp,txd,wc3movie,"
    "4xm,bethsoftvid,bfi,c93,dsicin,dxa,idcin,ipmovie,jv,lvf,mm,mtv,mv,mvi,rl2,rpl,sdr2,siff,smush,tiertexseq,tmv,"
    "vmd,wsvqa,xmv,yop,hnm,avs,anm,cine,r3d,lxf,argo_asf,paf,luodat,moflex,ilbc,jpegxl_anim,"
    "h261,h263,h264,hevc,vvc,evc,m4v,mpegvideo,mjpeg,mjpeg_2000,obu,av1,cavsvideo,avs2,avs3,vc1,vc1test,dnxhd,dirac,"
    "ingenient,smjpeg,lmlm4,mp3,wav,flac,aac,ac3,eac3,ac4,aiff,amr,au,caf,ape,wv,w64,tta,dts,dtshd,mpc,mpc8,"
    "truehd,mlp,voc,tak,oma,aa,aax,dsf,iff,sox,ircam,qcp,gsm,spdif,xwma,shn,loas"
)

_DAMAGE_CHECKS: Final[dict[str, str]] = {
    # Where libavcodec paints over damage without flagging the frame it is told to fail instead. Elsewhere it flags
    # the frame (`is_corrupt`), and failing would reject streams that merely bend the rules.
    "hevc": "crccheck+explode",
    "mjpeg": "crccheck+explode",
    "mpeg1video": "crccheck+explode",
    "mpeg2video": "crccheck+explode",
}
DECODER_THREADS: Final = 1
"""A decoder has one core, and long videos are cut: two decoders get through many videos, and through a long one, sooner
than one with two threads (benchmarks/threads.py)."""

_PROBE_BYTES: Final = 1 << 16
_SMALLEST_VIDEO_BYTES: Final = 2048
_SMALLEST_STREAM_BYTES: Final = 256
"""What begins like a container, cannot be opened or holds no video, and is smaller, is the beginning of something."""
_INDEXED: Final = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
_CUED: Final = "matroska,webm"
_WORTH_READING_CUES_BYTES: Final = 8 * 2**20
"""A smaller video is fetched whole."""
SKIPPED: Final = {"matroska,webm": "", "flv": "Packet mismatch"}
"""Demuxers that skip damage to where they find their feet again, and what of their errors says that they did."""
_WITHOUT_DURATION: Final = frozenset({"mpegts", "mpeg"})
"""Where FFmpeg takes the last time less the first, which is nonsense in joined recordings."""
_GENERATE_TIMES: Final[int] = Flags.gen_pts.value  # type: ignore[assignment]  # the stubs lack the type of values
_STILL_BRANDS: Final = {"avif", "heic", "heix", "mif1"}


def open_clip(clip: Mapping[str, Any]) -> Reader:
    """A clip's bytes, as storage.open_clip gives them; the time counts as waiting for the storage."""
    with waiting.for_storage():
        return storage.open_clip(clip)


class _Source:
    """What FFmpeg reads from: no name to leak, and the first failure of the storage kept for the end.

    libav turns a failed read into an error of its own, or into an early end of the file; `raise_failure` says
    what it really was.
    """

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._failure: VideoError | None = None
        self.size_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def read(self, size: int) -> bytes:
        if self._failure is None:
            try:
                with waiting.for_storage():
                    return self._stream.read1(size)
            except VideoError as error:
                self._failure = error
        return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def expect(self, ranges: Iterator[tuple[int, int]]) -> None:
        self._stream.expect(ranges)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class Video:
    """An opened container and the stream to decode. Close it, or use it as a context manager.

    `header` holds the fields of schema.HEADER, as the container's header says them.
    """

    def __init__(self, stream: Reader, *, bounds: Bounds, log: Log) -> None:
        self._bounds = bounds
        self._log = log
        self._source = _Source(stream)
        if self._source.size_bytes == 0:
            raise VideoError("empty", "the object holds no bytes")
        self._start = stream.read(_PROBE_BYTES)
        self._source.seek(0)
        self.cues: list[tuple[int, int]] = []
        """Some keyframes, in order, as far as `read_cues` found any: when each is shown, and where it is stored."""
        self.num_packets_in_all = 0
        """Packets read so far, those before going back to the first one too."""
        self._begin()
        self.header = self._read_header()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Go back to the first packet, whatever the container can seek, with a decoder that knows nothing."""
        self._container.close()
        self._source.seek(0)
        self._begin()

    def _begin(self) -> None:
        self.num_packets = 0
        self._container = self._open()
        self.stream = self._choose_stream()
        self.context = self.stream.codec_context
        assert self.stream.time_base is not None
        self.time_base: Fraction = self.stream.time_base
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.frame_ticks = max(1, round(1 / (rate * self.time_base))) if rate else 1
        """How long a frame lasts by the average rate, at least one tick; what is used where nothing else is known."""
        self._check_bounds()
        self._prepare_decoder()
        if self.demuxer in SKIPPED and self._log.new_errors_of(self.demuxer):
            # FFmpeg looked far enough ahead to meet damage; it is noticed where it lies only when it is met again.
            self.seek(self.stream.start_time or 0)

    def close(self) -> None:
        """Free the container and its decoder; the stream stays open."""
        self._container.close()

    @property
    def container(self) -> av.container.InputContainer:
        """The container itself, for who needs more of it than its pictures."""
        return self._container

    def check_source(self) -> None:
        """Raise the VideoError of a storage that failed, which libav takes for the end of the file."""
        self._source.raise_failure()

    @property
    def demuxer(self) -> str:
        """FFmpeg's name of the container format, as in its log lines."""
        return self._container.format.name

    @property
    def is_indexed(self) -> bool:
        """Whether seeks go by an index of keyframes, so that they are exact, and reach the last one."""
        return self.demuxer in _INDEXED

    @property
    def index(self) -> IndexEntries | None:
        """All packets by decoding time, where the container lists them."""
        entries = self.stream.index_entries
        return entries if "mov" in self.demuxer and len(entries) else None

    def read_cues(self) -> None:
        """Learn what a Matroska file tells of its keyframes, mostly at its end; leaves the video at its beginning."""
        if self.demuxer == _CUED and self._source.size_bytes > _WORTH_READING_CUES_BYTES:
            if self.seek(self.stream.start_time or 0):
                self.cues = sorted((entry.timestamp, entry.pos) for entry in self.stream.index_entries)
            self.reopen()

    def expect(self, ranges: Iterator[tuple[int, int]]) -> None:
        """Say which bytes of the file are going to be read, in ascending order."""
        self._source.expect(ranges)

    def is_keyframe(self, packet: Packet[VideoStream]) -> bool:
        """Whether the container marks the packet as a keyframe: in its index where it has one.

        FFmpeg also marks packets that its parser takes for places to begin at, which no index tells of.
        """
        if not packet.is_keyframe or packet.dts is None or (index := self.index) is None:
            return packet.is_keyframe
        number = index.search_timestamp(packet.dts, any_frame=True)
        return number < 0 or index[number].timestamp != packet.dts or index[number].is_keyframe

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets from the present position on, in decoding order; empty ones left out.

        Raises VideoError: `bounds` past the allowed number of packets, else what reading failed of.
        """
        most = self._bounds.max_packets
        try:
            for packet in self._container.demux(self.stream):
                size = packet.size
                if size == 0 and packet.dts is None and packet.pts is None:
                    continue  # PyAV's sign for the end
                self.num_packets += 1
                self.num_packets_in_all += 1
                if self.num_packets > most:
                    raise VideoError("bounds", f"more than {most} packets")
                if size:  # an empty one says "show the last picture again", but a decoder takes it for the end
                    yield packet
        except IndexError:
            pass  # PyAV's at the end, where a stream has appeared on the way: it has never heard of it
        except (av.FFmpegError, _NestedOpen) as error:
            self.fail(error, at_end=False)
        self._source.raise_failure()

    def seek(self, tick: int) -> bool:
        """Go to a keyframe that should lie at or before `tick`; False when this container cannot."""
        try:
            self._container.seek(tick, stream=self.stream, backward=True)
        except av.FFmpegError:
            self._source.raise_failure()
            return False
        return True

    def fail(self, error: BaseException | None, *, at_end: bool) -> NoReturn:
        """Raise the VideoError that an error of libav, or a sign of damage, amounts to.

        `at_end` says that no data follow: then the video is truncated, unless it is known to be complete.
        """
        self._source.raise_failure()
        if isinstance(error, VideoError):
            text = error.message
        else:
            text = "; ".join(filter(None, [_words_of(error), self._log.latest()]))
            text = text or f"{self.context.codec.canonical_name}: damaged data"
        kind: ErrorKind = "corrupt"
        if "exceeds specified max pixel count" in text or "Picture size" in text:
            kind = "bounds"
        elif isinstance(error, (av.error.PatchWelcomeError, av.error.DecoderNotFoundError)):
            kind = "unsupported"
        elif isinstance(error, MemoryError):
            raise error
        elif at_end and not self.is_complete:
            kind = "truncated"
        raise VideoError(kind, redact(text))

    def problem_at_end(self, num_packets: int | None) -> VideoError | None:
        """After the last packet: the error to report if the container promised more than came.

        Args: `num_packets` read from the very start on, None when reading began elsewhere.
        """
        errors = self._log.new_errors_of(self.demuxer)
        promised = len(self.index or ())
        if self.is_complete is False:
            return VideoError("truncated", self._missing_bytes())
        if any("prematurely" in line or "partial file" in line for line in errors):
            return VideoError("truncated", redact(f"{self.demuxer}: {errors[-1]}"))
        if num_packets is not None and num_packets < promised:
            return VideoError("truncated", f"{promised} frames in the index, data of {num_packets}")
        return None

    @property
    def is_complete(self) -> bool | None:
        """Whether the file is as long as its container says; None when the container does not say."""
        declared = sniff.declared_bytes(self._start, self._source.size_bytes)
        if (index := self.index) is not None:
            last = index[-1]
            declared = max(declared or 0, last.pos + last.size)
        return None if declared is None else declared <= self._source.size_bytes

    def _missing_bytes(self) -> str:
        return f"the file ends after {self._source.size_bytes} bytes, its container says that there are more"

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(
                self._source,
                "r",
                metadata_errors="replace",
                buffer_size=1 << 18,
                io_open=_refuse_nested_open,
                options={"max_pixels": str(self._bounds.max_pixels)},
                container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
            )
        except (av.FFmpegError, _NestedOpen, ValueError) as error:
            self._source.raise_failure()
            self._explain_open_failure(error)
        # As ffprobe does: times that the file does not hold are taken from decoding order, not made up.
        container.flags &= ~_GENERATE_TIMES
        return container

    def _explain_open_failure(self, error: BaseException) -> NoReturn:
        said = self._log.latest()
        text = redact("; ".join(filter(None, [_words_of(error), said])))
        if isinstance(error, MemoryError):
            raise error
        if isinstance(error, _NestedOpen) or (said is not None and "whitelist" in said):
            raise VideoError("not_a_video", f"not a container of video: {text}") from None
        if not sniff.is_container(self._start):
            raise VideoError("not_a_video", text) from None
        declared = sniff.declared_bytes(self._start, self._source.size_bytes)
        missing = declared is not None and declared > self._source.size_bytes
        if missing or "moov atom not found" in text or self._source.size_bytes < _SMALLEST_VIDEO_BYTES:
            raise VideoError("truncated", text) from None
        raise VideoError("corrupt", text) from None

    def _choose_stream(self) -> VideoStream:
        """The default video stream, else the largest, as FFmpeg chooses; cover art is not video."""
        pictures = Disposition.attached_pic | Disposition.timed_thumbnails
        video = [s for s in self._container.streams.video if not s.disposition & pictures]
        decodable = [s for s in video if s.codec_context is not None]
        if not decodable:
            self._explain_no_stream(video)
        best = max(decodable, key=_stream_rank)
        if best.codec_context.codec.canonical_name in ("ansi", "bintext", "xbin", "idf"):
            raise VideoError("not_a_video", "text drawn as pictures")
        if self._container.metadata.get("major_brand", "").strip() in _STILL_BRANDS and best.frames <= 1:
            raise VideoError("not_a_video", "a still image, not a video")
        for stream in self._container.streams:
            if stream.index != best.index:
                stream.discard = Discard.all
        return best

    def _explain_no_stream(self, video: list[VideoStream]) -> NoReturn:
        if video:
            raise VideoError("unsupported", f"no decoder for {_codec_of(video[0])}")
        kinds = ", ".join(sorted({s.type for s in self._container.streams})) or "no streams"
        if self._source.size_bytes < _SMALLEST_STREAM_BYTES and sniff.is_container(self._start):
            raise VideoError("truncated", f"{self.demuxer}: {kinds} in {self._source.size_bytes} bytes")
        if any(s.type == "audio" for s in self._container.streams):
            raise VideoError("audio_only", "sound but no pictures")
        raise VideoError("no_video_stream", f"{self.demuxer}: {kinds}")

    def _read_header(self) -> dict[str, Any]:
        stream, context = self.stream, self.context
        return {
            "container": self.demuxer,
            "codec": context.codec.canonical_name,
            "width": context.width or None,
            "height": context.height or None,
            "duration_seconds": self._duration_seconds(),
            "frame_rate": float(stream.average_rate) if stream.average_rate else None,
            "num_frames_from_header": stream.frames or None,
        }

    def _duration_seconds(self) -> float | None:
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        return None if self._container.duration is None else self._container.duration / av.time_base

    def _check_bounds(self) -> None:
        pixels = self.context.width * self.context.height
        if pixels > self._bounds.max_pixels:
            size = f"{self.context.width}x{self.context.height}"
            raise VideoError("bounds", f"{size} pictures; {self._bounds.max_pixels} pixels are allowed")
        seconds = None if self.demuxer in _WITHOUT_DURATION else self._duration_seconds()
        if seconds is not None and seconds > self._bounds.max_duration_seconds:
            allowed = self._bounds.max_duration_seconds
            raise VideoError("bounds", f"{seconds:.0f} s long; {allowed:.0f} s are allowed")
        if len(self.stream.index_entries) > self._bounds.max_packets:
            raise VideoError("bounds", f"more than {self._bounds.max_packets} packets")

    def _prepare_decoder(self) -> None:
        self.context.thread_count = DECODER_THREADS
        self.context.options = {
            "max_pixels": str(self._bounds.max_pixels),
            "err_detect": _DAMAGE_CHECKS.get(self.context.codec.canonical_name, "crccheck"),
        }


class _NestedOpen(Exception):
    """A container wanted to open something else."""


def _refuse_nested_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:  # noqa: ARG001  # PyAV's call
    raise _NestedOpen("it refers to other files")


def _words_of(error: BaseException | None) -> str | None:
    """FFmpeg's words for an error; decoders' plain -1 is no "Operation not permitted"."""
    if isinstance(error, av.FFmpegError):
        return None if isinstance(error, av.error.PermissionError) else error.strerror
    return None if error is None else str(error)


def _stream_rank(stream: VideoStream) -> tuple[bool, int]:
    return bool(stream.disposition & Disposition.default), stream.codec_context.width * stream.codec_context.height


def _codec_of(stream: Stream) -> str:
    return f"codec {stream.codec_tag!r}" if stream.codec_context is not None else "the codec of its video stream"
