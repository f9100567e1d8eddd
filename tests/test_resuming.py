"""Stages that were finished, stopped or killed before: they go on as if nothing had happened."""

import shutil

import pytest
import torch
from conftest import same
from stages import fails, run

from utils import measuring


def test_two_runs_with_one_seed_are_bit_identical(small, workspace, tmp_path):
    """The other one is the second network of a process that has made two."""
    name = "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_02-3.pt"
    again = [tmp_path / "again" if flag == workspace else flag for flag in small]
    run("training/train_model.py", *again, "--epochs", 3, "--lr_drop", 1, "--seed", 2, "--val_freq", "none")
    one, other = (torch.load(root / name, weights_only=True) for root in (workspace, tmp_path / "again"))
    for part in ("model_state", "optimizer_state", "random_states"):  # validation disturbs nothing either
        assert same(one[part], other[part])
    assert [*one["record"]["command"], "--val_freq", "none"] == other["record"].pop("command")
    assert one["record"] == {**other["record"], "command": one["record"]["command"]}


def test_several_seeds_go_on_where_they_were_stopped(flags, tmp_path, capsys, monkeypatch):
    script, several = "training/train_model.py", [*flags, "--epochs", 2, "--seed", 4, 3, 6]
    monkeypatch.setenv("MAKELEVEL", "1")  # no advice, in which the folders differ

    def files():
        return {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}

    for seed in (4, 3, 6):
        run(script, *flags, "--epochs", 2, "--seed", seed)
    expected = files()
    shutil.rmtree(tmp_path / "model_dicts")
    shutil.rmtree(tmp_path / "model_data")
    evaluate = interrupt(monkeypatch, at=4)
    with pytest.raises(KeyboardInterrupt):
        run(script, *several)
    assert len(evaluate) == 4
    before = {name for name in files() if "resume" in name.name or "-2" in name.name}
    assert {name.name for name in before} == {"checkpoint_seed_04-2.pt", "checkpoint_seed_03-resume.pt"}
    code, line = fails(capsys, script, *several[:-3], 6, 4, 3)
    assert code == 1 and "checkpoint_seed_03-resume.pt is a run at epoch 1; add --resume" in line
    assert not list(tmp_path.rglob("checkpoint_seed_06*"))  # it was said before anything was done
    run(script, *several, "--resume")
    said = capsys.readouterr().out
    assert said.count("This run is finished") == 1 == said.count("Resuming after epoch 1.")
    assert files() == expected


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--seed", 3, 5, 3], "--seed 3 5 3 names a network twice"),
        (["--seed", 1, 2, "--resume", __file__], "a file is of one network, and --seed names 2"),
        (["--seed", 1, 2, "--model", "drawn.py:net"], "two networks of one seed differ, or are one"),
        (["--seed", 1, 2, "--model", "kept.py:net"], "two networks of one seed differ, or are one"),
    ],
)
def test_several_seeds_that_would_not_be_runs_of_their_own(words, why, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4))"
    begin = "import torch\n"
    (tmp_path / "kept.py").write_text(f"{begin}one = {layers}\ndef net(): return one\n")
    (tmp_path / "drawn.py").write_text(f"{begin}drawn = torch.randn(3)\ndef net(): return {layers}\n")
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 1, *words)
    assert code == 2 and why in line
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_can_be_made_longer(small, workspace, tmp_path):
    flags = ["--lr_drop", 1, "--seed", 1]
    run("training/train_model.py", *small, *flags, "--epochs", 5, "--resume")
    other = [tmp_path / "again" if flag == workspace else flag for flag in small]
    run("training/train_model.py", *other, *flags, "--epochs", 5)
    name = "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_01-5.pt"
    one, other = (torch.load(root / name, weights_only=True) for root in (workspace, tmp_path / "again"))
    assert same(one, other)


CURVE = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr"]


def interrupt(monkeypatch, at):
    """Let the evaluation number `at` stop the process; returns the list that counts them."""
    evaluate, calls = measuring.evaluate_all, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(measuring, "evaluate_all", interrupted)
    return calls


@pytest.mark.parametrize("kind", ["curve", "alignment"])
def test_a_plane_goes_on_where_it_stopped(kind, small, workspace, monkeypatch, capsys):
    script = f"evaluation/eval_plane_with_{kind}.py"
    flags = [*small, *(CURVE if kind == "curve" else CURVE[:2]), "--num_points", 3, "--bn_images", 64]
    run(script, *flags)
    (path,) = (workspace / f"model_data/loss_planes_with_{kind}").rglob("*.npz")
    expected = path.read_bytes()
    path.unlink()
    calls = interrupt(monkeypatch, at=8)  # the second point of the third row
    with pytest.raises(KeyboardInterrupt):
        run(script, *flags)
    figure = "viz_curve_on_plane" if kind == "curve" else "viz_plane"
    asked = ["--dataset", "bars", "--root", workspace, "--alignment", "corr", "--epochs", 2]
    code, line = fails(capsys, f"visualization/{figure}.py", *asked)
    assert code == 1
    assert f"{path} is not finished; go on with: python {script}" in line
    run(script, *flags)
    assert path.read_bytes() == expected
    assert len(calls) == 8 + 3
    run(f"visualization/{figure}.py", *asked)
