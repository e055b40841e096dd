"""An archive in, `videos` and `frames` tables out: vidbatch through its public function, for chain.py.

The last line on stdout is the report: frames, seconds of the parts of the run, and Ray's health.
"""

from __future__ import annotations

import argparse
import json

import ray
import ray_health

import vidbatch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive")
    parser.add_argument("output")
    parser.add_argument("--settings", default="{}", help="JSON of vidbatch settings")
    options = parser.parse_args()
    # Started here, as label() itself would, so that its health can be asked for before it is gone.
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    result = vidbatch.label(options.archive, output=options.output, **json.loads(options.settings))
    health = ray_health.report()
    ray.shutdown()
    record = result.record
    report = {
        "videos": record.videos,
        "frames": record.frames,
        "failed": result.num_failed,
        "wall_seconds": record.wall_seconds,
        "stages": record.stages,
        "pools": record.pools,
        **health,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
