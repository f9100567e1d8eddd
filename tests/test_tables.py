"""The table, on evaluations made by hand."""

import csv
import importlib
import json

import numpy as np
import pytest
from conftest import write_results

from utils.cli import commands
from utils.errors import UserError
from utils.reporting.tables import load_published
from utils.storage.files import save_arrays
from utils.storage.layout import Layout, partial

PAIRS = ((1, 2), (3, 4), (5, 6))
LENGTH = np.array([0.0, 1, 3])  # unequal steps


def evaluation(root, accuracies, dataset="CIFAR10", alignment="null", epochs=250, suffix="", **settings):
    """Evaluated paths of as many pairs as there are accuracies (3,)."""
    folder = Layout(root, "TinyTen", dataset, robust=bool(suffix))
    for pair, accuracy in zip(PAIRS, accuracies, strict=False):
        arrays = {"t": np.array([0, 0.5, 1]), "length": LENGTH}
        for kind in {"", suffix}:
            arrays |= {f"accuracy{kind}": np.array(accuracy, float), f"loss{kind}": np.ones(3)}
        noted = {"settings": np.array(json.dumps(settings))} if settings else {}
        save_arrays(folder.evaluated(alignment, *pair, epochs), **arrays, **noted)


class Ended(Exception):
    """A script ended with this line."""


def run(script, flags):
    module = importlib.import_module(script)
    args = module.parse_args(flags)
    try:
        module.main(args)
    except UserError as error:
        raise Ended(commands.explain(error, vars(args), script)) from error


def make(root, *flags):
    run("evaluation.make_tables", ["--root", str(root), *map(str, flags)])


def texts(root, name="table_CIFAR10_TinyTen"):
    return {suffix: (root / "figures" / f"{name}.{suffix}").read_text() for suffix in ("md", "csv", "tex")}


# Averages over arc length: (85 + 2 · 83) / 3, (88 + 2 · 89.5) / 3, (90 + 2 · 92) / 3; minima 80, 85, 90.
THREE = ([90, 80, 86], [91, 85, 94], [90, 90, 94])


def test_means_deviations_and_published_numbers(tmp_path):
    evaluation(tmp_path, THREE)
    make(tmp_path)
    averages, minima, ends = np.array([251, 267, 274]) / 3, np.array([80, 85, 90]), np.array([88, 92.5, 92])
    measured = [f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in (averages, minima, ends)]
    assert measured == ["88.0 ± 3.9", "85.0 ± 5.0", "90.8 ± 2.5"]
    text = texts(tmp_path)
    assert "| curve, unaligned | 88.0 ± 3.9 | 87.4 ± 0.1 | 85.0 ± 5.0 | 82.8 ± 0.5 |" in text["md"]
    assert "| **TinyTen**, the two networks | 90.8 ± 2.5 | 89.0 ± 0.1 | | |" in text["md"]
    assert "standard deviation of 3 pairs" in text["md"]
    assert "Published: Tatro et al." in text["md"]
    row = r"curve, unaligned & 88.0 $\pm$ 3.9 & 87.4 $\pm$ 0.1 & 85.0 $\pm$ 5.0 & 82.8 $\pm$ 0.5 \\"
    assert row in text["tex"]
    rows = {(row["path"], row["figure"]): row for row in csv.DictReader(text["csv"].splitlines())}
    minimum = rows["curve, unaligned", "minimum"]
    assert float(minimum["mean"]) == 85
    assert float(minimum["standard_deviation"]) == 5
    assert (minimum["published_mean"], minimum["published_standard_deviation"]) == ("82.8", "0.5")
    assert float(rows["curve, unaligned", "average"]["mean"]) == pytest.approx(averages.mean(), rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "mine"},
        {"epochs": 20},
        {"epochs": 0},
        {"epochs_model": 20},
        {"use_test": False},
        {"bn_images": 2000},
        {"points": ["A", "1", "2", "B"]},
    ],
    ids=str,
)
def test_published_numbers_stand_only_where_the_setting_is_theirs(tmp_path, changes):
    evaluation(tmp_path, THREE, **changes)
    make(tmp_path)
    text = texts(tmp_path, f"table_{changes.get('dataset', 'CIFAR10')}_TinyTen")
    assert "published |" not in text["md"]
    assert "& published" not in text["tex"]
    assert ("Published numbers" in text["md"]) == ("dataset" not in changes)


