"""Command lines of the original code: they parse here, and mean the same."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same
from stages import fails, run, stage

from models import MODELS
from utils.stages import hints
from utils.stages.layout import Layout

SEEDS = "--seed_a 1 --seed_b 2"
DATA = "--dataset CIFAR100 --transform TinyTen --data_path data/ --batch_size 128 --num-workers 4 --use_test"
DATA += " --model TinyTen"
ROBUST = DATA.replace("form TinyTen", "form Adversarial")
SGD = "--save_freq 200 --lr 0.1 --wd 5e-4 --lr_decay 0.9996 --lr_drop 20 --seed 3 --ckpt {checkpoint}"
PUBLISHED = "--dataset CIFAR100 --batch_size 512 --transform TinyTen"

# Script, flags, and what they come to. {checkpoint} is a file.
COMMANDS = [
    # Those of its README
    (
        "training/train_model.py",
        "--dataset CIFAR10 --model TinyTen --seed 1 --batch_size 64 --lr 1E-1 --wd 5E-4 --transform TinyTen"
        " --epochs 250",
        {"dataset": "CIFAR10", "batch_size": 64, "lr": 0.1, "epochs": 250, "resume": False},
    ),
    (
        "training/train_model.py",
        "--dataset CIFAR100 --model TinyTen --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4 --transform TinyTen"
        " --epochs 250",
        {"dataset": "CIFAR100", "wd": 5e-4},
    ),
    (
        "training/train_model.py",
        "--dataset TINY-IMAGENET-200 --model TinyTen --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4"
        " --transform TinyTen --epochs 250",
        {"dataset": "TINY-IMAGENET-200"},
    ),
    (
        "alignment/align_models.py",
        f"--model TinyTen {PUBLISHED} {SEEDS} --epochs 250",
        {"method": "corr", "align_name": "corr", "epochs": 250, "batch_size": 512, "robust": False},
    ),
    ("alignment/align_googlenet.py", f"{PUBLISHED} {SEEDS} --epochs 250", {"model": "GoogLeNet", "method": "corr"}),
    (
        "training/train_curve.py",
        f"--model TinyTen --dataset CIFAR100 --epochs_model 250 {SEEDS} --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4"
        " --alignment corr --val_freq 10 --lr_drop 20 --epochs 250",
        {"alignment": "corr", "epochs_model": 250, "epochs": 250, "val_freq": 10, "curve": "Bezier", "num_bends": 3},
    ),
    (
        "training/train_curve_pam.py",
        f"--model TinyTen --dataset CIFAR100 --epochs_model 250 {SEEDS} --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4"
        " --alignment '' --val_freq 10 --outer_iters 1 --inner_iters_perm 20 --inner_iters_phi 250",
        {"alignment": "", "outer_iters": 1, "inner_iters_perm": 20, "inner_iters_phi": 250},
    ),
    (
        "evaluation/eval_curve.py",
        "--dataset CIFAR100 --model TinyTen --epochs_model 250 --epochs_curve 250 --alignment corr --seed_a 1"
        " --seed_b 2 --batch_size 512 --epochs 250",
        {"epochs_model": 250, "epochs_curve": 250, "alignment": "corr"},
    ),
    # One a script, with the flags that it has besides
    (
        "training/train_model.py",
        f"{DATA} {SGD} --epochs 200 --val_freq 1 --dir model_dicts/basic_models/"
        " --dir2 model_data/training/basic_models/",
        {
            "replaced": {
                "models": Path("model_dicts/basic_models"),
                "model_history": Path("model_data/training/basic_models"),
            },
            "resume": Path("{checkpoint}"),
            "seed": 3,
        },
    ),
    (
        "training/train_model_adversarial.py",
        f"{ROBUST} {SGD} --epochs 200 --dir model_dicts/adversarial_models/",
        {"robust": True, "transform": "Adversarial", "resume": Path("{checkpoint}")},
    ),
    (
        "training/train_curve.py",
        f"{DATA} {SGD} {SEEDS} --epochs 200 --val_freq 1 --curve_type PolyChain --num_bends 4 --fix_start --fix_end"
        " --init_linear_off --epochs_model 200 --alignment '' --dir_models nets --dir_alignment matches --dir a"
        " --dir2 b",
        {
            "curve": "PolyChain",
            "num_bends": 4,
            "fix_start": True,
            "fix_end": True,
            "init_linear_off": True,
            "replaced": {
                "models": Path("nets"),
                "matches": Path("matches"),
                "curves": Path("a"),
                "curve_history": Path("b"),
            },
            "resume": Path("{checkpoint}"),
        },
    ),
    (
        "training/train_curve_adversarial.py",
        f"{ROBUST} {SEEDS} --epochs 200 --momentum 0.8 --alignment corr",
        {"robust": True, "momentum": 0.8, "alignment": "corr", "epochs": 200},
    ),
    (
        "training/train_curve_pam.py",
        f"{DATA} {SEEDS} --curve_type Bezier --num_bends 3 --fix_start --fix_end --init_linear_off --val_freq 5 10"
        " --dir model_dicts/curve_models/ --dir_models model_dicts/basic_models/ --alignment corr",
        {"curve": "Bezier", "init_linear_off": True, "val_freq": [5, 10], "alignment": "corr"},
    ),
    (
        "alignment/align_models.py",
        f"{DATA} {SEEDS} --seed 1 --epochs 250 --align_name corr --model_path nets --dir matches --dir2 means"
        " --adv_flag",
        {
            "robust": True,
            "replaced": {"models": Path("nets"), "matches": Path("matches"), "correlations": Path("means")},
        },
    ),
    (
        "alignment/align_googlenet.py",
        f"{DATA.replace('model TinyTen', 'model GoogLeNet')} {SEEDS} --adv_flag False --dir model_data/paired_models/"
        " --dir2 model_dicts/paired_models/",
        {
            "robust": False,
            "replaced": {
                "matches": Path("model_dicts/paired_models"),
                "correlations": Path("model_data/paired_models"),
            },
        },
    ),
    *(
        (
            "alignment/align_models.py",
            f"{ROBUST} {SEEDS} --epochs 200 {folders}",
            {"robust": True, "transform": "Adversarial", "attack": None},
        )
        for folders in (
            "--model_path model_dicts/adversarial_models/ --dir model_dicts/adversarial_paired_models/",
            "--model_path=model_dicts/adversarial_models",
            "--dir2 model_data/adversarial_paired_models/",
        )
    ),
    (
        "alignment/align_models_w2.py",
        f"{DATA} {SEEDS} --epochs 250 --model_path model_dicts/basic_models/",
        {"method": "w2_pre", "align_name": "w2_pre"},
    ),
    (
        "alignment/align_models_w2.py",
        f"{DATA} {SEEDS} --epochs 250 --pre_act",
        {"method": "w2_post", "align_name": "w2_post"},
    ),
    (
        "alignment/align_along_curve.py",
        f"{DATA} {SEEDS} --alignment corr --point_t 0.5 --epochs_model 250 --epochs_curve 250 --seed 1"
        " --dir_endpoints nets --dir_midpoints curves --dir_alignment matches --dir out",
        {
            "point_t": 0.5,
            "replaced": {
                "models": Path("nets"),
                "curves": Path("curves"),
                "matches": Path("matches"),
                "correlations": Path("out"),
            },
        },
    ),
    *(
        (
            script,
            f"{DATA} {SEEDS} --epochs_model 250 --epochs_curve 250 --num_points 33 --alignment corr --seed 2"
            f" --dir_endpoints nets --dir_midpoints curves --dir out {more}",
            {
                "num_points": 33,
                "seed": 2,
                "replaced": {"models": Path("nets"), "curves": Path("curves"), kind: Path("out")},
            },
        )
        for script, kind, more in (
            ("evaluation/eval_curve.py", "evaluated", "--curve_type Bezier"),
            ("evaluation/eval_adversarial_curve.py", "evaluated", "--eval_train"),
            ("evaluation/eval_adversarial_curve.py", "evaluated", "--eval_train True"),
            ("evaluation/eval_curve.py", "evaluated", "--lr 0.1 --eval_train False"),
            ("evaluation/eval_plane_with_curve.py", "planes_with_curve", ""),
        )
    ),
    (
        "evaluation/eval_plane_with_alignment.py",
        f"{DATA} {SEEDS} --epochs 250 --alignment_type w2_pre --alignment_path matches --dir out --num_points 17",
        {
            "epochs_model": 250,
            "alignment": "w2_pre",
            "replaced": {"matches": Path("matches"), "planes_with_alignment": Path("out")},
        },
    ),
    *(
        (
            f"visualization/{script}.py",
            "--dataset CIFAR100 --model TinyTen ResNet32 GoogLeNet --seed_a 1 3 5 --seed_b 2 4 6 --alignment corr"
            f" --epochs 200 200 20 --dir {folder}/ {more}",
            {
                "epochs_of": {"TinyTen": [200], "ResNet32": [200], "GoogLeNet": [20]},
                "pairs": [(1, 2), (3, 4), (5, 6)],
                "replaced": replaced,
            },
        )
        for script, folder, more, replaced in (
            ("viz_curve", "model_data/curves", "", {"evaluated": Path("model_data/curves")}),
            (
                "viz_adversarial_curve",
                "model_data/adversarial_curves",
                "--dir_training model_data/training/adversarial_curve_models/same_seed/",
                {
                    "evaluated": Path("model_data/adversarial_curves"),
                    "curve_history": Path("model_data/training/adversarial_curve_models/same_seed"),
                },
            ),
            (
                "viz_curve_on_plane",
                "planes",
                "--dir_curves model_data/curves --interp bicubic",
                {"planes_with_curve": Path("planes"), "evaluated": Path("model_data/curves")},
            ),
            ("layerwise_mean_correlation/viz_align_along_curves", "means", "", {"correlations": Path("means")}),
        )
    ),
    (
        "visualization/viz_plane.py",
        "--dataset CIFAR100 --model TinyTen --seed_a 1 --seed_b 2 --alignment_type corr --epochs 200 --dir planes"
        " --interp bicubic",
        {"alignment": ["corr"], "replaced": {"planes_with_alignment": Path("planes")}},
    ),
    (
        "visualization/layerwise_mean_correlation/viz_align_models.py",
        "--dataset CIFAR100 --model TinyTen ResNet32 --seed_a 1 --seed_b 2 --alignment corr w2_pre --epochs 200",
        {"alignment": ["corr", "w2_pre"], "model": ["TinyTen", "ResNet32"]},
    ),
]


@pytest.mark.parametrize("script, flags, meaning", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_commands(script, flags, meaning, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.touch()
    parse_args, _ = stage(script)
    args = vars(parse_args(shlex.split(flags.replace("{checkpoint}", str(checkpoint)))))
    meaning = {name: checkpoint if value == Path("{checkpoint}") else value for name, value in meaning.items()}
    assert {name: args[name] for name in meaning} == meaning


@pytest.mark.parametrize(
    "script, dataset, batch_size",
    [
        ("training/train_model.py", "FashionMNIST10k", 128),
        ("training/train_curve_adversarial.py", "FashionMNIST10k", 128),
        ("alignment/align_models.py", "FashionMNIST10k", 512),
        ("evaluation/eval_curve.py", "FashionMNIST10k", 512),
        ("visualization/viz_curve.py", "FashionMNIST10k", None),
    ],
)
def test_defaults(script, dataset, batch_size):
    """They suit one who tries this code, and are not all the original's."""
    args = vars(stage(script)[0]([]))
    assert (args["dataset"], args.get("batch_size")) == (dataset, batch_size)
    if batch_size is None:
        assert (args["model"], args["pairs"]) == (["TinyTen"], [(1, 2)])
    else:
        assert args["model"] == "TinyTen"


