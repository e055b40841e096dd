"""An archive and numbers of nodes in; videos a second, efficiency, busy shares and bytes out, as JSON and plot.

pinned:     real work on 1, then 2 pinned cores of this machine
simulated:  1 to 64 Ray nodes on this machine, their stages waiting as long as the real ones took
cluster:    real work on 1, 2, 4, ... nodes of the cluster that RAY_ADDRESS names, or that this is submitted to:
            ray job submit --working-dir benchmarks --runtime-env-json '{"py_modules": ["vidbatch"]}' -- \\
                python scaling.py --cluster --archive URL --output URL

Strong scaling: the same archive on more nodes. Weak: as many videos again for every further node.
Efficiency is throughput(n) / (n x throughput(1)) without start-up: the work's seconds less those of one video alone.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import harness
import ray_health
import waiting_stages
from harness import InvalidRun

from vidbatch.config import LabelConfig
from vidbatch.metrics import Progress

Row = dict[str, Any]
CPUS_A_NODE = 2
"""A simulated node is a copy of the machine that the waits were measured on: two cores."""
TIMES_AS_LONG = 8
"""Simulated videos are two minutes, those that were measured 15 s: two cores have to play all nodes, and what Ray and
the chain cost them is for each video, however long."""
WEAK_SECONDS = 120.0
"""Of one node's work, in weak scaling."""
SAMPLE_SECONDS = 5.0
"""A look at 400 processes takes time of the cores that play them."""
OTHERS_GIB = 2.0
"""Memory that is left to all else when nodes are simulated."""


class Timeline(Progress):
    """Remembers when how many videos were finished."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.points: list[tuple[float, int]] = []  # time.time(), videos
        self.driver_cpu_seconds = 0.0
        self._before = (time.monotonic(), 0.0)
        self.machine_busy_share = self.available_gib = 0.0

    def update(self, totals: Any) -> None:
        """Called with the sink's totals whenever predictions have arrived."""
        if not self.points:
            self._driver_before = time.process_time()
            self._before = (time.monotonic(), harness.machine_busy_seconds())
        if not self.points or totals.videos != self.points[-1][1]:
            self.points.append((time.time(), totals.videos))
        self.driver_cpu_seconds = time.process_time() - self._driver_before

    def close(self, totals: Any = None) -> None:  # noqa: ARG002  # the interface's argument
        """Called at the end of the work."""
        seconds, busy = self._before
        core_seconds = (time.monotonic() - seconds) * (os.cpu_count() or 1)
        self.machine_busy_share = (harness.machine_busy_seconds() - busy) / core_seconds
        self.available_gib = available_gib()


