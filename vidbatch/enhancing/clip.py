"""What the child process of an enhancing actor runs: one clip, or the clips of one video, in; files and facts out.

Both functions yield an empty record a second while the work goes on, then one with `facts`. A bad video is no
exception: the facts say what was wrong.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Final

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from vidbatch.decoding.container import Video, open_clip
from vidbatch.decoding.log import Log
from vidbatch.decoding.reading import FrameReader
from vidbatch.enhancing.chain import Machine, Target, Timed
from vidbatch.enhancing.encode import (
    Pass,
    Rung,
    check_size,
    encoded,
    encoder_of,
    picture_of,
    rate_of,
)
from vidbatch.enhancing.files import extradata_of, joined_packets, write_file, write_packets
from vidbatch.enhancing.filters import larger
from vidbatch.enhancing.ladder import Segments, Sizing, rungs_of, says_of
from vidbatch.enhancing.passage import Passage, around
from vidbatch.enhancing.quality import Thumbnails, contact_sheet, measure
from vidbatch.enhancing.reading import ClipReader, check_colour, is_interlaced
from vidbatch.enhancing.target import MOST_FRAMES, crf_for, parts_of, tried
from vidbatch.enhancing.timeline import Timeline
from vidbatch.enhancing.types import EnhanceJob, Facts, JoinJob, Picture, added_trials, times_larger
from vidbatch.errors import VideoError

_BEAT_SECONDS: Final = 1.0

Record = dict[str, Any]


def enhance_clip(job: EnhanceJob) -> Iterator[tuple[Record, None]]:
    """Enhance and encode a clip: into job.file where it is all of its video, else into job.packets."""
    facts = Facts()
    yield from _beating(_ClipWork(job, facts).run(), facts)


def join_clips(job: JoinJob) -> Iterator[tuple[Record, None]]:
    """Put the packets of all clips of a video into job.file, beside what is copied of the source."""
    facts = Facts()
    for part in job.facts:
        facts.add(part)
    yield from _beating(_join(job, facts), facts)


def _beating(work: Iterator[None], facts: Facts) -> Iterator[tuple[Record, None]]:
    """Do the work, note how it failed, and say now and then that it goes on."""
    beat = time.monotonic()
    try:
        for _ in work:
            if time.monotonic() - beat > _BEAT_SECONDS:
                yield {}, None
                beat = time.monotonic()
    except VideoError as error:
        facts.error_kind, facts.error_message, facts.num_frames = error.kind, error.message, 0
        facts.num_interpolated = 0
    yield {"facts": facts.to_dict()}, None


class _ClipWork:
    """One clip, from its bytes to what is written."""

    def __init__(self, job: EnhanceJob, facts: Facts) -> None:
        self._job = job
        self._facts = facts
        self._thumbnails = Thumbnails() if job.contact_sheet else None
        self._timeline: Timeline | None = None
        self._origin_seconds = Fraction(0)

    def run(self) -> Iterator[None]:
        job, facts = self._job, self._facts
        with open_clip(job.clip) as stream, Log() as log, Video(stream, bounds=job.bounds, log=log) as video:
            facts.header = video.header
            yield from self._encode(video, log)
            facts.read_bytes += stream.bytes_read

    def _encode(self, video: Video, log: Log) -> Iterator[None]:
        job, facts = self._job, self._facts
        first, tick = _first_frame(video, log)
        check_colour(int(first.color_trc))
        pace = next((step.pace for step in job.steps if step.pace is not None), None)
        if pace is not None:
            self._timeline = Timeline(pace, video.time_base, rate_of(video), tick)
        self._origin_seconds = tick * video.time_base
        picture = facts.picture = picture_of(video, first, job.encoding, times_larger(job.steps), self._timeline)
        check_size(picture, job)
        facts.changes += [] if job.ladder is None else says_of(picture)
        way: Pass | None = None
        if job.encoding.two_pass:
            way = Pass(2, f"{job.folder}/passes")
            yield from self._learn(video, log, picture, way._replace(number=1))
        if job.encoding.target_xpsnr_db is not None:
            yield from self._find_crf(video, log, picture)
            job = self._job
        frames = self._frames(video, log, picture, facts, measures=True)
        if job.is_whole:
            with open_clip(job.clip) as again, Video(again, bounds=job.bounds, log=log) as source:
                yield from write_file(
                    job, picture, facts, source,
                    lambda contexts: encoded(_sized(job, picture, contexts), frames, facts, self._segments()), way=way,
                )  # fmt: skip
                facts.read_bytes += again.bytes_read
        else:
            contexts = _encoders(job, picture, None)
            rungs = _sized(job, picture, contexts)
            yield from write_packets(job.packets, encoded(rungs, frames, facts, self._segments()), facts)
            facts.extradata = extradata_of(contexts)
        if facts.trials and job.encoding.crf is not None:
            facts.crf_of_frames = job.encoding.crf * facts.num_frames
        if self._thumbnails is not None:
            facts.thumbnails = self._thumbnails.take()
            if job.is_whole and facts.thumbnails:
                Path(job.sheet).write_bytes(contact_sheet(facts.thumbnails))
                facts.thumbnails = []
        if facts.num_frames == 0 and facts.error_kind is None and job.is_whole:
            raise VideoError("no_video_stream", "no frame to encode")

    def _segments(self) -> Segments | None:
        ladder = self._job.ladder
        return None if ladder is None else Segments(ladder.segment_seconds, self._origin_seconds)

    def _learn(self, video: Video, log: Log, picture: Picture, way: Pass) -> Iterator[None]:
        """The first of two passes. Its file is whole when its encoder is gone."""
        facts, spent = Facts(), self._facts
        rungs = _sized(self._job, picture, _encoders(self._job, picture, way))
        frames = self._frames(video, log, picture, facts, measures=False)
        for _ in encoded(rungs, frames, facts, self._segments()):
            yield
        spent.decode_seconds, spent.enhance_seconds = facts.decode_seconds, facts.enhance_seconds
        spent.encode_seconds = facts.encode_seconds
        video.reopen()

    def _find_crf(self, video: Video, log: Log, picture: Picture) -> Iterator[None]:
        """Encode parts of the clip at several crf, and go on with the largest that is good enough."""
        clip, encoding = self._job.clip, self._job.encoding
        target, trials = encoding.target_xpsnr_db, []
        assert target is not None
        begin = float(self._origin_seconds) if clip["start_seconds"] is None else clip["start_seconds"]
        end = clip["end_seconds"]
        if end is None and (lasts := video.header.get("duration_seconds")) is not None:
            end = float(self._origin_seconds) + lasts
        rung = rungs_of(picture, self._job.ladder)[0]
        sized = Sizing(picture, rung)
        for start, stop in parts_of(begin, end):
            part = clip | {"start_seconds": start, "end_seconds": stop}
            spent, frames = Facts(), []
            timed = self._frames(video, log, picture, spent, measures=False, clip=part)
            for enhanced in islice(timed, MOST_FRAMES):
                frames.append(sized(enhanced.frame))
                yield
            timed.close()
            video.reopen()
            self._facts.decode_seconds += spent.decode_seconds
            self._facts.enhance_seconds += spent.enhance_seconds
            seconds = (spent.end_seconds or 0.0) - (spent.first_seconds or 0.0)
            began = time.perf_counter()
            for trial in tried(frames, encoding, picture, rung, seconds) if frames else ():
                trials.append(trial)
                yield
            self._facts.encode_seconds += time.perf_counter() - began
        if trials:
            trials = added_trials(trials)
            self._job = replace(self._job, encoding=encoding.at(crf_for(target, trials, encoding.encoder)))
            self._facts.trials = [list(trial) for trial in trials]

    def _frames(
        self, video: Video, log: Log, picture: Picture, facts: Facts, *, measures: bool,
        clip: dict[str, Any] | None = None,
    ) -> Generator[Timed]:  # fmt: skip
        job, factor = self._job, times_larger(self._job.steps)
        interlaced = is_interlaced(video)
        target = Target(picture.width, picture.height, picture.pixel_format)
        passage = Passage(
            job.steps, target, self._timeline, frame_seconds=1 / rate_of(video), deinterlaces=interlaced,
            machine=Machine(job.device, job.encoding.threads),
        )  # fmt: skip
        time_base = Fraction(*picture.time_base)
        reader = ClipReader(
            video, log, passage, around(job.steps, self._timeline, deinterlaces=interlaced), facts,
            time_base=time_base, clip=job.clip if clip is None else clip, measures=measures,
            max_duration_seconds=job.bounds.max_duration_seconds,
        )  # fmt: skip
        try:
            for enhanced in reader:
                if enhanced.original is not None:
                    measure(facts, larger(enhanced.original, factor), enhanced.frame)
                if enhanced.beside is not None and self._thumbnails is not None:
                    self._thumbnails.add(larger(enhanced.beside, factor), enhanced.frame)
                if facts.first_seconds is None:
                    facts.first_seconds = float(enhanced.tick * time_base)
                facts.end_seconds = float(enhanced.end * time_base)
                yield enhanced
        finally:
            facts.changes += [change for change in passage.changes if change not in facts.changes]


def _join(job: JoinJob, facts: Facts) -> Iterator[None]:
    picture = facts.picture
    assert picture is not None, "only clips that have frames are joined"
    began = time.perf_counter()
    extradata = {part.extradata for part in job.facts if part.num_frames}
    num_frames, facts.extradata = facts.num_frames, ""
    with open_clip(job.clip) as stream, Log() as log, Video(stream, bounds=job.bounds, log=log) as source:
        yield from write_file(
            job, picture, facts, source, lambda _contexts: joined_packets(job, facts.reorder_depth)
        )  # fmt: skip
        facts.read_bytes += stream.bytes_read
    if extradata != {facts.extradata}:
        raise VideoError("encode", "the clips' encoders were not set up alike")
    facts.num_frames = num_frames
    facts.write_seconds += time.perf_counter() - began
    if job.contact_sheet and facts.thumbnails:
        Path(job.sheet).write_bytes(contact_sheet(facts.thumbnails))
    facts.thumbnails = []


def _first_frame(video: Video, log: Log) -> tuple[VideoFrame, int]:
    """The first frame of the video, which decides what all of them become, and when it is shown, in ticks.

    The video is left at its beginning.
    """
    for shown in FrameReader(video, log).frames():
        video.reopen()
        assert isinstance(shown.frame, VideoFrame)
        return shown.frame, shown.tick
    raise VideoError("no_video_stream", "no picture in it")


def _encoders(job: EnhanceJob, picture: Picture, way: Pass | None) -> list[VideoCodecContext]:
    """An encoder for each rung, set up but not open."""
    rungs = rungs_of(picture, job.ladder)
    return [encoder_of(job.encoding, picture, rung, way and way.of_rung(n)) for n, rung in enumerate(rungs)]


def _sized(job: EnhanceJob, picture: Picture, contexts: list[VideoCodecContext]) -> list[Rung]:
    """The encoders, with what scales frames for them."""
    rungs = rungs_of(picture, job.ladder)
    return [Rung(context, Sizing(picture, rung)) for context, rung in zip(contexts, rungs, strict=True)]
