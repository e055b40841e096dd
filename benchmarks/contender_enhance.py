"""One video through the child process's part of `vidbatch enhance`, in this process: FILE STEPS THREADS.

STEPS is as `--steps`, with the method of each behind it: none, denoise=atadenoise, denoise=network,colour=network.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from vidbatch import schema
from vidbatch.enhancing.clip import enhance_clip
from vidbatch.enhancing.config import EnhanceConfig
from vidbatch.enhancing.types import EnhanceJob


def main() -> None:
    place, words, threads = sys.argv[1:]
    steps = {} if words == "none" else dict(word.split("=") for word in words.split(","))
    settings = {"inputs": (place,), "output": "none", "steps": tuple(steps), "crf": 20.0, "threads": int(threads)}
    config = EnhanceConfig.model_validate({**settings, **steps})
    clip = dict.fromkeys(column.name for column in schema.CLIP) | {
        "source": place, "size_bytes": os.path.getsize(place), "content_version": "", "clip_index": 0, "num_clips": 1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        job = EnhanceJob(clip, config.wanted_steps, config.encoding, config.container, folder)
        *_, (record, _) = enhance_clip(job)
        facts = record["facts"]
        assert facts["error_kind"] is None, facts
        print(json.dumps({"frames": facts["num_frames"], "size_bytes": Path(job.file).stat().st_size}))


if __name__ == "__main__":
    main()
