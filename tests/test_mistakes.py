"""Mistakes: each ends a stage with one line that says what is wrong and what mends it."""

import os
import shutil
import sys

import numpy as np
import processes
import pytest
import torch
from conftest import write_image_folder
from stages import REPOSITORY, fails, run

from models import MODELS
from utils.stages.matches import padded_rows, permutations_from_rows, rows_from_permutations
from utils.symmetries.spec import permutation_spec


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("training/train_model.py", ["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        ("training/train_model.py", ["a\nb"], "unrecognized arguments: a b; --help shows the flags that there are"),
        ("evaluation/eval_curve.py", ["--dir_midpoint", "x"], "unrecognized arguments: --dir_midpoint x"),
        ("training/train_model.py", ["--lr"], "argument --lr: expected one argument"),
        ("training/train_model.py", ["--lr_decay", "1e39"], "the learning rate would grow beyond all numbers"),
        ("training/train_curve_pam.py", ["--lr_decay", "1e39"], "the learning rate would grow beyond all numbers"),
        ("data/prepare.py", ["--datset", "x"], "unrecognized arguments: --datset x"),
        ("training/train_model.py", ["--model", "VGG"], "it is one of TinyTen, ResNet32, GoogLeNet, "),
        ("training/train_model.py", ["--transform", "VGG"], "'TinyTen', 'ResNet32', 'GoogLeNet', 'standard', "),
        ("training/train_model.py", ["--epochs", "-1"], "'-1' is not a whole number above 0"),
        ("training/train_model.py", ["--lr", "-0.1"], "'-0.1' is not a number above 0"),
        ("training/train_model.py", ["--lr", "nan"], "is not a number above 0"),
        ("training/train_model.py", ["--seed", "-3"], "'-3' is not a whole number from 0 to 4294967295"),
        ("training/train_model.py", ["--wd", "-1"], "'-1' is not a number, 0 or above"),
        ("training/train_model.py", ["--batch_size", "0"], "'0' is not a whole number above 0"),
        ("training/train_model.py", ["--device", "gpu7"], "gpu7 cannot be used here"),
        ("training/train_model.py", ["--resume", "--overwrite"], "not allowed with"),
        ("training/train_curve.py", ["--seed_a", "2", "--seed_b", "2"], "a pair needs two networks"),
        ("training/train_curve.py", ["--num_bends", "1"], "2 or above"),
        ("training/train_curve.py", ["--curve", "Spline"], "'Bezier', 'PolyChain'"),
        ("training/train_curve_pam.py", ["--inner_iters_perm", "0"], "'0' is not a whole number above 0"),
        ("training/train_curve_pam.py", ["--val_freq", "1", "2", "3"], "one number or two"),
        ("training/train_model_adversarial.py", ["--epsilon=-1/255"], "'-1/255' is not between 0 and 1"),
        ("training/train_model_adversarial.py", ["--epsilon", "8"], "'8' is not between 0 and 1, e.g. 8/255"),
        ("evaluation/eval_curve.py", ["--num_points", "1"], "2 or above"),
        ("evaluation/make_tables.py", ["--seed_a", "1", "3"], "a pair is one of each"),
        ("training/train_model.py", ["--dataset", "CIFAR11"], "there is no dataset 'CIFAR11': use one of CIFAR10"),
        ("visualization/viz_curve_on_plane.py", ["--epochs", "0"], "spans no plane"),
        ("visualization/viz_adversarial_curve.py", ["--alignment", "pam_corr"], "PAM is for plain networks"),
        (
            "visualization/layerwise_mean_correlation/viz_align_models.py",
            ["--alignment", ""],
            "--alignment names matches",
        ),
        ("visualization/viz_plane.py", ["--alignment", ""], "there is no plane"),
        ("evaluation/eval_plane_with_alignment.py", ["--alignment", ""], "there is no plane"),
        ("evaluation/eval_plane_with_curve.py", ["--epochs_curve", "0"], "a straight line spans no plane"),
        ("visualization/viz_plane.py", ["--cmap", "rainbows"], "matplotlib has no colour map 'rainbows'"),
        ("visualization/viz_curve.py", ["--seed_a", "1", "1", "--seed_b", "2", "2"], "name a pair twice"),
        ("visualization/viz_curve.py", ["--interp", "linear"], "unrecognized arguments: --interp linear"),
        ("visualization/viz_plane.py", ["--dir", "model_data/curves"], "is not in the place of a folder that this"),
        ("visualization/viz_curve.py", ["--dir_nothing", "somewhere"], "is not in the place of a folder that this"),
        ("training/train_curve.py", ["--dir_models", "model_dicts/curve_models"], "is not in the place of"),
        ("training/train_model.py", ["--ckpt", "nothing.pt"], "there is no file 'nothing.pt'"),
        ("training/train_curve_pam.py", ["--resume", __file__], "--resume takes no file here"),
        ("evaluation/eval_plane_with_alignment.py", ["--alignment_path", __file__], "is a file, where a folder is"),
        ("alignment/align_models.py", ["--adv_flag", "perhaps"], "'perhaps' is neither True nor False"),
        ("training/train_curve.py", ["--init_linear_off", "--num_bends", "2"], "has none between its ends"),
    ],
)
def test_bad_arguments_end_with_code_2(capsys, tmp_path, script, flags, message):
    code, line = fails(capsys, script, *flags, "--root", tmp_path)
    assert code == 2
    assert message in line


