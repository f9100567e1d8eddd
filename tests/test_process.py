"""A stage as a process among others: signals, pipes, encodings, folders that cannot be written, and what it says."""

import functools
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
import torch
from stages import REPOSITORY, STAGES, fails, run, run_as_process, stage
from torch import nn

from models import MODELS, build
from utils import training
from utils.errors import FileError, UserError
from utils.losses import classification
from utils.stages import flags as stage_flags
from utils.stages import process
from utils.stages.files import expect, expect_writable

TRAIN = [sys.executable, str(REPOSITORY / "training/train_model.py")]


# In the background of a shell, interrupts are ignored, by what is started there too.
INTERRUPTIBLE = {"preexec_fn": functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}


def ended(*command, **variables):
    """What a process returns and prints, with these variables in its environment."""
    return processes.run(*command, env={**os.environ, **variables})


# --- Ctrl-C ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux' /proc to see what is being loaded")
def test_interrupted_while_it_imports():
    """Torch takes a second to load; a shell sees that the signal has ended the process, and nobody a traceback."""
    with processes.started(*TRAIN, "--epochs", 1, **INTERRUPTIBLE) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        processes.wait_until(lambda: "libtorch" in maps.read_text(), "the import of torch", process)
        process.send_signal(signal.SIGINT)
        _, err = processes.finish(process)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err


def test_interrupted_at_work(flags):
    with processes.started(*TRAIN, *flags, "--epochs", 100_000, **INTERRUPTIBLE) as process:
        processes.next_line(process)  # it says where it runs
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = processes.finish(process)
    assert process.returncode == 130
    assert (
        err.strip()
        .splitlines()[-1]
        .endswith("error: interrupted. Run it with --resume (and without --overwrite) to go on.")
    )
    assert "Traceback" not in err


def test_interrupted_in_a_callback(flags, capsys, monkeypatch):
    """In a destructor Python swallows every exception; Ctrl-C ends the stage all the same."""

    class Interrupts:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    swallowed = []
    interrupt = lambda *_: None if swallowed else Interrupts()  # noqa: E731
    monkeypatch.setattr(training.NetworkTask, "after_step", interrupt)
    monkeypatch.setattr(sys, "unraisablehook", lambda caught: swallowed.append(caught.exc_type))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 100_000)
    finally:
        signal.signal(signal.SIGINT, before)
    assert swallowed == [KeyboardInterrupt]
    assert code == 130
    assert "interrupted" in line


# --- what is printed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["--epochs", "100000"]])
def test_a_reader_who_goes(words, flags):
    """Like `head`: the process ends quietly, as one that such a signal ends."""
    with processes.started(*TRAIN, *flags, *words) as process:
        processes.next_line(process)
        process.stdout.close()
        process.stdout = None
        _, err = processes.finish(process)
    assert process.returncode in ((0, 141) if words == ["--help"] else (141,))  # a help may have been written by then
    assert "Traceback" not in err
    assert "Broken pipe" not in err


