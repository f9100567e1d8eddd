"""The figures: that they show the numbers of the files, and hold to the rules of print."""

import itertools
import json
import os
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import processes
import pytest
import torch
from conftest import write_results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from stages import fails, run

from utils import geometry
from utils.curves import CURVES
from utils.reports import figures, paths, results
from utils.stages.files import save_array, save_arrays
from utils.stages.layout import USUAL, Layout, Variant
from visualization import viz_curve

SCRIPTS = {
    "viz_curve": ["--epochs", "0", "250"],
    "viz_adversarial_curve": ["--epochs", "0", "250"],
    "viz_curve_on_plane": [],
    "viz_plane": [],
    "viz_alignment_images": [],
    "layerwise_mean_correlation/viz_align_models": [],
    "layerwise_mean_correlation/viz_align_along_curves": ["--epochs", "0", "250"],
}
PAIRS = {"one": (["1"], ["2"]), "several": (["1", "3"], ["2", "4"])}


@pytest.fixture(autouse=True)
def unsaved(monkeypatch, request):
    """What files of figures hold, which takes a second each, is left out where no test looks."""
    if "whole_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a script saves, by kind."""
    kept = {}
    save = figures.save

    def keep(drawings, **words):
        kept.update({drawing.kind: drawing.figure for drawing in drawings})
        return save(drawings, **words)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def draw(script, root, *flags, pairs="several"):
    """Run a script that draws."""
    seeds = ["--seed_a", *PAIRS[pairs][0], "--seed_b", *PAIRS[pairs][1]]
    run(f"visualization/{script}.py", "--dataset", "CIFAR10", "--root", root, *seeds, *flags)


@pytest.mark.parametrize(
    ("script", "pairs"), [*((script, "several") for script in SCRIPTS), ("viz_curve", "one"), ("viz_plane", "one")]
)
def test_every_figure(script, pairs, tmp_path, drawn, whole_figures):
    """As wide as a column, with a label on every axis that is not shared, text that can be read, nothing cut."""
    robust = "adversarial" in script
    write_results(tmp_path, robust=robust)
    draw(script, tmp_path, *SCRIPTS[script], pairs=pairs)
    assert drawn
    for kind, figure in drawn.items():
        path = tmp_path / "figures" / f"{'robust_' if robust else ''}{kind}_CIFAR10_TinyTen.png"
        with Image.open(path) as image:
            assert image.width in (round(figures.WIDTH * 300), round(figures.WIDE * 300))
            assert image.info["Description"].startswith(f"python visualization/{script}.py --dataset")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        renderer, width, height = FigureCanvasAgg(figure).get_renderer(), *figure.get_size_inches() * figure.dpi
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible() and "tick" not in str(type(text.axes)).lower():
                assert text.get_fontsize() >= 7
        for box in [figure._suptitle, *figure.legends, *(axis.xaxis.label for axis in figure.axes)]:
            extent = box.get_window_extent(renderer)
            assert extent.width == 0 or (extent.x0 >= 0 and extent.x1 <= width and 0 <= extent.y0 <= height)
        legend = figure.legends[0].get_window_extent(renderer)
        assert not any(axis.get_tightbbox(renderer).overlaps(legend) for axis in figure.axes)
        words = {text.get_text() for text in figure.legends[0].get_texts()}
        assert words
        assert not any("_" in word or "corr" in word for word in words)
        data_axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
        assert any(axis.get_xlabel() for axis in data_axes)
        labels = [axis.yaxis.label.get_window_extent(renderer) for axis in data_axes if axis.get_ylabel()]
        assert all(label.y0 >= 0 and label.y1 <= height and label.x0 >= 0 for label in labels)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(labels, 2))
        if "plane" not in kind:
            for axis in (axis for axis in data_axes if axis.get_ylabel()):
                label, frame = axis.yaxis.label.get_window_extent(renderer), axis.get_window_extent(renderer)
                assert frame.y0 <= label.y0 and label.y1 <= frame.y1
        for axis in data_axes:
            assert axis.get_ylabel() or axis.get_subplotspec().colspan.start > 0
    assert any("deviation" in kind for kind in drawn) == (pairs == "several" and "plane" in script)


def name_of(artist):
    """What a path in the figure of curves is called; its barrier follows."""
    return artist.get_label().partition(" (barrier")[0]