def available_gib() -> float:
    """Memory that this machine has left, with what it may swap: most of the processes that play nodes only wait."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) / 2**20 for line in lines if line.startswith(("MemAvailable", "SwapFree")))


def row_of(result: Any, timeline: Timeline, seconds: float) -> Row:
    """The figures of one run that took so many seconds, start-up left out."""
    record, points = result.record, timeline.points
    if record.by_status.get("ok", 0) != record.videos or not record.videos:
        raise InvalidRun(f"not all videos are ok: {record.by_status}")
    busy = {name: float(record.stages[name]["busy_seconds"]) for name in ("decode", "classify")}
    early, late = (_time_of(points, share * record.videos) for share in (0.1, 0.9))
    workers = {"decode": record.pools["decode_workers"], "classify": record.pools["model_workers"]}
    observed = max(points[-1][0] - points[0][0], 1e-9)
    return {
        "videos": record.videos,
        "frames": record.frames,
        "read_bytes": int(record.stages["decode"]["read_bytes"]),
        "seconds": round(seconds, 2),
        "videos_per_second": round(record.videos / seconds, 4),
        "steady_videos_per_second": round(0.8 * record.videos / max(late - early, 1e-9), 4),
        "busy_share": {name: round(busy[name] / (seconds * workers[name]), 4) for name in busy},
        "stage_seconds_a_video": {name: round(busy[name] / record.videos, 4) for name in busy},
        "driver_cpu_share": round(timeline.driver_cpu_seconds / observed, 4),
        "driver_cpu_ms_a_video": round(1000 * timeline.driver_cpu_seconds / record.videos, 2),
        "machine_busy_share": round(timeline.machine_busy_share, 4),
        "workers": workers,
    }


def _time_of(points: list[tuple[float, int]], videos: float) -> float:
    return next(when for when, count in points if count >= videos)


def with_efficiency(rows: list[Row], unit: str) -> list[Row]:
    """Rows with throughput(n) / (n x throughput(1)), of the whole run and of its middle 80%."""
    base = rows[0]
    for row in rows:
        share = row[unit] / base[unit]
        for name, rate in (("efficiency", "videos_per_second"), ("steady_efficiency", "steady_videos_per_second")):
            row[name] = round(row[rate] / (share * base[rate]), 4)
    return rows


# --- pinned cores ---------------------------------------------------------------------------------------------------


def measured_label(config: LabelConfig, pools: Any = None) -> Row:
    """A real run over the archive; a run over one video before it says what start-up takes."""
    from vidbatch import pipeline

    def label(**changes: Any) -> tuple[Any, Timeline]:
        timeline = Timeline()
        result = pipeline.label(config.model_copy(update=changes), timeline, pools=pools)
        gc.collect()  # a finished dataset is a cycle that keeps the model's weights in the object store
        return result, timeline

    before = ray_health.report()  # of a cluster that others use too
    alone = [label(limit=1, output=f"{config.output}-alone-{n}")[0] for n in range(2)][-1]
    result, timeline = label()
    health = ray_health.report()
    if health != before:
        raise InvalidRun(f"before: {before}; after: {health}")
    startup, work = (run.record.wall_seconds["work"] for run in (alone, result))
    return {**row_of(result, timeline, max(work - startup, 0.001)), "startup_seconds": startup, **health}


def child_pinned(options: argparse.Namespace) -> Row:
    """Label a local archive on the first `cores` cores only: driver, Ray and all workers."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    import ray

    ray.init(num_cpus=options.cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    row = measured_label(LabelConfig(inputs=(options.archive,), output=options.output, limit=options.limit))
    ray.shutdown()
    return {"cores": options.cores, **row}


def pinned(archive: Path, cores: list[int], videos_a_core: int) -> dict[str, Any]:
    """Strong and weak scaling over pinned cores."""
    most = videos_a_core * max(cores)
    plan = {"strong": [(n, most) for n in cores], "weak": [(n, videos_a_core * n) for n in cores]}
    measured: dict[str, list[Row]] = {}
    for kind, points in plan.items():
        rows = []
        for number, limit in points:
            with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
                row = _child("pinned", archive=archive, output=f"{output}/tables", cores=number, limit=limit)
            print(f"pinned {kind}  {number} core(s)  {row['videos_per_second']:.2f} videos/s")
            rows.append(row)
        measured[kind] = with_efficiency(rows, "cores")
    return {"what": "real work, this machine's cores pinned", **measured}


def _child(mode: str, **flags: object) -> Row:
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = harness.python("scaling.py", "--child", mode, *words)
    usage = harness.run(command, sample_seconds=SAMPLE_SECONDS, timeout_seconds=3600)
    return {**usage.report, "wall_seconds_with_startup": round(usage.wall_seconds, 2)}


# --- simulated nodes ------------------------------------------------------------------------------------------------


def child_simulated(options: argparse.Namespace) -> Row:
    """Label tiny objects on `nodes` Ray nodes of this machine, with stages that wait."""
    from vidbatch import models, pipeline

    config = LabelConfig(
        inputs=(options.archive,),
        output=options.output,
        limit=options.limit,
        decode_workers=CPUS_A_NODE * options.nodes,
        model_workers=options.nodes,
    )
    spec, _ = models.load_spec(models.find_model(config.model))
    available = available_gib()
    with tempfile.TemporaryDirectory() as barrier, simulated_cluster(options.nodes):
        waits = waiting_stages.Waits(
            options.decode_seconds,
            options.model_seconds,
            options.frames,
            len(spec.labels),
            barrier,
            (CPUS_A_NODE + 1) * options.nodes,
        )
        timeline = Timeline()
        stages = pipeline.Stages(*waiting_stages.stages(waits))
        result = pipeline.label(config, timeline, stages=stages)
        began = max(path.stat().st_mtime for path in Path(barrier).iterdir())  # when the last worker was up
        health = ray_health.report()
    if not ray_health.is_healthy(health):
        raise InvalidRun(str(health))
    return {
        "nodes": options.nodes,
        **row_of(result, timeline, timeline.points[-1][0] - began),
        "first_result_after_seconds": round(timeline.points[0][0] - began, 2),
        "memory_gib": round(available - timeline.available_gib, 2),
        **health,
    }


@contextmanager
def simulated_cluster(nodes: int) -> Iterator[None]:
    """A head without CPUs and that many nodes of two CPUs, all on this machine; the driver is connected."""
    import psutil
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112  # each node would take all memory for its own
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=CPUS_A_NODE, wait=False)
        cluster.wait_for_nodes(timeout=600)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        players = psutil.Process().children(recursive=True)
        ray.shutdown()
        cluster.shutdown()
        for process in players:  # of so many workers some do not notice that their node is gone
            with suppress(psutil.Error):
                process.kill()


