"""Command lines of the original code: they parse here, and mean the same."""

import re
import shlex

import numpy as np
import pytest
import torch
from conftest import same
from stages import PUBLISHED, fails, run, stage

from models import MODELS
from utils.stages import hints
from utils.stages.layout import Layout

SHARED = {
    "PAIR": "--seed_a 1 --seed_b 2",
    "DATA": "--dataset CIFAR100 --transform TinyTen --data_path data/ --batch_size 128 --num-workers 4 --use_test"
    " --model TinyTen",
    "ROBUST": "--dataset CIFAR100 --transform Adversarial --data_path data/ --batch_size 128 --model TinyTen",
    "SGD": "--save_freq 200 --lr 0.1 --wd 5e-4 --lr_decay 0.9996 --lr_drop 20 --seed 3 --ckpt CHECKPOINT",
    "PATH": "--epochs_model 250 --epochs_curve 250 --num_points 33 --alignment corr --seed 2 --dir_endpoints nets"
    " --dir_midpoints curves --dir out",
    "PAIRS": "--dataset CIFAR100 --model TinyTen ResNet32 GoogLeNet --seed_a 1 3 5 --seed_b 2 4 6 --alignment corr"
    " --epochs 200 200 20",
}
# One a script, with the flags that it has besides those of its README, and what they come to; a folder's name, the
# folder that replaces it. CHECKPOINT is a file.
COMMANDS = """
training/train_model.py DATA SGD --epochs 200 --val_freq 1 --dir model_dicts/basic_models/ --dir2 histories
    seed=3 resume=CHECKPOINT models:model_dicts/basic_models model_history:histories
training/train_model_adversarial.py ROBUST SGD --epochs 200 --dir model_dicts/adversarial_models/
    robust=True transform=Adversarial resume=CHECKPOINT models:model_dicts/adversarial_models
training/train_curve.py DATA SGD PAIR --epochs 200 --val_freq 1 --curve_type PolyChain --num_bends 4 --fix_start \\
    --fix_end --init_linear_off --epochs_model 200 --alignment '' --dir_models nets --dir_alignment matches \\
    --dir a --dir2 b
    curve=PolyChain num_bends=4 fix_start=True fix_end=True init_linear_off=True resume=CHECKPOINT \\
    models:nets matches:matches curves:a curve_history:b
training/train_curve_adversarial.py ROBUST PAIR --epochs 200 --momentum 0.8 --alignment corr
    robust=True momentum=0.8 alignment=corr epochs=200
training/train_curve_pam.py DATA PAIR --curve_type Bezier --num_bends 3 --fix_start --fix_end --init_linear_off \\
    --val_freq 5 10 --dir model_dicts/curve_models/ --dir_models model_dicts/basic_models/ --alignment corr
    curve=Bezier init_linear_off=True val_freq=[5,10] alignment=corr models:model_dicts/basic_models \\
    curves:model_dicts/curve_models
alignment/align_models.py DATA PAIR --seed 1 --epochs 250 --align_name corr --model_path nets --dir matches \\
    --dir2 means --adv_flag
    robust=True models:nets matches:matches correlations:means
alignment/align_googlenet.py --dataset CIFAR100 --model GoogLeNet PAIR --adv_flag False \\
    --dir model_data/paired_models/ --dir2 model_dicts/paired_models/
    robust=False matches:model_dicts/paired_models correlations:model_data/paired_models
alignment/align_models.py ROBUST PAIR --epochs 200 --model_path model_dicts/adversarial_models/ \\
    --dir model_dicts/adversarial_paired_models/
    robust=True transform=Adversarial attack=None models:model_dicts/adversarial_models \\
    matches:model_dicts/adversarial_paired_models
alignment/align_models.py ROBUST PAIR --epochs 200 --model_path=model_dicts/adversarial_models
    robust=True transform=Adversarial attack=None models:model_dicts/adversarial_models
alignment/align_models.py ROBUST PAIR --epochs 200 --dir2 model_data/adversarial_paired_models/
    robust=True transform=Adversarial attack=None correlations:model_data/adversarial_paired_models
alignment/align_models_w2.py DATA PAIR --epochs 250 --model_path model_dicts/basic_models/
    method=w2_pre align_name=w2_pre models:model_dicts/basic_models
alignment/align_models_w2.py DATA PAIR --epochs 250 --pre_act
    method=w2_post align_name=w2_post
alignment/align_along_curve.py DATA PAIR --alignment corr --point_t 0.5 --epochs_model 250 --epochs_curve 250 \\
    --seed 1 --dir_endpoints nets --dir_midpoints curves --dir_alignment matches --dir out
    point_t=0.5 models:nets curves:curves matches:matches correlations:out
evaluation/eval_curve.py DATA PAIR PATH --curve_type Bezier
    num_points=33 seed=2 models:nets curves:curves evaluated:out
evaluation/eval_adversarial_curve.py DATA PAIR PATH --eval_train
    eval_train=True models:nets curves:curves evaluated:out
evaluation/eval_adversarial_curve.py DATA PAIR PATH --eval_train True
    eval_train=True models:nets curves:curves evaluated:out
evaluation/eval_curve.py DATA PAIR PATH --lr 0.1 --eval_train False
    eval_train=False models:nets curves:curves evaluated:out
evaluation/eval_plane_with_curve.py DATA PAIR PATH
    num_points=33 models:nets curves:curves planes_with_curve:out
evaluation/eval_plane_with_alignment.py DATA PAIR --epochs 250 --alignment_type w2_pre --alignment_path matches \\
    --dir out --num_points 17
    epochs_model=250 alignment=w2_pre matches:matches planes_with_alignment:out
visualization/viz_curve.py PAIRS --dir model_data/curves/
    pairs=[(1,2),(3,4),(5,6)] evaluated:model_data/curves
visualization/viz_adversarial_curve.py PAIRS --dir model_data/adversarial_curves/ \\
    --dir_training model_data/training/adversarial_curve_models/same_seed/
    evaluated:model_data/adversarial_curves curve_history:model_data/training/adversarial_curve_models/same_seed
visualization/viz_curve_on_plane.py PAIRS --dir planes/ --dir_curves model_data/curves --interp bicubic
    epochs_of={'TinyTen':[200],'ResNet32':[200],'GoogLeNet':[20]} planes_with_curve:planes \\
    evaluated:model_data/curves
visualization/layerwise_mean_correlation/viz_align_along_curves.py PAIRS --dir means/
    epochs_of={'TinyTen':[200],'ResNet32':[200],'GoogLeNet':[20]} correlations:means
visualization/viz_plane.py --dataset CIFAR100 --model TinyTen PAIR --alignment_type corr --epochs 200 --dir planes \\
    --interp bicubic
    alignment=['corr'] planes_with_alignment:planes
visualization/layerwise_mean_correlation/viz_align_models.py --dataset CIFAR100 --model TinyTen ResNet32 PAIR \\
    --alignment corr w2_pre --epochs 200
    alignment=['corr','w2_pre'] model=['TinyTen','ResNet32']
"""
COMMANDS = re.findall(r"^(\S+) (.*)\n    (.*)$", COMMANDS.replace(" \\\n   ", ""), re.MULTILINE)