def test_lines_are_the_evaluations(tmp_path, drawn):
    """On an even scale, on which barriers are as high as they are; beside them the best values, enlarged."""
    write_results(tmp_path)
    draw("viz_curve", tmp_path, "--epochs", "0", "250", pairs="one")
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    panels = drawn["curve"].axes
    for axis, name in zip(panels, ("accuracy", "accuracy", "loss", "loss"), strict=True):
        lines = {name_of(line): line for line in axis.lines}
        assert list(lines) == ["line, unaligned", "line, aligned", "curve, unaligned", "curve, aligned"]
        kinds = itertools.product((("line", 0), ("curve", 250)), (("unaligned", "null"), ("aligned", "corr")))
        for (path, epochs), (words, alignment) in kinds:
            line, table = lines[f"{path}, {words}"], np.load(layout.evaluated(alignment, 1, 2, epochs))
            np.testing.assert_array_equal(line.get_xdata(), table["t"])
            np.testing.assert_array_equal(line.get_ydata(), table[name])
            assert line.get_color() == paths.look(alignment).colour
            barrier = (table["loss"] - table["loss"][0]).max()  # of made-up losses that are the same at both ends
            assert line.get_label() == f"{path}, {words} (barrier\u00a0{barrier:.2f})"
        assert axis.get_yscale() == "linear" and not axis.collections  # no bars for one pair
    lowest = np.load(layout.evaluated("null", 1, 2, 0))["accuracy"]
    whole, enlarged = (axis.get_ylim() for axis in panels[:2])
    assert whole[0] < lowest.min() and whole[1] > lowest.max()
    assert lowest.min() < enlarged[0] and enlarged[1] > lowest.max()
    draw("viz_curve", tmp_path, "--epochs", "0", pairs="one")
    assert len(drawn["curve"].axes) == 2  # of two lines alone nothing is enlarged
    write_results(tmp_path, alignments=("weight",))
    draw("viz_curve", tmp_path, "--epochs", "0", "--alignment", "null", "corr", "weight", pairs="one")
    assert len(drawn["curve"].axes) == 4


def test_barriers_by_the_number_of_alignment_images(tmp_path, drawn):
    """The mean and deviation over pairs at each number; a level line for what has one number alone."""
    layout = write_results(tmp_path, alignments=("null", "corr", "corr_300", "corr_20", "corr_of_20", "weight_7"))
    draw("viz_alignment_images", tmp_path)
    (axis,) = drawn["alignment_images"].axes
    (bars,) = axis.containers
    assert bars[0].get_xdata().tolist() == [20, 300, 10_000] and axis.get_xscale() == "log"
    files = {
        match: [np.load(layout.evaluated(match, a, a + 1, 0)) for a in (1, 3)]
        for match in ("corr_20", "corr_300", "corr", "null")
    }
    barriers = np.array([[geometry.barrier(path) for path in of_pairs] for of_pairs in files.values()])
    np.testing.assert_allclose(bars[0].get_ydata().astype(float), barriers[:3].mean(1))
    lengths = [np.ptp(segment[:, 1]) for segment in bars[2][0].get_segments()]
    np.testing.assert_allclose(lengths, 2 * barriers[:3].std(1, ddof=1), atol=1e-12)
    level = next(line for line in axis.lines if line.get_label() == "line, unaligned")
    np.testing.assert_allclose(level.get_ydata(), barriers[3].mean())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("flattest, reaches", [((87.0, 88.0), 80.9), ((78.0, 88.0), 78.0), ((17.0, 88.0), 17.0)])
def test_the_best_tenth_is_enlarged(sign, flattest, reaches):
    """Or as much as the path that varies least needs; one even scale each, and the part is grey in the other."""
    figure, ((whole, enlarged),) = figures.panels(1, 2)
    drawn = [tuple(sorted(sign * value for value in ends)) for ends in ((17.0, 88.0), flattest)]
    for axis, ends in itertools.product((whole, enlarged), drawn):
        axis.plot([0, 1], ends)
    figures.enlarge(whole, enlarged, drawn, high_is_good=sign > 0)
    low, high = sorted(sign * limit for limit in enlarged.get_ylim())
    margin = 0.06 * (88 - reaches)
    assert (low, high) == pytest.approx((reaches - margin, 88 + margin))
    (grey,) = whole.patches
    assert sorted((grey.get_y(), grey.get_y() + grey.get_height())) == pytest.approx(sorted(enlarged.get_ylim()))
    assert {axis.get_yscale() for axis in (whole, enlarged)} == {"linear"}


def test_several_pairs_are_a_mean_with_its_deviation(tmp_path, drawn):
    write_results(tmp_path)
    draw("viz_curve", tmp_path, "--epochs", "250", "--alignment", "corr")
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    values = [np.load(layout.evaluated("corr", *pair, 250))["accuracy"] for pair in ((1, 2), (3, 4))]
    (container,) = drawn["curve"].axes[0].containers
    line, _, (bars,) = container
    np.testing.assert_allclose(line.get_ydata(), np.mean(values, axis=0))
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * np.abs(values[0] - values[1]) / 2**0.5, rtol=1e-9)  # ddof 1


