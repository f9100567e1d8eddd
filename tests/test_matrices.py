"""Correlation matrices of a match: what they hold, when they are there, and their figure."""

import numpy as np
import pytest
import torch
from conftest import randomize
from PIL import Image
from stages import run
from test_matching import lively

from models import MODELS
from utils.activations import cross_correlations
from utils.errors import FileError
from utils.matching import align
from utils.permutations import permute
from utils.reports import figures, results
from utils.reports.paths import Route
from utils.stages.files import save_arrays
from utils.stages.layout import Layout
from utils.stages.matches import (
    Layer,
    layers_in,
    load_match,
    row_labels,
    rows_from_permutations,
    save_matrices,
)
from utils.stages.records import Record
from utils.symmetries.spec import permutation_spec

VIZ = "visualization/layerwise_mean_correlation/viz_align_models.py"


def test_those_of_a_shuffled_copy_are_those_of_the_network_itself(load_bars, tmp_path):
    """A with itself after alignment, with a diagonal of ones; as B is, the same with its columns shuffled."""
    data = load_bars()
    a = lively(randomize(MODELS["TinyTen"](4), 1), torch.cat([x for x, _ in data.train.batches(160)]))
    spec = permutation_spec(a)
    planted = spec.random(0)
    b = MODELS["TinyTen"](4).eval()
    b.load_state_dict(permute(a.state_dict(), spec, planted))
    rows = rows_from_permutations(spec, align(a, b, spec, data.alignment.batches(50)))
    path, correlations = tmp_path / "matrices.npz", cross_correlations(a, b, spec, data.test.batches(50))
    save_matrices(path, row_labels(spec)[:-1], correlations[:-1], rows, Record(flags={"epochs": 3}).stored())
    layers = layers_in(path, np.load(path))
    assert [layer.label for layer in layers] == [row.label for row in spec.rows]
    with_itself = cross_correlations(a, a, spec, data.test.batches(50))
    shuffled = rows_from_permutations(spec, planted)
    for layer, expected, order in zip(layers, with_itself, shuffled, strict=False):  # the logits have no layer
        assert layer.correlations.dtype == np.float16
        np.testing.assert_allclose(layer.aligned, expected, atol=1e-3)
        np.testing.assert_allclose(layer.correlations, expected[:, order], atol=1e-3)
        np.testing.assert_array_equal(layer.aligned[:, order], layer.correlations)
        varies = expected.any(axis=1)
        assert varies.any()
        np.testing.assert_array_equal(layer.aligned.diagonal()[varies], 1)


def test_they_are_those_of_the_match_that_is_there(small, workspace):
    """Kept where that is asked for, and never beside another match, or beside one that was made without."""
    layout = Layout(workspace, "TinyTen", "bars")
    path = layout.matrices("mine", 1, 2)
    command = ["alignment/align_models.py", *small, "--epochs", 3, "--method", "random", "--align_name", "mine"]
    kept = []
    for seed in (1, 2):
        run(*command, "--seed", seed, "--overwrite", "--matrices")
        kept.append(path.read_bytes())
        layers = layers_in(path, np.load(path))
        for layer, order in zip(layers, load_match(layout.match("mine", 1, 2)).rows, strict=True):
            np.testing.assert_array_equal(layer.order, order)
        before, after = (np.load(layout.correlation("mine", which, 1, 2)) for which in ("unaligned", "aligned"))
        assert len(layers) == len(before) - 1  # which have the logits too
        for layer, *means in zip(layers, before, after, strict=False):
            for matrix, mean in zip((layer.correlations, layer.aligned), means, strict=True):
                matrix = matrix.astype(float)
                varies = matrix.any(axis=1) | matrix.any(axis=0)
                assert matrix.diagonal()[varies].mean() == pytest.approx(mean, abs=1e-3)
    run(*command, "--seed", 2)
    assert not path.exists()
    path.write_bytes(kept[0])
    missing = []
    assert figures.matrix_drawings([Route(layout, "mine", 0)], [(1, 2)], missing) == []
    assert "was made with another match than there are now" in str(missing[0])


def test_from_alignment_to_the_report(small, workspace, capsys):
    flags = ["--dataset", "bars", "--root", workspace]
    run(VIZ, *flags)
    figure = workspace / "figures/correlation_matrices_bars_TinyTen.png"
    assert not figure.exists()
    run("alignment/align_models.py", *small, "--epochs", 3, "--matrices")
    capsys.readouterr()
    run(VIZ, *flags)
    assert str(figure) in capsys.readouterr().out
    run("evaluation/make_report.py", "--root", workspace)
    page = (workspace / "figures/report.html").read_text()
    captions = [part.split("</figcaption>")[0] for part in page.split("<figcaption>")[1:]]
    (caption,) = (part for part in captions if part.startswith("correlations of channels (networks 1 and 2)."))
    assert "Shown: B as it is and aligned.<" in caption
    assert "align_models.py" in caption and " --matrices" in caption
    damaged = Layout(workspace, "TinyTen", "bars").matrices("corr", 1, 2)
    damaged.write_bytes(damaged.read_bytes()[:-300])
    run(VIZ, *flags)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Not drawn: "))
    assert str(damaged) in line and " --matrices" in line


