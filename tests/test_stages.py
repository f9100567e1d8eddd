"""The stages as a user runs them: files, messages, resuming, mistakes."""

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models import MODELS
from utils import cli, evaluation
from utils.checkpoint import kept_epochs
from utils.permutations import permutation_spec, permutations_from_rows, rows_from_permutations

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = (
    "data/prepare.py",
    "training/train_model.py",
    "training/train_curve.py",
    "training/train_curve_pam.py",
    "training/train_model_adversarial.py",
    "training/train_curve_adversarial.py",
    "alignment/align_models.py",
    "alignment/align_googlenet.py",
    "alignment/align_models_w2.py",
    "alignment/align_along_curve.py",
    "evaluation/eval_curve.py",
    "evaluation/eval_plane_with_curve.py",
    "evaluation/eval_plane_with_alignment.py",
    "evaluation/make_tables.py",
    "evaluation/make_report.py",
    "evaluation/eval_adversarial_curve.py",
    "visualization/viz_curve.py",
    "visualization/viz_curve_on_plane.py",
    "visualization/viz_plane.py",
    "visualization/viz_adversarial_curve.py",
    "visualization/layerwise_mean_correlation/viz_align_models.py",
    "visualization/layerwise_mean_correlation/viz_align_along_curves.py",
)


def stage(script):
    """parse_args and main of a stage; a thin twin has the main of its plain stage."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    for name in ("align_models", "train_model", "train_curve", "eval_curve", "viz_curve"):
        if not hasattr(module, "main") and hasattr(module, name):
            return module.parse_args, getattr(module, name).main
    return module.parse_args, module.main


def run(script, *flags):
    """Run a stage in this process."""
    parse_args, main = stage(script)
    main(parse_args([str(flag) for flag in flags]))


def fails(capsys, script, *flags):
    """Run a stage that must end with an error; return its exit code and its last line."""
    parse_args, main = stage(script)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: parse_args([str(flag) for flag in flags]), main)
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1
    assert "Traceback" not in "\n".join(lines)
    return caught.value.code, errors[0]


def same(a, b):
    """Bit-identical, through dictionaries and lists; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b or (a != a and b != b)


@pytest.fixture(scope="module")
def trained(data_path, tmp_path_factory):
    """A workspace with two networks, their match, a curve of each kind, and all paths evaluated."""
    root = tmp_path_factory.mktemp("trained")
    flags = ["--dataset", "bars", "--data_path", data_path, "--root", root, "--batch_size", "32"]
    for seed in (1, 2):
        run("training/train_model.py", *flags, "--epochs", 3, "--lr_drop", 1, "--seed", seed)
    run("alignment/align_models.py", *flags, "--epochs", 3)
    for alignment in ("", "corr"):
        run("training/train_curve.py", *flags, "--epochs_model", 3, "--epochs", 2, "--alignment", alignment)
        for epochs in (0, 2):
            curve = ["--epochs_model", 3, "--epochs_curve", epochs, "--alignment", alignment, "--num_points", 5]
            run("evaluation/eval_curve.py", *flags, *curve)
    return root