def simulated(
    waits: Row, nodes: list[int], seconds: dict[str, float], before: Row, keep: Callable[[Row], None]
) -> None:
    """Strong and weak scaling over simulated nodes; `waits` is a real row of two pinned cores.

    Args: `seconds` of one node's work, by kind; rows of other numbers of nodes are kept from `before`, if the waits
    were the same; `keep` is called with all there is after each number.
    """
    load = load_of(waits, TIMES_AS_LONG)
    flags, a_node = load.flags, load.videos_per_second_a_node
    videos = {kind: max(8, round(of_one * a_node)) for kind, of_one in seconds.items()}
    archive = load.archive(max(*videos.values(), max(nodes) * videos.get("weak", 0)))
    found: Row = {
        "what": "SIMULATED: Ray nodes on one machine, stage times replaced by measured waits, frames of one byte",
        "simulated": True,
        "cpus_a_node": CPUS_A_NODE,
        "waits": {**flags, "size_bytes": load.size_bytes, "times_as_long": TIMES_AS_LONG},
        "videos_per_second_that_waits_allow_a_node": round(a_node, 4),
        "left_out": {},
    }
    old = before if before.get("waits") == found["waits"] else {}
    found["longer"] = old.get("longer", [])
    measured: dict[str, list[Row]] = {
        kind: [row for row in old.get(kind, []) if kind not in seconds or row["nodes"] not in nodes]
        for kind in ("weak", "strong")
    }
    for number in nodes:
        needed = memory_of(number, measured["weak"])
        if needed > (there := available_gib() - OTHERS_GIB):
            found["left_out"][f"{number} nodes"] = f"{needed:.1f} GiB of memory needed, {there:.1f} there"
            print(f"simulated  {number} node(s)  left out: {found['left_out'][f'{number} nodes']}")
            continue
        for kind in seconds:
            rows = measured[kind]
            limit = videos[kind] * (number if kind == "weak" else 1)
            rows.append(load.run(archive, number, limit, f"simulated {kind}"))
            rows.sort(key=lambda row: int(row["nodes"]))
            with_efficiency(rows, "nodes")
            keep({**found, "cpus_at_which_one_driver_is_full": cpus_of_one_driver(measured["weak"]), **measured})


def longer(waits: Row, nodes: list[int], times: int, section: Row, keep: Callable[[Row], None]) -> None:
    """Weak scaling with videos of another length, beside what `simulated` has measured: rows of section["longer"].

    As many seconds of work more as videos are longer, so that filling and draining take the same share of a run.
    """
    load = load_of(waits, times)
    of_one = round(WEAK_SECONDS * times / TIMES_AS_LONG * load.videos_per_second_a_node)
    for number in nodes:
        row = load.run(load.archive(of_one * number), number, of_one * number, f"simulated, {times} times as long")
        section["longer"] = [*section.get("longer", []), {"times_as_long": times, **row}]
        keep(section)


