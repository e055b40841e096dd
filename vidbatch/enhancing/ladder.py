"""One picture goes in, pictures of several heights come out; and what makes their files one ladder, HLS and DASH alike.

Runs in the child process. A ladder is CMAF: each height is one fragmented MP4 beside the sound's, `manifest.mpd` (DASH)
and `master.m3u8` (HLS) say which bytes of them are which segment. One file a height, not one a segment: an archive of
a million videos would be a billion objects. FFmpeg's dash muxer writes both; a keyframe begins each segment, at the
same time in every height, and nowhere else, so that players may change the height at any of them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidbatch.enhancing.filters import Conversion, Nodes, Shape, scaling, shape_of
from vidbatch.enhancing.types import MASTER, Ladder, Packets, Picture

_NEARLY: Final = Fraction(3, 4)
"""A segment ends at the first keyframe behind so much of its length: frames of a variable rate come a little late."""
_TURNS: Final[dict[tuple[int, ...], Nodes]] = {
    (1, 0, 0, 1): [],
    (-1, 0, 0, 1): [("hflip", "")],
    (1, 0, 0, -1): [("vflip", "")],
    (-1, 0, 0, -1): [("hflip", ""), ("vflip", "")],
    (0, 1, -1, 0): [("transpose", "dir=clock")],
    (0, -1, 1, 0): [("transpose", "dir=cclock")],
    (0, 1, 1, 0): [("transpose", "dir=cclock_flip")],
    (0, -1, -1, 0): [("transpose", "dir=clock_flip")],
}  # fmt: skip
"""What turns pictures upright, by the signs of a display matrix."""


def _turning(picture: Picture) -> Nodes | None:
    """Filters that turn a picture upright; None where its display matrix says more than quarters of a turn."""
    if picture.display_matrix is None:
        return []
    a, b, _, c, d, *_ = picture.display_matrix
    signs = tuple((number > 0) - (number < 0) for number in (a, b, c, d))
    return list(known) if (known := _TURNS.get(signs)) is not None else None


def rungs_of(picture: Picture, ladder: Ladder | None) -> list[Picture]:
    """The pictures of each rung, the highest first: upright, of square pixels, never higher than they were.

    Without a ladder: the picture itself.
    """
    if ladder is None:
        return [picture]
    across, down = picture.width * (Fraction(*picture.pixel_aspect) or 1), Fraction(picture.height)
    if any(name == "transpose" for name, _ in _turning(picture) or []):
        across, down = down, across
    heights = [height for height in sorted(set(ladder.heights), reverse=True) if height <= down] or [int(down)]
    chroma = VideoFormat(picture.pixel_format)
    by = 2 // chroma.chroma_width(2), 2 // chroma.chroma_height(2)
    return [
        replace(
            picture,
            width=max(by[0], round(across * height / down / by[0]) * by[0]),
            height=max(by[1], height // by[1] * by[1]),
            pixel_aspect=(1, 1),
            display_matrix=None,
        )
        for height in heights
    ]


class Sizing:
    """A frame as the encoder of the whole picture takes it in, as that of a rung takes it out."""

    def __init__(self, picture: Picture, rung: Picture) -> None:
        self._nodes = [] if rung == picture else list(_turning(picture) or [])
        if self._nodes or (rung.width, rung.height) != (picture.width, picture.height):
            self._nodes.append(scaling("bicubic", f"{rung.width}:{rung.height}"))
        self._shape: Shape | None = None
        self._conversion: Conversion | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """The frame of the rung, at the same time."""
        if not self._nodes:
            return frame
        if shape_of(frame) != self._shape or self._conversion is None:
            self._shape = shape_of(frame)
            self._conversion = Conversion(self._shape, self._nodes)
        shown = frame.pts, frame.time_base
        made = self._conversion(frame)
        for each in (frame, made):
            each.pts, each.time_base = shown
        return made


def says_of(picture: Picture) -> list[str]:
    """What is not as it was, beside the sizes, a sentence each."""
    turning = _turning(picture)
    if turning is None:
        return ["the display matrix is lost: it is no quarter of a turn"]
    return ["turned upright"] if turning else []


class Segments:
    """When segments begin. Args: `origin_seconds` is when the first frame of the video is shown."""

    def __init__(self, seconds: float, origin_seconds: Fraction) -> None:
        self._seconds = Fraction(str(seconds))
        self._origin = origin_seconds
        self._last: int | None = None

    def begins(self, at_seconds: Fraction) -> bool:
        """Whether the next frame, which is shown then, is the first of a segment."""
        last, self._last = self._last, int((at_seconds - self._origin) // self._seconds)
        return self._last != last


# --- files ----------------------------------------------------------------------------------------------------------


def options_of(ladder: Ladder, *, num_rungs: int, num_sounds: int) -> dict[str, str]:
    """Options of FFmpeg's dash muxer, where each stream is a set of its own: sounds, which may differ in language; and
    heights, until `finish` makes one set of them, for of those whose widths were rounded the muxer makes none.
    """
    sets = [f"id={number},streams={number}" for number in range(num_rungs + num_sounds)]
    return {
        "adaptation_sets": " ".join(sets),
        "global_sidx": "1",
        "hls_playlist": "1",
        "hls_master_name": MASTER,
        "seg_duration": f"{float(Fraction(str(ladder.segment_seconds)) * _NEARLY):.6f}",
        "single_file": "1",
        "single_file_name": "stream_$RepresentationID$.mp4",
        "use_template": "0",
        "use_timeline": "0",
    }


def stream_file(number: int) -> str:
    """The file of a stream of a ladder, by its number: those of pictures are first."""
    return f"stream_{number}.mp4"


def with_ends_of_fragments(packets: Packets) -> Packets:
    """The packets, the last of each fragment lasting until the next one is decoded: the muxer adds that up.

    How long its frame is shown is something else where frames are reordered and their rate is not constant.
    """
    held: dict[int, Packet[VideoStream]] = {}
    for given in packets:
        if given is None:
            yield None
            continue
        number, packet = given
        if (last := held.get(number)) is not None:
            assert packet.dts is not None
            assert last.dts is not None
            if packet.is_keyframe:
                last.duration = packet.dts - last.dts
            yield number, last
        held[number] = packet
    yield from held.items()


def finish(folder: Path, languages: dict[int, str]) -> None:
    """Put right what the muxer has written, which knew neither how large segments would be nor where a file's index is.

    Times of the day leave the playlists. Rates become those of the largest segment: players choose a height by them.
    FFmpeg lists the segments of DASH as if all were equally long; each file has an index of its own (`sidx`), from
    which players take them as they are: the on-demand profile of DASH. Args: `languages` of streams that have one.
    """
    rates: list[int] = []
    while (playlist := folder / f"media_{len(rates)}.m3u8").exists():
        lines = playlist.read_text().splitlines(keepends=True)
        kept = "".join(line for line in lines if not line.startswith("#EXT-X-PROGRAM-DATE-TIME"))
        playlist.write_text(kept)
        rates.append(_peak_bit_rate(kept))
    master = (folder / MASTER).read_text()
    sounds = [int(number) for number in re.findall(r'#EXT-X-MEDIA.*URI="media_(\d+)', master)]
    of_sound = max((rates[number] for number in sounds), default=0)
    pattern = r"(#EXT-X-STREAM-INF:BANDWIDTH=)\d+(.*\nmedia_(\d+))"
    master = re.sub(pattern, lambda found: f"{found[1]}{rates[int(found[3])] + of_sound}{found[2]}", master)
    for number, language in languages.items():
        uri = f'URI="media_{number}.m3u8"'
        master = master.replace(uri, f'LANGUAGE="{language}",{uri}')
    (folder / MASTER).write_text(master)
    manifest = folder / "manifest.mpd"
    text = manifest.read_text().replace("profile:isoff-live:2011", "profile:isoff-on-demand:2011")
    for number, rate in enumerate(rates):
        begin, end = _index_of(folder / stream_file(number))
        index = f'<SegmentBase indexRange="{begin}-{end - 1}"><Initialization range="0-{begin - 1}"/></SegmentBase>'
        pattern = rf'(<Representation id="{number}".*? bandwidth=")\d+(".*?)<SegmentList.*?</SegmentList>'
        text = re.sub(pattern, rf"\g<1>{rate}\g<2>{index}", text, flags=re.DOTALL)
    text = re.sub(r'\s*</AdaptationSet>\s*<AdaptationSet [^>]*contentType="video"[^>]*>', "", text)
    manifest.write_text(text)


def _peak_bit_rate(playlist: str) -> int:
    """Bits a second of the largest segment; those of less than half the usual length say little."""
    seconds = [float(found) for found in re.findall(r"#EXTINF:([\d.]+)", playlist)]
    sizes = [int(found) for found in re.findall(r"#EXT-X-BYTERANGE:(\d+)", playlist)]
    least = max(seconds, default=0) / 2
    return round(max((8 * size / at for at, size in zip(seconds, sizes, strict=True) if at >= least > 0), default=0))


def _index_of(path: Path) -> tuple[int, int]:
    """Where the first `sidx` box of a fragmented MP4 begins and ends, in bytes."""
    with path.open("rb") as file:
        place = 0
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"sidx":
                return place, place + size
            place += size
            file.seek(place)
    raise ValueError(f"{path.name} has no index")