@pytest.fixture
def workspace(trained, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def small(workspace, data_path):
    return ["--dataset", "bars", "--data_path", data_path, "--root", workspace, "--batch_size", "32"]


def test_published_files(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    m, d = "model_dicts/{}/TinyTen/bars/", "model_data/{}/TinyTen/bars/"
    expected = {m.format("basic_models") + f"checkpoint_seed_0{s}-3.pt" for s in (1, 2)}
    expected |= {
        d.format("training/basic_models") + f"{quantity}_{split}_seed_0{s}.npy"
        for s in (1, 2)
        for quantity in ("loss", "accuracy")
        for split in ("train", "test")
    }
    expected |= {m.format("paired_models") + f"match_corr_seeds_01_02.{suffix}" for suffix in ("npy", "json")}
    for which in ("aligned", "unaligned"):
        expected.add(d.format("paired_models") + f"corr_{which}_mean_seeds_01_02.npy")
    for tag in ("null", "corr"):
        stem = f"align_{tag}_seeds_01_02"
        expected |= {m.format("curve_models") + f"checkpoint_{stem}-{epoch}.pt" for epoch in (0, 2)}
        expected.add(d.format("training/curve_models") + f"curve_{stem}.npz")
        expected |= {d.format("curves") + f"curve_{stem}-{epoch}.npz" for epoch in (0, 2)}
    assert files == expected


def test_checkpoints_hold_what_is_published(trained):
    model = torch.load(trained / "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_01-3.pt", weights_only=True)
    assert model["epoch"] == 3
    assert "momentum_buffer" in model["optimizer_state"]["state"][0]
    MODELS["TinyTen"](4).load_state_dict(model["model_state"], strict=True)
    curves = trained / "model_dicts/curve_models/TinyTen/bars"
    curve = torch.load(curves / "checkpoint_align_corr_seeds_01_02-2.pt", weights_only=True)
    MODELS["TinyTen"](4).load_state_dict(curve["model_state"], strict=True)
    assert list(curve["points"]) == [1]


def test_midpoint_file_is_the_mean_of_the_aligned_networks(trained):
    dicts = trained / "model_dicts"
    a, b = (
        torch.load(dicts / f"basic_models/TinyTen/bars/checkpoint_seed_0{s}-3.pt", weights_only=True)["model_state"]
        for s in (1, 2)
    )
    middle = torch.load(dicts / "curve_models/TinyTen/bars/checkpoint_align_null_seeds_01_02-0.pt", weights_only=True)
    for name, value in middle["model_state"].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (a[name] + b[name]) / 2)


def test_ends_of_an_evaluated_curve_are_the_networks(trained):
    tables = [
        np.load(trained / f"model_data/curves/TinyTen/bars/curve_align_{tag}_seeds_01_02-{epoch}.npz")
        for tag in ("null", "corr")
        for epoch in (0, 2)
    ]
    for name in ("loss", "accuracy"):
        for end in (0, -1):  # a permuted network sums in another order
            np.testing.assert_allclose([t[name][end] for t in tables], tables[0][name][end], rtol=1e-4)
    for line in (tables[0], tables[2]):
        np.testing.assert_allclose(np.diff(line["length"]), line["length"][-1] / 4, rtol=1e-4)
        np.testing.assert_allclose(line["coordinates"][:, 0], line["length"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(line["coordinates"][:, 1], 0, atol=1e-4)
    for curve in (tables[1], tables[3]):
        steps = np.linalg.norm(np.diff(curve["coordinates"], axis=0), axis=1)
        np.testing.assert_allclose(steps.cumsum(), curve["length"][1:], rtol=1e-4)  # three bends: all in a plane


def test_alignment_raises_correlation(trained):
    folder = trained / "model_data/paired_models/TinyTen/bars"
    before, after = (np.load(folder / f"corr_{w}_mean_seeds_01_02.npy") for w in ("unaligned", "aligned"))
    assert before.shape == after.shape == (9,)
    assert (after[:-1] > before[:-1]).all()
    assert after[-1] == pytest.approx(before[-1])  # logits are not permuted


def test_table_and_figures(workspace, capsys):
    flags = ["--dataset", "bars", "--root", workspace, "--epochs", 0, 2]
    run("evaluation/make_tables.py", *flags)
    text = capsys.readouterr().out
    table = np.load(workspace / "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-2.npz")
    average = np.trapezoid(table["accuracy"], table["length"]) / table["length"][-1]
    assert f"| curve, aligned | {average:.1f} | {table['accuracy'].min():.1f} |" in text
    assert f"| **TinyTen**, the two networks | {table['accuracy'][[0, -1]].mean():.1f} | |" in text
    run("visualization/viz_curve.py", *flags)
    for name in ("curve_bars_TinyTen", "training_bars_TinyTen"):
        assert (workspace / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (workspace / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_table_of_several_pairs(workspace, capsys):
    folder = workspace / "model_data/curves/TinyTen/bars"
    for (a, b), accuracy in (((1, 2), [90, 80, 86]), ((3, 4), [92, 85, 92])):
        arrays = {"t": np.array([0, 0.5, 1]), "accuracy": np.array(accuracy, float), "loss": np.zeros(3)}
        arrays |= {"length": np.array([0.0, 1, 2]), "coordinates": np.zeros((3, 2))}
        np.savez(folder / f"curve_align_null_seeds_0{a}_0{b}-9.npz", **arrays)
    pairs = ["--seed_a", 1, 3, "--seed_b", 2, 4, "--alignment", "", "--epochs", 9]
    run("evaluation/make_tables.py", "--dataset", "bars", "--root", workspace, *pairs)
    text = capsys.readouterr().out
    # averages 84 and 88.5, minima 80 and 85, ends 88 and 92
    assert "| curve, unaligned | 86.2 ± 3.2 | 82.5 ± 3.5 |" in text
    assert "the two networks | 90.0 ± 2.8 |" in text


def test_a_finished_run_is_neither_repeated_nor_overwritten(small, workspace, capsys):
    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in workspace.rglob("*.pt")}

    before = state()
    run("training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--seed", 1)
    assert "This run is finished" in capsys.readouterr().out
    assert {path: content for path, (_, content) in state().items()} == {p: c for p, (_, c) in before.items()}
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr", "--num_points", 5]
    run("evaluation/eval_curve.py", *small, *flags)
    assert "done already" in capsys.readouterr().out
    run("alignment/align_models.py", *small, "--epochs", 3)
    assert "the same match" in capsys.readouterr().out


def test_missing_histories_are_written_again(small, workspace):
    path = workspace / "model_data/training/basic_models/TinyTen/bars/loss_train_seed_01.npy"
    expected = np.load(path)
    path.unlink()
    run("training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--seed", 1)
    np.testing.assert_array_equal(np.load(path), expected)


def test_two_runs_with_one_seed_are_bit_identical(small, workspace, tmp_path):
    name = "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_01-3.pt"
    again = [tmp_path / "again" if flag == workspace else flag for flag in small]
    run("training/train_model.py", *again, "--epochs", 3, "--lr_drop", 1, "--seed", 1, "--val_freq", "none")
    one, other = (torch.load(root / name, weights_only=True) for root in (workspace, tmp_path / "again"))
    for part in ("model_state", "optimizer_state", "random_states"):  # validation disturbs nothing either
        assert same(one[part], other[part])


def test_a_run_can_be_made_longer(small, workspace, tmp_path):
    flags = ["--lr_drop", 1, "--seed", 1]
    run("training/train_model.py", *small, *flags, "--epochs", 5, "--resume")
    other = [tmp_path / "again" if flag == workspace else flag for flag in small]
    run("training/train_model.py", *other, *flags, "--epochs", 5)
    name = "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_01-5.pt"
    one, other = (torch.load(root / name, weights_only=True) for root in (workspace, tmp_path / "again"))
    assert same(one, other)


def kill_and_resume(script, flags, root, kills, last):
    """Start a stage again and again with --resume, kill -9 it at random moments, and at last let it finish."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, flags), "--root", str(root), "--resume"]
    generator = random.Random(7)

    def progress():
        return {(path, path.stat().st_mtime_ns) for path in root.rglob("*-resume.pt")}

    for _ in range(kills):
        before = progress()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and progress() <= before:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))  # somewhere in the epochs that follow
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not last.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


KILLED = {
    "training/train_model.py": (["--seed", 5, "--epochs", 40], "basic_models/TinyTen/bars/checkpoint_seed_05-40.pt"),
    "training/train_curve.py": (
        ["--seed", 5, "--num_bends", 4, "--val_freq", 7, "--epochs", 40],
        "curve_models/TinyTen/bars/checkpoint_align_corr_seeds_01_02-40.pt",
    ),
    "training/train_curve_pam.py": (
        ["--outer_iters", 2, "--inner_iters_perm", 8, "--inner_iters_phi", 12, "--lr", 0.5],
        "curve_models/TinyTen/bars/checkpoint_align_pam_corr_seeds_01_02-12.pt",
    ),
}


@pytest.mark.parametrize("script", KILLED)
def test_killed_and_resumed_is_bit_identical(script, small, workspace, tmp_path):
    flags, name = KILLED[script]
    if script != "training/train_model.py":
        flags = [*flags, "--epochs_model", 3, "--alignment", "corr"]
        for path in (workspace / "model_dicts/curve_models/TinyTen/bars").glob("*corr*"):
            path.unlink()
    flags = [*small[:4], *small[6:], *flags]
    other = tmp_path / "killed"
    shutil.copytree(workspace, other)
    run(script, *flags, "--root", workspace)
    kill_and_resume(script, flags, other, 3, other / "model_dicts" / name)
    one, resumed = (torch.load(root / "model_dicts" / name, weights_only=True) for root in (workspace, other))
    assert same(one, resumed)
    assert not list(other.rglob("*-resume.pt"))
    arrays = [sorted(root.rglob("*.np*")) for root in (workspace, other)]
    assert [path.read_bytes() for path in arrays[0]] == [path.read_bytes() for path in arrays[1]]


def test_killed_runs_leave_no_rubbish_that_is_read(workspace):
    """A temporary file that a killed process left is hidden and ignored."""
    folder = workspace / "model_dicts/basic_models/TinyTen/bars"
    (folder / ".checkpoint_seed_01-9.pt.abc").write_bytes(b"half")
    assert kept_epochs(folder / "checkpoint_seed_01") == [3]


def test_pam(small, workspace, capsys):
    flags = ["--epochs_model", 3, "--alignment", "", "--inner_iters_perm", 3, "--inner_iters_phi", 2, "--lr", 0.5]
    run("training/train_curve_pam.py", *small, *flags, "--val_freq", 1, 2)
    printed = capsys.readouterr().out
    old, new = printed.split("before ")[1].split(".\n")[0], printed.split("along the path ")[1].split(",")[0]
    assert float(new) <= float(old)
    curve = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "pam_null", "--num_points", 5]
    run("evaluation/eval_curve.py", *small, *curve)
    table = np.load(workspace / "model_data/curves/TinyTen/bars/curve_align_pam_null_seeds_01_02-2.npz")
    folder = workspace / "model_data/training/curve_models/TinyTen/bars"
    history = np.load(folder / "curve_align_pam_null_seeds_01_02.npz")
    for i, t in ((1, 0.25), (2, 0.5), (3, 0.75)):  # what training said last is what evaluation finds
        assert history[f"loss_test_at_{t}"][-1] == pytest.approx(table["loss"][i], rel=1e-4)
        assert history[f"accuracy_test_at_{t}"][-1] == table["accuracy"][i]
    assert np.isfinite(history["loss_test_at_0.5"]).tolist() == [False, True]
    assert len(np.load(folder / "curve_align_pam_null_seeds_01_02_perm1.npz")["loss_train"]) == 3
    capsys.readouterr()
    run("training/train_curve_pam.py", *small, *flags)
    printed = capsys.readouterr().out
    assert "This run is finished" in printed
    assert "epoch 1" not in printed


def test_pam_of_a_match_that_lost_its_run(capsys, small, workspace):
    (workspace / "model_dicts/paired_models/TinyTen/bars/match_pam_corr_seeds_01_02.npy").write_bytes(b"")
    flags = ["--epochs_model", 3, "--alignment", "corr", "--inner_iters_perm", 1, "--inner_iters_phi", 1]
    code, line = fails(capsys, "training/train_curve_pam.py", *small, *flags)
    assert code == 1
    assert "add --overwrite" in line


def test_robust_stages(small, workspace, capsys):
    for seed in (1, 2):
        run(
            "training/train_model_adversarial.py", *small, "--transform", "Adversarial", "--epochs", 2, "--seed", seed
        )
    run("alignment/align_models.py", *small, "--epochs", 2, "--adversarial")
    curve = ["--epochs_model", 2, "--alignment", "corr"]
    run("training/train_curve_adversarial.py", *small, *curve, "--epochs", 1)
    capsys.readouterr()
    points = ["--epochs_curve", 1, "--num_points", 3, "--eval_train", "--bn_images", 64]
    run("evaluation/eval_adversarial_curve.py", *small, *curve, *points)
    assert "visualization/viz_adversarial_curve.py" in capsys.readouterr().out
    table = np.load(workspace / "model_data/adversarial_curves/TinyTen/bars/curve_align_corr_seeds_01_02-1.npz")
    for split in ("", "_train"):
        assert (table[f"loss_robust{split}"] >= table[f"loss{split}"] - 1e-6).all()
        assert (table[f"accuracy_robust{split}"] <= table[f"accuracy{split}"]).all()
    run(
        "visualization/viz_adversarial_curve.py",
        "--dataset",
        "bars",
        "--root",
        workspace,
        "--epochs",
        1,
        "--alignment",
        "corr",
    )
    assert (workspace / "figures/robust_curve_bars_TinyTen.png").exists()
    run("evaluation/make_tables.py", "--dataset", "bars", "--root", workspace, "--epochs", 1, "--adversarial")
    expected = f"{table['accuracy'].min():.1f} | "
    assert expected in capsys.readouterr().out
    folders = {path.parent.parent.parent.name for path in workspace.rglob("*") if "adversarial" in str(path)}
    assert {"adversarial_models", "adversarial_paired_models", "adversarial_curve_models"} <= folders


def test_robust_networks_are_not_mistaken_for_plain_ones(capsys, small, workspace):
    dicts = workspace / "model_dicts"
    shutil.copytree(dicts / "basic_models", dicts / "adversarial_models")
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, "--adversarial")
    assert code == 1
    assert "is a plain network, not a robust one; make that with: python training/train_model_adversarial.py" in line
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, "--transform", "Adversarial")
    assert "--transform TinyTen, which normalizes images unlike --transform Adversarial" in line


CURVE = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr"]


def interrupt(monkeypatch, at):
    """Let the evaluation number `at` stop the process; returns the list that counts them."""
    evaluate, calls = evaluation.evaluate, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    return calls


def test_evaluation_goes_on_where_it_stopped(small, workspace, monkeypatch):
    path = workspace / "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-2.npz"
    expected = path.read_bytes()
    path.unlink()
    calls = interrupt(monkeypatch, at=4)
    with pytest.raises(KeyboardInterrupt):
        run("evaluation/eval_curve.py", *small, *CURVE, "--num_points", 5)
    assert not path.exists()
    run("evaluation/eval_curve.py", *small, *CURVE, "--num_points", 5)
    assert path.read_bytes() == expected
    assert len(calls) == 4 + 2  # five points, of which one was begun twice


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


def test_planes_agree_with_the_evaluated_curve(small, workspace):
    """The same coordinates in both; the grid reaches as far as is published."""
    run("evaluation/eval_plane_with_curve.py", *small, *CURVE, "--num_points", 3, "--bn_images", 64)
    folder = workspace / "model_data"
    plane = np.load(folder / "loss_planes_with_curve/TinyTen/bars/plane_align_corr_seeds_01_02-2.npz")
    curve = np.load(folder / "curves/TinyTen/bars/curve_align_corr_seeds_01_02-2.npz")
    a, b, middle = plane["corners"]
    np.testing.assert_allclose(a, 0, atol=1e-6)
    np.testing.assert_allclose(b, curve["coordinates"][-1], atol=1e-5)
    t = curve["t"][:, None]
    np.testing.assert_allclose(2 * t * (1 - t) * middle + t**2 * b, curve["coordinates"], atol=1e-4)
    np.testing.assert_allclose([plane["x"][0, 0], plane["x"][0, -1]], [-0.05 * b[0], 1.05 * b[0]])
    np.testing.assert_allclose([plane["y"][0, 0], plane["y"][-1, 0]], [-0.1 * middle[1], 1.5 * middle[1]])


@pytest.mark.parametrize("alignment", ["", "corr"])
def test_an_end_aligned_with_itself(alignment, small, workspace):
    for t, end in ((0, "a"), (1, "b")):
        run("alignment/align_along_curve.py", *small, *CURVE[:4], "--alignment", alignment, "--point_t", t)
        tag = alignment or "null"
        folder = workspace / "model_data/paired_models/TinyTen/bars"
        table = np.load(folder / f"curve_align_{tag}_seeds_01_02-2_t_{t}.npz")
        for which in ("unaligned", "aligned"):
            np.testing.assert_allclose(table[f"{which}_{end}"], 1, atol=1e-6)
        for row in table[f"match_{end}"]:
            row = row[row >= 0]
            np.testing.assert_array_equal(row, np.arange(len(row)))


def test_midpoints_of_a_curve_and_of_a_line(small, workspace, capsys):
    for epochs in (0, 2):
        run("alignment/align_along_curve.py", *small, *CURVE[:2], "--epochs_curve", epochs, "--alignment", "corr")
    assert "unaligned with A" in capsys.readouterr().out
    run("alignment/align_along_curve.py", *small, *CURVE)
    assert "done already" in capsys.readouterr().out
    flags = ["--dataset", "bars", "--root", workspace, "--alignment", "corr", "--epochs", 0, 2]
    run("visualization/layerwise_mean_correlation/viz_align_along_curves.py", *flags)
    run("visualization/layerwise_mean_correlation/viz_align_models.py", *flags[:-3])
    for name in ("correlation_along_curve", "correlation"):
        assert (workspace / f"figures/{name}_bars_TinyTen.png").exists()


def test_plane_of_a_match_that_pam_found(capsys, small, workspace):
    flags = [*small, "--epochs_model", 3, "--num_points", 2, "--bn_images", 64, "--alignment", "pam_corr"]
    code, line = fails(capsys, "evaluation/eval_plane_with_alignment.py", *flags)
    assert code == 1
    assert "make it with: python training/train_curve_pam.py" in line
    folder = workspace / "model_dicts/paired_models/TinyTen/bars"
    for suffix in ("npy", "json"):
        shutil.copy(folder / f"match_corr_seeds_01_02.{suffix}", folder / f"match_pam_corr_seeds_01_02.{suffix}")
    run("evaluation/eval_plane_with_alignment.py", *flags)


def test_planes_that_are_none(capsys, small):
    line = ["--epochs_model", 3, "--epochs_curve", 0]
    code, message = fails(capsys, "evaluation/eval_plane_with_curve.py", *small, *line)
    assert code == 2
    assert "a straight line spans no plane" in message
    code, message = fails(capsys, "evaluation/eval_plane_with_alignment.py", *small, "--alignment", "")
    assert code == 2
    assert "there is no plane" in message


@pytest.mark.parametrize("flags", [["--num_bends", 2], ["--num_bends", 5, "--curve", "PolyChain"], ["--no-fix_end"]])
def test_other_curves(flags, small, workspace, capsys):
    for path in (workspace / "model_dicts/curve_models/TinyTen/bars").glob("*corr*"):
        path.unlink()
    run("training/train_curve.py", *small, "--epochs_model", 3, "--epochs", 1, "--alignment", "corr", *flags)
    text = capsys.readouterr().out
    epochs = 0 if "nothing to learn" in text else 1
    assert f"--epochs_curve {epochs}" in text.splitlines()[-1]
    curve = ["--epochs_model", 3, "--epochs_curve", epochs, "--alignment", "corr", "--num_points", 3]
    run("evaluation/eval_curve.py", *small, *curve, "--overwrite")


def test_a_curve_of_the_original_code_is_evaluated(small, workspace):
    path = workspace / "model_dicts/curve_models/TinyTen/bars/checkpoint_align_null_seeds_01_02-2.pt"
    curve = torch.load(path, weights_only=True)
    torch.save({"epoch": 2, "model_state": curve["model_state"]}, path)
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--num_points", 5]
    run("evaluation/eval_curve.py", *small, *flags)  # same points: what was evaluated before is still right


@pytest.mark.parametrize("name", ["ResNet32", "GoogLeNet"])
def test_other_architectures(name, small, workspace):
    small = [*small, "--model", name]
    for seed in (1, 2):
        run("training/train_model.py", *small, "--epochs", 1, "--seed", seed)
    script = "align_googlenet" if name == "GoogLeNet" else "align_models"
    flags = small[:-2] if name == "GoogLeNet" else small
    run(f"alignment/{script}.py", *flags, "--epochs", 1)
    match = np.load(workspace / f"model_dicts/paired_models/{name}/bars/match_corr_seeds_01_02.npy")
    assert len(match) == {"ResNet32": 31, "GoogLeNet": 61}[name]
    curve = ["--epochs_model", 1, "--epochs", 1, "--alignment", "corr"]
    run("training/train_curve.py", *small, *curve)
    run("evaluation/eval_curve.py", *small, *curve, "--num_points", 3)
    table = np.load(workspace / f"model_data/curves/{name}/bars/curve_align_corr_seeds_01_02-1.npz")
    assert np.isfinite(table["loss"]).all()
    few = ["--bn_images", 32, "--alignment", "corr", "--epochs_model", 1]
    run("evaluation/eval_plane_with_curve.py", *small, *few, "--epochs_curve", 1, "--num_points", 2)
    run("evaluation/eval_plane_with_alignment.py", *small, *few, "--num_points", 2)
    run("alignment/align_along_curve.py", *small, *few, "--epochs_curve", 1)
    asked = ["--dataset", "bars", "--root", workspace, "--model", name, "--alignment", "corr", "--epochs", 1]
    for script in ("viz_curve_on_plane", "viz_plane", "layerwise_mean_correlation/viz_align_models"):
        run(f"visualization/{script}.py", *asked)
    run("visualization/layerwise_mean_correlation/viz_align_along_curves.py", *asked)


def test_epochs_stands_for_what_is_not_given():
    parse = importlib.import_module("evaluation.eval_curve").parse_args
    published = parse(["--epochs_model", "250", "--epochs_curve", "250", "--epochs", "250"])
    assert (published.epochs_model, published.epochs_curve) == (250, 250)
    one = parse(["--epochs", "7", "--epochs_curve", "0"])
    assert (one.epochs_model, one.epochs_curve) == (7, 0)


def test_a_dataset_is_prepared(capsys, flags):
    run("data/prepare.py", *flags[:6])
    assert "bars is ready: 160 training images and 48 test images" in capsys.readouterr().out
    code, line = fails(capsys, "data/prepare.py", "--dataset", "CIFAR11")
    assert code == 2
    assert "there is no dataset 'CIFAR11'" in line


@pytest.mark.parametrize("script", STAGES)
def test_help_and_plain_running(script):
    """Each stage runs as a file from any folder."""
    command = [sys.executable, str(REPOSITORY / script), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert "--dataset" in result.stdout


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("training/train_model.py", ["--model", "VGG"], "'TinyTen', 'ResNet32', 'GoogLeNet'"),
        ("training/train_model.py", ["--transform", "VGG"], "'TinyTen', 'ResNet32', 'GoogLeNet', 'Adversarial'"),
        ("training/train_model.py", ["--epochs", "-1"], "'-1' is not a whole number above 0"),
        ("training/train_model.py", ["--lr", "-0.1"], "'-0.1' is not a number above 0"),
        ("training/train_model.py", ["--lr", "nan"], "is not a number above 0"),
        ("training/train_model.py", ["--seed", "-3"], "'-3' is not a whole number, 0 or above"),
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
        ("training/train_model_adversarial.py", ["--epsilon", "8"], "'8' is not between 0 and 1, as 8/255 is"),
        ("evaluation/eval_curve.py", ["--num_points", "1"], "2 or above"),
        ("evaluation/make_tables.py", ["--seed_a", "1", "3"], "a pair is one of each"),
        ("training/train_model.py", ["--dataset", "CIFAR11"], "there is no dataset 'CIFAR11': use one of CIFAR10"),
    ],
)
def test_bad_arguments_end_with_code_2(capsys, tmp_path, script, flags, message):
    code, line = fails(capsys, script, *flags, "--root", tmp_path)
    assert code == 2
    assert message in line


def test_missing_networks_name_the_training_command(capsys, flags):
    for script, more in (("alignment/align_models.py", ["--epochs", 4]), ("training/train_curve.py", [])):
        code, line = fails(capsys, script, *flags, *more)
        assert code == 1
        assert "make it with: python training/train_model.py --model TinyTen --dataset bars" in line


def test_missing_match_names_the_alignment_command(capsys, small, workspace):
    (workspace / "model_dicts/paired_models/TinyTen/bars/match_corr_seeds_01_02.npy").unlink()
    curve = ["--alignment", "corr", "--epochs_model", 3]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    assert code == 1
    assert "make it with: python alignment/align_models.py" in line
    code, line = fails(capsys, "training/train_curve.py", *small, "--alignment", "pam_", "--epochs_model", 3)
    assert "python training/train_curve_pam.py" in line
    assert "--alignment ''" in line
    code, line = fails(capsys, "training/train_curve.py", *small, "--alignment", "mine", "--epochs_model", 3)
    assert "--align_name mine" in line


def test_a_match_for_other_networks_is_refused(capsys, small, workspace):
    run("training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1, "--seed", 1, "--overwrite")
    run("training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1, "--seed", 2, "--overwrite")
    code, line = fails(capsys, "training/train_curve.py", *small, "--alignment", "corr", "--epochs_model", 2)
    assert code == 1
    assert "was made for other networks" in line
    assert "python alignment/align_models.py" in line


def test_a_longer_run_under_way_survives_a_shorter_command(small, workspace, capsys):
    """Forgetting --epochs must not delete the checkpoint of the longer run."""
    folder = workspace / "model_dicts/basic_models/TinyTen/bars"
    longer = torch.load(folder / "checkpoint_seed_01-3.pt", weights_only=True) | {"epoch": 5}
    torch.save(longer, folder / "checkpoint_seed_01-resume.pt")
    run("training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--seed", 1)
    assert "This run is finished" in capsys.readouterr().out
    assert (folder / "checkpoint_seed_01-resume.pt").exists()


def test_missing_curve_names_the_training_command(capsys, small):
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, "--epochs_model", 3, "--epochs_curve", 77)
    assert code == 1
    assert "python training/train_curve.py" in line
    assert "--epochs 77" in line


def test_missing_evaluation_names_the_command(capsys, workspace):
    flags = ["--dataset", "bars", "--root", workspace, "--epochs", 77]
    for script in ("visualization/viz_curve.py", "evaluation/make_tables.py"):
        code, line = fails(capsys, script, *flags)
        assert code == 1
        assert "make it with: python evaluation/eval_curve.py" in line


@pytest.mark.parametrize("content", ["truncated", "foreign", "ResNet32", "classes"])
def test_networks_that_cannot_be_used(capsys, small, workspace, content):
    path = workspace / "model_dicts/basic_models/TinyTen/bars/checkpoint_seed_02-3.pt"
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif content == "foreign":
        path.write_bytes(b"something else")
    else:
        model = MODELS["ResNet32"](4) if content == "ResNet32" else MODELS["TinyTen"](10)
        torch.save({"epoch": 3, "model_state": model.state_dict()}, path)
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3)
    assert code == 1
    assert str(path) in line
    assert "python training/train_model.py" in line


@pytest.mark.parametrize("kind", ["other model", "not a permutation", "text"])
def test_a_match_that_is_none(capsys, small, workspace, kind):
    path = workspace / "model_dicts/paired_models/TinyTen/bars/match_corr_seeds_01_02.npy"
    if kind == "other model":
        spec = permutation_spec(MODELS["ResNet32"](4))
        from utils.checkpoint import save_match

        save_match(path, rows_from_permutations(spec, [np.arange(size) for size in spec.sizes]), [], overwrite=True)
        path.with_suffix(".json").unlink()
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
    assert "python alignment/align_models.py" in line


@pytest.mark.parametrize("flags, name", [([], "w2_post"), (["--pre_act"], "w2_pre")])
def test_alignment_by_distance(capsys, small, workspace, flags, name):
    curve = ["--alignment", name, "--epochs_model", 3]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    command = line.split("make it with: python ")[1].split()
    assert command[0] == "alignment/align_models_w2.py"
    assert ("--pre_act" in command) == (name == "w2_pre")
    run("alignment/align_models_w2.py", *small, "--epochs", 3, *flags)
    folder = workspace / "model_data/paired_models/TinyTen/bars"
    before, after = (np.load(folder / f"{name}_{which}_mean_seeds_01_02.npy") for which in ("unaligned", "aligned"))
    assert after[:-1].mean() > before[:-1].mean()
    run("training/train_curve.py", *small, *curve, "--epochs", 1)


def test_another_match_is_not_overwritten(capsys, small, workspace):
    path = workspace / "model_dicts/paired_models/TinyTen/bars/match_corr_seeds_01_02.npy"
    table = np.load(path)
    table[0, :16] = np.roll(table[0, :16], 1)
    np.save(path, table)
    code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3)
    assert code == 1
    assert "--overwrite" in line
    np.testing.assert_array_equal(np.load(path), table)
    run("alignment/align_models.py", *small, "--epochs", 3, "--overwrite")
    assert not np.array_equal(np.load(path), table)
    permutations_from_rows(permutation_spec(MODELS["TinyTen"](4)), [row[row >= 0] for row in np.load(path)])


def test_other_flags_than_before(capsys, small):
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--lr", "0.05")
    assert code == 1
    assert "--lr 0.1 (now 0.05)" in line
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 9, "--lr_drop", 1)
    assert "add --resume to go on or --overwrite" in line
    code, line = fails(capsys, "training/train_model.py", *small, "--epochs", 2, "--lr_drop", 1)
    assert "at epoch 3 already" in line
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--num_points", 7]
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, *flags)
    assert "with other flags" in line


def test_a_curve_between_other_networks(capsys, small, workspace):
    run("training/train_model.py", *small, "--epochs", 3, "--lr_drop", 1, "--seed", 2, "--lr", 0.05, "--overwrite")
    flags = ["--epochs_model", 3, "--epochs_curve", 2, "--num_points", 5]
    code, line = fails(capsys, "evaluation/eval_curve.py", *small, *flags)
    assert code == 1
    assert "learned between other networks" in line
    curve = ["--epochs_model", 3, "--epochs", 4, "--resume"]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    assert "other networks at its ends" in line


def test_divergence_keeps_the_last_good_checkpoint(capsys, flags, tmp_path):
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 5, "--lr", "1e30")
    assert code == 1
    assert "diverged in epoch 1 (nothing was saved); try a smaller --lr" in line
    assert not list(tmp_path.rglob("*.pt"))


def test_a_folder_that_cannot_be_written(capsys, flags, tmp_path):
    (tmp_path / "model_dicts").write_text("a file where a folder should be")
    code, line = fails(capsys, "training/train_model.py", *flags, "--epochs", 1)
    assert code == 1
    assert "model_dicts" in line


def test_compiled_stages(small, workspace, tmp_path):
    """A compiled curve learns what one does that is not compiled, but for rounding, and evaluates to the same."""
    other = [tmp_path / "compiled" if flag == workspace else flag for flag in small]
    shutil.copytree(workspace, tmp_path / "compiled")
    pair = ["--epochs_model", 3, "--alignment", "corr"]
    for flags in ([*small, *pair], [*other, *pair, "--compile"]):
        run("training/train_curve.py", *flags, "--epochs", 1, "--lr", 0.01, "--val_freq", 1, "--overwrite")
        run("evaluation/eval_curve.py", *flags, "--epochs_curve", 1, "--num_points", 3)
    names = (
        "model_data/training/curve_models/TinyTen/bars/curve_align_corr_seeds_01_02.npz",
        "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-1.npz",
    )
    for name in names:
        plain, compiled = (np.load(root / name) for root in (workspace, tmp_path / "compiled"))
        for quantity in set(plain) - {"settings"}:
            np.testing.assert_allclose(compiled[quantity], plain[quantity], rtol=1e-3, atol=1e-4, err_msg=quantity)


def test_compiling_without_a_compiler(tmp_path, data_path):
    command = [sys.executable, REPOSITORY / "training/train_model.py", "--dataset", "bars", "--data_path", data_path]
    command += ["--root", tmp_path, "--device", "cpu", "--compile"]
    environment = os.environ | {"CXX": str(tmp_path / "none")}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert "--compile cannot compile here" in result.stderr.splitlines()[-1]
    assert "apt install g++" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_learning_rate_beyond_all_numbers(capsys, flags):
    code, message = fails(capsys, "training/train_model.py", *flags, "--epochs", 1, "--lr", 1e39)
    assert code == 1
    assert "the learning rate of epoch 1 would be 1e+39" in message