@pytest.mark.parametrize("script, flags, meaning", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_commands(script, flags, meaning, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.touch()
    words = " ".join(SHARED.get(word, word) for word in flags.split(" ")).replace("CHECKPOINT", str(checkpoint))
    args = stage(script)[0](shlex.split(words))
    folders = {f"{kind}:{folder}" for kind, folder in args.replaced.items()}
    values = {part for part in meaning.replace("CHECKPOINT", str(checkpoint)).split() if "=" in part}
    assert folders == {part for part in meaning.split() if "=" not in part}
    for name, value in (part.split("=", 1) for part in values):
        assert str(getattr(args, name)).replace(" ", "") == value, name


def test_those_of_its_readme():
    for _, script, *flags in map(shlex.split, PUBLISHED):
        args = stage(script)[0](flags)
        for name, word in zip(flags[::2], flags[1::2], strict=True):
            value = float(word) if word[:1].isdigit() else word
            assert getattr(args, name[2:]) in (value, [value]), name
    assert (args.epochs_model, args.epochs_curve, args.num_points) == (250, 250, 65)


def test_defaults():
    """They suit one who tries this code, and are not all the original's."""
    for script, batch_size in (("training/train_model.py", 128), ("training/train_curve_adversarial.py", 128)):
        args = stage(script)[0]([])
        assert (args.dataset, args.model, args.batch_size) == ("FashionMNIST10k", "TinyTen", batch_size)
    for script in ("alignment/align_models.py", "evaluation/eval_curve.py"):
        assert stage(script)[0]([]).batch_size == 512
    args = stage("visualization/viz_curve.py")[0]([])
    assert (args.dataset, args.model, args.pairs) == ("FashionMNIST10k", ["TinyTen"], [(1, 2)])


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
