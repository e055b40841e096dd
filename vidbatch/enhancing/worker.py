"""Packs of clips go in; what came of each clip comes out, a row each, its videos and packets in storage already.

The actor's side of the process boundary: no PyAV here. A bad video is a row, never an exception; a storage that takes
no file ends the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pyarrow as pa

from vidbatch import schema, storage
from vidbatch.decode import Clip, bounds_of, isolated
from vidbatch.decoding.isolation import IsolatedProcess, ProcessLost
from vidbatch.enhancing.config import EnhanceConfig, enhance_digest
from vidbatch.enhancing.types import MASTER, EnhanceJob, Facts, JoinJob, in_writing_order
from vidbatch.errors import VideoError

MEDIA: Final = "media"
"""Folder of an output with the enhanced videos."""
SHEETS: Final = "sheets"
CLIPS: Final = "_clips"
"""Folder with the packets and facts of clips whose video is not joined yet."""

_TRIES: Final = 2
_SCRATCH: Final = "vidbatch-enhance-"
_STALE_SECONDS: Final = 3600.0
"""A folder without a process is left alone for so long: another container's processes may not be seen from here."""


class Enhancer:
    """Enhances packs of clips, one clip after the other; the callable class of the enhance stage.

    Args: `watch`, an actor's handle, is told of slow clips; `device` is where networks run, cpu or cuda.
    """

    def __init__(self, config: EnhanceConfig, watch: Any = None, device: str = "cpu") -> None:
        self._config = config
        self._device = device
        self._digest = enhance_digest(config)
        self._watch = watch
        self._url = ""
        self._process = isolated(config, self._say_slow, on_gpu=device != "cpu")

    def __call__(self, work: pa.Table) -> Iterator[pa.Table]:
        """Take a WORK table, yield an ENHANCED_CLIPS table of one row for every clip."""
        for pack in work.column("clips").to_pylist():
            for clip in pack:
                facts = self._enhance(clip)
                yield pa.Table.from_pylist([{"clip": clip, "facts": facts}], schema.ENHANCED_CLIPS)

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    def _say_slow(self, seconds: float) -> None:
        if self._watch is not None:
            allowed = self._config.decode_timeout_seconds
            self._watch.say.remote(f"enhancing got no further for {seconds:.0f} s (of {allowed:g}) in {self._url}")

    def _enhance(self, clip: Clip) -> str:
        """The facts of a clip as JSON; what there is to keep of it is in storage."""
        if clip["error_kind"] is not None:
            return _to_json(Facts(error_kind=clip["error_kind"], error_message=clip["error_message"]))
        is_whole = clip["num_clips"] == 1
        known = None if is_whole else storage.read_with_version(clip_url(self._config, clip, "json"))[0]
        if known is not None:
            return known.decode()
        self._url = clip["url"]
        with scratch_folder() as folder:
            job = job_of(clip, self._config, folder, self._device)
            facts = run_isolated(self._process, "vidbatch.enhancing.clip:enhance_clip", job)
            if is_whole:
                store_file(self._config, job, facts, self._digest)
            elif facts.num_frames:
                storage.put_file(clip_url(self._config, clip, "arrow"), job.packets)
                if facts.error_kind is None:
                    storage.put(clip_url(self._config, clip, "json"), _to_json(facts).encode())
        return _to_json(facts)


def join(config: EnhanceConfig, clips: list[Clip], facts: list[str]) -> str:
    """Make one file of the clips of a video, in their order; the facts of all of it as JSON. Runs as a task."""
    parts = [Facts.from_dict(json.loads(part)) for part in facts]
    having = [(clip, part) for clip, part in zip(clips, parts, strict=True) if part.num_frames]
    whole = clips[0] | {"start_seconds": None, "end_seconds": None}
    process = isolated(config)
    try:
        with scratch_folder() as folder:
            urls = [clip_url(config, clip, "arrow") for clip, _ in having]
            job = JoinJob.of(job_of(whole, config, folder), urls, parts)
            joined = run_isolated(process, "vidbatch.enhancing.clip:join_clips", job)
            store_file(config, job, joined, enhance_digest(config))
            return _to_json(joined)
    finally:
        process.close()


