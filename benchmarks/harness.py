"""Commands in; wall seconds, CPU seconds and peak memory of their process trees out, as JSON with the machine.

The rules of every benchmark here: outputs are compared before a time is believed; contenders run in turn
(A B A B ...) and ratios are taken pair by pair; a run that failed, spilled, lost a worker or left a process is invalid.
Linux only: memory and CPU of a process tree are read from /proc. psutil and matplotlib (extra `bench`) are
imported where they are needed, so that a cluster's driver needs neither.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results"
CACHE = REPOSITORY / ".cache" / "benchmarks"
PEERS_PYTHON = REPOSITORY / ".venv-peers" / "bin" / "python"
"""Of the environment of other decoders (scripts/install.sh peers); benchmarks go without them where it is missing."""
SAMPLE_SECONDS = 0.25
AFTERMATH_SECONDS = 60.0
"""How long processes a command leaves behind (Ray's own) may take to end before the run counts as unhealthy."""
sys.path.insert(0, str(REPOSITORY / "tests"))  # for its real clips

Watch = Callable[["psutil.Process"], "str | None"]
"""Says which named group of the memory report a process belongs to; None: its memory is not asked for."""


class InvalidRun(RuntimeError):
    """A run whose time means nothing: it failed, gave other results, spilled, or lost a worker."""


@dataclass
class Usage:
    """What one command took. Seconds; MB are 10^6 bytes."""

    wall_seconds: float
    cpu_seconds: float
    report: dict[str, Any]
    peak_uss_mb: dict[str, float] = field(default_factory=dict)  # by group: largest of its processes
    peak_rss_mb: dict[str, float] = field(default_factory=dict)


class _Tree(threading.Thread):
    """Samples all descendants of this process that started after it did."""

    def __init__(self, watch: Watch | None, sample_seconds: float) -> None:
        import psutil

        self._gone = (psutil.NoSuchProcess, psutil.AccessDenied)
        self._self = psutil.Process()
        super().__init__(daemon=True, name="sample-tree")
        self._watch = watch
        self._sample_seconds = sample_seconds
        self._ignored = {(p.pid, p.create_time()) for p in self._self.children(recursive=True)}
        self._cpu_seconds: dict[tuple[int, float], float] = {}
        self._groups: dict[tuple[int, float], str | None] = {}
        self._end = threading.Event()
        self.peak_uss: dict[str, int] = {}
        self.peak_rss: dict[str, int] = {}

    def run(self) -> None:
        while not self._end.wait(self._sample_seconds):
            self.sample()

    def close(self) -> None:
        self._end.set()
        self.join()
        self.sample()

    def living(self) -> list[psutil.Process]:
        found = self._self.children(recursive=True)
        return [p for p in found if (p.pid, p.create_time()) not in self._ignored]

    def sample(self) -> None:
        for process in self.living():
            with suppress(*self._gone):
                key = (process.pid, process.create_time())
                times = process.cpu_times()
                self._cpu_seconds[key] = times.user + times.system
                self._sample_memory(process, key)

    def _sample_memory(self, process: psutil.Process, key: tuple[int, float]) -> None:
        if self._watch is None:
            return
        group = self._groups.get(key) or self._watch(process)  # a worker is named some time after it starts
        self._groups[key] = group
        if group is not None:
            memory = process.memory_full_info()
            self.peak_uss[group] = max(self.peak_uss.get(group, 0), memory.uss)
            self.peak_rss[group] = max(self.peak_rss.get(group, 0), memory.rss)

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu_seconds.values())


def run(
    command: Sequence[str | Path],
    *,
    watch: Watch | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float = 1800.0,
    sample_seconds: float = SAMPLE_SECONDS,
) -> Usage:
    """Run a command to its end and to the end of everything it started; raises InvalidRun if it fails.

    The wall time ends with the command itself. Its last line on stdout is its report, a JSON object. CPU seconds
    are the larger of two lower bounds: sampled from /proc, and what the kernel added up for reaped children.
    """
    _adopt_orphans()
    before = _children_cpu_seconds()
    tree = _Tree(watch, sample_seconds)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=err, env={**os.environ, **(env or {})}
        )
        tree.start()
        try:
            code = process.wait(timeout_seconds)
            wall_seconds = time.perf_counter() - started
        except subprocess.TimeoutExpired:
            _end_tree(tree)
            process.wait()
            raise InvalidRun(f"{_name(command)} took longer than {timeout_seconds:.0f} s") from None
        finally:
            leftover = _wait_for_aftermath(tree)
            tree.close()
            _end_tree(tree)
        texts = [_text(out), _text(err)]
    if code != 0:
        raise InvalidRun(f"{_name(command)} ended with {code}:\n" + "\n".join(t[-3000:] for t in texts))
    if leftover:
        raise InvalidRun(f"{_name(command)} left processes behind: {leftover}")
    return Usage(
        wall_seconds=wall_seconds,
        cpu_seconds=max(tree.cpu_seconds, _children_cpu_seconds() - before),
        report=_last_json(texts[0]),
        peak_uss_mb={group: peak / 1e6 for group, peak in tree.peak_uss.items()},
        peak_rss_mb={group: peak / 1e6 for group, peak in tree.peak_rss.items()},
    )