def written(layout, alignment, pair, channels, seed=0):
    """Made-up matrices of a match, as alignment would leave them."""
    generator = np.random.default_rng(seed)
    made = [generator.uniform(-1, 1, (count, count)) for count in channels]
    orders = [generator.permutation(count) for count in channels]
    path = layout.matrices(alignment, *pair)
    save_matrices(
        path, [f"layer{i}" for i in range(len(channels))], made, orders, Record(flags={"epochs": 250}).stored()
    )
    return layers_in(path, np.load(path))


def panels_of(drawing):
    """The matrices that a figure shows, by rows of panels."""
    axes = [axis for axis in drawing.figure.axes if axis.images]
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    images = [axis.images[0].get_array() for axis in axes]
    return axes, [images[i : i + columns] for i in range(0, len(images), columns)]


@pytest.mark.parametrize("alignments", [["corr"], ["corr", "weight"]])
def test_its_figure_is_of_the_first_pair_that_has_them(alignments, tmp_path, whole_figures):
    """A row for B as it is, one for each match; the first layer, a middle one, the last; no more than 64 channels."""
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    matches = [Route(layout, alignment, 0) for alignment in alignments]
    pairs = [(1, 2), (3, 4), (5, 6)]
    assert figures.matrix_drawings(matches, pairs, []) == []
    channels = (3, 5, 64, 7, 70)
    made = {name: written(layout, name, (3, 4), channels) for name in alignments}
    written(layout, "corr", (5, 6), channels, seed=1)
    with figures.style():
        (drawing,) = figures.matrix_drawings(matches, pairs, [])
        axes, rows = panels_of(drawing)
        figures.save([drawing], pairs=pairs, command="python this.py")
    assert len(rows) == 1 + len(alignments)
    expected = [[layer.correlations for layer in made["corr"]]]
    expected += [[layer.aligned for layer in made[name]] for name in alignments]
    for row, of_row in zip(rows, expected, strict=True):
        for image, number in zip(row, (0, 2, 4), strict=True):
            best = np.argsort(-made[alignments[0]][number].aligned.diagonal().astype(float), kind="stable")[:64]
            np.testing.assert_allclose(image, of_row[number][np.ix_(best, best)], atol=1e-6)
            if of_row is expected[1]:
                assert (np.diff(image.diagonal()) <= 0).all()  # the best matched come first
    titles = [axis.get_title().split("\n") for axis in axes[:3]]
    assert titles[0] == ["layer 1 of 5", "3 channels"] and titles[2] == ["layer 5 of 5", "best 64 of 70"]
    counted = [axis for axis in drawing.figure.axes if axis.patches]
    for axis, number in zip(counted, (0, 2, 4), strict=True):
        everything, *diagonals = expected[0][number].ravel(), *(of_row[number].diagonal() for of_row in expected)
        heights = [bar.get_height() for bar in axis.patches[: len(figures.BINS) - 1]]
        np.testing.assert_allclose(heights, np.histogram(everything, figures.BINS, density=True)[0])
        tops = [polygon.get_xy()[:, 1].max() for polygon in axis.patches[len(heights) :]]
        expected_tops = [np.histogram(one, figures.BINS, density=True)[0].max() for one in diagonals]
        np.testing.assert_allclose(tops, expected_tops)
    assert len({(axis.images[0].norm.vmin, axis.images[0].norm.vmax) for axis in axes}) == 1
    (path,) = tmp_path.glob("figures/correlation_matrices_*.png")
    with Image.open(path) as image:
        assert image.width == round(figures.WIDTH * 300)
        assert image.info["Title"].endswith("correlations of channels (networks 3 and 4)")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_the_first_and_the_last_layer_are_drawn_of_however_many(count, tmp_path):
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    layers = [Layer(str(i), np.eye(2, dtype=np.float16), np.arange(2)) for i in range(count)]
    figure = figures.draw_matrices({Route(layout, "corr", 0): layers})
    titles = [axis.get_title().split("\n")[0] for axis in figure.axes if axis.get_title()]
    assert len(titles) == min(count, 3)
    assert (titles[0], titles[-1]) == (f"layer 1 of {count}", f"layer {count} of {count}")


def test_in_grey_print_dark_is_positive():
    """The stronger a positive correlation the darker it is, and darker than any negative one of its strength."""
    colours = figures.COLOURS(np.linspace(0, 1, 201))[:, :3] @ [0.299, 0.587, 0.114]
    negative, positive = colours[100::-1], colours[100:]
    assert (np.diff(positive) < 0).all() and (np.diff(negative) < 0).all()
    assert (positive[1:] < negative[1:]).all()
    assert negative[-1] > 2 * positive[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"order_1": np.array([0, 0, 1])},
        {"order_1": np.arange(2)},
        {"order_1": np.arange(3.0)},
        {"correlations_0": np.ones((2, 3))},
        {"labels": np.array([])},
    ],
)
def test_what_is_no_matrix_is_refused(changes, tmp_path):
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    written(layout, "corr", (1, 2), (2, 3))
    path = layout.matrices("corr", 1, 2)
    save_arrays(path, **dict(np.load(path)) | changes)
    with pytest.raises(FileError, match="is not a file of correlation matrices"):
        layers_in(path, results.load_result(layout, path, {}))