def test_the_curve_on_its_plane_is_the_evaluated_curve(tmp_path, drawn):
    """Not what goes straight from one evaluated point to the next: the Bézier curve through them."""
    write_results(tmp_path)
    draw("viz_curve_on_plane", tmp_path, pairs="one")
    layout = Layout(tmp_path, "TinyTen", "CIFAR10")
    plane = np.load(layout.plane_with_curve("corr", 1, 2, 250))
    other, axis, _ = drawn["plane_with_curve_accuracy"].axes
    scales = [one.collections[0].norm for one in (other, axis)]
    assert (scales[0].vmin, scales[0].vmax) == (scales[1].vmin, scales[1].vmax)  # one for all planes
    lines = {line.get_label(): line.get_xydata() for line in axis.lines}
    t = np.linspace(0, 1, figures.FINE)
    bezier = np.stack([(1 - t) ** 2, t**2, 2 * t * (1 - t)], axis=1) @ plane["corners"]
    np.testing.assert_allclose(lines["curve"], bezier, atol=1e-9)
    assert {line.get_label() for line in axis.lines} == {"curve", "A", "B", "turning point", "evaluated"}
    np.testing.assert_array_equal(lines["evaluated"], np.stack([plane["x"].ravel(), plane["y"].ravel()], axis=1))
    for words, corner in zip(("A", "B", "turning point"), plane["corners"], strict=True):
        np.testing.assert_array_equal(lines[words], [corner])
    assert axis.get_aspect() == 1  # one measure in both directions


@pytest.mark.parametrize("variant", [Variant(1, 4), Variant(1, 5, "PolyChain"), Variant(1, 3, "PolyChain")])
def test_a_curve_is_what_its_evaluated_points_tell(variant):
    """Its control points are found from as many; from fewer, or of points on no such curve, it is those points."""
    points = np.random.default_rng(0).normal(size=(variant.num_bends, 2))

    def at(ts):
        family = CURVES[variant.curve]
        return np.stack([family(torch.tensor(t), variant.num_bends).numpy() for t in ts]) @ points

    t = np.linspace(0, 1, 9)
    drawn = figures.curve_on({"t": t, "curve": at(t)}, variant)
    assert len(drawn) >= figures.FINE
    for place in at(np.linspace(0, 1, 41)):
        assert np.linalg.norm(drawn - place, axis=1).min() < 0.05
    np.testing.assert_allclose(drawn[[0, -1]], points[[0, -1]], atol=1e-6)
    steps = np.linspace(0, 1, 33)  # between the evaluated points too
    np.testing.assert_allclose(figures.curve_on({"t": t, "curve": at(t)}, variant, steps), at(steps), atol=1e-9)
    few = t[[0, -1]]
    np.testing.assert_array_equal(figures.curve_on({"t": few, "curve": at(few)}, variant), at(few))
    other = at(t) + np.sin(9 * t)[:, None]
    np.testing.assert_array_equal(figures.curve_on({"t": t, "curve": other}, variant), other)


def test_between_the_points_of_a_grid_nothing_is_higher_or_lower_than_around():
    values = np.random.default_rng(0).normal(size=(5, 6))
    fine = figures.smooth(values)
    rows, columns = (np.linspace(0, count - 1, figures.FINE) for count in values.shape)
    np.testing.assert_allclose(fine[::30, ::24], values, atol=1e-12)
    for i, j in itertools.product(range(4), range(5)):
        around = values[i : i + 2, j : j + 2]
        inside = fine[np.ix_((rows >= i) & (rows <= i + 1), (columns >= j) & (columns <= j + 1))]
        assert inside.min() >= around.min() - 1e-12 and inside.max() <= around.max() + 1e-12
    even = np.add.outer(np.arange(3.0), np.arange(4.0))
    np.testing.assert_allclose(figures.smooth(even), np.add.outer(*(np.linspace(0, n, figures.FINE) for n in (2, 3))))


@pytest.mark.parametrize("name, sign, beyond", [("loss", 1, "max"), ("accuracy", -1, "min")])
def test_colours_are_for_where_the_paths_run(name, sign, beyond):
    """Levels are close where values are good, reach further than what is on the paths, and not as far as all else."""
    layout = Layout("nowhere", "TinyTen", "CIFAR10")
    x, y = np.meshgrid(np.linspace(0, 10, 5), np.linspace(0, 8, 9))
    on_planes = {}
    for route, steep in ((paths.Route(layout, "null", 9), 1000), (paths.Route(layout, "corr", 9), 1)):
        values = sign * (y / 10 + steep * np.maximum(y - 5, 0))
        on_planes[route] = {"x": x, "y": y, name: values, "paths": np.array([[0, 0], [5, 4], [10, 0]])}
    figure, axes = figures.draw_planes(on_planes, name)
    for axis in axes:
        levels = np.sort(sign * axis.collections[0].levels)
        assert len(levels) == figures.STEPS + 1
        assert (np.diff(levels)[2:] > np.diff(levels)[1:-1]).all()
        assert levels[0] == 0 and levels[-1] == pytest.approx(figures.REACH * 0.4)
        assert axis.collections[0].norm.extend == beyond
    (bar,) = (axis for axis in figure.axes if axis.get_label() == "<colorbar>")
    assert len(bar.get_xticks()) == len(levels)


