"""The stages as a user runs them: the files they write, and that these agree with each other."""

import csv
import importlib
import shlex
import shutil
import sys

import numpy as np
import processes
import pytest
import torch
from conftest import write_image_folder
from stages import REPOSITORY, STAGES, fails, run, run_as_process

from models import MODELS
from utils.attack import Attack
from utils.curves import midpoint
from utils.matching import align
from utils.measuring import evaluate
from utils.stages import hints
from utils.stages.files import save_array, save_arrays
from utils.stages.layout import Layout, kept, rolling
from utils.stages.loading import load_endpoint
from utils.stages.matches import load_match, permutations_from_rows
from utils.stages.records import Record, load_record, record_in
from utils.stages.runs import Run
from utils.symmetries.spec import permutation_spec


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
    expected.add(m.format("paired_models") + "match_corr_seeds_01_02.npy")
    for which in ("aligned", "unaligned"):
        expected.add(d.format("paired_models") + f"corr_{which}_mean_seeds_01_02.npy")
    for tag in ("null", "corr"):
        stem = f"align_{tag}_seeds_01_02"
        expected |= {m.format("curve_models") + f"checkpoint_{stem}-{epoch}.pt" for epoch in (0, 2)}
        expected.add(d.format("training/curve_models") + f"curve_{stem}.npz")
        for epoch in (0, 2):
            expected |= {d.format("curves") + f"curve_{stem}-{epoch}.{suffix}" for suffix in ("npz", "csv")}
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


def test_evaluations_are_there_as_text(trained):
    """To the last digit; coordinates in two columns, and not the settings."""
    path = trained / "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-2.npz"
    table = np.load(path)
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    assert list(rows[0]) == ["t", "coordinates_x", "coordinates_y", "length", "loss", "accuracy"]
    for name in ("t", "length", "loss", "accuracy"):
        assert [float(row[name]) for row in rows] == table[name].tolist()
    assert [float(row["coordinates_y"]) for row in rows] == table["coordinates"][:, 1].tolist()


def test_a_line_is_evaluated_with_interpolated_statistics_too(trained, load_bars):
    """Its ends are the networks with the statistics that they were trained with; curves have none between them."""
    folder = trained / "model_data/curves/TinyTen/bars"
    line, curve = (np.load(folder / f"curve_align_null_seeds_01_02-{epoch}.npz") for epoch in (0, 2))
    assert "loss_interpolated" not in curve
    test = load_bars().test
    states = []
    for seed, end in ((1, 0), (2, -1)):
        checkpoint = trained / f"model_dicts/basic_models/TinyTen/bars/checkpoint_seed_0{seed}-3.pt"
        states.append(torch.load(checkpoint, weights_only=True)["model_state"])
        model = MODELS["TinyTen"](4)
        model.load_state_dict(states[-1])
        loss, accuracy = evaluate(model, test, batch_size=32)
        assert line["loss_interpolated"][end] == pytest.approx(loss, rel=1e-5)
        assert line["accuracy_interpolated"][end] == pytest.approx(accuracy)
    model.load_state_dict(midpoint(*states))
    loss, _ = evaluate(model, test, batch_size=32)
    assert line["loss_interpolated"][2] == pytest.approx(loss, rel=1e-4)
    assert abs(line["loss_interpolated"] - line["loss"])[2] > 1e-3


def test_alignment_raises_correlation(trained):
    folder = trained / "model_data/paired_models/TinyTen/bars"
    before, after = (np.load(folder / f"corr_{w}_mean_seeds_01_02.npy") for w in ("unaligned", "aligned"))
    assert before.shape == after.shape == (9,)
    assert (after[:-1] > before[:-1]).all()
    assert after[-1] == pytest.approx(before[-1])  # logits are not permuted


