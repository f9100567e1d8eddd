"""The table, on evaluations made by hand."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from conftest import randomize, write_results
from stages import fails, run

from models import TinyTen
from utils.curves import FlatParameters, digest, midpoint
from utils.errors import FileError
from utils.reports import results
from utils.reports.tables import load_published
from utils.stages.files import save_array, save_arrays, save_checkpoint
from utils.stages.layout import USUAL, Layout, Variant, partial

PAIRS = ((1, 2), (3, 4), (5, 6))
LENGTH = np.array([0.0, 1, 3])  # unequal steps


def evaluation(
    root, accuracies, dataset="CIFAR10", alignment="null", epochs=250, variants=(USUAL,) * 3, steep=0.0, **settings
):
    """Evaluated paths of as many pairs as there are accuracies (points,); `steep` times less is the loss."""
    folder = Layout(root, "TinyTen", dataset)
    for pair, accuracy, variant in zip(PAIRS, accuracies, variants, strict=False):
        accuracy, t = np.array(accuracy, float), np.linspace(0, 1, len(accuracy))
        arrays = {"t": t, "length": LENGTH if len(t) == 3 else 3 * t, "accuracy": accuracy}
        arrays["loss"] = 1 + steep * (100 - accuracy)
        noted = {"settings": np.array(json.dumps(settings))} if settings else {}
        save_arrays(folder.evaluated(alignment, *pair, epochs, variant), **arrays, **noted)


def make(root, *flags):
    run("evaluation/make_tables.py", "--root", root, *flags)


def texts(root, name="table_CIFAR10_TinyTen"):
    return {suffix: (root / "figures" / f"{name}.{suffix}").read_text() for suffix in ("md", "csv", "tex")}


def rows_of(root, name="table_CIFAR10_TinyTen"):
    """The lines of the CSV file, by path, quantity and statistic."""
    rows = csv.DictReader(texts(root, name)["csv"].splitlines())
    return {(row["path"], row["quantity"], row["figure"]): row for row in rows}


# Averages over arc length: (85 + 2 · 83) / 3, (88 + 2 · 89.5) / 3, (90 + 2 · 92) / 3; minima 80, 85, 90.
THREE = ([90, 80, 86], [91, 85, 94], [90, 90, 94])


def test_means_deviations_and_published_numbers(tmp_path):
    evaluation(tmp_path, THREE)
    make(tmp_path)
    averages, minima, ends = np.array([251, 267, 274]) / 3, np.array([80, 85, 90]), np.array([88, 92.5, 92])
    barriers = np.array([8, 7.5, 2])  # below the means of the ends
    average, minimum, mean, barrier = (
        f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in (averages, minima, ends, barriers)
    )
    text = texts(tmp_path)
    measured = f"{average} | 87.4 ± 0.1 | {minimum} | 82.8 ± 0.5 | {barrier} | 0.000 ± 0.000 |"
    assert f"| curve, unaligned | {measured}" in text["md"]
    assert f"| **TinyTen**, the two networks | {mean} | 89.0 ± 0.1 | | | | |" in text["md"]
    assert "standard deviation of 3 pairs" in text["md"]
    assert "Published: Tatro et al." in text["md"]
    measured_again = "batch-norm statistics re-estimated, so their accuracy is not quite what training printed"
    assert all(measured_again in text[suffix] for suffix in ("md", "tex"))
    row = f"curve, unaligned & {average} & 87.4 ± 0.1 & {minimum} & 82.8 ± 0.5 & ".replace("±", r"$\pm$")
    assert row in text["tex"]
    assert "loss, barrier" in text["md"].splitlines()[0]
    rows = rows_of(tmp_path)
    lowest = rows["curve, unaligned", "accuracy", "minimum"]
    assert (float(lowest["mean"]), float(lowest["standard_deviation"])) == (85, 5)
    assert (lowest["published_mean"], lowest["published_standard_deviation"]) == ("82.8", "0.5")
    exact = float(rows["curve, unaligned", "accuracy", "average"]["mean"])
    assert exact == pytest.approx(averages.mean(), rel=1e-12)


OTHER_TRAINING = {
    "a": [{"batch_size": 128}, {"use_test": False}, {"transform": "Adversarial"}],
    "b": [{"batch_size": 64, "lr": 0.05}],
    "curve": [{"batch_size": 64}, {"wd": 1e-3}, {"lr_drop": 2}, {"init_linear_off": True}, {"epochs_model": 200}]
    + [{"inner_iters_perm": 4}],
}


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
        {"num_points": 9},
        {"precision": "bf16"},
        {"image_size": 24},
        {"variants": [Variant(curve="PolyChain")] * 3},
        *({"trained": {of: flags}} for of, several in OTHER_TRAINING.items() for flags in several),
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


AS_PUBLISHED = {"lr": 0.1, "wd": 5e-4, "lr_drop": 20, "lr_decay": 0.9996, "precision": "fp32"}
AS_PUBLISHED |= {"transform": "ResNet32"}


def test_curves_of_pam_from_the_original_stand_beside_their_published_numbers(tmp_path):
    """It counts the epochs of the permutation phase among theirs; ours of as many epochs are other curves."""
    evaluation(tmp_path, THREE, alignment="pam_null", epochs=270)
    make(tmp_path)
    assert "| curve, PAM unaligned | 88.0 ± 3.9 | 87.6 ± 0.1 | 85.0 ± 5.0 | 84.0 ± 0.3 |" in texts(tmp_path)["md"]
    evaluation(tmp_path, THREE, alignment="pam_null", epochs=270, precision="fp32")
    make(tmp_path)
    assert "87.6" not in texts(tmp_path)["md"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trained": {"a": {}, "b": {}, "curve": {}}},  # networks of other code, which tells nothing
        {"trained": {"a": None, "curve": [1]}},
        {
            "num_points": 65,
            "bn_images": None,
            "image_size": None,
            "transform": "TinyTen",
            "points": ["A", "1", "B"],
            "trained": {
                "a": AS_PUBLISHED | {"batch_size": 64, "use_test": True},
                "b": AS_PUBLISHED | {"batch_size": 64, "use_test": True},
                "curve": AS_PUBLISHED | {"batch_size": 128, "epochs_model": 250, "init_linear_off": False},
            },
        },
    ],
    ids=["silent", "silent networks", "foreign", "published"],
)
def test_published_numbers_stand_beside_what_is_as_published(tmp_path, settings):
    """As far as files tell; a transform of another name does the same to these images."""
    evaluation(tmp_path, THREE, variants=[Variant(1), Variant(1), Variant(1)], **settings)
    make(tmp_path)
    assert "| curve, unaligned | 88.0 ± 3.9 | 87.4 ± 0.1 |" in texts(tmp_path)["md"]


def test_published_curves_of_another_network_are_said_to_be(tmp_path):
    """TinyTen's on Tiny ImageNet; the numbers stand there all the same."""
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE, dataset="TINY-IMAGENET-200")
    words = "the published curves of TinyTen are of a network with another seventh layer"
    for dataset, is_said in (("CIFAR10", False), ("TINY-IMAGENET-200", True)):
        make(tmp_path, "--dataset", dataset)
        text = texts(tmp_path, f"table_{dataset}_TinyTen")["md"]
        assert (words in text) == is_said
        assert "published |" in text