def test_one_pair_has_no_deviation(tmp_path):
    evaluation(tmp_path, THREE[:1])
    make(tmp_path)
    text = texts(tmp_path)["md"]
    assert "| curve, unaligned | 83.7 | 87.4 ± 0.1 | 80.0 | 82.8 ± 0.5 |" in text
    assert "one pair" in text


def test_what_is_missing_is_said_with_its_command(tmp_path, capsys):
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE[:2], alignment="corr")
    unfinished = Layout(tmp_path, "TinyTen", "CIFAR10").evaluated("corr", 5, 6, 250)
    save_arrays(partial(unfinished), t=np.zeros(1))
    make(tmp_path)
    printed = capsys.readouterr().out
    assert "| curve, unaligned | 88.0 ± 3.9 |" in printed
    assert "| curve, aligned (2 of 3 pairs) | 86.3 ± 3.8 |" in printed
    lines = [line for line in printed.splitlines() if line.startswith("Not in the table: ")]
    assert len(lines) == 1
    assert f"{unfinished} is not finished; go on with: python evaluation/eval_curve.py" in lines[0]
    assert "--seed_a 5 --seed_b 6" in lines[0]
    assert "--alignment corr --epochs_curve 250" in lines[0]


def test_what_is_asked_for_and_is_not_there(tmp_path, capsys):
    evaluation(tmp_path, THREE)
    make(tmp_path, "--alignment", "", "corr", "--epochs", 250, "--seed_a", 1, "--seed_b", 2)
    printed = capsys.readouterr().out
    assert "| curve, unaligned | 83.7 |" in printed
    assert (
        "curve_align_corr_seeds_01_02-250.npz does not exist; make it with: python evaluation/eval_curve" in printed
    )


def test_what_was_evaluated_unlike_the_rest_is_left_out(tmp_path, capsys):
    evaluation(tmp_path, THREE[:1], num_points=3)
    evaluation(tmp_path, THREE[:2], alignment="corr", num_points=3)
    path = Layout(tmp_path, "TinyTen", "CIFAR10").evaluated("corr", 3, 4, 250)
    np.savez(path, **dict(np.load(path)) | {"settings": np.array(json.dumps({"num_points": 3, "bn_images": 7}))})
    evaluation(tmp_path, THREE[:1], alignment="corr", num_points=3, bn_images=None)
    make(tmp_path, "--alignment", "corr")
    printed = capsys.readouterr().out
    assert "| curve, aligned (1 of" not in printed  # one is the most that a row has
    assert "| curve, aligned | 83.7 |" in printed
    assert f"{path} was evaluated unlike that of the first pair, with bn_images 7 (there None)" in printed


def test_one_path_of_several_datasets_is_one_row(tmp_path):
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE, dataset="mine", epochs=6)
    make(tmp_path)
    rows = list(csv.DictReader(texts(tmp_path, "table_CIFAR10_mine_TinyTen")["csv"].splitlines()))
    paths = {(row["dataset"], row["path"], row["epochs"]) for row in rows if row["epochs"]}
    assert paths == {
        ("CIFAR10", "curve of 250 epochs, unaligned", "250"),
        ("mine", "curve of 6 epochs, unaligned", "6"),
    }


@pytest.mark.parametrize("seeds", [[], ["--seed_a", 1, "--seed_b", 2]])
def test_all_named_and_nothing_there(tmp_path, seeds):
    flags = ["--dataset", "CIFAR10", "--model", "TinyTen", "--epochs", 250, "--alignment", "corr", *seeds]
    command = "python evaluation/eval_curve.py --model TinyTen --dataset CIFAR10"
    with pytest.raises(Ended, match=f"make it with: {command}"):
        make(tmp_path, *flags)


def test_an_unfinished_evaluation_is_missing(tmp_path, capsys):
    evaluation(tmp_path, THREE)
    unfinished = Layout(tmp_path, "TinyTen", "CIFAR10").evaluated("corr", 1, 2, 250)
    save_arrays(partial(unfinished), t=np.zeros(1))
    make(tmp_path)
    assert f"{unfinished} is not finished; go on with" in capsys.readouterr().out