def test_networks_and_curves_of_other_epochs_are_named(capsys, small):
    code, line = fails(capsys, "training/train_curve.py", *small, "--epochs_model", 250)
    assert code == 1
    assert "checkpoint_seed_01-250.pt does not exist; there is one of 3 epochs: --epochs_model 3, or make it" in line
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, "--epochs_model", 3, "--epochs_curve", 250)
    assert "does not exist; there is one of 2 epochs: --epochs_curve 2, or make it with: python training" in line


def test_missing_evaluation_names_the_command(capsys, workspace):
    flags = ["--dataset", "bars", "--root", workspace, "--epochs", 77]
    for script in ("visualization/viz_curve.py", "evaluation/make_tables.py"):
        code, line = fails(capsys, script, *flags)
        assert code == 1
        assert "make it with: python evaluation/eval_curve.py" in line


@pytest.mark.parametrize("content", ["truncated", "foreign", "object", "ResNet32", "classes"])
def test_networks_that_cannot_be_used(capsys, small, workspace, content):
    path = workspace / "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_02-3.pt"
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif content == "foreign":
        path.write_bytes(b"something else")
    elif content == "object":
        torch.save(MODELS["TinyTen"](4), path)
    else:
        model = MODELS["ResNet32"](4) if content == "ResNet32" else MODELS["TinyTen"](10)
        torch.save({"epoch": 3, "model_state": model.state_dict()}, path)
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3)
    assert code == 1
    assert str(path) in line
    is_whole = content in ("object", "ResNet32", "classes")  # and stays where it is
    assert ("move it away, and make it anew with: python training/train_model.py" in line) != is_whole


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_an_image_that_cannot_be_read(capsys, tmp_path, content):
    write_image_folder(tmp_path / "bars", train=3, test=1)
    path = tmp_path / "bars/train/class0/001.png"
    path.write_bytes(content)
    code, line = fails(capsys, "data/prepare.py", "--dataset", "bars", "--data_path", tmp_path)
    assert code == 1
    assert f"{path} is not an image" in line
    assert line.endswith("; put a sound image in its place, or move it out of the dataset")


def test_robust_networks_are_not_mistaken_for_plain_ones(capsys, small, workspace):
    dicts = workspace / "model_dicts"
    shutil.copytree(dicts / "basic_models", dicts / "adversarial_models")
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, "--adversarial")
    assert code == 1
    assert line.endswith("is a plain network, not a robust one; the two kinds have stages and folders of their own")
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, "--transform", "Adversarial")
    assert "the transform TinyTen, which normalizes images unlike the transform Adversarial; use the same" in line