def test_what_is_said_of_those_that_change_nothing():
    for script, flag, words in (
        ("evaluation/eval_curve.py", ["--lr", "0.1"], "--lr: nothing is learned here."),
        ("visualization/viz_plane.py", ["--interp", "bicubic"], "--interp: planes are drawn by contours"),
    ):
        parse_args, _ = stage(script)
        assert any(note.startswith(words) for note in parse_args(flag).notes)
        assert not parse_args([]).notes


@pytest.mark.parametrize("told", [["--eval_train"], ["--eval_train", "True"]])
def test_a_flag_with_a_value_is_advised_without(told):
    parser = hints.declared("evaluation/eval_curve.py")
    assert parser.parse_args(told).eval_train is True
    assert parser.words("eval_train", True) == ["--eval_train"]
    assert parser.words("eval_train", False) == []


def test_no_help_shows_them(capsys):
    for script in sorted({command[0] for command in COMMANDS}):
        with pytest.raises(SystemExit):
            stage(script)[0](["--help"])
        words = capsys.readouterr().out.split()
        for flag in ("--ckpt", "--model_path", "--adv_flag", "--dir_endpoints", "--curve_type", "--interp"):
            assert flag not in words


# --- what they do ------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_a_file(flags, tmp_path, capsys):
    """It ends as one that never stopped, and under another root too."""
    flags = [*flags[:4], *flags[6:], "--lr_drop", 1]
    run("training/train_model.py", *flags, "--root", tmp_path / "a", "--epochs", 4, "--save_freq", 2)
    layouts = [Layout(tmp_path / name, "TinyTen", "bars") for name in "ab"]
    half = tmp_path / "half.pt"
    layouts[0].endpoint(1, 2).rename(half)
    run(
        "training/train_model.py", *flags, "--root", tmp_path / "b", "--epochs", 4, "--save_freq", 2, "--resume", half
    )
    assert "Resuming after epoch 2." in capsys.readouterr().out
    whole, resumed = (torch.load(layout.endpoint(1, 4), weights_only=True) for layout in layouts)
    assert same(whole, resumed)
    for more, says in (
        (["--epochs", 4, "--seed", 2], "was made with seed 1 (now 2)"),
        (["--epochs", 2, "--root", tmp_path / "c"], "is at epoch 2; a run of 2 epochs cannot go on from it"),
    ):
        code, line = fails(capsys, "training/train_model.py", *flags, "--root", tmp_path / "b", "--ckpt", half, *more)
        assert code == 1
        assert says in line


