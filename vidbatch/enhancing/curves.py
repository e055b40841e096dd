"""The table `enhanced` goes in, a picture of how good its videos would be at which bit rate comes out."""

from __future__ import annotations

import io
from typing import Any, Final

from vidbatch import publish, storage
from vidbatch.results import Table

PICTURE: Final = "rate_quality.svg"
_MOST_VIDEOS: Final = 500
"""Curves on one picture: of more, nothing is seen."""


def draw(output: str, target_xpsnr_db: float) -> str | None:
    """Write PICTURE into an output and give its URL; None: no video was tried, or there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    dataset = Table(output, publish.ENHANCED.videos).to_dataset()
    columns = ["url", "rate_quality", "output_bit_rate", "output_codec", "output_crf"]
    rows = [row for row in dataset.head(_MOST_VIDEOS, columns=columns).to_pylist() if row["rate_quality"]]
    if not rows:
        return None
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Any = figure.subplots()
    for row in rows:
        rates = [point["bit_rate"] / 1e6 for point in row["rate_quality"]]
        label = f"{row['url'].rpartition('/')[2]}: {row['output_codec']}, crf {row['output_crf']:.1f}"
        axes.plot(rates, [point["xpsnr_db"] for point in row["rate_quality"]], ".-", alpha=0.7, label=label)
        axes.plot(row["output_bit_rate"] / 1e6, target_xpsnr_db, "kx")
    axes.axhline(target_xpsnr_db, color="grey", linestyle=":", label=f"asked for: {target_xpsnr_db:g} dB")
    axes.set_xscale("log")
    axes.set_xlabel("Mbit/s (crosses: what was written, with sound)")
    axes.set_ylabel("XPSNR of luma, dB, on parts of each video")
    if len(rows) <= 12:
        axes.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    url = storage.join(output, PICTURE)
    storage.put(url, picture.getvalue())
    return url
