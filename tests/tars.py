"""Tars as any tool would write them, in whatever mode, whatever their name says."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """Write these members in this order."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
