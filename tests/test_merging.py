"""What a path between two networks without batch norm is for, by the stages: repaired, exported, as an ensemble."""

import numpy as np
import pytest
import torch
from stages import fails, run
from torch import nn

import models
from evaluation import eval_plane_with_alignment
from utils.measuring import evaluate
from utils.stages.data import load_data
from utils.stages.files import let_go
from utils.stages.loading import load_network


class Plain(nn.Module):
    """A network without batch norm."""

    def __init__(self, num_classes):
        super().__init__()
        first = [nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 24), nn.ReLU()]
        self.hidden = nn.Sequential(*first, nn.Linear(24, 24), nn.ReLU())
        self.last = nn.Linear(24, num_classes)

    def forward(self, x):
        return self.last(self.hidden(x))


@pytest.fixture(scope="module")
def plain(data_path, tmp_path_factory):
    """Flags for two such networks and their match."""
    root = tmp_path_factory.mktemp("plain")
    flags = ["--dataset", "bars", "--data_path", data_path, "--root", root, "--batch_size", 32, "--model", "Plain"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "Plain", Plain)
        for seed in (1, 2):
            run("training/train_model.py", *flags, "--epochs", 2, "--lr", 0.02, "--seed", seed)
        run("alignment/align_models.py", *flags, "--epochs", 2)
        yield flags


LINE = ["--epochs_model", 2, "--epochs_curve", 0, "--alignment", "corr"]


NETWORKS = ("network 1", "network 2", "mean, aligned")


def root_of(flags):
    return flags[flags.index("--root") + 1]


def evaluated(flags, alignment="corr"):
    return np.load(root_of(flags) / f"model_data/curves/Plain/bars/curve_align_{alignment}_seeds_01_02-0.npz")


def test_a_line_is_evaluated_as_it_is_and_repaired(plain, capsys):
    """At the ends there is nothing to repair, and without batch norm nothing to interpolate."""
    run("evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3, "--repair")
    table = evaluated(plain)
    assert "accuracy_interpolated" not in table
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(table[name][[0, 2]], table[f"{name}_repaired"][[0, 2]])
    assert table["loss"][1] != table["loss_repaired"][1]
    assert "accuracy repaired" in capsys.readouterr().out
    code, line = fails(capsys, "evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3)
    assert "was made with repair True (now False)" in line


def test_the_mean_of_many_is_repaired(plain, capsys):
    """Of two networks it is the middle of their line; networks by themselves stay as they are."""
    run("evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3, "--repair", "--overwrite")
    line, many = evaluated(plain), ["alignment/align_many.py", *plain, "--epochs", 2, "--to", "reference"]
    for flags, wanted in ([], line["loss"]), (["--repair"], line["loss_repaired"]):
        capsys.readouterr()
        run(*many, *flags)
        rows = [row.split() for row in capsys.readouterr().out.splitlines()]
        losses = {name: float(next(row[2] for row in rows if row[:2] == name.split())) for name in NETWORKS}
        assert [*losses.values()] == pytest.approx([line["loss"][0], line["loss"][2], wanted[1]], abs=6e-4)


def test_planes_and_correlations_of_repaired_networks(plain):
    """At the corners of a plane there is nothing to repair, and they are the ends of the line."""
    run("evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3, "--repair", "--overwrite")
    line = evaluated(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_plane_with_alignment, "GRID", ((0, 1), (0, 1)))
        run("evaluation/eval_plane_with_alignment.py", *plain, "--epochs_model", 2, "--num_points", 3, "--repair")
    folder = root_of(plain) / "model_data/loss_planes_with_alignment/Plain/bars"
    plane = np.load(folder / "plane_align_corr_seeds_01_02.npz")
    assert plane["loss"][0, [0, 2]] == pytest.approx(line["loss"][[0, 2]], rel=1e-4)
    run("alignment/align_along_curve.py", *plain, *LINE, "--repair")
    folder = root_of(plain) / "model_data/paired_models/Plain/bars"
    assert "aligned_a" in np.load(folder / "curve_align_corr_seeds_01_02-0_t_0.5.npz")


def test_repair_is_for_networks_without_batch_norm(small, capsys):
    line = ["--epochs_model", 3, "--epochs_curve", 0, "--num_points", 2, "--repair", "--overwrite"]
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, *line)
    assert (code, "TinyTen has batch norm" in line) == (2, True)


def networks_of(flags, checkpoint):
    """A checkpoint as the stages load it, on the test images: loss and accuracy."""
    model = models.MODELS[flags[-1]](4)
    load_network(checkpoint, model, transform=flags[-1])
    return evaluate(model.to(memory_format=torch.channels_last), load_data_of(flags).test, batch_size=32)


def load_data_of(flags):
    return load_data("bars", folder=flags[flags.index("--data_path") + 1], transform=flags[-1])


@pytest.mark.parametrize("t, place", [(0.5, 1), (1.0, 2)])
def test_an_exported_point_is_the_curve_there(plain, tmp_path, capsys, t, place):
    """The checkpoint of a repaired network evaluates to the number of the path, to the last bit."""
    run("evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3, "--repair", "--overwrite")
    out = tmp_path / "point.pt"
    export = ["evaluation/export_point.py", *plain, *LINE, "--t", t, "--repair", "--out", out]
    run(*export)
    table = evaluated(plain)
    expected = table["loss_repaired"][place], table["accuracy_repaired"][place]
    assert networks_of(plain, out) == expected
    before, lock = out.read_bytes(), tmp_path / ".point.pt.lock"
    let_go(out)
    lock.touch()  # as a process leaves it that is killed right after it has written
    code, line = fails(capsys, *export)
    assert (code, "is there already; name another file, or add --overwrite" in line) == (2, True)
    assert out.read_bytes() == before and not lock.exists()


def test_an_exported_point_with_batch_norm(small, workspace, tmp_path, capsys):
    """Its running statistics are those re-estimated there."""
    small = [*small, "--model", "TinyTen"]
    out = tmp_path / "point.pt"
    path = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr"]
    run("evaluation/export_point.py", *small, *path, "--t", 0.75, "--out", out)
    table = np.load(workspace / "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-2.npz")
    loss, accuracy = networks_of(small, out)
    assert (loss, accuracy) == (table["loss"][3], table["accuracy"][3])
    assert f"loss {loss:.4f}, accuracy {accuracy:.1f} %" in capsys.readouterr().out


def test_an_ensemble_stands_beside_the_path(plain, capsys):
    """Its single points are those of the path, and what it is of is checked when it is there already."""
    evaluation = ["evaluation/eval_curve.py", *plain, *LINE, "--num_points", 3, "--repair", "--ensemble", 3]
    run(*evaluation, "--overwrite")
    table = evaluated(plain)
    path = root_of(plain) / "model_data/curves/Plain/bars/ensemble_align_corr_seeds_01_02-0_of_3.npz"
    together = np.load(path)
    np.testing.assert_allclose(together["accuracy"][:3], table["accuracy_repaired"])
    np.testing.assert_allclose(together["loss"][:3], table["loss_repaired"], rtol=1e-5)
    assert path.with_suffix(".csv").read_text().startswith("what,t,loss_held_out,loss,accuracy,calibration_error\n")
    assert "ensemble of 3" in capsys.readouterr().out
    before = path.read_bytes()
    run(*evaluation)
    assert "This is done already" in capsys.readouterr().out
    assert path.read_bytes() == before
