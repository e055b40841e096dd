"""Videos and a small network in; how fast vidbatch trains, beside plain PyTorch, out as JSON and plot.

loop:   windows that were decoded before: one worker against a plain loop over the same windows in memory, on one core
disk:   from disk, 8 frames a window at 1 a second, GOPs of 250: one worker against a loop fed by torch's DataLoader
        and torchcodec, with as many processes as serve it best, on the same cores; in .venv-peers, not in a quick run
cores:  from disk, by Ray Train: two workers on two cores against one on one

Before a time counts: losses of the same windows are the same (loop, cores), frames come near (disk: another scaler).
Contenders are processes that run in turn; figures are windows by CPU second of the whole process tree, since a machine
that others use has no seconds of its own, and by second. Imports and an epoch of warm-up are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import archives
import harness
import numpy as np
from decode import NEAR_LEVELS
from harness import InvalidRun

SETTINGS: dict[str, Any] = {
    "model": "small+gru", "num_frames": 8, "fps": 1, "frame_size": (112, 112), "channels": ("rgb", "signed_difference"),
    "interpolation": "bilinear", "dropout": 0.0, "train_share": 1.0, "validation_share": 0.0, "device": "cpu",
    "seed": 1,
}  # fmt: skip
QUESTIONS = ("loop", "disk", "cores")
MOST_WORKERS = 3
"""Of a DataLoader; one more than cores."""
SAME_LOSS = 1e-3
Report = dict[str, Any]


# --- what is trained ------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, archive: Path) -> Path:
    """The videos of the archive, of two classes by turns: speed does not ask for sense."""
    lines = [f"{video},{'ab'[number % 2]}" for number, video in enumerate(sorted(archive.iterdir()))]
    (folder / "manifest.csv").write_text("\n".join(["url,label", *lines]) + "\n")
    return folder / "manifest.csv"


def write_job(folder: Path, name: str, manifest: Path, *, epochs: int, warm_epochs: int = 1, **changes: Any) -> Path:
    """NAME.json: settings, every window, and the batches that vidbatch would train with, for whoever trains them."""
    from vidbatch import epochs as order
    from vidbatch.training.config import load_train_config
    from vidbatch.training.videos import find_videos, make_training_set, read_facts

    settings = {"inputs": (str(manifest),), "output": str(folder / name), "epochs": epochs} | SETTINGS | changes
    config = load_train_config(settings)
    listed = find_videos(config)
    data = make_training_set(listed, read_facts(listed.clips, config), config)
    train = data.train
    if train.num_padded:
        raise InvalidRun(f"{train.num_padded} windows are padded: a plain loop knows no masks")
    seconds = train.random(seed=config.seed, epoch=0, jitter=0.0, keys=train.key)
    files = [listed.clips[video]["url"].removeprefix("file://") for video in train.video.tolist()]
    columns = zip(files, seconds.tolist(), data.classes_of(train).tolist(), strict=True)
    batches = [
        [batch.rows.tolist() for _, batch in order.batches(found, config.batch_size)]
        for found in (order.epoch_order(train.key, seed=config.seed, epoch=epoch) for epoch in range(epochs))
    ]
    job = {
        "settings": settings,
        "num_classes": len(data.labels),
        "size": config.frame_size,
        "warm_epochs": warm_epochs,
        "samples": [{"file": file, "seconds": times, "class": number} for file, times, number in columns],
        "epochs": batches,
        "windows": str(folder / "windows.npy"),
    }
    place = folder / f"{name}.json"
    place.write_text(json.dumps(job))
    return place


def decode_all(job: Path) -> Any:
    """The frames of all windows, uint8 (N, T, H, W, 3), kept beside the job and in the cache."""
    from vidbatch.training.loader import Loader, Wanted

    config, data, _ = _prepared(job)
    train = data.train
    seconds = train.random(seed=config.seed, epoch=0, jitter=0.0, keys=train.key)
    columns = zip(train.video.tolist(), seconds, train.num_real.tolist(), strict=True)
    loader = Loader(config)
    (found,) = loader.slices([(0, [Wanted(data.listed.clips[video], times, real) for video, times, real in columns])])
    loader.close()
    if found.failures:
        raise InvalidRun(f"not all windows can be decoded: {found.failures}")
    np.save(json.loads(job.read_text())["windows"], found.windows["frames"])
    return found.windows["frames"]


def _prepared(job: Path) -> tuple[Any, Any, Report]:
    """Settings and windows of a job, and the job itself."""
    from vidbatch.training.config import load_train_config
    from vidbatch.training.videos import find_videos, make_training_set, read_facts

    content = json.loads(job.read_text())
    config = load_train_config(content["settings"])
    listed = find_videos(config)
    return config, make_training_set(listed, read_facts(listed.clips, config), config), content


# --- contenders -----------------------------------------------------------------------------------------------------


def child_loop(job: Path) -> Report:
    """vidbatch's loop of one worker, in this process."""
    import torch

    from vidbatch.training.loop import Loop

    torch.set_num_threads(1)
    config, data, content = _prepared(job)
    loop = Loop(config, data)
    watch = harness.Stopwatch(content["warm_epochs"])

    def note(numbers: Report, _state: Any) -> None:
        watch.after_step(loop.steps[-1]["num_windows"])
        if "best_epoch" in numbers:
            watch.after_epoch()

    loop.run(note)
    return {**watch.report(), "losses": [row["loss"] for row in loop.steps]}


