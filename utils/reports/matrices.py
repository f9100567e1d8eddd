"""The figure of correlation matrices: how the channels of two networks correlate, before and after alignment."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..stages.matrices import Layer, layers_in
from . import paths, results
from .figures import WIDTH, Drawing, say_images, subplots

MOST_LAYERS, MOST_CHANNELS = 3, 64  # that are drawn, so that every channel can be seen
# White is no correlation; in grey print what is positive is dark, and what is negative never is
COLOURS = LinearSegmentedColormap.from_list("correlation", ["#E69F00", "white", "#08306B"])


def matrix_drawings(matches: Sequence[paths.Series], pairs: Sequence[paths.Pair]) -> list[Drawing]:
    """The figure of the first pair for which correlation matrices of any match are there; none if they are for none.

    FileError if they are damaged, or of other networks or another match than there are now.
    """
    for pair in pairs:
        files = {match: match.layout.matrices(match.alignment, *pair) for match in matches}
        files = {match: file for match, file in files.items() if file.exists()}
        if files:
            arrays = {match: results.load_result(match.layout, file, {}) for match, file in files.items()}
            rows = {match: layers_in(file, arrays[match]) for match, file in files.items()}
            layout = next(iter(files)).layout
            other = say_images(layout, {match: [of_match] for match, of_match in arrays.items()})
            figure, title = draw_matrices(rows), f"correlations of channels{other}"
            return [Drawing(figure, layout, "correlation_matrices", title, pairs=[pair])]
    return []


def draw_matrices(matches: Mapping[paths.Series, Sequence[Layer]]) -> Figure:
    """A column a layer: the first, the last, and what is evenly between them. Above is B as it is, below aligned B.

    Of wide layers the first channels of A are drawn, and those that B has in the same places.
    """
    layers = next(iter(matches.values()))
    shown = [round(place) for place in np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS))]
    rows = {"null": [layer.correlations for layer in layers]}  # which are the same with every match
    rows |= {match.alignment: [layer.aligned for layer in of_match] for match, of_match in matches.items()}
    side = min((WIDTH - 0.5) / len(shown), 1.2)
    figure, axes = subplots(len(rows), len(shown), side * len(rows) + 0.95)
    for row, (alignment, correlations) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(f"{textwrap.fill(paths.alignment_words(alignment), 14)}\nchannels of A")
        for axis, number in zip(row, shown, strict=True):
            corner = correlations[number][:MOST_CHANNELS, :MOST_CHANNELS].astype(np.float32)
            image = axis.imshow(corner, cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
    for axis, number in zip(axes[0], shown, strict=True):
        count = len(layers[number].order)
        channels = f"{count} channels" if count <= MOST_CHANNELS else f"first {MOST_CHANNELS} of {count}"
        axis.set_title(f"layer {number + 1} of {len(layers)}\n{channels}")
    for axis in axes[-1]:
        axis.set_xlabel("channels of B")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("correlation on the test images")
    return figure