def run_isolated(process: IsolatedProcess, function: str, job: EnhanceJob) -> Facts:
    """Call a function of clip.py in the child; the loss of the child, twice, is what there is to say of the clip."""
    for attempt in range(1, _TRIES + 1):
        try:
            *_, (record, _) = process.call(function, job)
            return Facts.from_dict(record["facts"])
        except (ProcessLost, VideoError) as lost:
            empty(job.folder)
            if attempt == _TRIES:
                return Facts(error_kind=lost.kind, error_message=f"{lost.message}, in {_TRIES} tries")
    raise AssertionError("the last try returns")


def store_file(config: EnhanceConfig, job: EnhanceJob, facts: Facts, digest: str) -> None:
    """Put a finished video where it belongs, under a name that only the same video and settings have."""
    if not facts.num_frames:
        return
    began = time.perf_counter()
    name = name_of(job.clip, digest)
    if job.ladder is None:
        url, size_bytes = storage.join(config.output, MEDIA, f"{name}.{config.container}"), os.path.getsize(job.file)
        storage.put_file(url, job.file)
    else:
        url, size_bytes = _store_ladder(storage.join(config.output, MEDIA, name), job.media_folder)
    facts.file |= {"url": storage.normalise(url), "size_bytes": size_bytes}
    if os.path.exists(job.sheet):
        sheet = storage.join(config.output, SHEETS, f"{name}.jpg")
        storage.put_file(sheet, job.sheet)
        facts.file["sheet_url"] = storage.normalise(sheet)
    facts.write_seconds += time.perf_counter() - began


def _store_ladder(place: str, folder: str) -> tuple[str, int]:
    """Put all files of a ladder below a place, what names the others last; where players begin, and bytes in all."""
    size_bytes = 0
    for name in in_writing_order(os.listdir(folder)):
        size_bytes += os.path.getsize(os.path.join(folder, name))
        storage.put_file(storage.join(place, name), os.path.join(folder, name))
    return storage.join(place, MASTER), size_bytes


def name_of(clip: Clip, digest: str) -> str:
    """The video's own name, as far as it is plain, and what tells it from all others, its versions and settings."""
    stem = (clip["member"] or clip["url"]).rstrip("/").rpartition("/")[2].rpartition(".")[0]
    key = hashlib.blake2b(f"{clip['video_id']}\0{clip['content_version']}\0{digest}".encode(), digest_size=8)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80].lstrip('.') or 'video'}-{key.hexdigest()}"


def clip_url(config: EnhanceConfig, clip: Clip, kind: str) -> str:
    """Where the packets (arrow) or facts (json) of one clip of several stand until they are joined."""
    bounds = f"{clip['clip_index']:05d}-{clip['num_clips']:05d}"
    key = hashlib.blake2b(f"{clip['start_seconds']} {clip['end_seconds']}".encode(), digest_size=4).hexdigest()
    return storage.join(config.output, CLIPS, name_of(clip, enhance_digest(config)), f"{bounds}-{key}.{kind}")


def job_of(clip: Clip, config: EnhanceConfig, folder: str, device: str = "cpu") -> EnhanceJob:
    """What the child has to know to enhance a clip."""
    return EnhanceJob(
        clip=clip,
        steps=config.wanted_steps,
        encoding=config.encoding,
        container=config.container,
        folder=folder,
        bounds=bounds_of(config),
        contact_sheet=config.contact_sheet,
        device=device,
        ladder=config.ladder,
    )


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder on this machine's disk for as long as it is needed; those that killed processes left are removed."""
    place = tempfile.gettempdir()
    for name in os.listdir(place):
        folder = os.path.join(place, name)
        if (found := re.fullmatch(rf"{_SCRATCH}(\d+)-\w+", name)) is not None and not _is_alive(int(found[1])):
            with suppress(FileNotFoundError):
                if time.time() - os.stat(folder).st_mtime > _STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}-") as folder:
        yield folder


def empty(folder: str) -> None:
    """Remove all that is in a folder."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(entry.path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _to_json(facts: Facts) -> str:
    return json.dumps(facts.to_dict())
