"""A run in a Ray of its own: settings in; out, as OUTPUT.json, how many videos it did and what Ray counted on the way.

    python tests/own_ray.py SETTINGS.yaml OUTPUT --store-mb 100 --seconds-a-call 0.2 --killed FILE

FILE appears as soon as Ray has killed a worker for want of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def slow(seconds: float) -> type:
    """The model stage, each of whose calls takes so much longer."""

    class SlowClassify:
        def __init__(self, spec: Any, config: Any, weights: Any, num_threads: int, watch: Any) -> None:
            import ray

            from vidbatch.classify import Classifier

            self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)

        def __call__(self, table: Any) -> Any:
            time.sleep(seconds)
            return self._classifier(table)

    return SlowClassify


def killed_for_memory() -> int:
    import ray_health

    return sum(how.startswith("NODE_OUT_OF_MEMORY") for how in ray_health.report()["lost_workers"])


def tell_of_kills(file: Path, is_over: threading.Event) -> None:
    while not is_over.wait(0.2):
        if killed_for_memory():
            file.touch()
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", type=Path)
    parser.add_argument("output")
    parser.add_argument("--store-mb", type=int, default=500)
    parser.add_argument("--seconds-a-call", type=float, default=0.0)
    parser.add_argument("--killed", type=Path)
    options = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]
    import ray
    import ray_health

    from vidbatch.config import load_config
    from vidbatch.decode import Decoder
    from vidbatch.pipeline import Stages, label

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=options.store_mb * 2**20,
    )
    is_over = threading.Event()
    if options.killed is not None:
        threading.Thread(target=tell_of_kills, args=(options.killed, is_over)).start()
    stages = Stages(Decoder, slow(options.seconds_a_call))
    try:
        record = label(load_config({"output": options.output}, options.settings), stages=stages).record
    finally:
        is_over.set()
    facts = {"videos": record.videos, "frames": record.frames, "seconds": record.wall_seconds["work"]}
    report = {**facts, "killed_for_memory": killed_for_memory(), **ray_health.report()}
    Path(f"{options.output}.json").write_text(json.dumps(report))  # Ray writes to stdout, too
    ray.shutdown()


if __name__ == "__main__":
    main()