def test_datasets_stand_side_by_side(tmp_path):
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE[:1], dataset="mine", alignment="corr")
    make(tmp_path)
    lines = texts(tmp_path, "table_CIFAR10_mine_TinyTen")["md"].splitlines()
    assert "| CIFAR10: accuracy, average | published |" in lines[0]
    assert "| mine: accuracy, average | mine: accuracy, minimum |" in lines[0]
    assert "| curve, aligned (1 of 3 pairs) | – | | – | | 83.7 | 80.0 |" in lines
    make(tmp_path, "--dataset", "mine")
    assert "83.7" in texts(tmp_path, "table_mine_TinyTen")["md"]


def test_robust_networks(tmp_path):
    evaluation(tmp_path, THREE, suffix="_robust")
    make(tmp_path, "--adversarial")
    text = texts(tmp_path, "robust_table_CIFAR10_TinyTen")["md"]
    assert "clean accuracy, average | clean accuracy, minimum | robust accuracy, average |" in text
    assert "| curve, unaligned | 88.0 ± 3.9 | 85.0 ± 5.0 | 88.0 ± 3.9 | 85.0 ± 5.0 |" in text
    assert "published |" not in text


@pytest.mark.parametrize(
    "flags, script",
    [
        ([], "eval_curve.py"),
        (["--model", "ResNet32"], "eval_curve.py --model ResNet32"),
        (["--dataset", "CIFAR10"], "eval_curve.py --model TinyTen --dataset CIFAR10"),
        (["--adversarial"], "eval_adversarial_curve.py"),
    ],
    ids=str,
)
def test_nothing_evaluated(tmp_path, flags, script):
    with pytest.raises(Ended, match=f"has been evaluated under .*make it with: python evaluation/{script}"):
        make(tmp_path, *flags)


FOREIGN = {
    "truncated": lambda path, arrays: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path, arrays: path.write_text("0.9 0.8"),
    "lacks accuracy": lambda path, arrays: np.savez(path, **{k: v for k, v in arrays.items() if k != "accuracy"}),
    "other lengths": lambda path, arrays: np.savez(path, **arrays | {"loss": np.zeros(3)}),
    "not a number": lambda path, arrays: np.savez(path, **arrays | {"accuracy": np.full(9, np.nan)}),
    "settings": lambda path, arrays: np.savez(path, **arrays | {"settings": np.array("{")}),
    "other settings": lambda path, arrays: np.savez(path, **arrays | {"settings": np.array("[1]")}),
    "words": lambda path, arrays: np.savez(path, **arrays | {"loss": np.array(["low"] * 9)}),
    "objects": lambda path, arrays: np.savez(path, **arrays | {"loss": np.array([{}] * 9, object)}),
}


@pytest.mark.parametrize("damage", FOREIGN)
@pytest.mark.parametrize("script", ["evaluation.make_tables", "visualization.viz_curve"])
def test_foreign_and_damaged_results(tmp_path, damage, script):
    """One line that names the file and the command that makes it; no figure that lacks a line."""
    path = write_results(tmp_path, pairs=((1, 2),), alignments=("null",)).evaluated("null", 1, 2, 250)
    FOREIGN[damage](path, dict(np.load(path)))
    flags = ["--dataset", "CIFAR10", "--root", str(tmp_path), "--alignment", "", "--epochs", "250"]
    with pytest.raises(Ended) as caught:
        run(script, [*flags, "--seed_a", "1", "--seed_b", "2"])
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "move it away, and make it anew with: python evaluation/eval_curve.py" in message
    assert not list(tmp_path.glob("figures/*"))


def test_the_published_file_is_complete():
    published = load_published()
    paths = ("networks", "null", "pam_null", "pam_corr", "corr")
    datasets, models = ("CIFAR10", "CIFAR100", "TINY-IMAGENET-200"), ("TinyTen", "ResNet32", "GoogLeNet")
    expected = {(dataset, model, path) for dataset in datasets for model in models for path in paths}
    no_pam = {key for key in expected if key[1] == "GoogLeNet" and key[2].startswith("pam_")}
    assert set(published) == expected - no_pam
    for path, numbers in published.items():
        assert numbers.keys() == ({"average"} if path[2] == "networks" else {"average", "minimum"})
        assert all(30 <= mean <= 94 and 0 <= deviation <= 1.2 for mean, deviation in numbers.values())
