"""A run on a cluster in; out, in a folder, who did it: a file `<stage>-<node>-<address>` has a line for each call.

    RAY_ADDRESS=… python tests/growing.py SETTINGS.yaml OUTPUT CALLS --decode-seconds 0.5 --model-seconds 0

Each call takes so much longer, with no work for a CPU, so that one machine can stand for many.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def noted(calls: str, stage: str, seconds: float) -> None:
    import ray

    time.sleep(seconds)
    node = ray.get_runtime_context().get_node_id()
    with Path(calls, f"{stage}-{node}-{ray.util.get_node_ip_address()}").open("a") as file:
        file.write(f"{os.getpid()} {time.time():.2f}\n")


def stages(calls: str, decode_seconds: float, model_seconds: float) -> Any:
    from vidbatch.decode import Decoder
    from vidbatch.pipeline import Stages

    class SlowDecoder(Decoder):
        def __call__(self, table: Any) -> Iterator[Any]:
            yield from super().__call__(table)
            noted(calls, "decode", decode_seconds * table.num_rows)

    class SlowClassify:
        def __init__(self, spec: Any, config: Any, weights: Any, num_threads: int, watch: Any) -> None:
            import ray

            from vidbatch.classify import Classifier

            self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)

        def __call__(self, table: Any) -> Any:
            answer = self._classifier(table)
            noted(calls, "model", model_seconds)
            return answer

    return Stages(SlowDecoder, SlowClassify)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", type=Path)
    parser.add_argument("output")
    parser.add_argument("calls")
    parser.add_argument("--decode-seconds", type=float, default=0.0)
    parser.add_argument("--model-seconds", type=float, default=0.0)
    options = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY)]
    from vidbatch.config import load_config
    from vidbatch.metrics import Progress
    from vidbatch.pipeline import label

    said: list[str] = []

    class Said(Progress):
        def warn(self, text: str) -> None:
            said.append(text)

    config = load_config({"output": options.output}, options.settings)
    made = stages(options.calls, options.decode_seconds, options.model_seconds)
    record = label(config, Said(enabled=False), stages=made).record
    print(json.dumps({"pools": record.pools, "said": said, "seconds": record.wall_seconds}))


if __name__ == "__main__":
    main()