@pytest.mark.parametrize("count, is_coarse", [(7, True), (17, False)])
def test_points_of_coarse_grids_are_drawn(count, is_coarse):
    route = paths.Route(Layout("nowhere", "TinyTen", "CIFAR10"), "corr", 9)
    x, y = np.meshgrid(np.linspace(0, 10, count), np.linspace(0, 8, count))
    plane = {"x": x, "y": y, "accuracy": y, "loss": x, "paths": np.zeros((1, 2))}
    for drawing in figures.plane_figures({route: plane}, "plane", "a plane", lambda *_: None):
        assert ("evaluated" in {line.get_label() for line in drawing.figure.axes[0].lines}) == is_coarse


def refused(capsys, script, root, *flags):
    """The line with which a script ends that refuses to draw, and draws nothing."""
    code, line = fails(capsys, f"visualization/{script}.py", "--dataset", "CIFAR10", "--root", root, *flags)
    assert code == 1
    assert not list(root.glob("figures/*"))
    return line


def left_out(capsys, script, root, *flags):
    """The line that says what a script does not draw; the rest it draws."""
    draw(script, root, *flags)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Not drawn: "))
    assert list(root.glob("figures/*"))
    return line


def test_pairs_evaluated_unlike_the_first_are_left_out(tmp_path, capsys):
    """At other points, on grids of another size or reach: of each a line, with the command that mends it."""
    layout = write_results(tmp_path)
    path = layout.evaluated("corr", 3, 4, 250)
    half = {name: value[::2] for name, value in np.load(path).items() if name not in ("record", "settings")}
    np.savez(path, **half)
    for script in ("viz_curve", "viz_curve_on_plane"):
        line = left_out(capsys, script, tmp_path)
        assert f"{path} was evaluated unlike that of the first pair, with 5 points (there 9)" in line
        assert line.split("anew with: ")[1].endswith("--overwrite")
        assert "--num_points 9 " in line
    path = layout.plane_with_alignment("corr", 3, 4)
    plane = dict(np.load(path))
    np.savez(path, **plane | {name: plane[name][:4, :4] for name in ("x", "y", "loss", "accuracy")})
    line = left_out(capsys, "viz_plane", tmp_path)
    assert f"{path} was evaluated unlike that of the first pair, with 4 points (there 6)" in line
    assert " --num_points 6 " in line and line.endswith(" --overwrite")
    path = write_results(tmp_path).plane_with_curve("corr", 3, 4, 250)
    settings = json.loads(str(np.load(path)["settings"])) | {"height": "midpoint"}
    save_arrays(path, **dict(np.load(path)) | {"settings": np.array(json.dumps(settings))})
    line = left_out(capsys, "viz_curve_on_plane", tmp_path, "--alignment", "corr")
    assert "with height midpoint (there turning point)" in line


def test_alignments_look_the_same_everywhere():
    """Each known one, and each of the user's own by its name, has its colour, and for grey print its symbol."""
    layout = Layout("nowhere", "TinyTen", "CIFAR10")
    for alignment in (*paths.ALIGNMENTS, "mine"):
        look = paths.look(alignment)
        for epochs in (0, 9):
            style = figures.line_style(paths.Route(layout, alignment, epochs))
            assert (style["color"], style["marker"]) == (look.colour, look.symbol)
    for part in ("words", "colour", "symbol"):
        assert len({getattr(look, part) for look in paths.ALIGNMENTS.values()}) == len(paths.ALIGNMENTS)
    assert paths.look("mine").symbol not in {look.symbol for look in paths.ALIGNMENTS.values()}


def test_nothing_is_cut_off(tmp_path, drawn, whole_figures):
    """Neither bars at the ends of paths, nor long names."""
    layout = write_results(tmp_path, alignments=("null", "w2_pre"))
    variant = Variant(2, 5, "PolyChain")
    for pair in ((1, 2), (3, 4)):
        save_arrays(layout.evaluated("w2_pre", *pair, 250, variant), **np.load(layout.evaluated("null", *pair, 250)))
        save_arrays(layout.curve_history("w2_pre", *pair, variant), **np.load(layout.curve_history("null", *pair)))
    flags = ["--num_bends", "5", "--curve", "PolyChain", "--curve_seed", "2", "--alignment", "w2_pre"]
    draw("viz_curve", tmp_path, *flags)
    figure = drawn["curve"]
    for axis in figure.axes:
        for part in itertools.chain.from_iterable(container.get_children() for container in axis.containers):
            assert not part.get_clip_on()
    legend = figure.legends[0].get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
    (words,) = (text.get_text() for text in figure.legends[0].get_texts())
    assert words.startswith("PolyChain curve of 5 bends, aligned by L2 before\n")


