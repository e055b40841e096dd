"""Real Ray nodes of this machine in; how soon pools are in full use and whether `plan` was right, out: JSON and plot.

cold:     a run of 4 model actors on 1, 2 and 3 nodes, until all of them are at work
joins:    a run on one node, and two more that join it, until their own decoders and models are at work
planned:  what `plan --measure` says of an archive on two nodes of one pinned core, and what `label` then takes

Nodes are raylets with a number of CPUs of their own. Models and decoders are the real ones; in `cold` and `joins` they
wait after each video, so that two cores can play 16 CPUs and there is always work for both pools.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import harness
import ray_health
from harness import InvalidRun

Row = dict[str, Any]

COLD_NODES = ([16], [8, 8], [6, 5, 5])
"""CPUs of each node: 16 of them have 4 models (pools.pool_sizes)."""
JOIN_NODES = [4, 4, 4]
"""The first one begins: four decoders and a model; each other one brings as many."""
ALLOWED_SECONDS = 60
ALLOWED_ERROR = 0.2
STORE = {"object_store_memory": 200 * 2**20}
COLD_DECODERS = 4


class Waits(NamedTuple):
    """Seconds that a stage waits after each video."""

    decode_seconds: float
    model_seconds: float


COLD_WAITS = Waits(0.6, 1.2)  # four decoders give more than four models take: none of these is idle
JOIN_WAITS = Waits(2.4, 0.6)  # four decoders give what one model takes


# --- who is at work ---------------------------------------------------------------------------------------------------


def noting_stages(folder: str, waits: Waits) -> Any:
    """The real stages; each call of theirs adds a line to FOLDER/<stage>-<node>-<process> and waits afterwards."""
    from vidbatch.decode import Decoder
    from vidbatch.pipeline import Stages

    def note(stage: str) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        with Path(folder, f"{stage}-{node}-{os.getpid()}").open("a") as file:
            file.write(f"{time.time():.2f}\n")

    class NotingDecoder(Decoder):
        def __call__(self, work: Any) -> Iterator[Any]:
            note("decode")
            for table in super().__call__(work):
                time.sleep(waits.decode_seconds * table.num_rows)
                yield table

    class NotingClassifier:
        def __init__(self, spec: Any, config: Any, weights: Any, num_threads: int, watch: Any) -> None:
            import ray

            from vidbatch.classify import Classifier

            self._classifier = Classifier(spec, config, ray.get(weights), num_threads=num_threads, watch=watch)

        def __call__(self, table: Any) -> Any:
            note("model")
            answer = self._classifier(table)
            time.sleep(waits.model_seconds * table.num_rows)
            return answer

    return Stages(NotingDecoder, NotingClassifier)


def first_calls(folder: Path) -> list[tuple[float, str, str]]:
    """(time.time(), stage, node) of the first call of each actor, in order."""
    found = []
    for path in folder.iterdir():
        lines = path.read_text().splitlines()
        if lines:
            stage, node, _ = path.name.split("-")
            found.append((float(lines[0]), stage, node))
    return sorted(found)


# --- a run on nodes of its own ----------------------------------------------------------------------------------------


@contextmanager
def real_nodes(cpus: list[int], cores: list[int] | None = None) -> Iterator[Callable[[int], Any]]:
    """A head without CPUs and nodes with so many; the driver is connected; what is given adds a node.

    Args: `cores` that the nodes' processes are pinned to, one each.
    """
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **STORE})
    pinned = iter(cores or [])

    def add(num_cpus: int) -> Any:
        everywhere = os.sched_getaffinity(0)
        core = next(pinned, None)
        if core is not None:
            os.sched_setaffinity(0, {core})  # processes that it starts inherit it
        try:
            return cluster.add_node(num_cpus=num_cpus, **STORE)
        finally:
            os.sched_setaffinity(0, everywhere)

    try:
        for number in cpus:
            add(number)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield add
    finally:
        ray.shutdown()
        cluster.shutdown()


def child_run(options: argparse.Namespace) -> Row:
    """Label on nodes of these CPUs, and let others join one after the other, each when all before it are in use."""
    from vidbatch import pipeline
    from vidbatch.config import LabelConfig

    first, *later = json.loads(options.nodes) if options.joins else [json.loads(options.nodes)]
    workers = {} if options.joins else {"decode_workers": COLD_DECODERS}
    waits = JOIN_WAITS if options.joins else COLD_WAITS
    config = LabelConfig(
        inputs=(options.archive,), output=options.output, limit=options.limit, sampling="count=1", **workers
    )
    joined: list[tuple[str, float, float]] = []  # node, when it was started and when Ray knew of it
    with (
        tempfile.TemporaryDirectory() as notes,
        real_nodes([first] if options.joins else first) as add,
        ThreadPoolExecutor(1) as beside,  # nodes are started by the main thread: they want to hear its signals
    ):
        began = time.time()
        run = beside.submit(pipeline.label, config, stages=noting_stages(notes, waits))
        for number, cpus in enumerate(later, 1):
            in_use = sum(JOIN_NODES[:number]) * 5 // 4
            while not run.done() and len(first_calls(Path(notes))) < in_use:
                time.sleep(0.1)
            asked = time.time()
            node = add(cpus)
            joined.append((node.node_id, asked, time.time()))
        record = run.result().record
        health = ray_health.report()
        calls = first_calls(Path(notes))
    if not ray_health.is_healthy(health) or record.by_status.get("ok", 0) != record.videos:
        raise InvalidRun(f"{health}, {record.by_status}")
    return {
        "nodes": json.loads(options.nodes),
        "videos": record.videos,
        "pools_at_first": {name: record.pools[name] for name in ("decode_workers", "model_workers")},
        "start_seconds": record.wall_seconds["start"],
        "first_calls": [[round(when - began, 2), stage, node] for when, stage, node in calls],
        "joined": [[node, round(asked - began, 2), round(alive - began, 2)] for node, asked, alive in joined],
        **health,
    }


def seconds_to_full_use(row: Row) -> float:
    """From the call of `label` until as many models as the run has have begun a call."""
    models = [when for when, stage, _ in row["first_calls"] if stage == "model"]
    wanted = int(row["pools_at_first"]["model_workers"])
    if len(models) < wanted:
        raise InvalidRun(f"only {len(models)} of {wanted} models were ever used")
    return float(models[wanted - 1])


def seconds_to_take_part(row: Row) -> list[Row]:
    """Of each node that joined: from when Ray knew of it until its decoders and models were at work."""
    rows = []
    for number, (node, asked, alive) in enumerate(row["joined"], 1):
        calls = [(when, stage) for when, stage, where in row["first_calls"] if where == node]
        decoders, models = ([when for when, stage in calls if stage == name] for name in ("decode", "model"))
        if not models or len(decoders) < JOIN_NODES[number]:
            raise InvalidRun(f"node {number + 1} has used {len(decoders)} decoders and {len(models)} models")
        rows.append(
            {
                "first_decoder_seconds": round(decoders[0] - alive, 2),
                "all_decoders_seconds": round(decoders[JOIN_NODES[number] - 1] - alive, 2),
                "model_seconds": round(models[0] - alive, 2),
                "starting_the_node_seconds": round(alive - asked, 2),
            }
        )
    if len(rows) < len(JOIN_NODES) - 1:
        raise InvalidRun(f"the run ended when {len(rows)} nodes had joined: give it more videos")
    return rows


# --- plans ------------------------------------------------------------------------------------------------------------


def child_planned(options: argparse.Namespace) -> Row:
    """Predict the same run from a sample on one node and on two, then run it on the two."""
    from vidbatch import pipeline
    from vidbatch.config import LabelConfig, PlanConfig
    from vidbatch.plan import make_plan

    cores = sorted(os.sched_getaffinity(0))[:2]
    asked = {"inputs": (options.archive,), "output": options.output, "measure": options.measure, "nodes": 2}
    with real_nodes([1], cores=cores) as add:
        plans = {"one node": make_plan(PlanConfig.model_validate(asked))}
        add(1)
        plans["two nodes"] = make_plan(PlanConfig.model_validate(asked))
        began = time.monotonic()
        record = pipeline.label(LabelConfig(inputs=(options.archive,), output=options.output)).record
        seconds = time.monotonic() - began
        health = ray_health.report()
    if not ray_health.is_healthy(health) or record.by_status.get("ok", 0) != record.videos:
        raise InvalidRun(f"{health}, {record.by_status}")
    return {
        "videos": record.videos,
        "frames": record.frames,
        "sampled_videos": options.measure,
        "measured_seconds": round(seconds, 1),
        "plans": {
            name: {
                "predicted_seconds": made.predicted_seconds,
                "of_these_to_start": made.start_seconds,
                "over_measured": round(made.predicted_seconds / seconds, 3),
                "basis": made.basis,
            }
            for name, made in plans.items()
        },
        **health,
    }


# --- all of it --------------------------------------------------------------------------------------------------------


def cold(archive: Path, *, quick: bool) -> list[Row]:
    """Seconds to full use of 4 models on one, two and three nodes."""
    rows = []
    for nodes in COLD_NODES[:1] if quick else COLD_NODES:
        row = _child("run", archive=archive, nodes=json.dumps(nodes), limit=60)
        row["full_use_seconds"] = seconds_to_full_use(row)
        print(f"cold, {len(nodes)} node(s): full use of {row['pools_at_first']['model_workers']} models after "
              f"{row['full_use_seconds']:.1f} s")  # fmt: skip
        rows.append(row)
    return rows


def joins(archive: Path) -> Row:
    """Seconds until what joins takes part."""
    row = _child("run", archive=archive, nodes=json.dumps(JOIN_NODES), limit=300, joins=1)
    row["taking_part"] = seconds_to_take_part(row)
    for found in row["taking_part"]:
        print(f"joined: all decoders after {found['all_decoders_seconds']:.1f} s, "
              f"model after {found['model_seconds']:.1f} s")  # fmt: skip
    return row


def planned(archive: Path, measure: int) -> Row:
    """What was predicted and what a run takes."""
    row = _child("planned", archive=archive, measure=measure)
    for name, found in row["plans"].items():
        print(f"planned from {name}: {found['predicted_seconds']:.0f} s, measured {row['measured_seconds']:.0f} s")
    return row


def _child(mode: str, **flags: object) -> Row:
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
        command = harness.python("autoscaling.py", "--child", mode, "--output", f"{output}/tables", *words)
        busy = harness.machine_busy_seconds()
        usage = harness.run(command)
        others = harness.machine_busy_seconds() - busy - usage.cpu_seconds
        cores = os.cpu_count() or 1
        return {**usage.report, "others_cpu_share": round(others / (usage.wall_seconds * cores), 3)}


def plot(folder: Path, content: Row) -> None:
    """Actors at work over time, of each run; predicted and measured seconds."""
    made, ((left, middle, right),) = harness.figure(width=11.0, height=3.4, columns=3)
    for row in content["cold"]:
        times = [when for when, stage, _ in row["first_calls"] if stage == "model"]
        number = len(row["nodes"])
        left.step([0, *times], range(len(times) + 1), where="post", label=f"{number} node{'s' * (number > 1)}")
    left.set_title("4 models from cold", loc="left", fontsize=10)
    row = content["joins"]
    for stage in ("decode", "model"):
        times = [when for when, of, _ in row["first_calls"] if of == stage]
        middle.step([0, *times], range(len(times) + 1), where="post", label=f"{stage} actors")
    for _, _, alive in row["joined"]:
        middle.axvline(alive, color="grey", linestyle=":", linewidth=1)
    middle.set_title("two nodes join (dotted)", loc="left", fontsize=10)
    for axis in (left, middle):
        axis.set_xlabel("seconds")
        axis.set_ylabel("actors that have worked")
        axis.legend(frameon=False, fontsize=8)
    row = content["planned"]
    names = [f"planned,\n{name}" for name in row["plans"]]
    right.bar(
        [*names, "measured"],
        [*(found["predicted_seconds"] for found in row["plans"].values()), row["measured_seconds"]],
        color=["C0"] * len(names) + ["C1"],
    )
    right.set_ylabel("seconds")
    right.set_title("a run on two nodes", loc="left", fontsize=10)
    harness.save_plot(folder, "autoscaling", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--only", choices=["cold", "joins", "planned"], help="measure one part anew")
    parser.add_argument("--child", choices=["run", "planned"], help=argparse.SUPPRESS)
    for name, kind in (("archive", str), ("output", str), ("nodes", str), ("limit", int), ("joins", int),
                       ("measure", int)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child_run(options) if options.child == "run" else child_planned(options)))
        return
    import archives

    quick = options.quick
    folder = harness.results_dir(options)
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    small = archives.mixed(seconds=5, copies=60, max_pieces=1)
    whole = (
        archives.mixed(seconds=5, copies=3, max_pieces=1)
        if quick
        else archives.mixed(seconds=15, copies=14, max_pieces=3)
    )
    path = folder / "autoscaling.json"
    content: Row = json.loads(path.read_text()) if path.exists() and options.only else {}
    parts: dict[str, Callable[[], Any]] = {
        "cold": lambda: cold(small, quick=quick),
        "joins": lambda: joins(small),
        "planned": lambda: planned(whole, 6 if quick else 24),
    }
    allowed = {"allowed_seconds": ALLOWED_SECONDS, "allowed_error": ALLOWED_ERROR}
    for name, measure in parts.items():
        if options.only in (None, name):
            content[name] = measure()
            found = {part: content[part] for part in parts if part in content}
            harness.save(folder, "autoscaling", {**found, **allowed}, quick=quick)
    if len(found) == len(parts):
        plot(folder, found)


if __name__ == "__main__":
    main()
