"""Mistakes: each ends a stage with one line that says what is wrong and what mends it."""

import os
import sys

import numpy as np
import processes
import pytest
from conftest import write_image_folder
from stages import REPOSITORY, fails

from models import MODELS
from utils.stages.matches import padded_rows, rows_from_permutations
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


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_an_image_that_cannot_be_read(capsys, tmp_path, content):
    write_image_folder(tmp_path / "bars", train=3, test=1)
    path = tmp_path / "bars/train/class0/001.png"
    path.write_bytes(content)
    code, line = fails(capsys, "data/prepare.py", "--dataset", "bars", "--data_path", tmp_path)
    assert code == 1
    assert f"{path} is not an image" in line
    assert line.endswith("; put a sound image in its place, or move it out of the dataset")


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


def test_pam_of_a_match_that_lost_its_run(capsys, small, workspace):
    (workspace / "model_dicts/paired_models/TinyTen/bars/match_pam_corr_seeds_01_02.npy").write_bytes(b"")
    flags = ["--epochs_model", 3, "--alignment", "corr", "--inner_iters_perm", 1, "--inner_iters_phi", 1]
    code, line = fails(capsys, "training/train_curve_pam.py", *small, *flags)
    assert code == 1
    assert "is there, but not the run that found it; use the same flags, or --overwrite to make it anew" in line


def test_compiling_without_a_compiler(tmp_path, data_path):
    command = [sys.executable, REPOSITORY / "training/train_model.py", "--dataset", "bars", "--data_path", data_path]
    command += ["--root", tmp_path, "--device", "cpu", "--compile"]
    result = processes.run(*command, env=os.environ | {"CXX": str(tmp_path / "none")})
    assert result.returncode == 2
    assert "--compile cannot compile here" in result.stderr.splitlines()[-1]
    assert "apt install g++" in result.stderr
    assert "Traceback" not in result.stderr
