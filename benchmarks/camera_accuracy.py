"""Clips of known camera motion in; how often models of several kinds name it out, and what a window's order is to them.

Each row is a network of vidbatch, trained from nothing by the loop of `vidbatch train` on the clips of camera_motion.py
and run as `label` runs it, on windows of 8 frames and 2 s from films that it was not trained on:

recurrent, attention    three seeds each
mean_*                  the average over single frames, or over absolute differences, cannot tell a window from its
                        reversal; with a signed difference beside the frame it can
difference, median, gaussian    the recurrent one with another channel, or frames that are filtered first
lucas_kanade            no network: tracks and a robust fit in OpenCV (lucas_kanade.py, in .venv-peers), then a tree

A row is kept as soon as it is measured (`.cache/benchmarks/camera_accuracy`): the same command does what is missing.
camera_real.py asks the first recurrent model about real camera motion.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import harness
import numpy as np
import numpy.typing as npt
import torch
import yaml
from camera_motion import Settings, camera_motion
from camera_paths import LABELS, OPPOSITE
from lucas_kanade import FEATURES
from lucas_kanade import SETTINGS as TRACK_SETTINGS

from vidbatch.training.config import TrainConfig
from vidbatch.training.loader import Loader, Wanted
from vidbatch.training.loop import Loop
from vidbatch.training.videos import TrainingSet, find_videos, make_training_set, read_facts
from vidbatch.windows import Labelled, extent_of, make_windows, random_bits

Ints = npt.NDArray[np.int64]

KEPT: Final = harness.CACHE / "camera_accuracy"
PAIRS: Final = (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out"))
COMMON: Final[dict[str, Any]] = yaml.safe_load((harness.HERE / "camera_motion.yaml").read_text())
ALLOWED: Final = {"accuracy": 0.95, "recall": 0.88, "direction": 0.98, "reversed": 0.95, "shuffled": 0.60}


class Row(NamedTuple):
    """A model of the table: its name, and what is special about its training."""

    name: str
    about: str
    settings: dict[str, Any]


def _seeds(name: str, about: str, model: str) -> list[Row]:
    return [Row(f"{name}_{seed}", f"{about}, seed {seed}", {"model": model, "seed": seed}) for seed in range(3)]


PLAIN: Final = {"model": "small+mean", "epochs": 4}
ROWS: Final = (
    *_seeds("recurrent", "correlation+gru", "correlation+gru"),
    *_seeds("attention", "correlation+attention", "correlation+attention"),
    Row("mean_frames", "small+mean of frames: blind to order", PLAIN),
    Row(
        "mean_differences", "small+mean of absolute differences: blind to order", {**PLAIN, "channels": ("difference",)}
    ),
    Row(
        "mean_signed",
        "small+mean, a signed difference beside the frame: not blind to order",
        {**PLAIN, "channels": ("rgb", "signed_difference")},
    ),
    Row("difference", "correlation+gru, the absolute difference beside the frame", {"channels": ("rgb", "difference")}),
    Row("median", "correlation+gru, frames through a median of 3 x 3", {"median": 3}),
    Row("gaussian", "correlation+gru, frames through a Gaussian of 1 pixel", {"gaussian_sigma": 1.0}),
)
TRACKS: Final = Row("lucas_kanade", "Lucas-Kanade tracks and RANSAC (OpenCV), a decision tree over what they say", {})


# --- windows --------------------------------------------------------------------------------------------------------


def config_of(row: Row, manifest: Path, *, quick: bool = False) -> TrainConfig:
    """How a row is trained."""
    settings = {**COMMON, **row.settings}
    if quick:
        settings |= {"epochs": 1, "warmup_epochs": 0}
    return TrainConfig(
        inputs=(str(manifest),),
        output=str(KEPT / ("quick" if quick else "models") / row.name),
        cache=str(KEPT / "windows"),
        **settings,
    )


class Windows(NamedTuple):
    """Windows of one split, or of parts of videos."""

    decoded: npt.NDArray[Any]
    """Of windows.window_dtype, (n,)."""
    labels: list[str]
    names: list[str]
    """Path of each video."""


def decode(config: TrainConfig, videos: Sequence[Labelled], clips: Sequence[Any], facts: Sequence[Any]) -> Windows:
    """One window amid each part, as `label` takes it. Raises InvalidRun for one that cannot be decoded."""
    extents = [extent_of(video, config.windows, **known) for video, known in zip(videos, facts, strict=True)]
    windows = make_windows(videos, extents, config.windows)
    if windows.video.tolist() != list(range(len(videos))):
        raise harness.InvalidRun("not one window a part")
    loader = Loader(config)
    try:
        places = zip(clips, windows.centred(), windows.num_real.tolist(), strict=True)
        (found,) = loader.slices([(0, [Wanted(*place) for place in places])])
    finally:
        loader.close()
    if found.failures:
        raise harness.InvalidRun(f"windows that cannot be decoded: {found.failures}")
    return Windows(found.windows, [video.label for video in videos], [video.url for video in videos])


# --- training and asking --------------------------------------------------------------------------------------------


def train(config: TrainConfig, data: TrainingSet) -> dict[str, Any]:
    """Train, keep the best bundle as a worker of `vidbatch train` does, and say how long it took; but once only."""
    from vidbatch.bundles import save_bundle
    from vidbatch.training.classifying import bundle_config

    kept = Path(config.output) / "took.json"
    if kept.exists() and (known := json.loads(kept.read_text()))["digest"] == config.digest:
        return dict(known)
    loop = Loop(config, data)
    wall, cpu = time.perf_counter(), time.process_time()

    def say(numbers: dict[str, Any], _state: Any) -> None:
        if "best_epoch" in numbers:
            print(f"  {json.dumps(numbers)}", flush=True)

    def keep() -> None:
        save_bundle(config.output, loop.kept.state_dict(), bundle_config(config, data))

    outcome = loop.run(say, on_best=keep)
    if outcome.state != "finished" or loop.failed:
        raise harness.InvalidRun(f"{config.output}: {outcome}, {len(loop.failed)} videos failed")
    took = {
        "digest": config.digest,
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "windows_an_epoch": len(data.train),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "weights": sum(weight.numel() for weight in loop.network.parameters()),
        "curve": loop.epochs,
    }
    kept.write_text(json.dumps(took, indent=1))
    return took


class Model:
    """A trained bundle, run as `label` runs it."""

    def __init__(self, bundle: str) -> None:
        from vidbatch.models import find_model, load_spec
        from vidbatch.networks import build

        spec, weights = load_spec(find_model(f"file:{bundle}"))
        assert weights is not None
        self.labels = spec.labels
        self._network = build(spec, weights, "cpu")

    def __call__(self, windows: npt.NDArray[Any]) -> list[str]:
        """The label of each window."""
        scores, _ = self._network(windows)
        return [self.labels[number] for number in scores.argmax(1).tolist()]


def reordered(windows: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """The same windows, frames in another order: int (n, T)."""
    changed = windows.copy()
    changed["frames"] = np.take_along_axis(windows["frames"], order[:, :, None, None, None], axis=1)
    return changed


def orders(count: int, num_frames: int) -> dict[str, npt.NDArray[np.intp]]:
    """How windows are reordered: reversed, and each in a random order of its own."""
    keys = np.arange(count * num_frames, dtype=np.uint64).reshape(count, num_frames)
    return {
        "reversed": np.tile(np.arange(num_frames)[::-1], (count, 1)),
        "shuffled": random_bits(keys, seed=0, epoch=0, purpose="shuffled").argsort(axis=1),
    }


def ask(bundle: str, windows: Windows) -> dict[str, list[str]]:
    """What a model says of windows as they are, reversed and shuffled."""
    model = Model(bundle)
    decoded = windows.decoded
    said = {"said": model(decoded)}
    for name, order in orders(len(decoded), decoded["frames"].shape[1]).items():
        said[name] = model(reordered(decoded, order))
    return said


# --- scores ---------------------------------------------------------------------------------------------------------


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share that was `right` of `count` times, 95% (Wilson, 1927)."""
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return round(float(middle - half), 4), round(float(middle + half), 4)


