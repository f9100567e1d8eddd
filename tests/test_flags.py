"""What flags may be, what is said of those that change nothing, and which folders they are about."""

import itertools
import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from stages import REPOSITORY, STAGES, fails, run, stage

from utils.stages import hints
from utils.stages.flags import LARGEST_SEED, seed_number
from utils.stages.layout import Layout
from utils.stages.records import Record, record_in, unlike


def parse(script, *flags):
    return stage(script)[0]([str(flag) for flag in flags])


# --- names and seeds ---------------------------------------------------------------------------------------

NO_NAMES = ("a/b", "..", ".hidden", "two words", "a\tb", "a\nb", "-x", "a\\b", "a" * 101, "a\0b", "a:b", "*")


@pytest.mark.parametrize("name", [*NO_NAMES, "", "null", "NULL", "pam_corr", "Pam_x", "a_seeds_01_02", "x_aligned"])
def test_matches_have_names_that_stand_for_nothing_else(name, capsys):
    code, line = fails(capsys, "alignment/align_models.py", f"--align_name={name}")
    assert code == 2
    assert line.count("\n") == 0
    assert "argument --align_name: " in line


@pytest.mark.parametrize("method, names", [("", "w2_pre w2_mine CORR"), ("_w2", "corr w2_post")])  # without --pre_act
def test_a_match_does_not_have_the_name_of_another_method(method, names, capsys):
    for name in names.split():
        code, line = fails(capsys, f"alignment/align_models{method}.py", "--align_name", name)
        assert code == 2
        assert f"--align_name {name} is the name of a match of another kind" in line


@pytest.mark.parametrize("name", ["mine", "corr", "my-2.1_try", "größe", "w2"])
def test_names_that_matches_may_have(name):
    assert parse("alignment/align_models.py", "--align_name", name).align_name == name


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize(
    "script, flag",
    [
        ("training/train_curve.py", "--alignment"),
        ("visualization/viz_curve.py", "--alignment"),
        ("evaluation/make_report.py", "--name"),
    ],
)
def test_names_that_lead_out_of_the_folder(script, flag, name, capsys):
    code, line = fails(capsys, script, f"{flag}={name}")
    assert code == 2
    assert "cannot be a part of a file's name here" in line


SEED_FLAGS = {"--seed", "--seed_a", "--seed_b", "--curve_seed"}


@pytest.mark.parametrize("script", sorted(set(STAGES) - {"data/prepare.py"}))
def test_seeds_that_generators_tell_apart(script, capsys):
    """2**32 more is the same seed to the generator that initial weights come from."""
    parse_args, _ = stage(script)
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    there = SEED_FLAGS & set(capsys.readouterr().out.replace("[", " ").split())
    assert there
    for flag in there:
        for value in ("-1", "4294967296", "18446744073709551616", "1e3", ""):
            code, line = fails(capsys, script, f"{flag}={value}")
            assert code == 2
            assert f"{value!r} is not a whole number from 0 to 4294967295" in line, line
    assert seed_number("4294967295") == LARGEST_SEED


# --- what changes nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("training/train_model_adversarial.py", "--lr_drop 5", "--lr_drop: not in robust training"),
        (
            "training/train_curve_adversarial.py",
            "--lr_decay 0.5 --lr_drop 5",
            "--lr_decay and --lr_drop: not in robust",
        ),
        ("alignment/align_models.py", "--seed 2", "--seed: nothing in an alignment is drawn at random"),
        ("evaluation/eval_curve.py", "--epochs_curve 0 --seed 2", "--seed: the straight line is the same"),
        ("visualization/viz_plane.py", "--epochs 20", "--epochs: what is drawn here is not of curves"),
        ("evaluation/eval_curve.py", "--lr 0.1", "--lr: nothing is learned here."),
        ("visualization/viz_plane.py", "--interp bicubic", "--interp: planes are drawn by contours"),
        ("training/train_model.py", "--lr_drop 5", ""),
        ("evaluation/eval_curve.py", "--epochs_curve 0 --seed 2 --alignment pam_corr", ""),
        ("evaluation/eval_curve.py", "--epochs_curve 5 --seed 2", ""),
    ],
)
def test_what_is_said_of_flags_that_change_nothing(script, flags, words):
    assert " ".join(parse(script, *flags.split()).notes).startswith(words)
    assert bool(parse(script, *flags.split()).notes) == bool(words)


def test_epochs_that_stand_for_nothing(capsys):
    both = ["--epochs_model", 8, "--epochs_curve", 6]
    for epochs in (8, 6):
        parse("evaluation/eval_curve.py", *both, "--epochs", epochs)
    one = parse("evaluation/eval_curve.py", "--epochs", 7, "--epochs_curve", 0)
    assert (one.epochs_model, one.epochs_curve) == (7, 0)
    code, line = fails(capsys, "evaluation/eval_curve.py", *both, "--epochs", 7)
    assert code == 2
    assert "--epochs 7 stands for nothing" in line


@pytest.mark.parametrize(
    "models, epochs, of",
    [
        ("TinyTen", "0 6", {"TinyTen": [0, 6]}),
        ("TinyTen ResNet32", "0 6", {"TinyTen": [0], "ResNet32": [6]}),
        ("TinyTen ResNet32", "0 3 6", {"TinyTen": [0, 3, 6], "ResNet32": [0, 3, 6]}),
        ("TinyTen ResNet32", "6", {"TinyTen": [6], "ResNet32": [6]}),
    ],
)
def test_epochs_of_several_models(models, epochs, of):
    """As many as models are one a model, as in the original; one model has all of them."""
    args = parse("visualization/viz_curve.py", "--model", *models.split(), "--epochs", *epochs.split())
    assert args.epochs_of == of
    assert ("Epochs: TinyTen 0, ResNet32 6" in args.notes) == (of == {"TinyTen": [0], "ResNet32": [6]})
    table = parse("evaluation/make_tables.py", "--model", *models.split(), "--epochs", *epochs.split())
    assert table.epochs == [int(number) for number in epochs.split()]