def test_planes_of_another_curve_than_was_evaluated(tmp_path, capsys):
    """The older of the two is to be made anew, whichever it is, so that both are in the end."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    evaluation, plane = layout.evaluated("corr", 1, 2, 250), layout.plane_with_curve("corr", 1, 2, 250)
    evaluation.write_bytes(layout.evaluated("null", 1, 2, 250).read_bytes())
    for older, newer, script, words in (
        (plane, evaluation, "eval_plane_with_curve", "is of another curve than was evaluated"),
        (evaluation, plane, "eval_curve", f"is of another curve than the plane {plane}"),
    ):
        os.utime(newer, (2**32, 2**32))
        os.utime(older, (2**31, 2**31))
        line = refused(capsys, "viz_curve_on_plane", tmp_path, "--alignment", "corr")
        assert f"{older} {words}; make it anew with: python" in line
        assert f"python evaluation/{script}.py --model TinyTen --dataset CIFAR10 --seed_a 1 --seed_b 2" in line
        assert line.endswith("--overwrite")


MISSING = {
    "viz_curve": ("evaluated", "evaluation/eval_curve.py"),
    "viz_curve_on_plane": ("planes_with_curve", "evaluation/eval_plane_with_curve.py"),
    "viz_plane": ("planes_with_alignment", "evaluation/eval_plane_with_alignment.py"),
    "viz_alignment_images": ("evaluated", "evaluation/eval_curve.py"),
    "layerwise_mean_correlation/viz_align_models": ("correlations", "alignment/align_models.py"),
    "layerwise_mean_correlation/viz_align_along_curves": ("correlations", "alignment/align_along_curve.py"),
}


@pytest.mark.parametrize("script", MISSING)
def test_what_is_missing_is_named_with_its_command_and_the_rest_drawn(script, tmp_path, drawn, capsys):
    folder, command = MISSING[script]
    files = sorted(write_results(tmp_path).folder(folder).glob("*seeds_03_04*"))
    for path in files:
        path.unlink()
    draw(script, tmp_path, *SCRIPTS[script])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not drawn: ")]
    assert lines and len(lines) <= len(files)
    for line in lines:
        assert any(line.startswith(f"Not drawn: {path} does not exist; ") for path in files)
        assert "make it with: python " in line
        words = "--model TinyTen --dataset CIFAR10 --seed_a 3 --seed_b 4"
        assert any(f"python {one} {words}" in line for one in (command, "alignment/align_along_curve.py"))
    (figure, *_) = (figure for kind, figure in drawn.items() if not kind.startswith("training"))
    told = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    told += [axis.get_title() for axis in figure.axes]
    assert any("(1 of 2 pairs)" in words for words in told)
    assert not figure.axes[0].containers  # no bars: each mean is of one pair


@pytest.mark.parametrize("script", MISSING)
def test_what_is_damaged_or_nowhere_is_refused(script, tmp_path, capsys):
    folder, command = MISSING[script]
    folder = write_results(tmp_path, pairs=((1, 2),)).folder(folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:150])
    line = refused(capsys, script, tmp_path, *SCRIPTS[script])
    assert str(folder) in line
    assert f"move it away, and make it anew with: python {command} --model TinyTen --dataset CIFAR10" in line
    for path in folder.iterdir():
        path.unlink()
    line = refused(capsys, script, tmp_path, *SCRIPTS[script])
    assert str(folder) in line
    assert f"make it with: python {command} --model TinyTen --dataset CIFAR10" in line


@pytest.mark.parametrize("history", ["missing", "too short", "truncated"])
def test_a_history_that_does_not_reach_is_named_with_its_command(history, tmp_path, drawn, capsys):
    layout = write_results(tmp_path, pairs=((1, 2),))
    layout.endpoint(1, 20).parent.mkdir(parents=True)
    layout.endpoint(1, 20).touch()  # the networks were trained for another number of epochs than the curve
    path = layout.curve_history("corr", 1, 2)
    arrays = {name: values[:100] for name, values in np.load(path).items()}
    path.unlink() if history == "missing" else path.write_bytes(path.read_bytes()[:150])
    if history == "too short":
        np.savez(path, **arrays)
    draw("viz_curve", tmp_path, pairs="one")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Not drawn: "))
    assert [line.get_label() for line in drawn["training"].axes[0].lines] == ["curve, unaligned"]
    assert str(path) in line
    assert "python training/train_curve.py --model TinyTen --dataset CIFAR10 --seed_a 1 --seed_b 2" in line
    assert "--epochs_model 20 --alignment corr --epochs 250" in line
    assert line.count("--epochs ") == 1
    assert ("has fewer than 250 epochs" in line and line.endswith(" --resume")) == (history == "too short")


def test_of_several_models_those_are_drawn_of_which_there_is_something(tmp_path, capsys):
    write_results(tmp_path, pairs=((1, 2),))
    draw("viz_plane", tmp_path, "--model", "ResNet32", "TinyTen", pairs="one")
    out = capsys.readouterr().out
    assert "Not drawn: " in out and "--model ResNet32" in out
    assert {path.name.split("CIFAR10_")[1] for path in tmp_path.glob("figures/*.png")} == {"TinyTen.png"}


def test_drawing_leaves_the_look_of_other_figures_alone():
    """Nothing is changed by importing, nor after drawing; and pyplot, which looks for windows, is not loaded."""
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams.copy()), matplotlib.rcParams._get_backend_or_none()
from utils.reports import figures, page, tables
with figures.style():
    figures.panels(1)
    assert matplotlib.rcParams["font.size"] == 8
assert before == (dict(matplotlib.rcParams.copy()), matplotlib.rcParams._get_backend_or_none())
assert "matplotlib.pyplot" not in sys.modules
"""
    processes.output(sys.executable, "-c", code)


