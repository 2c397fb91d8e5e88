"""A figure as files: for the page, for a paper, and its numbers."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import csv

PICTURE = ".png"
"""Suffix of the file that the page shows."""
FORMATS = {PICTURE: "agg", ".pdf": "pdf"}
"""Suffix -> backend. A backend that is named does not stay with the figure, nor does its canvas of some MiB."""


def write_figures(drawn: Mapping[str, tuple[Figure, pd.DataFrame]], folder: Path) -> list[Path]:
    """Write each figure as PNG and PDF, and its numbers as CSV; closes the figures and returns the files.

    Args:
        drawn: name of the files -> the figure and the numbers in it.
        folder: where the files are written.
    """
    files = []
    for name, (figure, numbers) in drawn.items():
        # Layout and outline take as long as drawing, and are the same in both files.
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
        # A figure that has a layout engine, were it "none", is drawn twice for each file.
        with plt.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
            outline = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
            for suffix, backend in FORMATS.items():
                files.append(folder / f"{name}{suffix}")
                figure.savefig(files[-1], bbox_inches=outline, backend=backend)
        plt.close(figure)
        files.append(folder / f"{name}.csv")
        # Of many runs there are millions of numbers, which pandas writes in eight times the time.
        csv.write_csv(pa.Table.from_pandas(numbers, preserve_index=False), files[-1])
    return files
