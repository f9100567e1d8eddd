"""Results are shown with the networks, curves and images of which they are, and with no others."""

import importlib
import json
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stages import fails, run, stage

from utils.errors import UserError
from utils.stages.files import save_arrays
from utils.stages.layout import Layout, partial
from utils.stages.records import Record, behind, code_digest, load_record, other_inputs, record_in

PAIR = ["--epochs_model", 3, "--alignment", "corr"]


@pytest.fixture(scope="module")
def everything(trained, data_path, tmp_path_factory):
    """A workspace in which results of every kind are evaluated and drawn."""
    root = tmp_path_factory.mktemp("everything") / "w"
    shutil.copytree(trained, root)
    flags = ["--dataset", "bars", "--data_path", data_path, "--root", root, "--batch_size", "32", "--bn_images", 32]
    run("evaluation/eval_plane_with_curve.py", *flags, *PAIR, "--epochs_curve", 2, "--num_points", 2)
    run("evaluation/eval_plane_with_alignment.py", *flags, *PAIR, "--num_points", 2)
    run("alignment/align_along_curve.py", *flags, *PAIR, "--epochs_curve", 2)
    run("alignment/align_along_curve.py", *flags, *PAIR, "--epochs_curve", 0)
    for script, told in FIGURES.items():
        run(script, *drawn(root), *told)
    run("evaluation/make_report.py", "--root", root, "--alignment", "corr")
    return root


@pytest.fixture
def shown(everything, tmp_path):
    """A copy of it that a test may change."""
    return Layout(shutil.copytree(everything, tmp_path / "w"), "TinyTen", "bars")


FIGURES = {
    "visualization/viz_curve.py": ["--epochs", 0, 2],
    "visualization/viz_curve_on_plane.py": ["--epochs", 2],
    "visualization/viz_plane.py": [],
    "visualization/layerwise_mean_correlation/viz_align_models.py": [],
    "visualization/layerwise_mean_correlation/viz_align_along_curves.py": ["--epochs", 2],
    "visualization/viz_alignment_images.py": [],
}


def drawn(root):
    return ["--dataset", "bars", "--root", root, "--alignment", "corr"]


def train_anew(path):
    """Other weights in a checkpoint, as another run with the same flags would leave them."""
    checkpoint = torch.load(path, weights_only=True)
    for state in (checkpoint["model_state"], *checkpoint.get("points", {}).values()):
        for value in state.values():
            if value.is_floating_point():
                value += 0.01
    torch.save(checkpoint, path)


def test_nothing_is_shown_of_networks_that_are_trained_anew(shown, capsys):
    """Tables, figures and report leave it out, say of each file why, and the command that makes it anew."""
    root = shown.root
    train_anew(shown.endpoint(2, 3))
    code, line = fails(capsys, "evaluation/make_tables.py", "--root", root)
    assert code == 1
    assert (
        "was made with other networks than there are now; make it anew with: python evaluation/eval_curve.py" in line
    )
    assert line.endswith("--overwrite")
    for script, flags in FIGURES.items():
        code, line = fails(capsys, script, *drawn(root), *flags)
        assert code == 1
        assert "was made with other networks than there are now; make it anew with: python " in line
        parsed(line)
    code, line = fails(capsys, "evaluation/make_report.py", "--root", root)
    assert "was made with other networks" in line


def parsed(line):
    """The flags of the command that a line advises, which its script accepts."""
    script, *words = shlex.split(line.split("make it anew with: python ")[1])
    return importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args(words)