def test_a_users_matplotlibrc_changes_no_figure(tmp_path, whole_figures):
    write_results(tmp_path, pairs=((1, 2),))
    files = [tmp_path / f"figures/plane_with_alignment_loss_CIFAR10_TinyTen.{suffix}" for suffix in ("png", "pdf")]
    own = {"text.usetex": True, "figure.autolayout": True, "savefig.bbox": "tight", "font.size": 20}
    own |= {"figure.facecolor": "black", "axes.facecolor": "black", "text.color": "white", "lines.linewidth": 9}
    drawn = []
    for changes in ({}, own):
        with matplotlib.rc_context(changes):
            draw("viz_plane", tmp_path, pairs="one")
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]


def test_figures_are_shown_where_there_are_windows(tmp_path, monkeypatch, capsys):
    write_results(tmp_path, pairs=((1, 2),))
    plt.close("all")
    draw("viz_plane", tmp_path, "--show", pairs="one")
    assert "They are not shown: there is no screen" in capsys.readouterr().out
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "a toolkit")
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.figure(number) for number in plt.get_fignums()))
    draw("viz_plane", tmp_path, "--show", pairs="one")
    assert [figure._suptitle.get_text().splitlines()[0] for figure in shown] == ["TinyTen on CIFAR10"] * 2
    plt.close("all")


def test_curves_of_several_kinds_have_words_and_strokes_of_their_own(tmp_path, drawn):
    """Seeds, control points, families; the usual curve has plain words."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    table, history = np.load(layout.evaluated("corr", 1, 2, 250)), np.load(layout.curve_history("corr", 1, 2))
    kinds = {
        Variant(2): "curve, aligned, curve seed 2",
        Variant(2, 5): "curve of 5 bends, aligned, curve seed 2",
        Variant(2, 3, "PolyChain"): "PolyChain curve, aligned, curve seed 2",
        Variant(2, 5, "PolyChain"): "PolyChain curve of 5 bends, aligned, curve seed 2",
    }
    for number, variant in enumerate(kinds):
        values = dict(table) | {"accuracy": table["accuracy"] - number}
        save_arrays(layout.evaluated("corr", 1, 2, 250, variant), **values)
        save_arrays(layout.curve_history("corr", 1, 2, variant), **history)
    flags = ["--alignment", "corr", "--num_bends", "3", "5", "--curve", "Bezier", "PolyChain", "--curve_seed", "2"]
    draw("viz_curve", tmp_path, *flags, pairs="one")
    lines = {name_of(line): line for line in drawn["curve"].axes[0].lines}
    assert sorted(lines) == sorted(kinds.values())
    for number, words in enumerate(kinds.values()):
        np.testing.assert_array_equal(lines[words].get_ydata(), table["accuracy"] - number)
    assert len({line.get_linestyle() for line in lines.values()}) == 3  # as many as can be told apart
    draw("viz_curve", tmp_path, "--alignment", "corr", pairs="one")
    assert [name_of(line) for line in drawn["curve"].axes[0].lines] == ["curve, aligned"]


def test_each_pair_with_a_curve_seed_of_its_own(tmp_path, drawn):
    layout = write_results(tmp_path)
    other = dict(np.load(layout.evaluated("corr", 3, 4, 250))) | {"accuracy": np.full(9, 50.0)}
    save_arrays(layout.evaluated("corr", 3, 4, 250, Variant(7)), **other)
    save_arrays(layout.curve_history("corr", 3, 4, Variant(7)), **np.load(layout.curve_history("corr", 3, 4)))
    draw("viz_curve", tmp_path, "--alignment", "corr", "--curve_seed", "1", "7")
    (container,) = drawn["curve"].axes[0].containers
    first = np.load(layout.evaluated("corr", 1, 2, 250))["accuracy"]
    np.testing.assert_allclose(container[0].get_ydata(), (first + 50) / 2)
    assert name_of(container) == "curve, aligned, curve seeds 1, 7"


def test_robust_curves_are_marked_where_they_are_worst_and_best(tmp_path, drawn):
    """On both accuracies, at the places of the robust one's mean; and there is the better network to compare with."""
    layout = write_results(tmp_path, robust=True, alignments=("corr",))
    robust = {(1, 2): [50, 51, 52, 49, 40, 45, 55, 53, 52], (3, 4): [54, 50, 52, 49, 44, 41, 58, 53, 51]}
    for pair, values in robust.items():
        path = layout.evaluated("corr", *pair, 250)
        save_arrays(path, **dict(np.load(path)) | {"accuracy_robust": np.array(values, float)})
    draw("viz_adversarial_curve", tmp_path, "--alignment", "corr", "--epochs", "250")
    clean = [np.load(layout.evaluated("corr", *pair, 250))["accuracy"] for pair in robust]
    better = {"accuracy": (clean[0][8] + clean[1][0]) / 2, "accuracy_robust": (52 + 54) / 2}
    for axis, (name, values) in zip(
        drawn["curve"].axes, {"accuracy": clean, "accuracy_robust": list(robust.values())}.items(), strict=False
    ):
        lines = {line.get_label(): line for line in axis.lines}
        mean = np.mean(values, axis=0)
        for words, place in (("lowest robust accuracy", 4), ("highest robust accuracy", 6)):
            np.testing.assert_allclose(lines[words].get_xydata(), [[place / 8, mean[place]]])
        np.testing.assert_allclose(lines["the more robust network"].get_ydata(), better[name])
    assert not any(line.get_label() == "lowest robust accuracy" for line in drawn["curve"].axes[2].lines)