class Load(NamedTuple):
    """Videos that are so many times as long as those that were measured."""

    flags: dict[str, Any]
    size_bytes: int

    @property
    def videos_per_second_a_node(self) -> float:
        """What the waits allow."""
        return min(CPUS_A_NODE / float(self.flags["decode_seconds"]), 1 / float(self.flags["model_seconds"]))

    def archive(self, count: int) -> Path:
        """So many of them."""
        import archives  # here, because a cluster has no clips to cut archives from

        return archives.hollow(count, self.size_bytes)

    def run(self, archive: Path, nodes: int, limit: int, name: str) -> Row:
        """The figures of one run over so many of them."""
        with tempfile.TemporaryDirectory(dir=harness.CACHE) as output:
            row = _child(
                "simulated", archive=archive, output=f"{output}/tables", nodes=nodes, limit=limit, **self.flags
            )
        allowed = nodes * self.videos_per_second_a_node
        row["share_of_what_waits_allow"] = round(row["videos_per_second"] / allowed, 4)
        row["seconds_lost"] = round(row["seconds"] - limit / allowed, 2)
        print(
            f"{name}  {nodes} nodes  {row['videos_per_second']:.2f} videos/s, {row['memory_gib']} GiB, "
            f"busy: driver {row['driver_cpu_share']:.0%}, machine {row['machine_busy_share']:.0%}"
        )
        return row


def load_of(waits: Row, times: int) -> Load:
    """Waits of the measured videos, so many times as long; their sizes decide what is packed together."""
    decode, model = (times * waits["stage_seconds_a_video"][name] for name in ("decode", "classify"))
    frames = times * round(waits["frames"] / waits["videos"])
    flags = {"decode_seconds": decode, "model_seconds": model, "frames": frames}
    return Load(flags, times * waits["read_bytes"] // waits["videos"])


def cpus_of_one_driver(rows: list[Row]) -> int | None:
    """CPUs at work that fill a driver's core, on the line through the fewest and the most nodes; None: not known."""
    (least, at_least), (most, at_most) = ((row["nodes"], row["driver_cpu_share"]) for row in (rows[0], rows[-1]))
    if at_most <= at_least:
        return None
    return round(CPUS_A_NODE * (least + (most - least) * (1 - at_least) / (at_most - at_least)))


def memory_of(nodes: int, rows: list[Row]) -> float:
    """GiB that so many nodes will need, on the steepest line from the fewest through any other; 0: not known.

    What is left of the run before makes a run seem to need less.
    """
    if len(rows) < 2:
        return 0.0
    least, at_least = rows[0]["nodes"], rows[0]["memory_gib"]
    a_node = max((row["memory_gib"] - at_least) / (row["nodes"] - least) for row in rows[1:])
    return float(at_least + a_node * (nodes - least))


# --- a real cluster -------------------------------------------------------------------------------------------------


def cluster(options: argparse.Namespace) -> dict[str, Any]:
    """Strong and weak scaling over nodes of the cluster this driver is connected to."""
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level="ERROR")
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    alive.sort(key=lambda node: str(node["NodeID"]))
    numbers = [n for n in options.node_counts or _powers_of_two(len(alive)) if n <= len(alive)]
    measured: dict[str, list[Row]] = {}
    for kind in ("strong", "weak"):
        rows = []
        for number in numbers:
            limit = options.videos_a_node * (number if kind == "weak" else max(numbers))
            row = _on_nodes(alive[:number], options, limit, f"{kind}-{number}")
            print(f"cluster {kind}  {number} node(s)  {row['videos_per_second']:.2f} videos/s")
            rows.append({"nodes": number, **row})
        measured[kind] = with_efficiency(rows, "nodes")
    return {"what": "real work on a Ray cluster", "nodes_alive": len(alive), **measured}