def test_pam(small, shown, workspace, capsys):
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
    layout = Layout(workspace, "TinyTen", "bars")
    before = np.load(layout.correlation("corr", "unaligned", 1, 2))  # of the same networks, whoever measures them
    np.testing.assert_array_equal(np.load(layout.correlation("pam_null", "unaligned", 1, 2)), before)
    measured = layout.correlation("pam_null", "aligned", 1, 2)
    assert (np.load(measured) != before).any()
    taken = load_record(measured).cost
    assert taken["seconds"] > 0
    for result in (measured, layout.evaluated("pam_null", 1, 2, 2)):
        (behind,) = (step for step in hints.steps(layout, result) if step.script.endswith("_pam.py"))
        assert "--inner_iters_perm 3 --inner_iters_phi 2" in behind.command
    capsys.readouterr()
    run("training/train_curve_pam.py", *small, *flags)
    assert load_record(measured).cost == taken  # nothing was learned anew
    aligned = np.load(measured)
    save_array(measured, aligned + 1, {"record": {"inputs": {"match": "another"}}})
    run("training/train_curve_pam.py", *small, *flags)
    np.testing.assert_array_equal(np.load(measured), aligned)
    measured.unlink()
    script = "visualization/layerwise_mean_correlation/viz_align_models.py"
    code, line = fails(capsys, script, *shown, "--alignment", "pam_null")
    script, *told = shlex.split(line)[shlex.split(line).index("python") + 1 :]
    assert (code, script) == (1, "training/train_curve_pam.py"), line
    run(script, *told, *small[2:4])  # of where images are, figures know nothing
    assert load_record(measured).cost == {}  # which no one knows any more
    printed = capsys.readouterr().out
    assert "This run is finished" in printed
    assert "epoch 1" not in printed


def test_of_pam_only_a_whole_phase_tells_what_it_took(tmp_path):
    stage = importlib.import_module("training.train_curve_pam")
    phase = Run(tmp_path / "curve_perm1", Record(), 9, 5, tmp_path / "history.npz")
    order, (took,) = stage.with_cost(lambda: ["an order"], phase, torch.device("cpu"))
    assert order == ["an order"]
    assert took["seconds"] >= 0
    for begun in (kept(phase.stem, 5), rolling(phase.stem)):
        begun.touch()
        assert stage.with_cost(list, phase, torch.device("cpu"))[1] == []
        begun.unlink()


