"""What --help says of every script, and that stages agree on what they do by default."""

import argparse
import os
import re
import runpy

import pytest
from stages import REPOSITORY, STAGES, stage

from utils.stages.parser import TITLES, Parser

NEEDED = {"training/import_checkpoint.py": [__file__], "evaluation/export_point.py": ["--out", "merged.pt"]}


class Shown(Exception):
    """Carries the parser of a script whose flags would now be read."""


def parser_of(script, monkeypatch):
    def show(parser, *_):
        raise Shown(parser)

    with monkeypatch.context() as patch, pytest.raises(Shown) as caught:
        patch.setattr(Parser, "parse_args", show)
        stage(script)[0]([])
    return caught.value.args[0]


@pytest.mark.parametrize("script", STAGES)
def test_every_flag_is_explained_in_its_group(script, monkeypatch):
    """With what holds where it is not given."""
    parser = parser_of(script, monkeypatch)
    groups = {action: group.title for group in parser._action_groups for action in group._group_actions}
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        assert groups[action] in TITLES.values(), action.dest
        assert len(action.help.split()) > 1, action.dest
        telling = "default: " in action.help or "instead of" in action.help or "everything" in (parser.epilog or "")
        assert action.default is not None or action.required or telling, action.dest


@pytest.mark.parametrize("script", STAGES)
def test_a_help_has_an_example_that_works(script, monkeypatch):
    text = parser_of(script, monkeypatch).format_help()
    (example,) = (line for line in text.splitlines() if line.startswith("  python "))
    _, named, *flags = example.split()
    assert named == script
    with monkeypatch.context() as patch:
        patch.chdir(REPOSITORY)
        stage(script)[0]([__file__ if word == "FILE" else word for word in flags])


BENCHMARKS = [
    path
    for path in sorted((REPOSITORY / "benchmarks").rglob("*.py"))
    if re.search(r"^def parse_args\(", path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: str(path.relative_to(REPOSITORY / "benchmarks")))
def test_every_flag_of_a_benchmark_is_explained(path, monkeypatch):
    def show(parser, *_):
        raise Shown(parser)

    monkeypatch.setattr(os, "environ", dict(os.environ))  # in which some of them put things at once
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", show)
    monkeypatch.syspath_prepend(REPOSITORY)
    with pytest.raises(Shown) as caught:
        runpy.run_path(str(path), run_name="benchmark")["parse_args"]([])
    (parser,) = caught.value.args
    assert parser.description
    for action in parser._actions:
        assert action.help, action.dest
    assert "usage: " in parser.format_help()


def test_the_benchmarks_are_some():
    assert {path.name for path in BENCHMARKS} >= {"bench.py", "cost.py", "gpu.py", "networks.py", "repair.py"}


def epochs_by_default(script, *flags):
    args = vars(stage(script)[0]([*NEEDED.get(script, []), *flags]))
    told = {args[name] for name in ("epochs_model", "epochs_curve", "inner_iters_phi") if name in args}
    if "epochs_of" in args:
        return {epochs for numbers in args["epochs_of"].values() for epochs in numbers}
    return told | ({args["epochs"]} - {None} if "epochs" in args else set())


def test_all_stages_have_one_number_of_epochs():
    """As published: without a flag, each finds what the one before it has made."""
    for script in STAGES:
        robust = "adversarial" in script
        assert epochs_by_default(script) <= {200 if robust else 250}, script
    for script in ("alignment/align_models.py", "alignment/align_many.py"):
        assert epochs_by_default(script, "--adversarial") == {200}
    robust = ["--model", "GoogLeNet"]
    assert epochs_by_default("training/train_curve_adversarial.py", *robust) == {200, 20}
    assert epochs_by_default("training/train_curve_adversarial.py", *robust, "--epochs", "7") == {200, 7}
    assert epochs_by_default("evaluation/eval_adversarial_curve.py", *robust) == {200, 20}
    assert epochs_by_default("visualization/viz_adversarial_curve.py", *robust) == {20}
    assert epochs_by_default("evaluation/eval_curve.py", "--epochs", "7") == {7}