def test_the_spectrum_is_of_many_equally_spaced_points(tmp_path, drawn, capsys):
    """k + 1 times the transform of the loss, scaled to unit energy, and of robust curves the transform itself.

    A path of other points is left out.
    """
    layout = write_results(tmp_path, pairs=((1, 2),))
    loss, t = np.random.default_rng(0).random(33), np.linspace(0, 1, 33)
    for alignment, places in (("null", t**2), ("corr", t)):
        table = dict(np.load(layout.evaluated(alignment, 1, 2, 250)))
        table |= {"t": places, "length": t, "loss": loss, "accuracy": loss, "coordinates": np.zeros((33, 2))}
        save_arrays(layout.evaluated(alignment, 1, 2, 250), **table)
    draw("viz_curve", tmp_path, "--epochs", "0", "250", pairs="one")
    (line,) = drawn["spectrum"].axes[0].lines
    transform = np.abs(np.fft.rfft(loss))
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 9))
    expected = transform[1:9] / np.linalg.norm(transform)
    np.testing.assert_allclose(line.get_ydata(), np.arange(2, 10) * expected)
    robust = results.spectra({"loss": loss, "loss_robust": loss}, robust=True)
    np.testing.assert_allclose(robust["loss_robust"], expected)
    said = [line for line in capsys.readouterr().out.splitlines() if "spectrum of" in line]
    assert said == [
        "TinyTen: no spectrum of line, unaligned (9 points); line, aligned (9 points): it has 9 points, "
        "and 33 are needed.",
        "TinyTen: no spectrum of curve, unaligned: its points are not equally spaced.",
    ]


def test_the_training_of_the_networks_is_drawn(tmp_path):
    """Of networks A and B, on training and test images, in epochs that were tested, as far as there are histories."""
    layout = write_results(tmp_path, pairs=((1, 2),), alignments=())
    history, missing = layout.model_history(1), []
    for path in history.values():
        save_array(path, np.array([*[np.nan, 50.0] * 2, 70]) if "test" in path.name else np.arange(6.0))
    trained = results.load_network_histories(layout, [(1, 2)], missing)
    figure = viz_curve.networks_by_epoch(layout, trained, results.QUANTITIES[False]).figure
    for axis, name in zip(figure.axes, ("accuracy", "loss"), strict=True):
        lines = {line.get_label(): line.get_xydata() for line in axis.lines}
        assert set(lines) == {f"{end}, {kind} images" for end in "AB" for kind in ("training", "test")}
        np.testing.assert_array_equal(lines["A, test images"], [[2, 50], [4, 50], [5, 70]])
        np.testing.assert_array_equal(lines["A, training images"][:, 1], np.arange(5))
        expected = np.load(layout.model_history(2)[f"{name}_test"])[:5]
        np.testing.assert_array_equal(lines["B, test images"][:, 1], expected)
    assert not missing
    history["loss_test"].unlink()
    found = results.load_network_histories(layout, [(1, 2)], missing)
    assert set(found) == {("A", "train"), ("B", "train")}
    said = "does not exist, so the figure of the networks' training lacks test images"
    assert [str(error) for error in missing] == [f"{history['loss_test']} {said}"]
    for path in (*history.values(), *layout.model_history(2).values()):
        path.unlink(missing_ok=True)
    assert results.load_network_histories(layout, [(1, 2)], missing) == {}
    assert len(missing) == 1  # networks from elsewhere have none