def test_curves_of_all_variants_are_rows_of_their_own(tmp_path):
    """Seeds, control points, families; the usual curves first, and each in words and in columns of the CSV file."""
    kinds = {
        Variant(): "curve, unaligned",
        Variant(2): "curve, unaligned, curve seed 2",
        Variant(1, 5): "curve of 5 bends, unaligned",
        Variant(1, 3, "PolyChain"): "PolyChain curve, unaligned",
        Variant(7, 5, "PolyChain"): "PolyChain curve of 5 bends, unaligned, curve seed 7",
    }
    for number, variant in enumerate(kinds):
        evaluation(tmp_path, [np.full(3, 60 + number)], variants=[variant])
    make(tmp_path)
    rows = [row for (*_, statistic), row in rows_of(tmp_path).items() if statistic == "minimum"]
    in_order = sorted(kinds, key=lambda variant: (variant.num_bends, variant.curve, variant.seed))
    assert [row["path"] for row in rows] == [kinds[variant] for variant in in_order]
    for row, variant in zip(rows, in_order, strict=True):
        assert Variant(int(row["curve_seed"]), int(row["num_bends"]), row["curve"]) == variant
        assert float(row["mean"]) == 60 + list(kinds).index(variant)
    for flags, variant in (
        (["--curve_seed", 2], Variant(2)),
        (["--num_bends", 5, "--curve", "Bezier"], Variant(1, 5)),
    ):
        make(tmp_path, *flags)
        assert {path for path, *_ in rows_of(tmp_path)} == {"the two networks", kinds[variant]}