def test_robust_stages(small, shown, workspace, capsys):
    train = [*small, "--transform", "Adversarial", "--epochs", 2]
    for seed in (1, 2):
        run("training/train_model_adversarial.py", *train, "--seed", seed)
    run("alignment/align_models.py", *small, "--epochs", 2, "--adversarial")
    curve = ["--epochs_model", 2, "--alignment", "corr"]
    run("training/train_curve_adversarial.py", *small, *curve, "--epochs", 1)
    capsys.readouterr()
    points = ["--epochs_curve", 1, "--num_points", 3, "--eval_train", "--bn_images", 64]
    run("evaluation/eval_adversarial_curve.py", *small, *curve, *points)
    printed = capsys.readouterr().out
    assert "visualization/viz_adversarial_curve.py" in printed
    table = np.load(workspace / "model_data/adversarial_curves/TinyTen/bars/curve_align_corr_seeds_01_02-1.npz")
    for split in ("", "_train", "_held_out"):
        assert (table[f"loss_robust{split}"] >= table[f"loss{split}"] - 1e-6).all()
        assert (table[f"accuracy_robust{split}"] <= table[f"accuracy{split}"]).all()
    robust = table["accuracy_robust"]
    numbers = (robust[[0, -1]].mean(), robust.min(), robust.max(), max(robust[0], robust[-1]))
    (line,) = (line for line in printed.splitlines() if line.startswith("accuracy robust   "))
    told = line.removeprefix("accuracy robust").replace("%", "").split()
    assert [told[i] for i in (0, 2, 3, 5)] == [f"{number:.1f}" for number in numbers]
    best = table["accuracy_robust_held_out"].argmax()  # chosen there, and reported on the test set
    chosen = f"images: t = {table['t'][best]:.3f}, {robust[best]:.1f} % robust on the test set"
    assert chosen in printed
    path, out = [*small, *curve, *points[:2], "--bn_images", 64, "--adversarial"], workspace / "point.pt"
    run("evaluation/export_point.py", *path, "--t", "best", "--out", out)
    assert f"At t = {table['t'][best]:g}: " in capsys.readouterr().out
    run("evaluation/export_point.py", *path, "--t", table["t"][best], "--out", workspace / "same.pt")
    states = [torch.load(file, weights_only=True)["model_state"] for file in (out, workspace / "same.pt")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    capsys.readouterr()
    run("visualization/viz_adversarial_curve.py", *shown, "--epochs", 1, "--alignment", "corr")
    assert (workspace / "figures/robust_curve_bars_TinyTen.png").exists()
    run("evaluation/make_tables.py", *shown, "--epochs", 1, "--adversarial")
    assert f"{table['accuracy'].min():.1f} | " in capsys.readouterr().out
    folders = {path.parent.parent.parent.name for path in workspace.rglob("*") if "adversarial" in str(path)}
    assert {"adversarial_models", "adversarial_paired_models", "adversarial_curve_models"} <= folders


CURVE = ["--epochs_model", 3, "--epochs_curve", 2, "--alignment", "corr"]


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
    heights = np.interp(0.5, curve["t"], curve["coordinates"][:, 1]) * np.array([-0.1, 1.5])  # of the point t = ½
    np.testing.assert_allclose([plane["y"][0, 0], plane["y"][-1, 0]], heights, rtol=1e-5)
    np.testing.assert_allclose(heights[1], 1.5 * middle[1] / 2, rtol=1e-5)


def test_a_plane_of_another_reach_is_not_continued(small, shown, workspace, capsys):
    """Planes once reached as far above the turning point as they now do above the curve, and did not say so."""
    flags = [*small, *CURVE, "--num_points", 2, "--bn_images", 64]
    run("evaluation/eval_plane_with_curve.py", *flags)
    path = workspace / "model_data/loss_planes_with_curve/TinyTen/bars/plane_align_corr_seeds_01_02-2.npz"
    arrays = dict(np.load(path))
    record = record_in(arrays)
    assert record.flags["height"] == "midpoint"
    save_arrays(path, **arrays | {"record": record.without("height").stored()})
    code, line = fails(capsys, "evaluation/eval_plane_with_curve.py", *flags)
    assert code == 1
    assert f"{path} was made with height turning point (now midpoint)" in line
    run("evaluation/eval_plane_with_curve.py", *flags, "--overwrite")
    run("visualization/viz_curve_on_plane.py", *shown, "--alignment", "corr", "--epochs", 2)


def test_a_match_on_fewer_images(small, workspace, load_bars, capsys):
    """It is that of these images alone, and has their number in its name and in its record."""
    layout, data = Layout(workspace, "TinyTen", "bars"), load_bars()
    run("alignment/align_models.py", *small, "--epochs", 3, "--align_images", 20)
    networks = [load_endpoint(MODELS["TinyTen"], layout, data, seed, 3) for seed in (1, 2)]
    spec = permutation_spec(networks[1], data.example[0])
    expected = align(*networks, spec, data.train.some(20))
    path = layout.match("corr_20", 1, 2)
    rows = load_match(path).rows
    assert all(map(np.array_equal, permutations_from_rows(spec, rows), expected))
    assert not all(map(np.array_equal, rows, load_match(layout.match("corr", 1, 2)).rows))
    assert load_record(path).flags["align_images"] == 20
    for flags in (["--align_images", 20, "--align_name", "corr"], ["--align_name", "w2_post_7"]):
        code, line = fails(capsys, "alignment/align_models.py", *small, "--epochs", 3, *flags)
        assert code == 2 and "is the name of a match of another kind" in line


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


def test_midpoints_of_a_curve_and_of_a_line(small, shown, workspace, capsys):
    for epochs in (0, 2):
        run("alignment/align_along_curve.py", *small, *CURVE[:2], "--epochs_curve", epochs, "--alignment", "corr")
    assert "unaligned with A" in capsys.readouterr().out
    run("alignment/align_along_curve.py", *small, *CURVE)
    assert "done already" in capsys.readouterr().out
    folder = workspace / "model_data/paired_models/TinyTen/bars"
    table = np.load(folder / "curve_align_corr_seeds_01_02-2_t_0.5.npz")
    assert record_in(table).flags["measured_on"] == "alignment images"
    assert not any("noid" in name for name in table)  # TinyTen's activations share no channels
    flags = [*shown, "--alignment", "corr"]
    run("visualization/layerwise_mean_correlation/viz_align_along_curves.py", *flags, "--epochs", 0, 2)
    run("visualization/layerwise_mean_correlation/viz_align_models.py", *flags)
    for name in ("correlation_along_curve", "correlation"):
        assert (workspace / f"figures/{name}_bars_TinyTen.png").exists()


def test_plane_of_a_match_that_pam_found(capsys, small, workspace):
    flags = [*small, "--epochs_model", 3, "--num_points", 2, "--bn_images", 64, "--alignment", "pam_corr"]
    code, line = fails(capsys, "evaluation/eval_plane_with_alignment.py", *flags)
    assert code == 1
    assert "make it with: python training/train_curve_pam.py" in line
    folder = workspace / "model_dicts/paired_models/TinyTen/bars"
    np.save(folder / "match_pam_corr_seeds_01_02.npy", np.load(folder / "match_corr_seeds_01_02.npy"))
    run("evaluation/eval_plane_with_alignment.py", *flags)


@pytest.mark.parametrize("flags", [["--num_bends", 2], ["--no-fix_end"]])
def test_other_curves(flags, small, workspace, capsys):
    """Each is evaluated by the command that is said to come next."""
    for path in (workspace / "model_dicts/curve_models/TinyTen/bars").glob("*corr*"):
        path.unlink()
    run("training/train_curve.py", *small, "--epochs_model", 3, "--epochs", 1, "--alignment", "corr", *flags)
    text = capsys.readouterr().out
    epochs = 0 if "nothing to learn" in text else 1
    script, *follows = shlex.split(text.splitlines()[-1].removeprefix("  python "))
    assert script == "evaluation/eval_curve.py"
    assert follows[follows.index("--epochs_curve") + 1] == str(epochs)
    run(script, *follows, "--batch_size", 32, "--num_points", 3, "--overwrite")
    assert f"-{epochs}.npz" in capsys.readouterr().out


VARIANTS = {
    "seed_4": ["--seed", 4],
    "bends_5_PolyChain_seed_0": ["--num_bends", 5, "--curve", "PolyChain", "--seed", 0],
}


@pytest.mark.parametrize("suffix", VARIANTS)
def test_curves_between_the_same_networks_stand_side_by_side(suffix, small, workspace, capsys):
    """Of other random draws, control points or family: each has files of its own, and the line is that of all."""

    def contents():
        return {path: path.read_bytes() for path in workspace.rglob("*.*") if path.is_file()}

    before = contents()
    pair = ["--epochs_model", 3, "--alignment", "corr"]
    run("training/train_curve.py", *small, *pair, "--epochs", 1, *VARIANTS[suffix])
    script, *follows = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("  python "))
    assert script == "evaluation/eval_curve.py"
    run(script, *follows, "--batch_size", 32, "--num_points", 3)
    after = contents()
    assert {path: after[path] for path in before} == before
    stem = f"align_corr_seeds_01_02_{suffix}"
    assert {str(path.relative_to(workspace)) for path in after.keys() - before.keys()} == {
        f"model_dicts/curve_models/TinyTen/bars/checkpoint_{stem}-1.pt",
        f"model_data/training/curve_models/TinyTen/bars/curve_{stem}.npz",
        f"model_data/curves/TinyTen/bars/curve_{stem}-1.npz",
        f"model_data/curves/TinyTen/bars/curve_{stem}-1.csv",
    }


