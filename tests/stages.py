"""Stages as tests run them: in this process, where they take a moment and not seconds."""

import importlib
from pathlib import Path

import pytest

from utils.stages import process

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("data", "training", "alignment", "evaluation", "visualization")
SCRIPTS = [
    str(path.relative_to(REPOSITORY)) for name in FOLDERS for path in sorted((REPOSITORY / name).rglob("*.py"))
]
STAGES = [script for script in SCRIPTS if not script.startswith("data/make_")]  # those packed data once

# The commands in the README of the original code
PUBLISHED = """
python training/train_model.py --dataset CIFAR10 --model TinyTen --seed 1 --batch_size 64 --lr 1E-1 --wd 5E-4 \\
    --transform TinyTen --epochs 250
python training/train_model.py --dataset CIFAR100 --model TinyTen --seed 1 --batch_size 128 --lr 1E-1 \\
    --wd 5E-4 --transform TinyTen --epochs 250
python training/train_model.py --dataset TINY-IMAGENET-200 --model TinyTen --seed 1 --batch_size 128 \\
    --lr 1E-1 --wd 5E-4 --transform TinyTen --epochs 250
python alignment/align_models.py --model TinyTen --dataset CIFAR100 --seed_a 1 --seed_b 2 --batch_size 512 \\
    --transform TinyTen --epochs 250
python alignment/align_googlenet.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --batch_size 512 \\
    --transform TinyTen --epochs 250
python training/train_curve.py --model TinyTen --dataset CIFAR100 --epochs_model 250 --seed_a 1 --seed_b 2 \\
    --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4 --alignment corr --val_freq 10 --lr_drop 20 --epochs 250
python training/train_curve_pam.py --model TinyTen --dataset CIFAR100 --epochs_model 250 --seed_a 1 --seed_b 2 \\
    --seed 1 --batch_size 128 --lr 1E-1 --wd 5E-4 --alignment '' --val_freq 10 --outer_iters 1 \\
    --inner_iters_perm 20 --inner_iters_phi 250
python evaluation/eval_curve.py --dataset CIFAR100 --model TinyTen --epochs_model 250 --epochs_curve 250 \\
    --alignment corr --seed_a 1 --seed_b 2 --batch_size 512 --epochs 250
"""
PUBLISHED = PUBLISHED.replace("\\\n", "").strip().splitlines()


def stage(script):
    """parse_args and main of a stage."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    return module.parse_args, module.main


def run(script, *flags):
    """Run a stage, errors and all."""
    parse_args, main = stage(script)
    main(parse_args([str(flag) for flag in flags]))


def run_as_process(script, *flags):
    """Run a stage as its command does: an error ends it with one line."""
    parse_args, main = stage(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(REPOSITORY / script)])
        process.run(lambda: parse_args([str(flag) for flag in flags]), main)


def fails(capsys, script, *flags):
    """Run a stage that must end with an error; return its exit code and its last line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_as_process(script, *flags)
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1
    assert "Traceback" not in "\n".join(lines)
    assert "delete" not in errors[0]
    return caught.value.code, errors[0]