NETWORK = """
import torch.nn as nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.fixture
def own(tmp_path, data_path):
    """A file with a network without batch norm, flags for it, and two trained ones."""
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    flags = ["--dataset", "bars", "--data_path", data_path, "--root", tmp_path, "--model", f"{file}:Net"]
    for seed in (1, 2):
        run("training/train_model.py", *flags, "--epochs", 1, "--seed", seed)
    return file, flags, Layout(tmp_path, f"{file}:Net", "bars")


LINE = ["--epochs_model", 1, "--epochs_curve", 0, "--num_points", 2]


def test_the_advice_has_every_flag_that_decides(own, capsys):
    _, flags, layout = own
    run("evaluation/eval_curve.py", *flags, *LINE, "--repair", "--image_size", 12)
    train_anew(layout.endpoint(2, 1))
    code, line = fails(capsys, "evaluation/make_tables.py", "--root", layout.root)
    args = parsed(line)
    assert (args.repair, args.image_size, args.num_points, args.overwrite) == (True, 12, 2, True)
    run("evaluation/eval_curve.py", *shlex.split(line.split("eval_curve.py ")[1]))
    run("evaluation/make_tables.py", "--root", layout.root)


def test_the_advice_goes_on_with_the_evaluation_that_began(small, workspace, capsys):
    line = ["--epochs_model", 3, "--epochs_curve", 0, "--num_points", 3, "--transform", "ResNet32"]
    line += ["--no-use_test", "--image_size", 12, "--overwrite"]
    run("evaluation/eval_curve.py", *small, *line)
    path = Layout(workspace, "TinyTen", "bars").evaluated("", 1, 2, 0)
    path.rename(partial(path))
    code, line = fails(capsys, "evaluation/make_tables.py", "--root", workspace, "--epochs", 0, "--alignment", "")
    assert f"{path} is not finished; go on with: python evaluation/eval_curve.py " in line
    script, *words = shlex.split(line.split("go on with: python ")[1])
    args = stage(script)[0](words)
    assert (args.transform, args.use_test, args.image_size, args.epochs_model) == ("ResNet32", False, 12, 3)
    run(script, *words)
    assert path.exists()


def test_a_network_whose_code_has_changed(own, capsys):
    """What it made is stale; comments and documentation change nothing."""
    file, flags, layout = own
    run("evaluation/eval_curve.py", *flags, *LINE)
    file.write_text("# a comment\n\n" + file.read_text())
    run("evaluation/make_tables.py", "--root", layout.root)
    file.write_text(file.read_text().replace("nn.ReLU", "nn.Tanh"))
    other = "another definition of the network"
    code, message = fails(capsys, "evaluation/make_tables.py", "--root", layout.root)
    assert f"was made with {other} than there are now; make it anew with: python evaluation/eval" in message
    code, message = fails(capsys, "training/train_model.py", *flags, "--epochs", 2, "--seed", 1, "--resume")
    assert f"was made from {other}" in message
    code, message = fails(capsys, "evaluation/eval_curve.py", *flags, *LINE, "--overwrite")
    assert f"was trained with {other} than there is now; make it anew with: python training/train" in message


@pytest.mark.parametrize(
    "command",
    [
        ["evaluation/eval_curve.py", "--num_points", "3; touch owned", "--model", "/tmp/evil.py:Net"],
        ["evaluation/eval_curve.py", "--num_points", "3", "--run", "$(touch owned)"],
        ["../../evil.py", "--num_points", "3"],
        ["os", "--num_points", "3"],
        "python evil.py",
        [3, None],
    ],
)
def test_a_hostile_record(command, small, workspace, capsys):
    """Of a command in a file, nothing but our scripts' flags is ever said, quoted, and for the file's own network."""
    layout = Layout(workspace, "TinyTen", "bars")
    path = layout.evaluated("", 1, 2, 0)
    record = record_in(np.load(path)).stored() | {"command": command}
    save_arrays(path, **dict(np.load(path)) | {"record": np.array(json.dumps(record))})
    train_anew(layout.endpoint(2, 3))
    code, line = fails(capsys, "evaluation/make_tables.py", "--root", workspace, "--epochs", 0, "--alignment", "")
    script, *words = shlex.split(line.split("make it anew with: python ")[1])
    assert (script, words[-1]) == ("evaluation/eval_curve.py", "--overwrite")
    assert words[words.index("--model") + 1] == "TinyTen"
    assert not {"touch", "owned", "--run", "3;"} & set(words)


def test_a_report_of_the_rest(shown, capsys):
    """Where a curve is learned anew, what is of the line is shown, and what is of the curve is not, figures too."""
    root = shown.root
    train_anew(shown.curve("corr", 1, 2, 2))
    run("evaluation/make_report.py", "--root", root)
    printed = capsys.readouterr().out
    page = (root / "figures/report.html").read_text()
    for path in (shown.evaluated("corr", 1, 2, 2), root / "figures/curve_bars_TinyTen.png"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"Not in the report: {path} "))
        assert "was made with another curve than there are now" in line
    titles = {title.split(" (")[0] for title in page.split("<figcaption>")[1:]}
    assert any(title.startswith("what alignment does") for title in titles)
    for words in ("along the path", "activations of A and B"):  # with which midpoints of curves are drawn
        assert not any(title.startswith(words) for title in titles)
    assert "line, aligned" in page
    assert "<th scope=row>curve, aligned</th>" not in page
    assert "eval_curve.py" in page
    assert re.search("train_curve.py [^<]*--alignment &#39;&#39; ", page)
    assert not re.search("train_curve.py [^<]*--alignment corr", page)


def test_results_are_shown_where_the_networks_are_not(shown, capsys):
    shutil.rmtree(shown.root / "model_dicts")
    run("evaluation/make_tables.py", "--root", shown.root)
    assert "| curve, aligned |" in capsys.readouterr().out
    run("visualization/viz_curve.py", *drawn(shown.root), "--epochs", 0, 2)


def test_a_figure_of_results_that_were_made_anew(shown, capsys):
    path = shown.evaluated("corr", 1, 2, 2)
    table = dict(np.load(path))
    save_arrays(path, **table | {"loss": table["loss"] + 1})
    run("evaluation/make_report.py", "--root", shown.root)
    printed = capsys.readouterr().out
    figure = shown.root / "figures/curve_bars_TinyTen.png"
    assert (
        f"Not in the report: {figure} shows other results than there are now in {path}; draw it anew with" in printed
    )
    run("visualization/viz_curve.py", *drawn(shown.root), "--epochs", 0, 2)
    run("evaluation/make_report.py", "--root", shown.root)
    assert str(figure) not in capsys.readouterr().out.split("Not in the report")[-1].split("Wrote")[0]


def test_what_was_run_stands_beside_each_figure(shown):
    page = (shown.root / "figures/report.html").read_text()
    figures = {part.split("(")[0].strip(): part for part in page.split("<figcaption>")[1:]}
    about = figures["along the path"].split("</figcaption>")[0]
    for script in ("training/train_model", "alignment/align_models", "training/train_curve", "evaluation/eval_curve"):
        assert f"python {script}.py" in about
    assert "--lr_drop 1" in about  # of the networks, as they were trained
    made = record_in(np.load(shown.evaluated("corr", 1, 2, 2))).made
    words = f"torch {made['torch']}, Python {made['python']}, cpu, {made['date']}"
    assert about.count(words) == about.count("<pre class=command>") - 1  # but for what draws the figure
    assert "eval_plane_with_curve.py" not in about
    assert "eval_plane_with_curve.py" in figures["the planes of curves"]


def test_other_images_are_said(shown, capsys):
    """In the table, where figures are drawn and beside what they show."""
    path = shown.evaluated("corr", 1, 2, 2)
    table = dict(np.load(path))
    save_arrays(path, **table | {"record": record_in(table).of(images="others").stored()})
    run("visualization/viz_curve.py", *drawn(shown.root), "--epochs", 0, 2)
    assert "TinyTen: unlike the others, with other images: curve, aligned." in capsys.readouterr().out
    with Image.open(shown.root / "figures/curve_bars_TinyTen.png") as image:
        assert image.info["Caption"].endswith("; curve, aligned (other images).")
    run("evaluation/make_tables.py", "--root", shown.root)
    assert "curve, aligned (other images) |" in capsys.readouterr().out


def test_an_evaluation_of_other_images_is_not_gone_on_with(small, workspace, tmp_path, data_path, capsys):
    """Of a dataset of the same name: two classes swapped."""
    shutil.copytree(data_path / "bars/train", tmp_path / "bars/train")
    for one, other in (("class0", "class1"), ("class1", "class0"), ("class2", "class2"), ("class3", "class3")):
        shutil.copytree(data_path / "bars/test" / one, tmp_path / "bars/test" / other)
    flags = [tmp_path if flag == data_path else flag for flag in small]
    code, line = fails(capsys, "evaluation/eval_curve.py", *flags, *PAIR, "--epochs_curve", 2, "--num_points", 5)
    assert code == 1
    assert "was made from other images" in line
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 3, "--lr_drop", 1, "--seed", 1)
    assert "was made from other images" in line


def test_digests_are_of_weights_and_not_of_when_they_were_written(trained, tmp_path):
    layout = Layout(trained, "TinyTen", "bars")
    files = behind(layout, (1, 2), 3, "corr", 2)
    record = Record().of(files, **code_digest("TinyTen"))
    before = record.inputs
    assert list(before) == ["a", "b", "match", "curve", "code"]
    assert len(set(before.values())) == 5
    checkpoint = torch.load(files["a"], weights_only=True) | {"epoch": 7}
    torch.save(checkpoint, tmp_path / "a.pt")
    assert Record().of({"a": tmp_path / "a.pt"}).inputs == {"a": before["a"]}
    assert other_inputs(record, before) == ""
    assert other_inputs(record, before | {"a": "", "b": "", "match": ""}) == "other networks and another match"
    assert other_inputs(record, {"curve": before["curve"]}) == ""
    assert Record().of({"a": tmp_path / "none.pt"}).inputs == {}


def test_matches_and_their_correlations_tell_how_they_were_made(trained):
    layout = Layout(trained, "TinyTen", "bars")
    for path in (layout.match("corr", 1, 2), layout.correlation("corr", "aligned", 1, 2)):
        record = load_record(path)
        assert [record.flags[name] for name in ("epochs", "batch_size", "method")] == [3, 32, "corr"]
        assert record.made.keys() == {"torch", "python", "device", "date"}
        assert record.command[0] == "alignment/align_models.py"


# --- files under another's name ----------------------------------------------------------------------------

EVALUATE = ["evaluation/eval_curve.py", *PAIR, "--epochs_curve", 2, "--num_points", 5, "--overwrite"]
COPIED = {  # what is copied to where, and the stage that reads it
    "the other seed": (lambda w: (w.endpoint(1, 3), w.endpoint(2, 3)), EVALUATE),
    "another epoch": (
        lambda w: (w.endpoint(2, 3), w.endpoint(2, 9)),
        ["training/train_model.py", "--seed", 2, "--epochs", 9, "--lr_drop", 1],
    ),
    "another dataset": (lambda w: (replace(w, dataset="rods").endpoint(2, 3), w.endpoint(2, 3)), EVALUATE),
    "another match": (lambda w: (w.match("mine", 1, 2), w.match("corr", 1, 2)), EVALUATE),
    "another curve": (lambda w: (w.curve("", 1, 2, 2), w.curve("corr", 1, 2, 2)), EVALUATE),
    "a line as a curve": (lambda w: (w.curve("corr", 1, 2, 0), w.curve("corr", 1, 2, 2)), EVALUATE),
    "a run under way": (
        lambda w: (w.endpoint(1, 3), w.endpoint(5, 3)),
        ["training/train_model.py", "--seed", 5, "--epochs", 4, "--lr_drop", 1, "--resume"],
    ),
    "an unfinished table": (
        lambda w: (w.evaluated("", 1, 2, 2), partial(w.evaluated("corr", 1, 2, 0))),
        ["evaluation/eval_curve.py", *PAIR, "--epochs_curve", 0, "--num_points", 5],
    ),
}


@pytest.mark.parametrize("kind", COPIED)
def test_a_file_under_anothers_name(kind, small, workspace, capsys):
    """Whoever reads it says what it is by its record, and what its name says."""
    layout = Layout(workspace, "TinyTen", "bars")
    if kind == "another match":
        run("alignment/align_models.py", *small, "--epochs", 3, "--align_name", "mine")
    if kind == "another dataset":
        shutil.copytree(layout.folder("models"), replace(layout, dataset="rods").folder("models"))
        path = replace(layout, dataset="rods").endpoint(2, 3)
        checkpoint = torch.load(path, weights_only=True)
        torch.save(checkpoint | {"record": checkpoint["record"] | {"path": "/".join(path.parts[-3:])}}, path)
    copied, (script, *flags) = COPIED[kind]
    source, target = copied(layout)
    layout.evaluated("corr", 1, 2, 0).unlink()
    shutil.copy(source, target)
    code, line = fails(capsys, script, *small, *flags)
    assert code == 1
    assert f"{target} was written as {'/'.join(source.parts[-3:])}, which its name does not say; " in line


@pytest.mark.parametrize("of", ["the unaligned line", "before alignment"])
def test_a_result_under_anothers_name(of, shown, capsys):
    """Neither tables nor figures nor the report have it, and files of before that do not say their name neither."""
    line = of == "the unaligned line"
    kind, name = (shown.evaluated, ("corr", 1, 2, 0)) if line else (shown.correlation, ("corr", "aligned", 1, 2))
    source = kind("", 1, 2, 0) if line else kind("corr", "unaligned", 1, 2)
    command = ["evaluation/make_tables.py", "--root", shown.root] if line else [list(FIGURES)[3], *drawn(shown.root)]
    shutil.copy(source, kind(*name))
    for of_before in (False, True) if line else (False,):
        if of_before:
            arrays = dict(np.load(source))
            record = replace(record_in(arrays), path="")
            save_arrays(kind(*name), **arrays | {"record": record.stored()})
        said = fails_or_prints(capsys, *command)
        assert f"{kind(*name)} was " in said
        assert "which its name does not say" in said


def fails_or_prints(capsys, *command):
    capsys.readouterr()
    try:
        run(*command)
    except UserError as error:
        return str(error)
    return capsys.readouterr().out


def test_two_networks_that_are_the_same(small, workspace, capsys):
    layout = Layout(workspace, "TinyTen", "bars")
    checkpoint = torch.load(layout.endpoint(1, 3), weights_only=True)
    checkpoint["record"]["path"] = checkpoint["record"]["path"].replace("_01-", "_07-")
    torch.save(checkpoint, layout.endpoint(7, 3))
    pair = ["--epochs_model", 3, "--epochs_curve", 0, "--num_points", 2, "--seed_b", 7]
    for script, flags in (
        ("evaluation/eval_curve.py", pair),
        ("alignment/align_models.py", ["--epochs", 3, *pair[-2:]]),
    ):
        run(script, *small, *flags)
        assert f"{layout.endpoint(1, 3)} and {layout.endpoint(7, 3)} hold the same weights" in capsys.readouterr().out