@pytest.mark.parametrize("kind", ["other model", "not a permutation", "text"])
def test_a_match_that_is_none(capsys, small, workspace, kind):
    path = workspace / "model_dicts/paired_models/TinyTen/bars/match_corr_seeds_01_02.npy"
    if kind == "other model":
        spec = permutation_spec(MODELS["ResNet32"](4))
        np.save(path, padded_rows(rows_from_permutations(spec, spec.identity())))
    elif kind == "not a permutation":
        table = np.load(path)
        table[3, 0] = table[3, 1]
        np.save(path, table)
    else:
        path.write_text("1 2 3")
    curve = ["--alignment", "corr", "--epochs_model", 3]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    assert code == 1
    assert str(path) in line
    is_whole = kind == "other model"  # and stays where it is
    assert ("move it away, and make it anew with: python alignment/align_models.py" in line) != is_whole


def test_a_match_for_other_networks_is_refused(capsys, small, workspace):
    run("training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1, "--seed", 1, "--overwrite")
    run("training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1, "--seed", 2, "--overwrite")
    code, line = fails(capsys, "training/train_curve.py", *small, "--alignment", "corr", "--epochs_model", 2)
    assert code == 1
    assert "was made for other networks" in line
    assert "make it anew with: python alignment/align_models.py" in line
    assert line.endswith(" --overwrite")


def test_another_match_is_not_overwritten(capsys, small, workspace):
    path = workspace / "model_dicts/paired_models/TinyTen/bars/match_corr_seeds_01_02.npy"
    table = np.load(path)
    table[0, :16] = np.roll(table[0, :16], 1)
    np.save(path, table)
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3)
    assert code == 1
    assert line.endswith("holds another match; add --overwrite to replace it, or --align_name for a new one")
    np.testing.assert_array_equal(np.load(path), table)
    run("alignment/align_models.py", *small, "--epochs", 3, "--overwrite")
    assert not np.array_equal(np.load(path), table)
    permutations_from_rows(permutation_spec(MODELS["TinyTen"](4)), [row[row >= 0] for row in np.load(path)])


def test_pam_of_a_match_that_lost_its_run(capsys, small, workspace):
    (workspace / "model_dicts/paired_models/TinyTen/bars/match_pam_corr_seeds_01_02.npy").write_bytes(b"")
    flags = ["--epochs_model", 3, "--alignment", "corr", "--inner_iters_perm", 1, "--inner_iters_phi", 1]
    code, line = fails(capsys, "training/train_curve_pam.py", *small, *flags)
    assert code == 1
    assert "is there, but not the run that found it; use the same flags, or --overwrite to make it anew" in line


def test_other_flags_than_before(capsys, small):
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--lr", "0.05")
    assert code == 1
    assert "was made with lr 0.1 (now 0.05); use the same flags, or --overwrite to make it anew" in line
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 9, "--lr_drop", 1)
    assert "add --resume to go on, or --overwrite to begin anew" in line
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1)
    assert "at epoch 3 already" in line
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--num_points", 7, "--no-use_test"]
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, *flags)
    says = "use_test True (now False), num_points 5 (now 7); use the same flags, or --overwrite to make"
    assert says in line


def test_a_curve_between_other_networks(capsys, small, workspace):
    run("training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--seed", 2, "--lr", 0.05, "--overwrite")
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--num_points", 5]
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, *flags)
    assert code == 1
    assert "learned between other networks" in line
    assert "make it anew with: python training/train_curve.py" in line
    assert line.endswith(" --overwrite")
    curve = ["--epochs_model", 3, "--epochs", 4, "--resume"]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    assert "was made from other networks" in line


def test_learning_rates_that_are_too_large(capsys, flags, tmp_path):
    for rate, says in (
        ("1e30", "diverged in epoch 1 (nothing was saved); try a smaller learning rate"),
        ("1e39", "the learning rate of epoch 1 would be 1e+39"),
    ):
        code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 5, "--lr", rate)
        assert code == 1
        assert says in line
        assert not list(tmp_path.rglob("*.pt"))


def test_compiling_without_a_compiler(tmp_path, data_path):
    command = [sys.executable, REPOSITORY / "training/train_model.py", "--dataset", "bars", "--data_path", data_path]
    command += ["--root", tmp_path, "--device", "cpu", "--compile"]
    result = processes.run(*command, env=os.environ | {"CXX": str(tmp_path / "none")})
    assert result.returncode == 2
    assert "--compile cannot compile here" in result.stderr.splitlines()[-1]
    assert "apt install g++" in result.stderr
    assert "Traceback" not in result.stderr
