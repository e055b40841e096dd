"""An opened video goes in; what its packets say of its length and frame times comes out, nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from vidbatch.decoding.container import Video
from vidbatch.decoding.entries import Entries
from vidbatch.errors import VideoError

_ONE_FRAME_A_PACKET: Final = frozenset(
    {"h264", "hevc", "av1", "vp9", "mpeg1video", "mpeg2video", "mjpeg", "prores", "dnxhd", "ffv1", "theora"}
)
"""Codecs whose shown frames can be counted by their packets. VP8 has packets that show nothing, MPEG-4 in AVI too."""


class PacketTime(NamedTuple):
    """When a packet's frame is shown, in ticks; `pts` is None where the container does not say."""

    pts: int | None
    dts: int | None
    duration: int
    is_entry: bool
    """Whether decoding may begin here, so that a clip may."""


def packet_times(video: Video) -> Iterator[PacketTime]:
    """The times of the packets that give frames, from the present position to the end or to the first damage.

    Damage and a missing rest are no errors here: decoding reports them.
    """
    entries = Entries(video.context.codec.canonical_name, video.context.extradata)
    try:
        for packet in video.packets():
            if not packet.is_discard and not packet.is_corrupt:
                duration = packet.duration or video.frame_ticks
                yield PacketTime(packet.pts, packet.dts, duration, entries.may_include(packet))
    except VideoError as error:
        if error.kind not in ("corrupt", "truncated"):
            raise


def counts_by_packets(video: Video) -> bool:
    """Whether each packet is a frame."""
    progressive = video.context.field_order in (0, 1)  # the two fields of a frame can be two packets
    return progressive and video.context.codec.canonical_name in _ONE_FRAME_A_PACKET


def frame_ticks(video: Video, *, first_tick: int) -> list[int] | None:
    """When each frame is shown, in order, from all packets; None where they do not tell. Leaves the video at its end.

    Args: `first_tick` is when the first frame that can be decoded is shown.
    """
    if not counts_by_packets(video):
        return None
    video.reopen()
    ticks: list[int] = []
    latest_entry = first_tick
    for time in packet_times(video):
        if time.pts is None or (time.is_entry and ticks and time.pts < latest_entry):
            return None  # no time, or a clock that starts anew
        if time.is_entry:
            latest_entry = max(latest_entry, time.pts)
        if time.pts >= first_tick:
            ticks.append(time.pts)
    ticks.sort()
    return ticks if len(set(ticks)) == len(ticks) else None  # frames of equal times cannot be told apart by them


def end_of_last_frame(video: Video, *, decoding_delay: int) -> int:
    """The tick at which the last frame's duration is over, from the packets and not the header.

    Args: `decoding_delay` is how much later the first frame is shown than its packet's decoding time; where packets
    have only decoding times (AVI), that holds for the last one.
    Reads the last keyframe's packets where the container has an index, else all of them; leaves the video at its end.
    """
    if video.is_indexed and video.is_complete is not False and video.seek(2**62):
        end = _latest_end(video, decoding_delay)
        if end is not None:
            return end
    video.reopen()
    return _latest_end(video, decoding_delay) or 0


def _latest_end(video: Video, decoding_delay: int) -> int | None:
    latest: tuple[int, int] | None = None
    for time in packet_times(video):
        if video.demuxer == "avi":
            tick = None if time.dts is None else time.dts + decoding_delay
        else:
            tick = time.dts if time.pts is None else time.pts
        if tick is not None:
            latest = max(latest or (tick, 0), (tick, time.duration))
        elif latest is not None:  # frames without a time follow those with one
            latest = (sum(latest), time.duration)
    return None if latest is None else sum(latest)
