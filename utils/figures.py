"""The look of all figures, and how they are saved."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

if "--show" not in sys.argv:
    matplotlib.use("Agg")  # no window is needed, nor a screen

import matplotlib.pyplot as plt

from utils import checkpoint, results

PANEL = (3.4, 2.6)  # inches: one column of a two-column page

plt.rcParams.update(
    {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "lines.linewidth": 1.6,
        "lines.markersize": 3.5,
        "legend.frameon": False,
        "legend.handlelength": 3.5,  # long enough to show dashes
        "pdf.fonttype": 42,  # text stays text
    }
)


def panels(rows: int, columns: int) -> tuple[plt.Figure, np.ndarray]:
    """A figure of panels (rows, columns), each as wide as one column in print."""
    size = (PANEL[0] * columns, PANEL[1] * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def line_style(args: argparse.Namespace, series: results.Series) -> dict[str, object]:
    """Colour tells the alignment, dashes the straight line, other strokes curves of other numbers of epochs."""
    return {
        "color": results.colour(series.alignment, args.alignment),
        "linestyle": "--" if series.is_line else ("-", "-.", ":")[series.rank % 3],
        "marker": "o" if series.is_line else "s",
        "label": series.words,
    }


def draw(axis: plt.Axes, x: np.ndarray, values: np.ndarray, **style: object) -> None:
    """The mean of `values` (pairs, n) over x (n,), with bars of one standard deviation for several pairs."""
    marks = {"markevery": max(1, len(x) // 16)}
    if len(values) == 1:
        axis.plot(x, values[0], **style, **marks)
    else:
        deviation = values.std(axis=0, ddof=1)
        axis.errorbar(
            x,
            values.mean(axis=0),
            deviation,
            capsize=2,
            elinewidth=0.8,
            errorevery=marks["markevery"],
            **style,
            **marks,
        )


def finish(
    args: argparse.Namespace, figure: plt.Figure, axes: Sequence[plt.Axes], title: str, kind: str, model: str
) -> list[Path]:
    """Add title and legend, and save as PNG and PDF under figures/; returns the two paths."""
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    figure.suptitle(title)
    paths = [results.output_path(args, kind, model, suffix) for suffix in ("png", "pdf")]
    for path in paths:
        checkpoint.write_atomically(
            path, lambda stream, path=path: figure.savefig(stream, format=path.suffix[1:], dpi=300)
        )
    return paths