def child_ray(job: Path) -> Report:
    """The same by Ray Train, with as many workers as there are cores; seconds are those of its own table of steps."""
    import io

    import pyarrow.parquet as pq
    import ray

    from vidbatch import storage
    from vidbatch.training.run import Progress, train

    content = json.loads(job.read_text())
    sizes = [len(batch) for epoch in content["epochs"] for batch in epoch]
    config = _prepared(job)[0]
    ray.init("local", num_cpus=config.num_workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    began = time.perf_counter()
    seen: list[tuple[float, float, int]] = []  # now and then: seconds, CPU seconds, windows trained

    def look(num_steps: int) -> None:
        seen.append((time.perf_counter() - began, harness.tree_cpu_seconds(), sum(sizes[:num_steps])))

    class Seen(Progress):
        def show(self, numbers: Report, *, steps_per_epoch: int) -> None:
            assert steps_per_epoch == len(content["epochs"][0])
            look(numbers["step"] + ("learning_rate" in numbers))

    train(config, Seen(config))
    look(len(sizes))
    ray.shutdown()
    rows = pq.read_table(io.BytesIO(storage.read_bytes(f"{config.output}/training/steps.parquet"))).to_pylist()
    timed = [row for row in rows if row["epoch"] >= content["warm_epochs"]]
    (first_seconds, cpu_before, before), (_, cpu_after, after) = seen[0], seen[-1]
    return {
        "windows": sum(row["num_windows"] for row in timed),
        "wall_seconds": sum(row["num_windows"] / row["windows_per_second"] for row in timed),
        "windows_per_cpu_second": max(1, after - before) / max(0.1, cpu_after - cpu_before),  # a quick run has one step
        "first_step_seconds": first_seconds,
        "losses": [row["loss"] for row in rows],
    }


def run(command: Sequence[str | Path], cores: Sequence[int]) -> Report:
    """The report of a contender on those cores, with windows a second and a CPU second."""
    report = harness.run(["taskset", "-c", ",".join(map(str, cores)), *command]).report
    report["windows_per_second"] = report["windows"] / report["wall_seconds"]
    if "cpu_seconds" in report:
        report.setdefault("windows_per_cpu_second", report["windows"] / report["cpu_seconds"])
    return report


def ours(job: Path, mode: str = "loop") -> list[str]:
    return harness.python("train.py", "--child", mode, "--job", job)


def plain(job: Path, *options: object) -> list[str]:
    return harness.python("contender_torch.py", job, "memory", *options)


def torchcodec(job: Path, *options: object) -> list[str | Path]:
    script = harness.HERE / "contender_torch.py"
    return [harness.PEERS_PYTHON, script, job, "torchcodec", *map(str, options)]


# --- questions ------------------------------------------------------------------------------------------------------


def in_turn(contenders: dict[str, Callable[[], Report]], rounds: int) -> dict[str, list[Report]]:
    """A B A B ..."""
    found: dict[str, list[Report]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            report = contender()
            found[name].append(report)
            speeds = f"{report['windows_per_second']:.2f} windows/s"
            if "windows_per_cpu_second" in report:
                speeds += f", {report['windows_per_cpu_second']:.2f} by CPU second"
            print(f"round {number + 1}/{rounds}  {name:<24} {speeds}", flush=True)
    return found


def compared(found: dict[str, list[Report]]) -> Report:
    """Every contender's figures, and the first one's over the second one's, pair by pair."""
    (first, of_first), (second, of_second) = found.items()
    measures = [measure for measure in ("windows_per_cpu_second", "windows_per_second") if measure in of_first[0]]
    figures = (*measures, "first_step_seconds")
    return {
        "contenders": {
            name: {figure: harness.spread([report[figure] for report in reports]) for figure in figures}
            for name, reports in ((first, of_first), (second, of_second))
        },
        **{
            f"{measure}_over": harness.ratio([r[measure] for r in of_first], [r[measure] for r in of_second])
            for measure in measures
        },
    }


def check_losses(what: str, found: dict[str, list[Report]]) -> float:
    """The largest relative difference of any two contenders' losses in a step; InvalidRun if it is one."""
    losses = [report["losses"] for reports in found.values() for report in reports]
    if len({len(each) for each in losses}) != 1:
        raise InvalidRun(f"{what}: other numbers of steps")
    apart = float((np.ptp(losses, axis=0) / np.min(losses, axis=0)).max())
    if apart > SAME_LOSS:
        raise InvalidRun(f"{what}: losses differ by {apart:.1e}")
    return apart


def measure_loop(folder: Path, manifest: Path, cores: list[int], rounds: int, epochs: int) -> Report:
    """One worker against a plain loop, on one core, all windows decoded before."""
    job = write_job(folder, "loop", manifest, epochs=1 + epochs, cache=str(folder / "cache"))
    decode_all(job)
    core = cores[:1]
    found = in_turn({"vidbatch": lambda: run(ours(job), core), "plain loop": lambda: run(plain(job), core)}, rounds)
    apart = check_losses("loop", found)
    return {"largest_difference_of_losses": apart, **compared(found)}


def measure_disk(folder: Path, manifest: Path, cores: list[int], rounds: int) -> Report:
    """One worker against a DataLoader with torchcodec, from disk, on the same cores."""
    options: dict[str, Any] = {"batch_size": 16, "cache_gb": 0, "decode_workers": len(cores)}
    trial = write_job(folder, "trial", manifest, epochs=1, warm_epochs=0, **options)
    job = write_job(folder, "disk", manifest, epochs=2, **options)
    truth = decode_all(job)[json.loads(job.read_text())["epochs"][0][0]]
    tried = {}
    for words in (
        *(("--workers", workers) for workers in range(MOST_WORKERS + 1)),
        ("--workers", 2, "--seek-mode", "approximate"),
    ):
        report = run(torchcodec(trial, *words, "--save-first", folder / "first.npy"), cores)
        levels = np.abs(np.load(folder / "first.npy").astype(np.int16) - truth).mean(axis=(2, 3, 4))
        fits = float(levels.max()) <= NEAR_LEVELS
        tried[" ".join(map(str, words))] = {
            "windows_per_second": round(report["windows_per_second"], 3),
            "largest_mean_difference_levels": round(float(levels.max()), 2),
            "fits": fits,
        }
        print(f"torchcodec {words}: {report['windows_per_second']:.2f} windows/s, {levels.max():.1f} levels apart")
    fit = {words: found for words, found in tried.items() if found["fits"]}
    if not fit:
        raise InvalidRun(f"torchcodec makes other frames: {tried}")
    best = max(fit, key=lambda words: fit[words]["windows_per_second"])
    contenders = {
        "vidbatch": lambda: run(ours(job), cores),
        "DataLoader + torchcodec": lambda: run(torchcodec(job, *best.split()), cores),
    }
    found = in_turn(contenders, rounds)
    figures = compared(found)
    return {"cores": len(cores), "tried": tried, "best": best, **figures}


def measure_cores(folder: Path, manifest: Path, cores: list[int], rounds: int) -> Report:
    """Two workers on two cores against one on one, decoding included, by Ray Train."""
    options: dict[str, Any] = {"batch_size": 16, "slice_size": 8, "cache_gb": 0, "cpus_per_worker": 1}

    def contender(number: int) -> Report:
        name = f"cores-{number}-{time.monotonic_ns()}"
        job = write_job(folder, name, manifest, epochs=2, num_workers=number, **options)
        report = run(ours(job, "ray"), cores[:number])
        report.pop("windows_per_cpu_second", None)  # of the driver alone, which waits
        return report

    found = in_turn({"2 cores": lambda: contender(2), "1 core": lambda: contender(1)}, rounds)
    apart = check_losses("cores", found)
    return {"largest_difference_of_losses": apart, **compared(found)}


# --------------------------------------------------------------------------------------------------------------------


def plot(folder: Path, measured: dict[str, Report]) -> None:
    made, axes = harness.figure(width=8.0, height=3.4, columns=len(measured))
    for axis, (name, found) in zip(np.ravel(axes), measured.items(), strict=True):
        figure = "windows_per_second" if name == "cores" else "windows_per_cpu_second"
        bars = {who: figures[figure]["median"] for who, figures in found["contenders"].items()}
        axis.bar(list(bars), list(bars.values()), color=["#386641", "#a7c957"])
        axis.set_ylabel("windows a second" if name == "cores" else "windows a CPU second")
        axis.set_title(f"{name}: {found[f'{figure}_over']['median']:.2f}×", loc="left", fontsize=10)
    harness.save_plot(folder, "train", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--child", choices=("loop", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="pairs of every figure")
    parser.add_argument("--only", choices=QUESTIONS, nargs="+", default=QUESTIONS, help="the others stay as they are")
    options = parser.parse_args()
    if options.child:
        child = {"loop": child_loop, "ray": child_ray}[options.child]
        print(json.dumps(child(options.job)))
        return
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[:2]
    quick = options.quick
    rounds = options.rounds or (1 if quick else 3)
    archive = (
        archives.long_gops(seconds=20, copies=1, max_pieces=1)
        if quick
        else archives.long_gops(seconds=20, copies=2, max_pieces=4)
    )
    place = harness.results_dir(options)
    measured: dict[str, Report] = {}
    if (place / "train.json").exists():
        before = json.loads((place / "train.json").read_text())
        measured = {name: before[name] for name in QUESTIONS if name in before and name not in options.only}
    with tempfile.TemporaryDirectory(dir=harness.CACHE) as scratch:
        folder = Path(scratch)
        manifest = write_manifest(folder, archive)
        if "loop" in options.only:
            measured["loop"] = measure_loop(folder, manifest, cores, rounds, 2 if quick else 12)
        if "disk" in options.only and not quick and harness.PEERS_PYTHON.exists():
            measured["disk"] = measure_disk(folder, manifest, cores, rounds)
        if "cores" in options.only and len(cores) > 1:
            measured["cores"] = measure_cores(folder, manifest, cores, rounds)
    measured = {name: measured[name] for name in QUESTIONS if name in measured}
    harness.save(place, "train", {"settings": SETTINGS, **measured}, quick=quick)
    plot(place, measured)
    for name, found in measured.items():
        print(name, {key: value for key, value in found.items() if key.endswith("_over")})


if __name__ == "__main__":
    main()