class Stopwatch:
    """Wall and CPU seconds of a training loop from the end of its warm-up epochs, when nothing is decoded ahead."""

    def __init__(self, warm_epochs: int) -> None:
        self._warm_epochs = warm_epochs
        self._epochs = self._windows = 0
        self._began = self._from = self._to = (time.perf_counter(), tree_cpu_seconds())
        self._first_step_seconds: float | None = None

    def after_step(self, num_windows: int) -> None:
        """Count the windows of a step."""
        if self._first_step_seconds is None:
            self._first_step_seconds = time.perf_counter() - self._began[0]
        self._windows += num_windows

    def after_epoch(self) -> None:
        """Note the time."""
        self._epochs += 1
        self._to = (time.perf_counter(), tree_cpu_seconds())
        if self._epochs == self._warm_epochs:
            self._from, self._windows = self._to, 0

    def report(self) -> dict[str, Any]:
        """Seconds and windows after the warm-up; seconds from the beginning to the end of the first step."""
        return {
            "windows": self._windows,
            "wall_seconds": self._to[0] - self._from[0],
            "cpu_seconds": self._to[1] - self._from[1],
            "first_step_seconds": self._first_step_seconds,
        }


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and of those it has started that live."""
    import psutil

    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def machine_busy_seconds() -> float:
    """CPU seconds of all processes of this machine since it was started."""
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _adopt_orphans() -> None:
    """Make orphaned grandchildren (Ray's daemons) children of this process, so that none escapes the count."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _children_cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _wait_for_aftermath(tree: _Tree) -> list[str]:
    """Names of processes that are still there some time after the command ended."""
    import psutil

    deadline = time.monotonic() + AFTERMATH_SECONDS
    while True:
        living = []
        for process in tree.living():
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process.name())
                elif process.ppid() == os.getpid():
                    with suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.1)


def _end_tree(tree: _Tree) -> None:
    import psutil

    for process in tree.living():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read())


def _name(command: Sequence[str | Path]) -> str:
    return " ".join(Path(str(word)).name for word in command[:3])


def _last_json(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise InvalidRun(f"no JSON report at the end of: {text[-500:]!r}")
    return dict(json.loads(lines[-1]))


def python(script: str, *arguments: object) -> list[str]:
    """Command line of a benchmark script in its own interpreter."""
    return [sys.executable, str(HERE / script), *(str(a) for a in arguments)]


def in_turn(
    contenders: Mapping[str, Callable[[], Usage]], rounds: int, *, say: Callable[[str], None] = print
) -> dict[str, list[Usage]]:
    """Run every contender once a round, in the same order: A B C, A B C, ..."""
    results: dict[str, list[Usage]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            usage = contender()
            results[name].append(usage)
            say(f"round {number + 1}/{rounds}  {name:<16} {usage.wall_seconds:8.2f} s wall  "
                f"{usage.cpu_seconds:8.2f} s CPU")  # fmt: skip
    return results


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, smallest, largest and all values, rounded."""
    rounded = [round(value, digits) for value in values]
    return {
        "median": round(statistics.median(values), digits),
        "min": min(rounded),
        "max": max(rounded),
        "values": rounded,
    }


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Spread of the ratios of pairs that ran in the same round."""
    return spread([n / d for n, d in zip(numerators, denominators, strict=True)])


def machine() -> dict[str, Any]:
    """Where and when: enough to judge a figure, nothing that names the machine."""
    packages = ("vidbatch", "ray", "torch", "torchvision", "av", "pyarrow", "numpy", "decord")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "load_average_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: small input, figures mean nothing")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where JSON and plots go")
    return parser


def results_dir(options: argparse.Namespace) -> Path:
    """`benchmarks/results` for full runs; a quick run never overwrites those."""
    chosen: Path = options.results or (CACHE / "quick-results" if options.quick else RESULTS)
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def save(folder: Path, name: str, content: Mapping[str, Any], *, quick: bool) -> None:
    """Write NAME.json, with the machine and whether it was a quick run."""
    whole = {"benchmark": name, "quick": quick, "machine": machine(), **content}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def interval(values: Sequence[float]) -> list[float]:
    """95 % bootstrap interval of the mean."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = rng.choice(np.array(values), (10_000, len(values))).mean(1)
    return [round(float(at), 3) for at in np.percentile(means, [2.5, 97.5])]


def figure(width: float = 7.0, height: float = 3.6, *, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A matplotlib figure and its axes (one, or an array of rows x columns), drawn without a display."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "vidbatch"
    import matplotlib.pyplot as plt

    one = columns == rows == 1
    made, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=one)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    return made, axes


def bars_over(clips: Mapping[str, Any], base: str, names: Sequence[str], *, label: str, order: str, step: float) -> Any:
    """By how many dB contenders are above one of them, clip by clip.

    Args: `clips` has, of each, each contender's `psnr`; `order` is the contender by which they are sorted, `step` is
    how far bars are apart.
    """
    import numpy as np

    made, axes = figure(width=8.5)
    sorted_clips = sorted(clips, key=lambda clip: clips[clip][order]["psnr"])
    places = np.arange(len(sorted_clips))
    for number, name in enumerate(names):
        over = [clips[clip][name]["psnr"] - clips[clip][base]["psnr"] for clip in sorted_clips]
        axes.bar(places + (number - (len(names) - 1) / 2) * step, over, step - 0.02, label=name)
    axes.set_xticks(places, [clip.partition(".")[0] for clip in sorted_clips], fontsize=8)
    axes.set_ylabel(label)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.legend(fontsize=8)
    return made


def save_plot(folder: Path, name: str, made: Any) -> None:
    """Write NAME.svg, the same bytes for the same figures."""
    import matplotlib.pyplot as plt

    made.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(made)
