"""One video through the child process's part of `vidbatch enhance`, in this process: FILE STEPS THREADS [SETTINGS].

STEPS is as `--steps`, with the method of each behind it: none, denoise=atadenoise, denoise=network,colour=network.
SETTINGS is JSON: more of what `vidbatch enhance` takes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from vidbatch import schema
from vidbatch.enhancing.clip import enhance_clip
from vidbatch.enhancing.config import EnhanceConfig
from vidbatch.enhancing.types import EnhanceJob, Facts
from vidbatch.enhancing.worker import job_of


def enhanced(
    place: str | Path, steps: dict[str, str], folder: str, settings: dict[str, Any]
) -> tuple[EnhanceJob, Facts]:
    """What was asked for, whose file is in the folder, and what came of it. Args: the method of each of `steps`."""
    given = {"inputs": (str(place),), "output": "none", "steps": tuple(steps), "crf": 20.0, **settings}
    config = EnhanceConfig.model_validate({**given, **steps})
    clip = dict.fromkeys(column.name for column in schema.CLIP) | {
        "source": str(place), "size_bytes": os.path.getsize(place), "content_version": "", "clip_index": 0,
        "num_clips": 1,
    }  # fmt: skip
    job = job_of(clip, config, folder)
    *_, (record, _) = enhance_clip(job)
    facts = Facts.from_dict(record["facts"])
    assert facts.error_kind is None, facts
    return job, facts


def main() -> None:
    place, words, threads, *more = sys.argv[1:]
    steps = {} if words == "none" else dict(word.split("=") for word in words.split(","))
    settings = {"threads": int(threads), **json.loads(more[0] if more else "{}")}
    with tempfile.TemporaryDirectory() as folder:
        job, facts = enhanced(place, steps, folder, settings)
        print(json.dumps({"frames": facts.num_frames, "size_bytes": Path(job.file).stat().st_size}))


if __name__ == "__main__":
    main()