def test_each_pair_with_a_curve_seed_of_its_own(tmp_path, capsys):
    """As in the paper's tables: one row, of each pair the curve of its own seed; lines have none."""
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE, epochs=0)
    evaluation(tmp_path, [[0, 0, 0], [70, 70, 70], [40, 40, 40]], variants=[Variant(4), Variant(2), Variant(3)])
    for flags in ([], ["--seed_a", 1, 3, 5, "--seed_b", 2, 4, 6]):
        make(tmp_path, "--curve_seed", 1, 2, 3, *flags)
        rows = rows_of(tmp_path)
        row = rows["curve, unaligned, curve seeds 1, 2, 3", "accuracy", "average"]
        assert (row["curve_seed"], row["pairs"]) == ("1 2 3", "3")
        assert float(row["mean"]) == pytest.approx(np.mean([251 / 3, 70, 40]), rel=1e-12)
        assert rows["line, unaligned", "accuracy", "average"]["pairs"] == "3"
    assert "Not in the table" not in capsys.readouterr().out
    make(tmp_path)
    text = texts(tmp_path)["md"]
    assert "| curve, unaligned | 88.0 ± 3.9 |" in text
    assert "| curve, unaligned, curve seed 2 (1 of 3 pairs) | 70.0 |" in text
    assert "Not in the table" not in capsys.readouterr().out  # nobody asked for the other pairs' curves of seed 2


@pytest.mark.parametrize("flags", [[], ["--seed_a", 1, 3, 5, "--seed_b", 2, 4, 6]])
def test_as_many_curve_seeds_as_pairs(tmp_path, flags, capsys):
    evaluation(tmp_path, THREE)
    code, line = fails(capsys, "evaluation/make_tables.py", "--root", tmp_path, "--curve_seed", 1, 2, *flags)
    assert code == 2 and "3 pairs" in line


def test_a_missing_curve_is_missed_with_its_variant(tmp_path, capsys):
    evaluation(tmp_path, THREE[:1], variants=[Variant(2)])
    which = ["--epochs", 250, "--alignment", "", "--seed_a", 1, "--seed_b", 2]
    make(tmp_path, *which, "--num_bends", 3, 5, "--curve_seed", 2)
    printed = capsys.readouterr().out
    # One pair has no deviation
    assert "| curve, unaligned, curve seed 2 | 83.7 | 87.4 ± 0.1 | 80.0 | 82.8 ± 0.5 |" in printed
    assert "in percent; one pair." in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("Not in the table"))
    assert "curve_align_null_seeds_01_02_bends_5_seed_2-250.npz does not exist" in line
    assert "--seed 2 --num_bends 5 --alignment '' --epochs_curve 250" in line


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


AS_USUAL = {"precision": "fp32", "use_test": True, "bn_images": None, "image_size": None}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"precision": "bf16"}, "bf16"),
        ({"bn_images": 8}, "8 images for batch norm"),
        ({"use_test": False}, "held-out training images"),
        ({"image_size": 8}, "image_size 8"),
        ({"sources": {"images": "others"}}, "other images"),
        ({"precision": "bf16", "bn_images": 8}, "bf16, 8 images for batch norm"),
        ({}, "3 points"),
    ],
    ids=str,
)
@pytest.mark.parametrize("aligned", [[70, 10, 70], [90, 90, 90]], ids=["highest", "lowest"])
def test_what_was_evaluated_unlike_the_others_is_marked_and_no_headline(tmp_path, capsys, changes, words, aligned):
    """Whether its barrier is the highest of all or the lowest."""
    usual = AS_USUAL | {"sources": {"images": "these"}}
    for alignment, lowest in (("null", 50), ("w2_pre", 70)):
        accuracies = [90, lowest, 90] if changes else [90, 90, lowest, 90, 90]
        evaluation(tmp_path, [accuracies], alignment=alignment, steep=0.1, **usual)
    evaluation(tmp_path, [aligned], alignment="corr", steep=0.1, **usual | changes)
    make(tmp_path)
    printed = capsys.readouterr().out
    assert f"| curve, aligned ({words}) |" in printed
    assert "| curve, unaligned |" in printed
    (headline,) = (line for line in printed.splitlines() if "falls from" in line)
    assert "(curve, unaligned) to" in headline and "before activation)" in headline
    assert "not evaluated as the others" in texts(tmp_path)["tex"]


