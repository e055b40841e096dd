"""The output folder of a `vidbatch label` run in; a table on the terminal and a page with thumbnails out.

    python jobs/demo.py demo-output

Each thumbnail is the frame in which the video's label scored highest, so one sees what the model saw. Written beside
the tables: index.html and thumbnails/.
"""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow.compute as pc
from PIL import Image
from rich.console import Console
from rich.table import Table

import vidbatch
from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

THUMBNAIL = FrameSpec(height=180, width=320, crop_share=1.0)
NUM_LABELS = 3

PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>vidbatch: {num_videos} videos</title>
<style>
 :root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }}
 body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
 main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.5rem }}
 figure {{ margin: 0 }}
 img {{ width: 100%; aspect-ratio: 16/9; object-fit: cover; border-radius: 6px; background: #8883 }}
 h2 {{ font-size: 1rem; margin: .5rem 0 0 }} small {{ opacity: .7 }}
 meter {{ width: 5rem; vertical-align: middle }} ul {{ list-style: none; padding: 0; margin: .3rem 0 }}
</style>
<h1>{num_videos} videos, {num_frames} frames looked at</h1>
<p>Model {model}. The picture is the frame in which the first label scored highest;
scores are means over all sampled frames.</p>
<main>
{cards}
</main>
"""


class Shown(NamedTuple):
    """One video as it is shown: its row of `videos`, its name and its thumbnail (none for one that failed)."""

    row: dict[str, Any]
    name: str
    thumbnail: Path | None


def main(arguments: list[str]) -> int:
    """Show the output named by the one argument; exit code 2 when there is nothing to show."""
    if len(arguments) != 1:
        print("usage: python jobs/demo.py OUTPUT", file=sys.stderr)
        return 2
    output = Path(arguments[0])
    tables = vidbatch.tables(output)
    rows = sorted(tables.videos.to_arrow().to_pylist(), key=lambda row: (row["url"], row["member"] or ""))
    if not rows:
        print(f"{output} holds no tables; run `vidbatch label INPUT --output {output}` first", file=sys.stderr)
        return 2
    frames = tables.frames.to_arrow()
    (output / "thumbnails").mkdir(exist_ok=True)
    shown = [_look_at(row, frames, output / "thumbnails") for row in rows]
    Console(width=None if sys.stdout.isatty() else 150).print(_terminal_table(shown))
    page = output / "index.html"
    page.write_text(_page(shown), encoding="utf-8")
    print(f"tables: {output}/videos and {output}/frames (Parquet); page with pictures: {page}")
    return 0


def _look_at(row: dict[str, Any], frames: Any, folder: Path) -> Shown:
    name = unquote(os.path.basename(row["member"] or row["url"]))
    own = frames.filter(pc.equal(frames["video_id"], row["video_id"]))
    if row["label"] is None or row["member"] is not None or own.num_rows == 0:
        return Shown(row, name, None)
    scores = [_score_of(row["label"], top_k) for top_k in own["top_k"].to_pylist()]
    seconds = own["pts_seconds"][scores.index(max(scores))].as_py()
    target = folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}-{row['video_id'][:6]}.jpg"
    pictures, _times, _report = read_frames(row["url"], times=[seconds], size=THUMBNAIL)
    if len(pictures) == 0:  # moved since it was labelled: the row still stands
        return Shown(row, name, None)
    Image.fromarray(pictures[0]).save(target, quality=88)
    return Shown(row, name, target)


def _score_of(label: str, top_k: list[dict[str, Any]]) -> float:
    return next((entry["score"] for entry in top_k if entry["label"] == label), 0.0)


def _best(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(entry["label"], entry["score"]) for entry in (row["top_k"] or [])[:NUM_LABELS]]


def _terminal_table(shown: list[Shown]) -> Table:
    table = Table(show_lines=False)
    for heading in ("video", "label", "score", "then", "frames", "thumbnail"):
        table.add_column(heading, justify="right" if heading in ("score", "frames") else "left", overflow="fold")
    for row, name, thumbnail in shown:
        if row["status"] == "failed":
            table.add_row(name, f"failed: {row['error_kind']}", "", row["error_message"], "0", "")
            continue
        rest = ", ".join(f"{label} {score:.2f}" for label, score in _best(row)[1:])
        frames = f"{row['num_frames_sampled']}"
        table.add_row(name, row["label"], f"{row['score']:.2f}", rest, frames, str(thumbnail or ""))
    return table


def _page(shown: list[Shown]) -> str:
    return PAGE.format(
        num_videos=len(shown),
        num_frames=sum(video.row["num_frames_sampled"] for video in shown),
        model=html.escape(shown[0].row["model"]),
        cards="\n".join(_card(video) for video in shown),
    )


def _card(video: Shown) -> str:
    row = video.row
    picture = f'<img src="thumbnails/{video.thumbnail.name}" alt="">' if video.thumbnail else "<img alt='no picture'>"
    labels = "".join(
        f'<li><meter value="{score:.3f}"></meter> {score:.2f} {html.escape(label)}</li>' for label, score in _best(row)
    )
    facts = f"{row['codec']} {row['width']}x{row['height']}, {row['num_frames_sampled']} frames"
    said = labels or f"<li>{html.escape(row['error_kind'] or '')}: {html.escape(row['error_message'] or '')}</li>"
    heading = html.escape(video.name)
    return f"<figure>{picture}<h2>{heading}</h2><small>{html.escape(facts)}</small><ul>{said}</ul></figure>"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
