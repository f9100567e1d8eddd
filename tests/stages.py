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
STAGES = [
    script for script in SCRIPTS if script != "data/make_fashionmnist10k.py"
]  # by which images were packed once


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