def test_one_path_of_several_datasets_is_one_row(tmp_path):
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE, dataset="mine", epochs=6)
    make(tmp_path)
    rows = rows_of(tmp_path, "table_CIFAR10_mine_TinyTen").values()
    paths = {(row["dataset"], row["path"], row["epochs"]) for row in rows if row["epochs"]}
    assert paths == {
        ("CIFAR10", "curve of 250 epochs, unaligned", "250"),
        ("mine", "curve of 6 epochs, unaligned", "6"),
    }


def test_datasets_stand_side_by_side(tmp_path):
    evaluation(tmp_path, THREE)
    evaluation(tmp_path, THREE[:1], dataset="mine", alignment="corr")
    make(tmp_path)
    lines = texts(tmp_path, "table_CIFAR10_mine_TinyTen")["md"].splitlines()
    assert "| CIFAR10: accuracy, average | published |" in lines[0]
    assert "| mine: accuracy, average | mine: accuracy, minimum |" in lines[0]
    assert "| curve, aligned (1 of 3 pairs) | – | | – | | – | – | 83.7 | 80.0 | 8.0 | 0.000 |" in lines
    make(tmp_path, "--dataset", "mine")
    assert "83.7" in texts(tmp_path, "table_mine_TinyTen")["md"]


def test_robust_networks(tmp_path):
    """The best point, what clean accuracy is where robust accuracy is worst and best, and the better network."""
    clean = ([80, 78, 76, 70, 81], [82, 80, 78, 76, 74])
    robust = ([40, 30, 44, 20, 41], [43, 50, 30, 46, 42])
    layout = Layout(tmp_path, "TinyTen", "CIFAR10", robust=True)
    for pair, accuracy, accuracy_robust in zip(PAIRS, clean, robust, strict=False):
        arrays = {
            "accuracy": accuracy,
            "accuracy_robust": accuracy_robust,
            "loss": np.ones(5),
            "loss_robust": [1, 1, 1.5, 1, 1] if pair == (1, 2) else [1, 1.5, 4, 2.5, 3],
        }
        arrays |= {"t": np.linspace(0, 1, 5), "length": np.linspace(0, 3, 5)}
        save_arrays(layout.evaluated("corr", *pair, 200), **{k: np.asarray(v, float) for k, v in arrays.items()})
    make(tmp_path, "--adversarial")
    text = texts(tmp_path, "robust_table_CIFAR10_TinyTen")
    found = rows_of(tmp_path, "robust_table_CIFAR10_TinyTen")
    rows = {place: float(row["mean"]) for place, row in found.items()}
    curve, networks, better = "curve, aligned", "the two networks", "the more robust of the two"
    assert rows == pytest.approx(
        {
            (networks, "accuracy", "average"): (80.5 + 78) / 2,
            (networks, "accuracy_robust", "average"): (40.5 + 42.5) / 2,
            (better, "accuracy", "at_highest"): (81 + 82) / 2,
            (better, "accuracy_robust", "maximum"): (41 + 43) / 2,
            (curve, "accuracy", "average"): np.mean([76.125, 78]),
            (curve, "accuracy", "minimum"): (70 + 74) / 2,
            (curve, "accuracy", "at_lowest"): (70 + 78) / 2,
            (curve, "accuracy", "at_highest"): (76 + 80) / 2,
            (curve, "accuracy_robust", "average"): np.mean([33.625, 42.125]),
            (curve, "accuracy_robust", "minimum"): (20 + 30) / 2,
            (curve, "accuracy_robust", "maximum"): (44 + 50) / 2,
            (curve, "loss", "barrier"): 0,
            (curve, "loss_robust", "barrier"): (0.5 + 2) / 2,
        }
    )
    header = text["md"].splitlines()[0]
    assert (
        "clean accuracy, where robust accuracy is lowest | clean accuracy, where robust accuracy is highest" in header
    )
    of_robust = "robust accuracy, average | robust accuracy, minimum | robust accuracy, maximum |"
    assert header.endswith(f"{of_robust} clean loss, barrier | robust loss, barrier |")
    for name in ("md", "tex"):
        assert "47.0" in text[name]
        assert better in text[name]
    assert f"| {better} | | | | 81.5 ± 0.7 | | | 42.0 ± 1.4 | | |" in text["md"]
    assert "published |" not in text["md"]


