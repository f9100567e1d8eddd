"""The first thing to try: B is A itself, or A with its channels shuffled. Then there is nowhere to go."""

import numpy as np
import pytest
import torch
from conftest import write_results
from stages import fails, run

from models import TinyTen
from utils import measuring
from utils.permutations import permute
from utils.reports import results
from utils.stages.files import save_arrays
from utils.stages.layout import Layout
from utils.stages.records import record_in
from utils.symmetries.spec import permutation_spec

SAME, SHUFFLED = 4, 5
KINDS = {"the same": (SAME, ""), "shuffled": (SHUFFLED, "corr")}


@pytest.fixture
def copies(workspace):
    """Network 1 under the seed SAME, and shuffled under the seed SHUFFLED, as other code would save them."""
    layout = Layout(workspace, "TinyTen", "bars")
    state = torch.load(layout.endpoint(1, 3), weights_only=True)["model_state"]
    spec = permutation_spec(TinyTen(4))
    shuffled = permute(state, spec, spec.random(0))
    for seed, copy in ((SAME, state), (SHUFFLED, shuffled)):
        torch.save({"epoch": 3, "model_state": copy}, layout.endpoint(seed, 3))
    return layout


@pytest.fixture(params=KINDS)
def pair(request, small, copies):
    """Flags that name the pair, its alignment, and its layout; a shuffled network is matched."""
    seed, alignment = KINDS[request.param]
    flags = [*small, "--seed_a", 1, "--seed_b", seed]
    if alignment:
        run("alignment/align_models.py", *flags, "--epochs", 3)
        means = np.load(copies.correlation("corr", "aligned", 1, seed))
        np.testing.assert_allclose(means, 1, atol=1e-5)
    return [*flags, "--epochs_model", 3, "--alignment", alignment], alignment, copies, (1, seed)


def drawn(pair, *flags):
    """The flags of scripts that draw this pair."""
    _, alignment, layout, (a, b) = pair
    seeds = ["--seed_a", a, "--seed_b", b]
    return ["--dataset", "bars", "--root", layout.root, *seeds, "--alignment", alignment, *flags]


def test_the_line_between_them(pair, capsys):
    """Every point of it is the network, so that it has no length and no spectrum; what is drawn is drawn over t."""
    flags, alignment, layout, seeds = pair
    run("evaluation/eval_curve.py", *flags, "--epochs_curve", 0, "--num_points", 5)
    table = np.load(layout.evaluated(alignment, *seeds, 0))
    np.testing.assert_array_equal(table["length"], 0)
    np.testing.assert_array_equal(table["coordinates"], 0)
    own = np.load(layout.evaluated("", 1, 2, 0))  # begins at the same network
    np.testing.assert_allclose(table["loss"], own["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(table["accuracy"], own["accuracy"][0])
    capsys.readouterr()
    run("visualization/viz_curve.py", *drawn(pair, "--epochs", 0))
    words = "unaligned" if not alignment else "aligned"
    assert results.no_spectrum(table) == "it has no length" and "spectrum" not in capsys.readouterr().out
    figures = {path.stem for path in (layout.root / "figures").glob("*.png")}
    assert "spectrum_bars_TinyTen" not in figures and "curve_bars_TinyTen" in figures
    run("evaluation/make_tables.py", *drawn(pair, "--epochs", 0))
    accuracy = f"{table['accuracy'].mean():.1f}"
    assert f"| line, {words} | {accuracy} | {accuracy} |" in capsys.readouterr().out


def test_a_curve_that_comes_back(pair, capsys, monkeypatch):
    """It has a length, but no plane of any width: that is said before anything is computed."""
    flags, alignment, layout, seeds = pair
    run("training/train_curve.py", *flags, "--epochs", 1)
    run("evaluation/eval_curve.py", *flags, "--epochs_curve", 1, "--num_points", 5)
    table = np.load(layout.evaluated(alignment, *seeds, 1))
    assert table["length"][-1] > 0
    np.testing.assert_array_equal(table["coordinates"][:, 0], 0)
    run("visualization/viz_curve.py", *drawn(pair, "--epochs", 1))
    assert "it has no length" not in capsys.readouterr().out
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: pytest.fail("a point of the plane was computed"))
    code, message = fails(capsys, "evaluation/eval_plane_with_curve.py", *flags, "--epochs_curve", 1)
    assert code == 1
    assert "the networks A and B have the same weights" in message
    assert not list(layout.folder("planes_with_curve").glob("*"))
    code, message = fails(capsys, "visualization/viz_curve_on_plane.py", *drawn(pair, "--epochs", 1))
    assert code == 1
    assert f"networks 1 and {seeds[1]} are the same, so no plane goes through" in message
    assert "--overwrite" not in message
    run("evaluation/make_report.py", "--root", layout.root, "--seed_a", 1, "--seed_b", seeds[1])
    assert f"Not in the report: networks 1 and {seeds[1]} are the same" in capsys.readouterr().out


def test_the_plane_through_a_b_and_aligned_b(copies, small, capsys):
    """Of a shuffled copy, aligned B is A; of the same network, all three are."""
    for seed, words in ((SHUFFLED, "on a straight line"), (SAME, "the same weights")):
        flags = [*small, "--seed_a", 1, "--seed_b", seed]
        run("alignment/align_models.py", *flags, "--epochs", 3)
        code, message = fails(capsys, "evaluation/eval_plane_with_alignment.py", *flags, "--epochs_model", 3)
        assert code == 1
        assert words in message
    assert not list(copies.folder("planes_with_alignment").glob("*"))


def test_a_plane_without_width_that_was_evaluated_before(tmp_path, capsys):
    layout = write_results(tmp_path, pairs=((1, 2),))
    path = layout.plane_with_curve("corr", 1, 2, 250)
    plane = dict(np.load(path))
    save_arrays(path, **plane | {"x": np.zeros_like(plane["x"])})
    flags = ["--dataset", "CIFAR10", "--root", tmp_path, "--alignment", "corr"]
    code, message = fails(capsys, "visualization/viz_curve_on_plane.py", *flags)
    assert code == 1
    assert f"{path} has no width or no height" in message


def test_how_the_networks_were_trained_goes_with_an_evaluation(trained):
    """So that tables know whether published numbers can stand beside it."""
    table = np.load(Layout(trained, "TinyTen", "bars").evaluated("corr", 1, 2, 2))
    told = record_in(table).trained
    assert told.keys() == {"a", "b", "curve"}
    for name in ("a", "b", "curve"):
        assert told[name]["batch_size"] == 32
        assert told[name]["lr"] == 0.1
        assert told[name]["transform"] == "TinyTen"
    assert (told["a"]["lr_drop"], told["curve"]["lr_drop"]) == (1, 20)
    assert told["curve"]["epochs_model"] == 3