@pytest.mark.long
@pytest.mark.parametrize("name, images", [("ResNet32", 8), ("GoogLeNet", 4)])
def test_other_architectures(name, images, shown, workspace, tmp_path):
    write_image_folder(tmp_path / "bars", train=images, test=4)
    small = ["--dataset", "bars", "--data_path", tmp_path, "--root", workspace, "--model", name, "--batch_size", "32"]
    for seed in (1, 2):
        run("training/train_model.py", *small, "--epochs", 1, "--seed", seed)
    script = "align_googlenet" if name == "GoogLeNet" else "align_models"
    flags = [*small[:6], *small[8:]] if name == "GoogLeNet" else small
    run(f"alignment/{script}.py", *flags, "--epochs", 1)
    match = np.load(workspace / f"model_dicts/paired_models/{name}/bars/match_corr_seeds_01_02.npy")
    assert len(match) == {"ResNet32": 31, "GoogLeNet": 61}[name]
    curve = ["--epochs_model", 1, "--epochs", 1, "--alignment", "corr"]
    run("training/train_curve.py", *small, *curve)
    run("evaluation/eval_curve.py", *small, *curve, "--num_points", 3)
    table = np.load(workspace / f"model_data/curves/{name}/bars/curve_align_corr_seeds_01_02-1.npz")
    assert np.isfinite(table["loss"]).all()
    few = ["--bn_images", 32, "--alignment", "corr", "--epochs_model", 1]
    run("alignment/align_along_curve.py", *small, *few, "--epochs_curve", 1)
    table = np.load(workspace / f"model_data/paired_models/{name}/bars/curve_align_corr_seeds_01_02-1_t_0.5.npz")
    assert ("noid_a" in table) == (name == "ResNet32")  # whose blocks share streams of channels
    for end in "ab" if name == "ResNet32" else "":
        assert (table[f"noid_{end}"] > table[f"aligned_{end}"] - 0.01).all()
        assert table[f"match_noid_{end}"].shape == table[f"match_{end}"].shape
    for script in ("viz_align_models", "viz_align_along_curves"):
        asked = [*shown, "--model", name, "--alignment", "corr", "--epochs", 1]
        run(f"visualization/layerwise_mean_correlation/{script}.py", *asked)