def test_any_encoding(tmp_path):
    """A table has its ± in the files, and something in its place on a screen without; so has any name of a file."""
    from conftest import write_results

    write_results(tmp_path, alignments=("null",))
    table = [sys.executable, REPOSITORY / "evaluation/make_tables.py", "--root", tmp_path]
    result = ended(*table, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "?" in result.stdout
    (file,) = tmp_path.rglob("table*.md")
    assert "±" in file.read_text(encoding="utf-8")
    assert result.stdout.isascii()
    name = tmp_path / "θ日\udcff"
    for encoding in ("ascii", "utf-8"):
        result = ended(*table[:-1], name, PYTHONIOENCODING=encoding)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("script", STAGES)
def test_without_docstrings(script, capsys):
    """As python -OO compiles a script: its help lacks the sentence about it and the example, and nothing else."""
    path = REPOSITORY / script
    helps = []
    for optimize in (0, 2):
        names = {"__name__": "stage", "__file__": str(path), "__doc__": None}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec", optimize=optimize), names)
        with pytest.raises(SystemExit):
            names["parse_args"](["--help"])
        helps.append(capsys.readouterr().out)
    usage, _, *rest = (part for part in helps[0].split("\n\n") if not part.startswith("example:"))
    assert helps[1].split("\n\n") == [usage, *rest]


def test_a_backend_that_there_is_not():
    result = ended(sys.executable, REPOSITORY / "visualization/viz_plane.py", MPLBACKEND="none of them")
    assert result.returncode == 1
    assert (
        result.stderr == "viz_plane.py: error: MPLBACKEND=none of them is not one that matplotlib knows; unset it\n"
    )


def test_a_python_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    result = ended(*TRAIN, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(
        r"train_model\.py: error: .* has no torch; activate the environment .*requirements\.txt", line
    )


# --- networks and images that do not suit each other -------------------------------------------------------


def raises_for(network, shape):
    """What a network, or its loss, raises for images of this shape, of class 3."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of any kind)
        classification(network(torch.zeros(shape)), torch.full(shape[:1], 3))
    return caught.value


@pytest.mark.parametrize(
    "network, shape, says",
    [
        (
            MODELS["TinyTen"](4),
            (2, 3, 8, 40),
            "TinyTen cannot take images of 40×8: Calculated padded .*tinyten",
        ),
        (build("torchvision:vit_b_16", 4), (2, 3, 32, 32), "VisionTransformer cannot .* 32×32: Wrong image height!"),
        (nn.Linear(3, 4), (2, 5), r"Linear cannot take samples of \(5,\): mat1 and mat2 shapes"),
        (MODELS["TinyTen"](4).train(), (1, 3, 9, 9), "the batch normalization of TinyTen needs at least two images"),
        (nn.Conv2d(3, 4, 1), (2, 3, 8, 8), r"puts out \(4, 8, 8\) for an image, where a logit for each of 4 classes"),
        (MODELS["TinyTen"](3), (2, 3, 16, 16), r"puts out \(3,\) for an image, where a logit for each of 4 classes"),
        (lambda x: None, (2, 3), "the network is no classifier: the network puts out no logits"),
    ],
)
def test_a_network_that_does_not_suit_the_images(network, shape, says):
    error = raises_for(network, shape)
    assert re.search(says, str(error) if isinstance(error, UserError) else process.misfit(error))


def test_errors_that_are_of_no_network():
    """Nor of its loss: those of this code, and of a network's own that have nothing to do with images."""

    class Broken(nn.Module):
        def forward(self, x):
            return self.layers[x]

    for error in (RuntimeError("something"), KeyError("x"), raises_for(Broken(), (2, 3))):
        assert process.misfit(error) is None


# --- before the work starts --------------------------------------------------------------------------------


def refuse_to_load(monkeypatch):
    """Let loading images be a mistake, wherever a stage has it from."""

    def load(*_, **__):
        raise AssertionError("images were loaded")

    monkeypatch.setattr(stage_flags, "load_data", load)


PAIR = ["--epochs_model", 3, "--alignment", "corr"]
WRITES = {  # folders that a stage writes to, by script
    "training/train_model.py": (["--epochs", 9], ("model_dicts/basic_models", "model_data/training/basic_models")),
    "training/train_curve.py": (PAIR, ("model_dicts/curve_models", "model_data/training/curve_models")),
    "training/train_curve_pam.py": (
        PAIR,
        ("model_dicts/paired_models", "model_dicts/curve_models", "model_data/training/curve_models"),
    ),
    "alignment/align_models.py": (["--epochs", 3], ("model_dicts/paired_models", "model_data/paired_models")),
    "alignment/align_along_curve.py": ([*PAIR, "--epochs_curve", 2], ("model_data/paired_models",)),
    "evaluation/eval_curve.py": ([*PAIR, "--epochs_curve", 2, "--overwrite"], ("model_data/curves",)),
    "evaluation/eval_plane_with_curve.py": ([*PAIR, "--epochs_curve", 2], ("model_data/loss_planes_with_curve",)),
    "evaluation/eval_plane_with_alignment.py": (PAIR, ("model_data/loss_planes_with_alignment",)),
}


@pytest.mark.parametrize("script", WRITES)
def test_folders_that_cannot_be_written(script, small, workspace, monkeypatch, capsys):
    """Each is found before images are loaded; nothing is left behind by looking."""
    flags, folders = WRITES[script]
    refuse_to_load(monkeypatch)
    for folder in folders:
        place = workspace / folder
        aside = place.with_name("aside")
        if place.exists():
            place.rename(aside)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        before = sorted(workspace.rglob("*"))
        needed = folder == "model_dicts/paired_models" and "corr" in flags  # which is then not found, first
        code, line = fails(capsys, script, *small, *flags)
        assert code == 1
        assert ("does not exist" if needed else f"{place} cannot be written to (Not a directory)") in line
        assert sorted(workspace.rglob("*")) == before
        place.unlink()
        if aside.exists():
            aside.rename(place)


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    """By permission or because the file system is read-only: whatever the system says when one tries."""
    if os.geteuid() == 0:
        with pytest.raises(FileError, match=r"/proc cannot be written to \(.+\)$"):
            expect_writable(Path("/proc/nothing/there"))
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(FileError, match=r"cannot be written to \(Permission denied\)$"):
            expect_writable(tmp_path / "a/b")
        tmp_path.chmod(0o700)
    expect_writable(tmp_path / "a/b", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [script for script in WRITES if script != "training/train_model.py"])
def test_files_that_are_missing(script, small, workspace, monkeypatch, capsys):
    """Networks, matches and curves are looked for before images are loaded."""
    flags, _ = WRITES[script]
    refuse_to_load(monkeypatch)
    dicts = workspace / "model_dicts"
    needed = [
        "basic_models/TinyTen/bars/checkpoint_seed_01-3.pt",
        "basic_models/TinyTen/bars/checkpoint_seed_02-3.pt",
    ]
    needed += ["paired_models/TinyTen/bars/match_corr_seeds_01_02.npy"] if "corr" in flags else []
    needed += (
        ["curve_models/TinyTen/bars/checkpoint_align_corr_seeds_01_02-2.pt"] if "--epochs_curve" in flags else []
    )
    for name in needed:
        (dicts / name).rename(dicts / "aside")
        code, line = fails(capsys, script, *small, *flags)
        assert code == 1
        assert f"{dicts / name} does not exist; " in line
        (dicts / "aside").rename(dicts / name)
    with pytest.raises(FileError, match="is not finished"):
        partial = workspace / "x.partial.npz"
        partial.touch()
        expect(workspace / "x.npz")


# --- what it says at the end -------------------------------------------------------------------------------


def closing(capsys, script, *flags):
    """The files that a stage says were there, and those that it says it wrote."""
    capsys.readouterr()
    run_as_process(script, *flags)
    out = capsys.readouterr().out
    found = {words: re.findall(rf"{words}\n((?:  .*\n)+)", out) for words in ("There already:", "Wrote:")}
    return [
        {line.strip().rpartition("/")[2] for part in parts for line in part.splitlines()} for parts in found.values()
    ]


def test_only_what_was_written_is_said_to_be(small, capsys):
    line = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr", "--num_points", 5]
    names = {f"curve_align_corr_seeds_01_02-2.{suffix}" for suffix in ("npz", "csv")}
    assert closing(capsys, "evaluation/eval_curve.py", *small, *line) == [names, set()]
    assert closing(capsys, "evaluation/eval_curve.py", *small, *line, "--overwrite") == [set(), names]
    train = ["--epochs", 3, "--lr_drop", 1, "--seed", 1]
    there, wrote = closing(capsys, "training/train_model.py", *small, *train)
    assert not wrote
    assert {"checkpoint_seed_01-3.pt", "loss_train_seed_01.npy"} <= there
    there, wrote = closing(capsys, "training/train_model.py", *small, *train[:-1], 2, "--epochs", 4, "--resume")
    assert not there
    assert {"checkpoint_seed_02-4.pt", "loss_train_seed_02.npy"} <= wrote


def test_what_is_printed_is_run_elsewhere(small, workspace, tmp_path, monkeypatch, capsys):
    """From another folder, with folders of the user's own that are told from there."""
    monkeypatch.chdir(tmp_path)
    (workspace / "model_dicts/basic_models").rename(tmp_path / "my nets")
    flags = [*small, "--dir_models", "my nets", "--dir_alignment", "matches"]
    run("alignment/align_models.py", *flags, "--epochs", 3)
    for _ in range(3):  # a curve, its evaluation, its figure
        words = capsys.readouterr().out.splitlines()[-1]
        program, script, *told = shlex.split(words)
        assert program == "python"
        script = os.path.relpath(script, REPOSITORY)
        epochs = ["--epochs", 1, "--overwrite"] if script == "training/train_curve.py" else []
        points = ["--num_points", 3, "--epochs_curve", 1] if script == "evaluation/eval_curve.py" else []
        run(script, *told, *epochs, *points)
    assert script == "visualization/viz_curve.py"
    assert (tmp_path / "matches/TinyTen/bars/match_corr_seeds_01_02.npy").is_file()
    assert list(workspace.rglob("curve_bars_TinyTen.png"))


@pytest.mark.parametrize(
    "variables, says",
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "there is no MASTER_ADDR beside RANK and there is no MASTER_PORT"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "there is no MASTER_ADDR beside RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
    ],
)
def test_a_part_of_what_torchrun_sets(variables, says, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=says) as caught:
        process.run(lambda: None, lambda args: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", [["--root", "~/x"], ["--root=~/x"]])
def test_a_home_is_found(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parse_args, _ = stage("training/train_model.py")
    assert parse_args([*flags, "--data_path=~"]).root == tmp_path / "x"
