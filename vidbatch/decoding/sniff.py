"""The first bytes of a file go in; whether a container of video begins there, and how long it says it is, come out.

FFmpeg answers neither for a file that is broken, and these are asked about broken files: what to call one.
"""

from __future__ import annotations

from typing import Final

_MAGIC: Final[tuple[tuple[int, bytes], ...]] = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip"), (4, b"pnot"), (4, b"styp"),
    (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "), (0, b"OggS"), (0, b"FLV\x01"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"), (0, b".RMF"), (0, b"GIF8"), (0, b"DKIF"), (0, b"YUV4MPEG2"),
    (0, b"\x06\x0e\x2b\x34"), (0, b"FWS"), (0, b"CWS"),
)  # fmt: skip
"""(offset, bytes) at which FFmpeg's usual containers of video are known."""


def is_container(start: bytes) -> bool:
    """Whether a container of video begins so: then a file FFmpeg cannot open is a broken video, else none."""
    return _mpegts_packet_bytes(start) is not None or any(start[at:].startswith(magic) for at, magic in _MAGIC)


def _mpegts_packet_bytes(start: bytes) -> int | None:
    for at, step in ((0, 188), (4, 192)):  # on Blu-ray discs a time stamp of 4 bytes precedes each packet
        if start[at : at + 4 * step : step] == b"GGGG":
            return step
    return None


def declared_bytes(start: bytes, size_bytes: int) -> int | None:
    """How long a file must be by the sizes that its first bytes declare; None where they declare none.

    A transport stream says nothing of its length, but a file of `size_bytes` can end inside a packet.
    """
    if (packet_bytes := _mpegts_packet_bytes(start)) is not None:
        return size_bytes + packet_bytes - rest if (rest := size_bytes % packet_bytes) else None
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        size = int.from_bytes(start[4:8], "little")
        # Writers that never came back to it leave 0 or -1; others count the 8 bytes before it too.
        return size if 0 < size < 0x7FFF_FFFF else None
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _declared_ebml_bytes(start)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
        return _declared_box_bytes(start)
    return None


def _declared_ebml_bytes(start: bytes) -> int | None:
    header_bytes, at = _ebml_size(start, 4)
    segment = at + (header_bytes or 0)
    if start[segment : segment + 4] != b"\x18\x53\x80\x67":
        return None
    size, at = _ebml_size(start, segment + 4)
    return None if size is None else at + size


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The variable-length integer at `at` (None: unknown) and the offset behind it."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _declared_box_bytes(start: bytes) -> int | None:
    """End of the last box that begins within `start`, walking mp4's boxes by their sizes."""
    at = 0
    while at + 16 <= len(start):
        size = int.from_bytes(start[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(start[at + 8 : at + 16], "big")
        if size < 8 or not start[at + 4 : at + 8].isascii():  # 0: to the end of the file; else: not a box
            break
        at += size
    return at
