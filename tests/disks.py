"""A disk that is soon full: its size in; out, a folder that is one, and a way to make it larger."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[int], None]]:
    """A disk of its own at this place, for root; what is given makes it larger."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "vidbatch-test", str(folder)], check=True)

    def grow(to_kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to_kib}k", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", str(folder)], check=True)