def _on_nodes(nodes: list[dict[str, Any]], options: argparse.Namespace, limit: int, name: str) -> Row:
    """One run whose tasks and actors are all placed on the given nodes."""
    import ray

    from vidbatch.pools import pool_sizes

    resources = {kind: sum(node["Resources"].get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    chosen = ",".join(str(node["NodeID"]) for node in nodes)
    context = ray.data.DataContext.get_current()
    context.execution_options.label_selector = {"ray.io/node-id": f"in({chosen})"}
    output = f"{options.output.rstrip('/')}/{name}-{int(time.time())}"
    config = LabelConfig(inputs=(options.archive,), output=output, limit=limit)
    return {**resources, **measured_label(config, pool_sizes(config, [node["Resources"] for node in nodes]))}


def _powers_of_two(most: int) -> list[int]:
    return sorted({*(2**n for n in range(most.bit_length()) if 2**n <= most), most})


# --- output ---------------------------------------------------------------------------------------------------------


def plot(folder: Path, name: str, sections: dict[str, Any]) -> None:
    """Throughput and efficiency against nodes or cores, one pair of plots a section."""
    made, axes = harness.figure(width=8.0, height=3.2 * len(sections), columns=2, rows=len(sections))
    for (title, section), (left, right) in zip(sections.items(), axes, strict=True):
        unit = "cores" if "cores" in section["weak"][0] else "nodes"
        for kind, marker in (("strong", "o"), ("weak", "s")):
            rows = section[kind]
            numbers = [row[unit] for row in rows]
            left.plot(numbers, [row["videos_per_second"] for row in rows], marker=marker, label=kind)
            right.plot(numbers, [row["efficiency"] for row in rows], marker=marker, label=kind)
        numbers = [row[unit] for row in section["weak"]]
        rate = section["weak"][0]["videos_per_second"] / numbers[0]
        left.plot(numbers, [rate * n for n in numbers], linestyle=":", color="grey", label="linear")
        left.set_ylabel("videos a second")
        right.set_ylabel("efficiency")
        right.set_ylim(0, 1.15)
        for axis in (left, right):
            axis.set_xlabel(unit)
            axis.set_xticks(numbers)
            axis.set_title(title, loc="left", fontsize=10)
            axis.legend(frameon=False, fontsize=8)
    harness.save_plot(folder, name, made)


def parse() -> argparse.Namespace:
    parser = harness.arguments(__doc__)
    parser.add_argument("--only", choices=["pinned", "simulated"], help="one part; simulated takes waits from results")
    parser.add_argument("--kinds", choices=["weak", "strong"], nargs="+", default=["weak", "strong"],
                        help="of simulated nodes: which to measure anew")  # fmt: skip
    parser.add_argument("--times-as-long", type=int, default=TIMES_AS_LONG, metavar="N",
                        help="of simulated videos: with another number rows of these beside the others")  # fmt: skip
    parser.add_argument("--cluster", action="store_true", help="measure the cluster this is connected to")
    parser.add_argument("--archive", help="with --cluster: what to label")
    parser.add_argument("--output", help="with --cluster: where the tables of the runs go")
    parser.add_argument("--node-counts", type=int, nargs="+", help="default: 1, 2, 4, ... up to all (simulated: 64)")
    parser.add_argument("--videos-a-node", type=int, default=100, help="with --cluster: size of the runs")
    parser.add_argument("--child", choices=["pinned", "simulated"], help=argparse.SUPPRESS)
    for name, kind in (("cores", int), ("nodes", int), ("limit", int), ("frames", int),
                       ("decode-seconds", float), ("model-seconds", float)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cluster and not (options.archive and options.output):
        parser.error("--cluster needs --archive and --output")
    return options


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child_pinned(options) if options.child == "pinned" else child_simulated(options)))
        return
    folder = harness.results_dir(options)
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    if options.cluster:
        measured = cluster(options)
        harness.save(folder, "scaling_cluster", measured, quick=options.quick)
        if importlib.util.find_spec("matplotlib"):
            plot(folder, "scaling_cluster", {"Ray cluster": measured})
        print(json.dumps(measured))
        return
    import archives

    quick = options.quick
    path = folder / "scaling.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() and options.only else {}

    def keep(name: str, section: Row) -> None:
        content[name] = section
        sections = {name: content[name] for name in ("pinned", "simulated") if name in content}
        harness.save(folder, "scaling", sections, quick=quick)
        titles = {"pinned": "real work, pinned cores", "simulated": "SIMULATED nodes, stages wait"}
        plot(folder, "scaling", {titles[name]: section for name, section in sections.items()})

    if options.only != "simulated":
        archive = archives.mixed(seconds=5, copies=2, max_pieces=1) if quick else archives.mixed(seconds=15, copies=7)
        keep("pinned", pinned(archive, [1, 2], 4 if quick else 50))
    if options.only != "pinned":
        nodes = options.node_counts or ([1, 2] if quick else [1, 4, 16, 32, 64])
        seconds = {"strong": 8.0, "weak": 4.0} if quick else {"strong": 960.0, "weak": WEAK_SECONDS}
        seconds = {kind: seconds[kind] for kind in options.kinds}
        if options.times_as_long != TIMES_AS_LONG:
            waits = content["pinned"]["strong"][-1]
            longer(waits, nodes, options.times_as_long, content["simulated"], partial(keep, "simulated"))
            return
        simulated(
            content["pinned"]["strong"][-1], nodes, seconds, content.get("simulated", {}), partial(keep, "simulated")
        )


if __name__ == "__main__":
    main()