def test_a_run_goes_on_from_a_checkpoint_of_other_code(flags, tmp_path, capsys):
    """Which holds an epoch, a network and its optimizer, as the original's does."""
    network = MODELS["TinyTen"](4)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    network(torch.zeros(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    stored = {"epoch": 2, "model_state": network.state_dict(), "optimizer_state": optimizer.state_dict()}
    torch.save(stored, tmp_path / "other.pt")
    command = ["training/train_model.py", *flags, "--epochs", 3]
    run(*command, "--resume", tmp_path / "other.pt")
    assert "Resuming after epoch 2 from third-party code" in capsys.readouterr().out
    made = torch.load(Layout(tmp_path, "TinyTen", "bars").endpoint(1, 3), weights_only=True)
    assert made["epoch"] == 3
    assert made["optimizer_state"]["param_groups"][0]["weight_decay"] == 5e-4
    for name, change in (
        ("optimizer_state", {"state": {}, "param_groups": []}),
        ("optimizer_state", {"state": {i: {"momentum_buffer": torch.zeros(1)} for i in range(34)}}),
        ("optimizer_state", None),
        ("epoch", "two"),
    ):
        torch.save({**stored, name: change}, tmp_path / "other.pt")
        code, line = fails(capsys, *command, "--seed", 2, "--resume", tmp_path / "other.pt")
        assert code == 1
        assert re.search(rf"{tmp_path / 'other.pt'} (holds no|does not hold)", line)


def test_results_go_where_the_flags_say(small, workspace, tmp_path):
    """And are drawn from there; folders are under the current one, whatever the root."""
    networks = workspace / "model_dicts/basic_models"
    places = [tmp_path / name for name in ("matches", "means", "evaluated")]
    align = ["--model_path", networks, "--dir", places[0], "--dir2", places[1]]
    other = [tmp_path / "other" if flag == workspace else flag for flag in small]
    run("alignment/align_models.py", *other, "--epochs", 3, *align)
    assert {path.name for path in places[0].rglob("*.npy")} == {"match_corr_seeds_01_02.npy"}
    assert len(list(places[1].rglob("*aligned_mean*.npy"))) == 2
    line = ["--epochs_model", 3, "--epochs_curve", 0, "--num_points", 3, "--alignment", "corr"]
    ends = ["--dir_endpoints", networks, "--dir_alignment", places[0], "--dir", places[2]]
    run("evaluation/eval_curve.py", *other, *line, *ends)
    (table,) = places[2].rglob("*.npz")
    assert np.load(table)["t"].shape == (3,)
    drawn = ["--dataset", "bars", "--root", tmp_path / "other", "--alignment", "corr"]
    run("visualization/viz_curve.py", *drawn, "--epochs", 0, "--dir", places[2])
    run("visualization/layerwise_mean_correlation/viz_align_models.py", *drawn, "--dir", places[1])
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"figures"}


def test_pam_begins_off_the_line(small, workspace):
    flags = [*small, "--epochs_model", 3, "--inner_iters_perm", 1, "--inner_iters_phi", 1, "--lr", 0.01]
    layout = Layout(workspace, "TinyTen", "bars")
    points = {}
    for more in ([], ["--init_linear_off"]):
        run("training/train_curve_pam.py", *flags, "--overwrite", *more)
        points[bool(more)] = torch.load(layout.curve("pam_", 1, 2, 1), weights_only=True)["model_state"]
    ends = [torch.load(layout.endpoint(seed, 3), weights_only=True)["model_state"] for seed in (1, 2)]
    name = "layers.3.conv.weight"  # permuted or not, its norm stays
    on, off = (points[is_off][name].norm() for is_off in (False, True))
    assert on < max(end[name].norm() for end in ends) < off * 2
    assert not torch.allclose(points[False][name], points[True][name], atol=0.05)
