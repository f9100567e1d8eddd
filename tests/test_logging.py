"""Scalars for TensorBoard: what is written of each epoch, and that a resumed run goes on with its own."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from stages import fails, run

from utils.stages.files import load_arrays
from utils.stages.layout import Layout, Variant


class Writer:
    """Stands in for torch's SummaryWriter: keeps what it is given, by folder, as TensorBoard would show it."""

    folders: dict = {}

    def __init__(self, folder, purge_step):
        before = self.folders.get(folder, {})
        self.shown = {name: {e: v for e, v in of.items() if e < purge_step} for name, of in before.items()}
        self.folders[folder] = self.shown
        self.first, self.is_open = purge_step, True

    def add_scalar(self, name, value, epoch):
        assert self.is_open
        assert epoch >= self.first
        self.shown.setdefault(name, {})[epoch] = value

    def flush(self):
        pass

    def close(self):
        self.is_open = False


@pytest.fixture
def logs(monkeypatch, tmp_path):
    """What has been logged, by the part of the folder's name behind --log_dir."""
    monkeypatch.setattr(Writer, "folders", {})
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    folder = tmp_path / "logs"
    return SimpleNamespace(
        folder=folder, shown=lambda: {name[len(str(folder)) + 1 :]: of for name, of in Writer.folders.items()}
    )


def test_a_network_and_a_run_that_goes_on(flags, logs, tmp_path):
    """The history and the learning rate, by epoch; one that is repeated counts once, as it was the last time."""
    train = ["training/train_model.py", *flags, "--log_dir", logs.folder, "--lr_drop", 1]
    run(*train, "--epochs", 2)
    (shown,) = logs.shown().values()
    shown["loss/train"][3] = 100.0  # of an epoch that was logged and not saved
    run(*train, "--epochs", 4, "--val_freq", 2, "--resume")
    assert list(logs.shown()) == ["basic_models/TinyTen/bars/checkpoint_seed_01"]
    (shown,) = logs.shown().values()
    layout = Layout(tmp_path, "TinyTen", "bars")
    for name, path in layout.model_history(1).items():
        values = np.load(path)
        assert len(values) == 4
        expected = {epoch: value for epoch, value in enumerate(values, start=1) if not np.isnan(value)}
        assert shown.pop(name.replace("_", "/")) == expected
    rates = [0.1 * 0.5**epoch * 0.9996**epoch for epoch in range(4)]
    assert list(shown.pop("learning_rate").values()) == pytest.approx(rates)
    assert not shown


def test_curves_and_the_phases_of_pam(small, workspace, logs):
    pair = ["--epochs_model", 3, "--log_dir", logs.folder, "--val_freq", 1]
    run("training/train_curve.py", *small, *pair, "--epochs", 1, "--alignment", "corr", "--seed", 2)
    run("training/train_curve_pam.py", *small, *pair, "--inner_iters_perm", 2, "--inner_iters_phi", 1)
    shown = logs.shown()
    stem = "curve_models/TinyTen/bars/checkpoint_align"
    epochs = {f"{stem}_corr_seeds_01_02_seed_2": 1, f"{stem}_pam_null_seeds_01_02_perm1": 2}
    epochs[f"{stem}_pam_null_seeds_01_02"] = 1
    assert {name: len(of["loss/train"]) for name, of in shown.items()} == epochs
    history = load_arrays(Layout(workspace, "TinyTen", "bars").curve_history("corr", 1, 2, Variant(seed=2)))
    del history["record"]
    of_curve = shown[f"{stem}_corr_seeds_01_02_seed_2"]
    assert {name: of_curve[name.replace("_", "/", 1)] for name in history} == {
        name: {1: value} for name, (value,) in history.items()
    }
    assert "loss/test_at_0.5" in of_curve


@pytest.mark.parametrize(
    "script", ["train_model", "train_curve", "train_model_adversarial", "train_curve_adversarial"]
)
def test_where_nothing_can_be_logged(script, monkeypatch, logs, tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder, says in ((tmp_path / "file", "is a file, where a folder is wanted"), ("/proc/logs", "be written to")):
        code, line = fails(capsys, f"training/{script}.py", "--log_dir", folder)
        assert code == 2
        assert says in line
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if tensorboard were not installed
    code, line = fails(capsys, f"training/{script}.py", "--log_dir", logs.folder)
    assert code == 2
    assert line.endswith("install it with: python -m pip install tensorboard")