def test_robust_networks_as_published_and_chosen_without_the_test_set(tmp_path):
    """Every second point, the end that is better in the mean, and the point that is best on held-out images."""
    layout, t = Layout(tmp_path, "TinyTen", "CIFAR10", robust=True), np.linspace(0, 1, 33)
    for pair, best, ends in (((1, 2), 5, (40, 41)), ((3, 4), 11, (50, 43))):
        robust, held_out = np.full(33, 30.0), np.full(33, 30.0)
        robust[[0, best, 8, -1]] = ends[0], 60, best, ends[1]
        held_out[8] = 70
        arrays = {"t": t, "length": 3 * t, "accuracy": 80 + t, "loss": t, "loss_robust": t}
        arrays |= {"accuracy_robust": robust, "accuracy_robust_held_out": held_out}
        save_arrays(layout.evaluated("corr", *pair, 200), **arrays)
    make(tmp_path, "--adversarial")
    text = texts(tmp_path, "robust_table_CIFAR10_TinyTen")
    found = rows_of(tmp_path, "robust_table_CIFAR10_TinyTen")
    rows = {place: float(row["mean"]) for place, row in found.items()}
    better = "the more robust of the two"
    assert rows["curve, aligned", "accuracy_robust", "maximum"] == 60
    assert rows["curve, aligned, every second point", "accuracy_robust", "maximum"] == (41 + 50) / 2
    assert rows["curve, aligned", "accuracy_robust", "chosen"] == (5 + 11) / 2
    assert rows["curve, aligned", "accuracy", "chosen"] == 80.25
    assert rows[better, "accuracy_robust", "maximum"] == (41 + 50) / 2
    assert rows[f"{better}, by means over pairs", "accuracy_robust", "maximum"] == (40 + 50) / 2
    assert "robust accuracy, where robust accuracy is highest on held-out images |" in text["md"].splitlines()[0]


NAMED = ["--dataset", "CIFAR10", "--model", "TinyTen", "--epochs", 250, "--alignment", "corr"]


@pytest.mark.parametrize(
    "flags, script",
    [
        ([], "eval_curve.py"),
        (["--model", "ResNet32"], "eval_curve.py --model ResNet32"),
        (["--dataset", "CIFAR10"], "eval_curve.py --model TinyTen --dataset CIFAR10"),
        (["--adversarial"], "eval_adversarial_curve.py"),
        (NAMED, "eval_curve.py --model TinyTen --dataset CIFAR10"),
        ([*NAMED, "--seed_a", 1, "--seed_b", 2], "eval_curve.py --model TinyTen --dataset CIFAR10"),
    ],
    ids=str,
)
def test_nothing_evaluated(tmp_path, capsys, flags, script):
    _, line = fails(capsys, "evaluation/make_tables.py", "--root", tmp_path, *flags)
    assert re.search(f"(has been evaluated under|does not exist).*make it with: \\S+ evaluation/{script}", line)


IMPOSSIBLE = {
    "accuracy of 250": {"accuracy": [90, 250, 90]},
    "accuracy of -3": {"accuracy": [90, -3, 90]},
    "accuracy_repaired of 101": {"accuracy_repaired": [90, 101, 90]},
    "loss of 1e+30": {"loss": [1, 1e30, 1]},
    "loss_repaired of nan": {"loss_repaired": [1, np.nan, 1]},
    "loss_repaired of the shape (2,)": {"loss_repaired": [1, 1]},
    "length of 1e+30": {"length": [0, 1, 1e30]},
    "length becomes less": {"length": [0, 2, 1]},
    "t does not ascend": {"t": [1, 0.5, 0]},
    "t does not ascend from 0": {"t": [0.2, 0.5, 1]},
    "t of 2": {"t": [0, 1, 2]},
}