# --- what differs from before ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, now, why",
    [
        ({"lr": 0.1, "old": 1}, {"lr": 0.1, "new": 2}, None),
        ({"bn_images": None, "lr": 1}, {"bn_images": 64, "lr": 1}, "with bn_images none (now 64)"),
        ({"points": ["a"], "lr": 1}, {"points": ["b"], "lr": 2}, "from other networks, with lr 1 (now 2)"),
        ({"images": "a", "num_classes": 3}, {"images": "b", "num_classes": 4}, "from other images"),
        ({"points": [1], "images": 1}, {"points": [], "images": 2}, "from other networks and other images"),
        ({"ends": {0: "a"}}, {"ends": {0: "b"}}, "from other networks"),
        ({"attack": [1, 2, 5]}, {"attack": [1, 3, 7]}, "with attack_step 2 (now 3), attack_steps 5 (now 7)"),
        ({"attack": None}, {"attack": [1, None, None]}, "with epsilon none (now 1)"),
        ({"lr": 1}, {"lr": 1, "image_size": 32}, "with image_size none (now 32)"),
        ({"lr": 1}, {"lr": 1, "image_size": None}, None),
    ],
)
def test_how_settings_differ(before, now, why):
    now = replace(record_in({"settings": now}), new={"image_size": None})
    assert unlike(record_in({"settings": before}), now) == (why and f"was made {why}")
    assert unlike(Record(), now) == "does not record how it was made"


# --- folders -----------------------------------------------------------------------------------------------


def test_folders_of_flags_are_under_the_current_one(tmp_path, monkeypatch):
    """As --data_path is; those of the layout are under the root."""
    monkeypatch.chdir(tmp_path)
    args = parse("training/train_curve.py", "--root", tmp_path / "root", "--dir_models", "nets", "--dataset", "bars")
    layout = Layout(args.root, args.model, args.dataset, args.robust, args.replaced)
    assert layout.endpoint(1, 2).absolute() == tmp_path / "nets/TinyTen/bars/checkpoint_seed_01-2.pt"
    assert layout.curve("", 1, 2, 3).is_relative_to(tmp_path / "root/model_dicts/curve_models")


def test_commands_keep_what_matters(tmp_path, monkeypatch):
    """Folders under the names that the next script has for them, the device, the images, the held-out set."""
    images = ["--data_path", "my data", "--image_size", "32", "--no-use_test", "--device", "cpu"]
    folders = ["--dir_models", "nets", "--dir_alignment", "m", "--dir", "c", "--dir2", "h"]
    running = parse("training/train_curve.py", *images, *folders, "--root", "here")
    command = partial(hints.command, running.here, flags={})

    def told(script):
        program, path, *words = shlex.split(command(script))
        assert (program, path) == ("python", script)
        assert ("--device", "cpu") in itertools.pairwise(words) or script.startswith("visualization/")
        return vars(parse(script, *words))

    for script, expected in (
        ("training/train_model.py", {"models": Path("nets")}),
        ("alignment/align_models.py", {"models": Path("nets"), "matches": Path("m")}),
        ("training/train_curve.py", running.replaced),
        ("evaluation/eval_curve.py", {"models": Path("nets"), "matches": Path("m"), "curves": Path("c")}),
    ):
        args = told(script)
        assert args["replaced"] == expected, script
        assert (args["image_size"], args["use_test"], args["data_path"]) == (32, False, Path("my data"))
        assert args["root"] == Path("here")
    drawn = told("visualization/viz_curve.py")
    assert drawn["replaced"] == running.replaced
    # From elsewhere, the script by its whole path; by another interpreter, its own
    monkeypatch.chdir(tmp_path)
    assert command("training/train_model.py").split()[:2] == [
        "python",
        str(REPOSITORY / "training/train_model.py"),
    ]
    monkeypatch.chdir(REPOSITORY.parent)
    path = command("training/train_model.py").split()[1]
    assert path == f"{REPOSITORY.name}/training/train_model.py"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "orig_argv", ["python3"])
    assert shlex.split(command("training/train_model.py"))[0] == sys.executable
    called = os.path.relpath(sys.executable)
    monkeypatch.setattr(sys, "orig_argv", [called])
    assert shlex.split(command("training/train_model.py"))[0] == called
    for name in ("python", "python3.99"):  # one of another environment
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert shlex.split(command("training/train_model.py"))[0] == called


def test_a_run_under_way_is_gone_on_with_as_it_began(capsys, small, workspace):
    """Other stages say so, with the flags of the run and not with the usual ones."""
    folder = workspace / "model_dicts/basic_models/TinyTen/bars"
    flags = [*small, "--seed", 3, "--epochs", 3, "--lr", 0.05, "--lr_drop", 1]
    run("training/train_model.py", *flags, "--save_freq", 2)
    (folder / "checkpoint_seed_03-3.pt").unlink()
    (folder / "checkpoint_seed_03-2.pt").rename(folder / "checkpoint_seed_03-resume.pt")
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, "--seed_b", 3)
    assert code == 1
    assert "does not exist; it is under way; go on with: python" in line
    script, *words = shlex.split(line.split("go on with: python ")[1])
    run(script, *words)
    assert "Resuming after epoch 2." in capsys.readouterr().out
    run("alignment/align_models.py", *small, "--epochs", 3, "--seed_b", 3)