def test_figures_without_titles(tmp_path, drawn, whole_figures):
    """Only their files tell them, and the figures are less high."""
    write_results(tmp_path, pairs=((1, 2),))
    heights = []
    for flags in ([], ["--no_title"]):
        draw("viz_plane", tmp_path, *flags, pairs="one")
        figure = drawn["plane_with_alignment_loss"]
        heights.append(figure.get_figheight())
    assert figure._suptitle is None
    assert 0.2 < heights[0] - heights[1] < 0.5
    with Image.open(tmp_path / "figures/plane_with_alignment_loss_CIFAR10_TinyTen.png") as image:
        assert image.info["Title"].startswith("TinyTen on CIFAR10: what alignment does")


@pytest.mark.parametrize("height, is_marked", [(7, True), (12, False)])
def test_a_turning_point_beyond_the_plane_is_not_marked(height, is_marked, tmp_path, drawn):
    """A grid that goes one and a half times as high as the curve ends below the turning point."""
    path = write_results(tmp_path, pairs=((1, 2),)).plane_with_curve("corr", 1, 2, 250)
    plane = dict(np.load(path))
    assert plane["y"].max() == 8
    plane["corners"][2, 1] = height
    save_arrays(path, **plane)
    draw("viz_curve_on_plane", tmp_path, "--alignment", "corr", pairs="one")
    words = {line.get_label() for line in drawn["plane_with_curve_loss"].axes[0].lines}
    assert {"A", "B", "curve"} <= words
    assert ("turning point" in words) == is_marked


MIDPOINTS = "layerwise_mean_correlation/viz_align_along_curves"


def test_midpoints_of_lines_are_drawn_too(tmp_path, drawn, capsys):
    """Where they have been measured; otherwise a line says how they are."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    layout.along_curve("null", 1, 2, 0, 0.5).unlink()
    draw(MIDPOINTS, tmp_path, pairs="one")
    lines = [line.get_label() for line in drawn["correlation_along_curve"].axes[0].lines]
    assert lines == ["curve, unaligned", "curve, aligned", "line, aligned"]
    said = capsys.readouterr().out
    assert "Not drawn: " in said
    assert "align_along_curve.py" in said
    assert "--epochs_curve 0" in said


def test_activations_matched_by_themselves_have_a_row(tmp_path, drawn):
    """Where all that is drawn has them: of networks in which activations share channels."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    for number, (alignment, epochs) in enumerate(itertools.product(("null", "corr"), (0, 250))):
        path = layout.along_curve(alignment, 1, 2, epochs, 0.5)
        apart = {f"noid_{end}": np.full(9, (number + i) / 8) for i, end in enumerate("ab")}
        save_arrays(path, **np.load(path), **apart)
        draw(MIDPOINTS, tmp_path, pairs="one")
        assert len(drawn["correlation_along_curve"].axes) == (4 if number < 3 else 6)
    with_a, with_b = drawn["correlation_along_curve"].axes[4:]
    assert with_a.get_ylabel().replace("\n", " ") == "mean correlation, each layer aligned by itself"
    for axis, shift in ((with_a, 0), (with_b, 1)):
        values = {line.get_label(): 8 * line.get_ydata()[0] - shift for line in axis.lines}
        expected = {"curve, unaligned": 1, "curve, aligned": 3, "line, unaligned": 0, "line, aligned": 2}
        assert values == expected


@pytest.mark.parametrize("layers, columns, named", [(9, 1, 9), (9, 2, 4), (40, 1, 8), (120, 2, 6)])
def test_every_layer_has_a_tick(layers, columns, named):
    """And a name, where there is room for it."""
    figure, axes = figures.panels(1, columns)
    figures.draw_layers(axes[0, 0], [np.zeros(layers)])
    axis = axes[0, 0].xaxis
    assert sorted({*axis.get_majorticklocs(), *axis.get_minorticklocs()}) == list(range(1, layers + 1))
    words = [text.get_text() for text in axis.get_majorticklabels()]
    assert words == [*(f"{place:g}" for place in axis.get_majorticklocs()[:-1]), "logits"]
    assert len(words) == named


def test_midpoints_are_drawn_beside_the_correlation_of_their_ends(tmp_path, drawn):
    """Those of the longest usual curves: how they correlate with A and B as they are, the mean of the two."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    corr = np.load(layout.along_curve("corr", 1, 2, 250, 0.5))
    for epochs, variant in ((20, USUAL), (300, Variant(7))):
        save_arrays(layout.along_curve("corr", 1, 2, epochs, 0.5, variant), unaligned_a=np.ones(9))
    layout.along_curve("null", 1, 2, 250, 0.5).unlink()
    draw("layerwise_mean_correlation/viz_align_models", tmp_path, pairs="one")
    *lines, midpoint = drawn["correlation"].axes[0].lines
    assert [line.get_label() for line in lines] == ["unaligned", "aligned"]
    assert midpoint.get_label() == "midpoint of the curve, aligned, with its ends (alignment images)"
    np.testing.assert_allclose(midpoint.get_ydata(), (corr["unaligned_a"] + corr["unaligned_b"]) / 2)