def scores_of(said: dict[str, list[str]], clips: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Accuracy, recalls and what order does, of answers to the clips of a manifest's rows."""
    truth, answers = np.array([clip["label"] for clip in clips]), np.array(said["said"])
    right = answers == truth
    found: dict[str, Any] = {
        "windows": len(truth),
        "accuracy": _share(right),
        "recall": {label: _share(right[truth == label]) for label in LABELS},
        "direction": _directions(truth, answers),
        "quality": {
            quality: _share(right[[clip["quality"] == quality for clip in clips]])
            for quality in ("high", "medium", "low")
        },
        "twins": _twins(clips, answers),
        "confusion": [[int(((truth == a) & (answers == b)).sum()) for b in LABELS] for a in LABELS],
    }
    if "reversed" in said:
        turns = np.array([label in OPPOSITE for label in answers])
        back = np.array(said["reversed"])
        opposite = np.array([OPPOSITE.get(label, label) for label in answers])
        of_motions = np.isin(truth, list(OPPOSITE))
        found["reversed"] = _share(((back == opposite) & turns)[of_motions])
        found["reversed_same"] = _share((back == answers)[of_motions])
        found["shuffled"] = _share(np.array(said["shuffled"]) == truth)
    return found


def _share(right: npt.NDArray[np.bool_]) -> float:
    return round(float(right.mean()), 4) if len(right) else float("nan")


def _directions(truth: npt.NDArray[np.str_], answers: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Of windows of a motion that are said to be this motion or its opposite: how many have the right direction."""
    found: dict[str, Any] = {}
    for pair in PAIRS:
        asked = np.isin(truth, pair) & np.isin(answers, pair)
        found[pair[0].partition("_")[0]] = {"windows": int(asked.sum()), "right": _share((truth == answers)[asked])}
    return found


def _twins(clips: Sequence[dict[str, str]], answers: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Clips and their reversals, encoded apart: how often the answers are opposite and, where the axis is right, how
    often the direction is; blind to order it would be half of them, within the binomial interval given.
    """
    place = {clip["url"]: number for number, clip in enumerate(clips)}
    pairs = [(place[clip["reversed_of"]], number) for number, clip in enumerate(clips) if clip["reversed_of"]]
    opposite = [answers[twin] == OPPOSITE.get(answers[first], "") for first, twin in pairs]
    axis = {label: pair for pair in PAIRS for label in pair}
    asked = [at for pair in pairs for at in pair if answers[at] in axis[clips[at]["label"]]]
    right = sum(bool(answers[at] == clips[at]["label"]) for at in asked)
    return {
        "pairs": len(pairs),
        "opposite": _share(np.array(opposite)),
        "windows_on_the_axis": len(asked),
        "direction": round(right / max(1, len(asked)), 4),
        "interval": wilson(right, len(asked)) if asked else None,
    }


# --- the table ------------------------------------------------------------------------------------------------------


class Task:
    """The set of clips, opened once for all rows."""

    def __init__(self, settings: Settings, *, quick: bool) -> None:
        self.quick = quick
        self.folder = camera_motion(settings)
        config = config_of(ROWS[0], self.folder / "manifest.csv", quick=quick)
        self._listed = find_videos(config)
        self._facts = read_facts(self._listed.clips, config)

    def train(self, row: Row) -> dict[str, Any]:
        """Train a row's model; what it took."""
        config = config_of(row, self.folder / "manifest.csv", quick=self.quick)
        return train(config, make_training_set(self._listed, self._facts, config))

    def test(self, row: Row) -> dict[str, Any]:
        """Scores of a row's model over the test clips."""
        config = config_of(row, self.folder / "manifest.csv", quick=self.quick)
        numbers = [number for number, split in enumerate(self._listed.splits) if split == "test"]
        picked = [[column[number] for number in numbers] for column in (self._listed.videos, self._listed.clips)]
        windows = decode(config, *picked, [self._facts[number] for number in numbers])
        return scores_of(ask(config.output, windows), self.clips(windows.names))

    def clips(self, urls: Sequence[str]) -> list[dict[str, str]]:
        """Rows of the manifest, in the order of the videos' URLs."""
        known = {(self.folder / clip["url"]).absolute().as_uri(): clip for clip in manifest(self.folder)}
        return [known[url] for url in urls]


def manifest(folder: Path) -> list[dict[str, str]]:
    """The rows of a set's manifest."""
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def track(clips: Sequence[dict[str, str]], folder: Path, *, every: int, window: int) -> npt.NDArray[np.float64]:
    """lucas_kanade.FEATURES of clips (n, F), by OpenCV in its own environment."""
    lines = [json.dumps({"file": str(folder / clip["url"]), "every": every, "window": window}) for clip in clips]
    command = [str(harness.PEERS_PYTHON), str(harness.HERE / "lucas_kanade.py")]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return np.array([json.loads(line) for line in done.stdout.splitlines()])


def classical(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Scores of the classical way: its settings and its tree are those that are best on the train split, in five folds,
    so that validation and test clips decide nothing.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    clips = manifest(folder)
    train, test = ([clip for clip in clips if clip["split"] == split] for split in ("train", "test"))
    train = train[:: 1 if quick else 2]
    grid = {"max_depth": [6, 8, 10, 14], "min_samples_leaf": [2, 5, 10, 20]}
    best: tuple[float, dict[str, int], Any] | None = None
    tried = {}
    for every, window in itertools.product(*TRACK_SETTINGS.values()):
        search = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=5)
        search.fit(_with_sizes(track(train, folder, every=every, window=window)), [clip["label"] for clip in train])
        tried[f"every {every}, window {window}"] = round(float(search.best_score_), 4)
        if best is None or search.best_score_ > best[0]:
            best = float(search.best_score_), {"every": every, "window": window}, search
    assert best is not None
    _, settings, search = best
    said = search.predict(_with_sizes(track(test, folder, **settings))).tolist()
    trained = {"tried": tried, "settings": settings, "tree": search.best_params_, "clips": len(train)}
    return {"training": trained, **scores_of({"said": said}, test)}


def _with_sizes(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The features and their sizes: a tree cannot make an absolute value of its own."""
    return np.hstack([features, np.abs(features[:, : FEATURES.index("found")])])


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Facts of each row, kept as they are found: a row that is kept is not measured again."""
    settings = replace(Settings(), train=6, validation=2, test=6) if options.quick else Settings()
    folder = KEPT / ("quick" if options.quick else settings.name)
    folder.mkdir(parents=True, exist_ok=True)
    task: Task | None = None
    found: dict[str, dict[str, Any]] = {}
    for row in (*ROWS, TRACKS):
        kept = folder / f"{row.name}.json"
        if kept.exists() and not options.quick:
            found[row.name] = json.loads(kept.read_text())
        elif row.name in options.rows:
            if row != TRACKS:
                task = task or Task(settings, quick=options.quick)
                facts = {"training": task.train(row), **task.test(row)}
            elif harness.PEERS_PYTHON.exists():
                facts = classical(camera_motion(settings), quick=options.quick)
            else:
                print(f"{row.name}: not measured, {harness.PEERS_PYTHON} is missing", flush=True)
                continue
            found[row.name] = {"about": row.about, **facts, "machine": harness.machine()}
            kept.write_text(json.dumps(found[row.name], indent=1))
            print(f"{row.name:<20} {facts['accuracy']:.3f}  {facts['quality']}", flush=True)
    return found


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of the recurrent and the attention model, the worst where each has to be good."""
    found = {}
    for kind in ("recurrent", "attention"):
        seeds = [row for name, row in rows.items() if name.startswith(f"{kind}_")]
        if not seeds:
            continue
        found[kind] = {
            "seeds": len(seeds),
            "accuracy": _mean(row["accuracy"] for row in seeds),
            "worst_recall": round(min(_mean(row["recall"][label] for row in seeds) for label in LABELS), 4),
            "direction": {
                axis: _mean(row["direction"][axis]["right"] for row in seeds) for axis in seeds[0]["direction"]
            },
            "reversed": _mean(row["reversed"] for row in seeds),
            "twins": _mean(row["twins"]["opposite"] for row in seeds),
            "shuffled": _mean(row["shuffled"] for row in seeds),
            "quality": {name: _mean(row["quality"][name] for row in seeds) for name in seeds[0]["quality"]},
            "most_cpu_minutes": round(max(row["training"]["cpu_seconds"] for row in seeds) / 60, 1),
            "most_wall_minutes": round(max(row["training"]["wall_seconds"] for row in seeds) / 60, 1),
        }
    return found


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def draw(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Accuracy of all rows by quality, and the confusion of the first recurrent model."""
    made, ((left, right),) = harness.figure(11, 4.4, columns=2)
    names = list(rows)
    places = np.arange(len(names))
    for number, quality in enumerate(("high", "medium", "low")):
        left.barh(places + 0.25 * (number - 1), [rows[name]["quality"][quality] for name in names], 0.25, label=quality)
    left.set_yticks(places, names)
    left.invert_yaxis()
    left.axvline(ALLOWED["accuracy"], color="black", linewidth=0.8)
    left.set_xlabel("share of test windows that are right, by quality of encoding")
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    counts = np.array(rows[names[0]]["confusion"], float)
    shares = counts / counts.sum(1, keepdims=True)
    right.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right.grid(visible=False)
    right.set_xticks(range(len(LABELS)), LABELS, rotation=60, ha="right")
    right.set_yticks(range(len(LABELS)), LABELS)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            right.text(column, row, int(count), ha="center", va="center", fontsize=7, color=colour)
    right.set_title(f"{names[0]}: truth (rows) and answers")
    harness.save_plot(folder, "camera_accuracy", made)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--rows", nargs="+", default=[row.name for row in (*ROWS, TRACKS)], help="only these")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    folder = harness.results_dir(options)
    content = {"allowed": ALLOWED, "common": COMMON, "summary": summary(rows), "rows": rows}
    harness.save(folder, "camera_accuracy", content, quick=options.quick)
    draw(folder, rows)


if __name__ == "__main__":
    main()