# Published so: what the flag does is the opposite of what it says
@pytest.mark.parametrize("flags, name", [([], "w2_pre"), (["--pre_act"], "w2_post")])
def test_alignment_by_distance(capsys, small, workspace, flags, name):
    curve = ["--alignment", name, "--epochs_model", 3]
    code, line = fails(capsys, "training/train_curve.py", *small, *curve)
    command = line.split("make it with: python ")[1].split()
    assert command[0] == "alignment/align_models_w2.py"
    assert ("--pre_act" in command) == (name == "w2_post")
    run("alignment/align_models_w2.py", *small, "--epochs", 3, *flags)
    folder = workspace / "model_data/paired_models/TinyTen/bars"
    for kind, sign in (("", -1), ("_correlation", 1)):  # distances, which alone are published, and correlations
        names = (f"{name}{kind}_{which}_mean_seeds_01_02.npy" for which in ("unaligned", "aligned"))
        before, after = (np.load(folder / name) for name in names)
        assert before.shape == after.shape == (9,)
        assert sign * after[:-1].mean() > sign * before[:-1].mean()
        assert after[-1] == pytest.approx(before[-1])  # logits are not permuted
    run("training/train_curve.py", *small, *curve, "--epochs", 1)


def parsed(script, *flags):
    return importlib.import_module(script).parse_args(list(flags))


def test_robust_googlenets_are_aligned_on_attacked_images():
    """With the published budget, and they alone."""
    robust = ["--dataset", "CIFAR100", "--adversarial"]
    assert parsed("alignment.align_googlenet", *robust).attack == Attack(8 / 255, 2 / 255, 5)
    assert parsed("alignment.align_models", *robust, "--model", "GoogLeNet").attack == Attack(8 / 255, 2 / 255, 5)
    tiny = ["--dataset", "TINY-IMAGENET-200", "--adversarial"]
    assert parsed("alignment.align_googlenet", *tiny).attack == Attack(4 / 255, 1 / 255, 5)
    for flags in (robust, [*robust, "--model", "ResNet32"]):
        assert parsed("alignment.align_models", *flags).attack is None
    assert parsed("alignment.align_googlenet", "--dataset", "CIFAR100").attack is None


def test_a_dataset_is_prepared(capsys, flags):
    run("data/prepare.py", *flags[:6])
    assert "bars is ready: 160 training images and 48 test images" in capsys.readouterr().out
    code, line = fails(capsys, "data/prepare.py", "--dataset", "CIFAR11")
    assert code == 2
    assert "there is no dataset 'CIFAR11'" in line


@pytest.mark.parametrize("script", STAGES)
def test_help_and_plain_running(script, warm_python):
    """Each stage runs as a file from any folder."""
    python = sys.executable if script == "training/train_model.py" else warm_python
    assert "--dataset" in processes.output(python, REPOSITORY / script, "--help", cwd="/")


@pytest.mark.long
def test_compiled_stages(small, workspace, tmp_path):
    """A compiled curve learns what one does that is not compiled, but for rounding, and evaluates to the same."""
    small = [*small, "--batch_size", 16]  # one size of all batches, for which to compile
    other = [tmp_path / "compiled" if flag == workspace else flag for flag in small]
    shutil.copytree(workspace, tmp_path / "compiled")
    pair = ["--epochs_model", 3, "--alignment", "corr"]
    for flags in ([*small, *pair], [*other, *pair, "--compile"]):
        learn = ["--epochs", 1, "--lr", 0.01, "--val_freq", 1, "--overwrite"]
        run_as_process("training/train_curve.py", *flags, *learn)
        run_as_process("evaluation/eval_curve.py", *flags, "--epochs_curve", 1, "--num_points", 3)
    names = (
        "model_data/training/curve_models/TinyTen/bars/curve_align_corr_seeds_01_02.npz",
        "model_data/curves/TinyTen/bars/curve_align_corr_seeds_01_02-1.npz",
    )
    for name in names:
        plain, compiled = (np.load(root / name) for root in (workspace, tmp_path / "compiled"))
        for quantity in set(plain) - {"record"}:
            np.testing.assert_allclose(compiled[quantity], plain[quantity], rtol=1e-3, atol=1e-4, err_msg=quantity)
