"""Numbers of an evaluation in; pictures out, as PNG bytes, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from vidbatch.decode import read_frames
from vidbatch.schema import FrameSpec

MISTAKES: Final = 16
FRAMES_OF_A_MISTAKE: Final = 4
_THUMBNAIL: Final = FrameSpec(90, 160, 1.0, "area")


def confusion_chart(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> bytes:
    """The confusion matrix: a row a true class, a column what the model said."""
    from matplotlib.figure import Figure

    counts = np.array(confusion)
    side = max(4.0, 0.6 * len(labels) + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("the model says")
    axes.set_ylabel("it is")
    if len(labels) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if count > counts[row].sum() / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return _png(figure)


def curves_chart(steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]) -> bytes:
    """Loss and learning rate of a training run over its steps, and what validation said after each epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    losses.plot([row["step"] for row in steps], [row["loss"] for row in steps], label="loss", alpha=0.6)
    ends = [row["step"] for row in epochs]
    if epochs and "validation_loss" in epochs[0]:
        losses.plot(ends, [row["validation_loss"] for row in epochs], "o-", label="validation loss")
        if "validation_accuracy" in epochs[0]:
            losses.plot(ends, [row["validation_accuracy"] for row in epochs], "s--", label="validation accuracy")
    losses.legend()
    rates.plot([row["step"] for row in steps], [row["learning_rate"] for row in steps])
    rates.set_ylabel("learning rate")
    rates.set_xlabel("step")
    return _png(figure)


def mistakes_sheet(mistakes: Sequence[dict[str, Any]]) -> bytes:
    """A row a mistake, the surest first: some frames of the video, what it is and what the model said.

    Args: `mistakes` have `url`, `truth`, `label`, `score` and `seconds` to look at; videos that cannot be read any more
    are left blank.
    """
    from matplotlib.figure import Figure

    shown = mistakes[:MISTAKES]
    figure = Figure(figsize=(2 * FRAMES_OF_A_MISTAKE, 1.4 * max(1, len(shown))), layout="constrained")
    grid = figure.subplots(max(1, len(shown)), FRAMES_OF_A_MISTAKE, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, mistake in zip(grid, shown, strict=False):
        frames, _, _ = read_frames(mistake["url"], times=mistake["seconds"], size=_THUMBNAIL)
        for axes, frame in zip(row, frames, strict=False):
            axes.imshow(frame)
        said = f"{mistake['truth']}, said to be {mistake['label']} ({mistake['score']:.2f})"
        row[0].set_title(said, loc="left", fontsize=8)
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
