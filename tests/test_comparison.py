"""All alignments in one table and figure, on results made by hand."""

import numpy as np
import pytest
from conftest import write_results
from stages import run
from test_tables import rows_of

from utils.errors import FileError
from utils.stages.files import save_array, save_arrays

BUMP = np.array([0, 0.1, 0.4, 0.7, 1, 0.6, 0.5, 0.1, 0])


@pytest.fixture
def layout(tmp_path):
    """Two pairs, whose lines have been evaluated with interpolated statistics too."""
    layout = write_results(tmp_path)
    for alignment in ("null", "corr"):
        for number, pair in enumerate(((1, 2), (3, 4))):
            path = layout.evaluated(alignment, *pair, 0)
            table = dict(np.load(path))
            table["loss_interpolated"] = 1 + (number + 1) * BUMP
            save_arrays(path, **table)
            save_array(layout.match("corr", *pair), np.zeros((2, 2)))
    return layout


def compare(root, *flags):
    run("evaluation/compare_alignments.py", "--root", root, *flags)
    return rows_of(root, "comparison_CIFAR10_TinyTen")


def test_numbers_are_those_of_the_files(layout, tmp_path, capsys):
    rows = compare(tmp_path)
    interpolated = rows["line, aligned", "loss_interpolated", "barrier"]
    assert float(interpolated["mean"]) == pytest.approx(1.5)
    assert float(interpolated["standard_deviation"]) == pytest.approx(0.5**0.5)
    assert ("curve, aligned", "loss_interpolated", "barrier") not in rows
    pairs = ((1, 2), (3, 4))
    lengths = [np.load(layout.evaluated("corr", *pair, 0))["length"][-1] for pair in pairs]
    assert float(rows["line, aligned", "distance", ""]["mean"]) == pytest.approx(np.mean(lengths))
    for words, which in (("unaligned", "unaligned"), ("aligned", "aligned")):
        means = [np.load(layout.correlation("corr", which, *pair))[:-1].mean() for pair in pairs]
        assert float(rows[f"line, {words}", "correlation", ""]["mean"]) == pytest.approx(np.mean(means))
    lowest = [np.load(layout.evaluated("corr", *pair, 250))["accuracy"].min() for pair in pairs]
    assert float(rows["curve, aligned", "accuracy", "minimum"]["mean"]) == pytest.approx(np.mean(lowest))
    for suffix in ("md", "tex", "png", "pdf"):
        assert (tmp_path / f"figures/comparison_CIFAR10_TinyTen.{suffix}").is_file()
    assert "Not in the comparison" not in capsys.readouterr().out


def test_numbers_are_of_the_pairs_whose_lines_are_shown(layout, tmp_path):
    path, correlation = layout.evaluated("corr", 1, 2, 0), layout.correlation("corr", "aligned", 1, 2)
    layout.evaluated("corr", 3, 4, 0).write_bytes(b"damaged")
    rows = compare(tmp_path)
    expected = {"distance": np.load(path)["length"][-1], "correlation": np.load(correlation)[:-1].mean()}
    for quantity, value in expected.items():
        row = rows["line, aligned (1 of 2 pairs)", quantity, ""]
        assert (row["pairs"], float(row["mean"])) == ("1", pytest.approx(value))


def test_what_was_not_measured_is_a_gap(layout, tmp_path):
    """No column has nothing in it, as that of repaired networks; a match may be there without its correlations."""
    path = layout.evaluated("null", 1, 2, 0)
    save_arrays(layout.evaluated("pam_null", 1, 2, 0), **np.load(path))
    rows = compare(tmp_path, "--seed_a", 1, "--seed_b", 2)
    assert not any(quantity == "loss_repaired" for _, quantity, _ in rows)
    assert ("line, PAM unaligned", "correlation", "") not in rows
    assert ("line, PAM unaligned", "distance", "") in rows
    assert "repaired" not in (tmp_path / "figures/comparison_CIFAR10_TinyTen.md").read_text()


def test_what_alignment_took(layout, tmp_path):
    """The mean over the pairs whose matches tell it."""
    for pair, seconds in (((1, 2), 3.0), ((3, 4), 5.0)):
        path = layout.correlation("corr", "aligned", *pair)
        save_array(path, np.load(path), {"settings": {"taken": {"seconds": seconds, "memory": 70.0}}})
    rows = compare(tmp_path)
    assert float(rows["line, aligned", "seconds", ""]["mean"]) == 4
    assert float(rows["line, aligned", "memory", ""]["mean"]) == 70
    assert ("line, unaligned", "seconds", "") not in rows
    assert ("curve, aligned", "seconds", "") not in rows
    save_array(layout.match("corr", 3, 4), np.zeros((2, 2), np.int64))
    settings = {"epochs": 250, "sources": {"match": "of another"}, "taken": {"seconds": 5.0, "memory": 70.0}}
    save_array(path, np.load(path), {"settings": settings})
    assert float(compare(tmp_path)["line, aligned", "seconds", ""]["mean"]) == 3


def test_what_a_method_makes_least(layout, tmp_path):
    """Distances are of matches by that method, whatever their name, and of networks as they are; not of logits."""
    pair = (1, 2)
    save_arrays(layout.evaluated("mine", *pair, 0), **np.load(layout.evaluated("null", *pair, 0)))
    save_array(layout.match("mine", *pair), np.zeros((2, 2)))
    for which, values in (("unaligned", [4.0, 2.0, 9.0]), ("aligned", [1.0, 0.5, 9.0])):
        save_array(layout.distance("mine", which, *pair), values, {"settings": {"method": "w2_pre"}})
    rows = compare(tmp_path, "--seed_a", 1, "--seed_b", 2)
    assert float(rows["line, unaligned", "preactivation_distance", ""]["mean"]) == 3
    assert float(rows["line, mine", "preactivation_distance", ""]["mean"]) == 0.75
    assert ("line, aligned", "preactivation_distance", "") not in rows
    assert not any(quantity == "activation_distance" for _, quantity, _ in rows)


def test_a_match_without_its_line_is_named(layout, tmp_path, capsys):
    save_array(layout.match("w2_post", 1, 2), np.zeros((2, 2)))
    compare(tmp_path)
    assert "make it with: python evaluation/eval_curve.py" in capsys.readouterr().out
    compare(tmp_path, "--alignment", "", "corr")
    assert "Not in the comparison" not in capsys.readouterr().out


def test_nothing_to_compare(tmp_path):
    with pytest.raises(FileError, match="nothing that was asked for has been evaluated"):
        compare(tmp_path)
