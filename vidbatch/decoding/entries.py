"""Packets go in; whether decoding may begin at one, and whether others refer to it, comes out.

Begin, that is, with every frame shown from then on the same, bit for bit, as in a decoding from the start. Containers
also mark places from which the picture is only nearly right, or comes right some frames later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from av.packet import Packet
from av.video.stream import VideoStream

_WHOLE_AT_KEYFRAMES: Final = frozenset(
    {"av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1", "png"}
)
"""Codecs whose keyframes refer to nothing before, nor does what is shown after them."""

_H264_SLICE, _H264_IDR, _H264_SEI = 1, 5, 6
_RECOVERY_POINT: Final = 6
_HEVC_FIRST_IRAP, _HEVC_LAST_IRAP, _HEVC_FIRST_NOT_VCL, _HEVC_SPS = 16, 21, 32, 33


class Entries:
    """Knows the entries of one stream, from its codec and its extradata.

    H.264: IDR pictures, and recovery points that promise an exact match at once (7.4.1.2.1 and D.2.8 of the standard);
    HEVC: intra random access points (7.4.2.2: IDR, CRA and BLA); others: keyframes, if the codec has no half ones.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._length_bytes = _length_bytes(codec, extradata or b"")
        self._has_one_layer = codec == "hevc" and _has_one_layer(extradata or b"")

    @property
    def exist(self) -> bool:
        """Whether it is known of this codec where decoding may begin."""
        return self._codec in _WHOLE_AT_KEYFRAMES or self._codec in ("h264", "hevc")

    @property
    def tell_references(self) -> bool:
        """Whether `is_needed_by_others` can ever be False."""
        return self._has_one_layer

    def may_include(self, packet: Packet[VideoStream]) -> bool:
        """Whether decoding may begin at this packet, or at any keyframe for all that is known of the codec."""
        return self.include(packet) if self.exist else packet.is_keyframe

    def include(self, packet: Packet[VideoStream]) -> bool:
        """Whether decoding may begin at this packet."""
        if not packet.is_keyframe or packet.is_discard or packet.is_corrupt:
            return False
        if self._codec == "h264":
            return self._is_h264_entry(memoryview(packet))
        if self._codec == "hevc":
            return _HEVC_FIRST_IRAP <= self._hevc_slice_type(packet) <= _HEVC_LAST_IRAP
        return self._codec in _WHOLE_AT_KEYFRAMES

    def is_needed_by_others(self, packet: Packet[VideoStream]) -> bool:
        """False only if it is known that no other frame refers to this packet's, so that it need not be sent.

        HEVC: sub-layer non-reference pictures, where there is but one sub-layer (table 7-1: even types below 16).
        """
        if not self._has_one_layer:
            return True
        kind = self._hevc_slice_type(packet)
        return not 0 <= kind < _HEVC_FIRST_IRAP or kind % 2 == 1

    def _hevc_slice_type(self, packet: Packet[VideoStream]) -> int:
        """Type of the packet's first slice, -1 if it holds none."""
        for unit in self._units(memoryview(packet)):
            kind = unit[0] >> 1 & 0x3F if unit else _HEVC_FIRST_NOT_VCL
            if kind < _HEVC_FIRST_NOT_VCL:
                return kind
            if kind == _HEVC_SPS and not _is_of_one_layer(bytes(unit[:3])):
                self._has_one_layer = False
        return -1

    def _is_h264_entry(self, data: memoryview) -> bool:
        is_recovery_point = False
        for unit in self._units(data):
            kind = unit[0] & 0x1F if unit else 0
            if kind == _H264_IDR:
                return True
            if kind == _H264_SLICE:
                return is_recovery_point
            if kind == _H264_SEI:
                is_recovery_point = is_recovery_point or _promises_exact_recovery(bytes(unit[1:]))
        return False

    def _units(self, data: memoryview) -> Iterator[memoryview]:
        """The packet's NAL units, without start codes or lengths."""
        if self._length_bytes is None:
            yield from _between_start_codes(data)
            return
        at = 0
        while at + self._length_bytes < len(data):
            size = int.from_bytes(data[at : at + self._length_bytes], "big")
            at += self._length_bytes
            yield data[at : at + size]
            at += size


def _length_bytes(codec: str, extradata: bytes) -> int | None:
    """How many bytes of length precede each NAL unit (avcC, hvcC); None where start codes do."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21 and (extradata[0] or extradata[1] or extradata[2] > 1):
        return (extradata[21] & 3) + 1
    return None


def _has_one_layer(extradata: bytes) -> bool:
    """Whether all sequence parameter sets of an HEVC stream's extradata (hvcC or start codes) say so."""
    if _length_bytes("hevc", extradata) is None:
        units = [bytes(unit) for unit in _between_start_codes(memoryview(extradata))]
    else:
        units = _units_of_hvcc(extradata)
    sets = [unit for unit in units if len(unit) > 2 and unit[0] >> 1 & 0x3F == _HEVC_SPS]
    return bool(sets) and all(_is_of_one_layer(unit) for unit in sets)


def _is_of_one_layer(sequence_parameter_set: bytes) -> bool:
    """Whether sps_max_sub_layers_minus1, the three bits behind the header and four bits of an id, is 0."""
    return len(sequence_parameter_set) > 2 and sequence_parameter_set[2] >> 1 & 7 == 0


def _units_of_hvcc(extradata: bytes) -> list[bytes]:
    units = []
    at = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size, at = int.from_bytes(extradata[at : at + 2], "big"), at + 2
            units.append(extradata[at : at + size])
            at += size
            if at > len(extradata):
                return []
    return units


def _between_start_codes(data: memoryview) -> Iterator[memoryview]:
    text = bytes(data)
    at = text.find(b"\x00\x00\x01")
    while at >= 0:
        end = text.find(b"\x00\x00\x01", at + 3)
        yield data[at + 3 : end if end >= 0 else len(data)]
        at = end


def _promises_exact_recovery(messages: bytes) -> bool:
    """Whether SEI messages hold a recovery point with recovery_frame_cnt 0 and exact_match_flag 1."""
    at = 0
    while at + 2 < len(messages):
        kind, at = _sum_of_bytes(messages, at)
        size, at = _sum_of_bytes(messages, at)
        if kind == _RECOVERY_POINT:
            return messages[at : at + 1] >= b"\xc0"  # the number 0 is the bit 1; then comes the flag
        at += size
    return False


def _sum_of_bytes(messages: bytes, at: int) -> tuple[int, int]:
    """A number written as bytes of 255 and a last smaller one, and where it ends."""
    total = 0
    while at < len(messages) and messages[at] == 0xFF:
        total, at = total + 0xFF, at + 1
    return total + (messages[at] if at < len(messages) else 0), at + 1