def test_series_that_cannot_be_are_refused_by_name(tmp_path):
    """As what they are by the names of their files: histories, correlations, distances."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    histories = layout.model_history(1)
    for path, value in (
        (histories["accuracy_test"], 101),
        (histories["loss_train"], 1e30),
        (layout.correlation("corr", "aligned", 1, 2), 1.5),
        (layout.correlation("w2_pre", "aligned", 1, 2), -2),
        (layout.distance("w2_pre", "aligned", 1, 2), -1),
    ):
        save_array(path, np.array([0.5, value]))
        with pytest.raises(FileError) as caught:
            results.content(path, gaps=True)
        assert re.match(rf"holds numbers that cannot be: \w+ of {re.escape(f'{value:g}')}, ", caught.value.reason)
        save_array(path, np.array([0.5, 0.9]))
        results.content(path)


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_numbers_that_cannot_be_are_refused_by_name(tmp_path, capsys, words):
    evaluation(tmp_path, THREE[:1])
    path = Layout(tmp_path, "TinyTen", "CIFAR10").evaluated("corr", 1, 2, 250)
    usual = {"t": [0, 0.5, 1], "length": LENGTH, "accuracy": [90, 80, 90], "loss": [1, 2, 1]}
    save_arrays(path, **{name: np.array(array, float) for name, array in (usual | IMPOSSIBLE[words]).items()})
    make(tmp_path)
    printed = capsys.readouterr().out
    assert f"Not in the table: {path} holds numbers that cannot be: {words}" in printed
    assert "| curve, aligned" not in printed and "| curve, unaligned |" in printed


def test_results_without_sources_are_of_the_control_points_that_are_there(tmp_path, capsys):
    """Files of before record digests of the points alone."""
    layout, networks = Layout(tmp_path, "TinyTen", "CIFAR10"), [randomize(TinyTen(10), seed) for seed in (1, 2)]
    states = [network.state_dict() for network in networks]
    middle = midpoint(*states)
    files = {layout.endpoint(seed, 250): {"model_state": state} for seed, state in zip((1, 2), states, strict=True)}
    files[layout.curve("null", 1, 2, 250)] = {"model_state": middle, "points": {1: middle}}
    points = [digest(FlatParameters(networks[0]).flatten(state)) for state in (states[0], middle, states[1])]
    evaluation(tmp_path, THREE[:1], points=points, epochs_model=250)
    for path, content in files.items():
        save_checkpoint(path, content)
    make(tmp_path)
    for path, content in files.items():
        save_checkpoint(path, {"model_state": randomize(TinyTen(10), 7).state_dict()})
        with pytest.raises(
            FileError, match=r"null_seeds_01_02-250.npz was made with other networks than there are now"
        ):
            make(tmp_path)
        save_checkpoint(path, content)
    make(tmp_path)


RECORDS = [
    "{",
    "[]",
    "3",
    {"flags": 3},
    {"flags": {"transform": {"name": "x"}}},
    {"flags": {"transform": 3, "epochs_model": "250", "num_points": "65"}},
    {"flags": {"a_new_one": [1, [2]]}},
    {"flags": {"a_new_one": 7}},
    {"inputs": {"points": 3, "images": []}},
    {"inputs": {"a": None, "b": 7}, "flags": {"epochs_model": 250}},
    {"inputs": {"points": [["A"], {}]}},
    {"trained": {"a": 3, "curve": {"lr": [[]]}}},
    {"cost": {"seconds": "long"}, "made": 3, "command": {"x": 1}},
    {"command": ["evaluation/eval_curve.py", "--unknown", "\x1b[31m"], "flags": {"x": 1}},
]


def test_results_of_other_versions_cost_a_line_each(tmp_path, capsys):
    """At most; nothing ends with a traceback, and the rest is shown."""
    pairs = [(a, a + 1) for a in range(1, len(RECORDS), 2)]
    layout = write_results(tmp_path, pairs=pairs)
    curves = itertools.product(("null", "corr"), pairs)
    for (alignment, pair), record in zip(curves, RECORDS, strict=True):
        text = record if isinstance(record, str) else json.dumps(record)
        for path in (layout.evaluated(alignment, *pair, 250), layout.along_curve(alignment, *pair, 250, 0.5)):
            arrays = {name: array for name, array in np.load(path).items() if name != "settings"}
            save_arrays(path, **arrays, record=np.array(text))
    flags, (seeds_a, seeds_b) = ["--root", tmp_path, "--dataset", "CIFAR10"], zip(*pairs, strict=True)
    for script in ("viz_curve", "layerwise_mean_correlation/viz_align_along_curves"):
        seeds = ["--seed_a", *seeds_a, "--seed_b", *seeds_b]
        run(f"visualization/{script}.py", *flags, *seeds, "--epochs", 0, 250)
    for script in ("make_tables", "compare_alignments", "make_report"):
        run(f"evaluation/{script}.py", *flags)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("Not ")]
    assert len(lines) == len(set(lines)) and "\x1b" not in printed
    assert lines and all("-250" in line for line in lines)
    assert "| line, unaligned |" in texts(tmp_path)["md"] and "| curve, aligned (" in texts(tmp_path)["md"]


HOSTILE = ["a|b^c~d", "=cmd()", "x\x1b[31mred", "50%&#{}$y_", "back\\slash `*_<b>_*`", "+1", "@x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_names_wherever_they_stand(tmp_path, capsys, name):
    """Neither Markdown, LaTeX, a program for tables nor a terminal takes a part of them for something else."""
    evaluation(tmp_path, THREE[:1], dataset=name)
    evaluation(tmp_path, THREE[:1], dataset=name, alignment=name)
    make(tmp_path)
    assert "\x1b" not in capsys.readouterr().out
    written = {path.suffix[1:]: path.read_text() for path in (tmp_path / "figures").iterdir()}
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in written["md"].splitlines() if line.startswith("|")]
    assert len(set(cells)) == 1
    plain = re.sub(r"\\(text\w+\{\}|textbf\{|[&%$#_{}]|\\)|\$\\pm\$", "", written["tex"].split("\\toprule")[1])
    assert not re.search(r"[%$#_~^<>|]", plain.split("\\midrule")[1].split("\\bottomrule")[0])
    for row in csv.reader(written["csv"].splitlines()):
        assert not any(cell[:1] in ("=", "+", "-", "@") for cell in row[:4])
    assert not any("\x1b" in text for text in written.values())


FOREIGN = {
    "lacks accuracy": lambda arrays: {name: array for name, array in arrays.items() if name != "accuracy"},
    "other lengths": lambda arrays: arrays | {"loss": np.zeros(3)},
    "not a number": lambda arrays: arrays | {"accuracy": np.full(9, np.nan)},
    "settings": lambda arrays: arrays | {"settings": np.array("{")},
    "other settings": lambda arrays: arrays | {"settings": np.array("[1]")},
    "words": lambda arrays: arrays | {"loss": np.array(["low"] * 9)},
    "objects": lambda arrays: arrays | {"loss": np.array([{}] * 9, object)},
}


@pytest.mark.parametrize("damage", [*FOREIGN, "truncated", "text"])
@pytest.mark.parametrize("script", ["evaluation/make_tables.py", "visualization/viz_curve.py"])
def test_foreign_and_damaged_results(tmp_path, capsys, damage, script):
    """One line that names the file and the command that makes it; no figure that lacks a line."""
    path = write_results(tmp_path, pairs=((1, 2),), alignments=("null",)).evaluated("null", 1, 2, 250)
    if damage in FOREIGN:
        np.savez(path, **FOREIGN[damage](dict(np.load(path))))
    else:
        path.write_bytes(path.read_bytes()[:-100] if damage == "truncated" else b"0.9 0.8")
    flags = ["--dataset", "CIFAR10", "--alignment", "", "--epochs", 250, "--seed_a", 1, "--seed_b", 2]
    _, line = fails(capsys, script, "--root", tmp_path, *flags)
    assert str(path) in line
    assert re.search(r"move it away, and make it anew with: \S+ evaluation/eval_curve.py", line)
    assert not list(tmp_path.glob("figures/*"))


def test_the_published_file_is_complete():
    published, _ = load_published()
    paths = ("networks", "null", "pam_null", "pam_corr", "corr")
    datasets, models = ("CIFAR10", "CIFAR100", "TINY-IMAGENET-200"), ("TinyTen", "ResNet32", "GoogLeNet")
    expected = {(dataset, model, path) for dataset in datasets for model in models for path in paths}
    no_pam = {key for key in expected if key[1] == "GoogLeNet" and key[2].startswith("pam_")}
    assert set(published) == expected - no_pam
    for path, numbers in published.items():
        assert numbers.keys() == ({"average"} if path[2] == "networks" else {"average", "minimum"})
        assert all(30 <= mean <= 94 and 0 <= deviation <= 1.2 for mean, deviation in numbers.values())
