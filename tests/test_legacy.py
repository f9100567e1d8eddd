"""Files as the original code writes them: matches, PAM's files, and pickled dictionaries of results."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from conftest import data_of, randomize

from models import MODELS, TinyTen
from utils.curves import FlatParameters, midpoint
from utils.errors import FileError
from utils.permutations import permute
from utils.reports import histories, paths, results
from utils.stages.layout import Layout, read_name
from utils.stages.loading import load_curve, load_pair
from utils.stages.matches import load_match, permutations_from_rows, rows_from_permutations
from utils.stages.meanings import words_of
from utils.symmetries.spec import permutation_spec


def pickled(path, value, module="numpy.core"):
    """np.save of something that is not an array of numbers, as numpy before 2.0 did it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, list):
        array = np.empty(len(value), object)
        array[:] = value
    else:
        array = np.array(value, object)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    stream.write(pickle.dumps(array, protocol=3).replace(b"numpy._core", module.encode()))
    path.write_bytes(stream.getvalue())
    return path


def of_numpy(path, value):
    """np.save as this numpy does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = value
    if isinstance(value, list):
        array = np.empty(len(value), object)
        array[:] = value
    np.save(path, array, allow_pickle=True)
    return path


WRITERS = {"numpy 1": pickled, "numpy 2": of_numpy}

# --- matches -----------------------------------------------------------------------------------------------


def random_rows(spec, seed=0):
    permutations = spec.random(seed)
    return permutations, rows_from_permutations(spec, permutations)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_resnet32s_match_with_what_stage_1_would_have_had(tmp_path, write):
    spec = permutation_spec(MODELS["ResNet32"](10))
    permutations, rows = random_rows(spec)
    for row in (2, 4, 6, 8, 10):
        rows[row] = np.random.default_rng(row).permutation(16)
    path = write(tmp_path / "m.npy", rows)
    assert load_match(path).networks is None
    for expected, found in zip(permutations, permutations_from_rows(spec, load_match(path).rows), strict=True):
        np.testing.assert_array_equal(expected, found)


def nested(rows):
    """GoogLeNet's rows as the original has them: a list of six for each inception block."""
    blocks, left = [], list(rows)
    for count in (1, 1, 1, 6, 6, 6, 1, 1, 6, 6, 6, 1, 1, 6, 6, 6):
        part, left = left[:count], left[count:]
        blocks.append(part[0] if count == 1 else part)
    assert not left
    return blocks


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("kind", ["arrays", "lists", "tensors", "int32", "pairs"])
def test_googlenets_match_of_lists_in_a_list(tmp_path, write, kind):
    generator = np.random.default_rng(0)
    lengths = [64, 64, 192, *(generator.integers(16, 99) for _ in range(58))]
    rows = [generator.permutation(length) for length in lengths]
    as_kind = {
        "arrays": lambda row: row,
        "lists": lambda row: row.tolist(),
        "tensors": torch.from_numpy,
        "int32": lambda row: row.astype(np.int32),
        "pairs": lambda row: row,
    }[kind]
    blocks = nested([as_kind(row) for row in rows])
    if kind == "pairs":  # the heads' too
        blocks = [*blocks[:6], blocks[6:8], *blocks[8:11], blocks[11:13], *blocks[13:]]
    found = load_match(write(tmp_path / "m.npy", blocks)).rows
    assert len(found) == 61
    for expected, row in zip(rows, found, strict=True):
        np.testing.assert_array_equal(expected, row)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def itself():
    value = []
    value.append(value)
    return value


def laughs(depth=40):
    value = np.arange(3)
    for _ in range(depth):
        value = [value, value]
    return value


def emptiness(depth=40):
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


NO_MATCHES = {
    "hostile": lambda: [Bomb()],
    "dictionary": lambda: {"a": 1},
    "fractions": lambda: [np.arange(3.0)],
    "text": lambda: ["text"],
    "nothing": lambda: [[]],
    "itself": itself,
    "laughs": lambda: [laughs()],
    "much of nothing": lambda: [emptiness()],
    "none": lambda: [None],
}


@pytest.mark.parametrize("kind", NO_MATCHES)
def test_no_matches(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    spec = permutation_spec(TinyTen(4))
    with pytest.raises((FileError, ValueError)) as caught:
        permutations_from_rows(spec, load_match(pickled(tmp_path / "m.npy", NO_MATCHES[kind]())).rows)
    assert "\n" not in str(caught.value)
    assert "delete" not in str(caught.value)
    assert not (tmp_path / "bomb").exists()


# --- PAM's files -------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path):
    """Two networks as the original saves them, and what PAM made of them there."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    for seed in (1, 2):
        saved(layout.endpoint(seed, 250), randomize(TinyTen(4), seed).state_dict())
    return layout


def saved(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 250, "model_state": state, "optimizer_state": {}}, path)


def load(layout, alignment, epochs):
    return load_curve(layout, data_of(4), (1, 2), 250, epochs, alignment=alignment)


@pytest.mark.parametrize("alignment, name", [("pam_", "pam_"), ("pam_null", "pam_"), ("pam_corr", "pam_corr")])
@pytest.mark.parametrize("epochs", [270, 250])
@pytest.mark.parametrize("match_folder", ["paired_models", "curve_pam_models"])
def test_pams_files(layout, tmp_path, capsys, alignment, name, epochs, match_folder):
    """Its epochs count the permutation phase's: a curve of 250 is called one of 270."""
    spec = permutation_spec(TinyTen(4))
    permutations, rows = random_rows(spec)
    folders = tmp_path / "model_dicts"
    pickled(folders / match_folder / f"TinyTen/bars/match_{name}_seeds_01_02.npy", rows)
    state = randomize(TinyTen(4), 5).state_dict()
    saved(folders / f"curve_pam_models/TinyTen/bars/checkpoint_align_{name}_seeds_01_02-270.pt", state)
    curve = load(layout, alignment, epochs)
    flat = FlatParameters(TinyTen(4))
    assert torch.equal(curve.row(1), flat.flatten(state))
    b = randomize(TinyTen(4), 2).state_dict()
    assert torch.equal(curve.row(2), flat.flatten(permute(b, spec, permutations)))
    assert f"checkpoint_align_{name}_seeds_01_02-270.pt is taken for it." in capsys.readouterr().out


def test_our_own_files_come_first(layout, tmp_path):
    spec = permutation_spec(TinyTen(4))
    pickled(tmp_path / "model_dicts/paired_models/TinyTen/bars/match_pam__seeds_01_02.npy", random_rows(spec)[1])
    theirs = tmp_path / "model_dicts/curve_pam_models/TinyTen/bars/checkpoint_align_pam__seeds_01_02-250.pt"
    saved(theirs, randomize(TinyTen(4), 5).state_dict())
    ours = midpoint(*(randomize(TinyTen(4), seed).state_dict() for seed in (1, 2)))
    saved(layout.curve("pam_", 1, 2, 250), ours)
    assert torch.equal(load(layout, "pam_", 250).row(1), FlatParameters(TinyTen(4)).flatten(ours))


def test_what_is_not_there_is_missing(layout):
    for alignment in ("pam_corr", "corr"):
        with pytest.raises(FileError, match=f"match_{alignment}_seeds_01_02.npy does not exist"):
            load_pair(layout, data_of(4), (1, 2), 250, alignment=alignment)
    with pytest.raises(FileError, match="align_null_seeds_01_02-250.pt does not exist"):
        load(layout, "", 250)


# --- results -----------------------------------------------------------------------------------------------

N = 9
T = np.linspace(0, 1, N)
ACCURACY = 88 - 20 * T * (1 - T)
LOSS = 0.4 + T * (1 - T)
CORNERS = np.array([[0, 0], [20, 0], [10, 8.0]])
PLACES = np.stack([(1 - T) ** 2, T**2, 2 * T * (1 - T)], axis=1) @ CORNERS
LENGTH = np.concatenate([[0], np.linalg.norm(np.diff(PLACES, axis=0), axis=1).cumsum()])


def series_of(root, alignment="corr", epochs=250, robust=False):
    return paths.named(Layout(root, "TinyTen", "CIFAR10", robust), [paths.Route(epochs, alignment)])[0]


def evaluated(root, content, alignment="corr", epochs=250, folder="curves", write=pickled, robust=False):
    write(root / f"model_data/{folder}/TinyTen/CIFAR10/curve_align_{alignment}_seeds_01_02-{epochs}.npy", content)
    return results.load_path(series_of(root, alignment, epochs, robust), (1, 2))


def expect(path, **arrays):
    for name, array in ({"t": T, "accuracy": ACCURACY, "loss": LOSS, "length": LENGTH} | arrays).items():
        np.testing.assert_allclose(path[name], array, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "content",
    [
        {"loss": LOSS, "accuracy": ACCURACY, "t": T, "length": LENGTH},
        {"test_loss": LOSS.tolist(), "test_acc": list(ACCURACY), "ts": T, "arc_length": LENGTH},
        {"loss_test": LOSS, "acc_test": ACCURACY / 100, "loss_train": LOSS / 2, "dist": LENGTH},
        {"te_nll": LOSS, "te_loss": LOSS + 1, "te_err": 100 - ACCURACY, "tr_err": LOSS, "ts": T, "dl": LENGTH},
        {"test": {"loss": LOSS, "error": 1 - ACCURACY / 100}, "train": {"loss": LOSS}, "coordinates": PLACES},
        {"testLoss": LOSS, "testAccuracy": ACCURACY[:, None], "curve_coordinates": PLACES.T},
        {"loss": {"train": LOSS / 2, "test": LOSS}, "accuracy": {"train": T, "test": ACCURACY}, "x": PLACES[:, 0],
         "y": PLACES[:, 1]},
        {"lossTimeSeries": [torch.tensor(loss) for loss in LOSS.astype(np.float64)], "accs": ACCURACY, "xy": PLACES},
        [{"loss": LOSS[i], "acc": ACCURACY[i], "lengths": LENGTH[i]} for i in range(N)],
        {"loss": LOSS, "accuracy": ACCURACY, "length": np.diff(LENGTH, prepend=0), "num_points": N, "name": "corr"},
        {"loss": LOSS, "accuracy": ACCURACY, "coords": PLACES, "average_accuracy": 3.0, "acc_min": ACCURACY.min()},
        {"loss": LOSS, "accuracy": ACCURACY, "points": PLACES, "args": Bomb()},
    ],
)  # fmt: skip
def test_evaluated_curves(tmp_path, content, write):
    if isinstance(content, dict) and isinstance(content.get("accuracy"), dict):
        content = content | {"accuracy": {"train": ACCURACY, "test": ACCURACY}}
    expected = {"loss": LOSS + 0}
    expect(evaluated(tmp_path, content, write=write), **expected)


@pytest.mark.parametrize("folder", ["curves", "curves_pam", "curve_pam_models", "curves/same_seed"])
def test_where_curves_of_the_original_are(tmp_path, folder):
    content = {"loss": LOSS, "accuracy": ACCURACY, "length": LENGTH}
    if folder.endswith("same_seed"):
        return expect(evaluated(tmp_path, content, folder=folder))
    pickled(tmp_path / f"model_data/{folder}/TinyTen/CIFAR10/curve_align_pam__seeds_01_02-270.npy", content)
    for epochs in (270, 250):
        expect(results.load_path(series_of(tmp_path, "pam_null", epochs), (1, 2)))
    assert [(one.alignment, one.epochs, one.pair) for one in paths.evaluated(tmp_path)] == [("pam_null", 270, (1, 2))]
    return None


def test_lines_without_lengths(tmp_path, capsys):
    path = evaluated(tmp_path, {"loss": LOSS, "accuracy": ACCURACY}, "null", 0)
    expect(path, length=T)
    assert "null_seeds_01_02-0.npy has no lengths, so averages along it are over t.\n" in capsys.readouterr().out


def test_robust_curves(tmp_path):
    content = {
        "loss_clean": LOSS,
        "acc_clean": ACCURACY,
        "loss_adv": LOSS + 1,
        "acc_adv": ACCURACY / 2,
        "dist": LENGTH,
    }
    found = evaluated(tmp_path, content, folder="adversarial_curves", robust=True)
    expect(found, loss_robust=LOSS + 1, accuracy_robust=ACCURACY / 2)


@pytest.mark.parametrize(
    "content, words",
    [
        ({"l": LOSS, "a": ACCURACY}, "no key is a loss or an accuracy along it; it has the keys l, a"),
        ({"loss": LOSS}, "it lacks accuracy; it has the keys loss"),
        ({"loss": LOSS, "accuracy": -ACCURACY}, "its accuracies are neither fractions nor percentages; it has"),
        ({"loss_x": LOSS, "loss_z": T}, "several keys could be loss (loss x and loss z); it has the keys "),
        ({"loss": LOSS[1:], "accuracy": ACCURACY}, "accuracy has the shape (9,); it has the keys loss, accuracy"),
        ({"loss": LOSS * np.nan, "accuracy": ACCURACY}, "loss has entries that are not finite numbers; it has"),
        ([LOSS, ACCURACY[1:]], "no key is a loss or an accuracy along it; it has no keys: it is a list"),
        ({f"k{i}": {"inner": i} for i in range(14)}, "k10.inner, k11.inner, …"),
    ],
)  # fmt: skip
def test_results_that_are_not_understood(tmp_path, content, words):
    with pytest.raises(FileError) as caught:
        evaluated(tmp_path, content)
    error = caught.value
    assert error.reason.startswith("is of other code and not understood: ")
    assert words in error.reason
    assert (error.path.suffix, error.mend) == (".npy", "")
    assert read_name(error.path) is not None


def test_results_of_ours_come_first(tmp_path):
    content = {"loss": LOSS, "accuracy": ACCURACY, "length": LENGTH}
    evaluated(tmp_path, content)
    path = series_of(tmp_path).layout.evaluated("corr", 1, 2, 250)
    np.savez(path, t=T, loss=LOSS + 1, accuracy=ACCURACY, length=LENGTH)
    expect(results.load_path(series_of(tmp_path), (1, 2)), loss=LOSS + 1)
    path.rename(path.with_name("curve_align_corr_seeds_01_02-250.partial.npz"))
    with pytest.raises(FileError, match="is not finished"):
        results.load_path(series_of(tmp_path), (1, 2))


X, Y = np.linspace(-1, 21, 5), np.linspace(-0.4, 6, 5)
GRID_X, GRID_Y = np.meshgrid(X, Y)
PLANE_LOSS = 0.1 + (GRID_Y / 4) ** 2 + (GRID_X / 20 - 0.5) ** 4
PLANE = {"loss": PLANE_LOSS, "accuracy": 90 - 5 * PLANE_LOSS}
HALF = np.array([CORNERS[0], CORNERS[1], [10, 4.0]])


def turned(plane):
    return {name: value.T if value.ndim == 2 else value for name, value in plane.items()}


@pytest.mark.parametrize(
    "content",
    [
        {**PLANE, "x": GRID_X, "y": GRID_Y, "corners": CORNERS},
        {**PLANE, "X": X, "Y": Y, "points": CORNERS},
        {**turned(PLANE), "xs": X, "ys": Y, "corners": CORNERS.T},
        {**turned(PLANE), "x": GRID_X.T, "y": GRID_Y.T, "corners": CORNERS},
        {**PLANE, "grid": np.stack([GRID_X, GRID_Y], axis=-1), "corners": CORNERS},
        {**turned(PLANE), "grid": np.stack([GRID_X.T, GRID_Y.T]), "corners": CORNERS},
        {**turned(PLANE), "alphas": X / 20, "betas": Y / 8, "bend_coordinates": CORNERS[[0, 2, 1]]},
        {"te_loss": PLANE_LOSS.T, "te_acc": PLANE["accuracy"].T / 100, "tr_loss": PLANE_LOSS.T - 1, "x": X, "y": Y,
         "a": CORNERS[0], "b": CORNERS[1], "middle": CORNERS[2]},
        {**PLANE, "x": GRID_X, "y": GRID_Y, "corners": HALF},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["plane_align_corr_seeds_01_02-250", "curve_plane_corr_seeds_01_02-250"])
def test_planes(tmp_path, content, name):
    folder = tmp_path / "model_data/loss_planes_with_curve/TinyTen/CIFAR10"
    pickled(folder / f"{name}.npy", content)
    pickled(folder / f"{name.replace('corr', 'pam_corr')}.npy", {"of": "another"})
    evaluated(tmp_path, {"loss": LOSS, "accuracy": ACCURACY, "coordinates": PLACES})
    (plane,) = results.load_planes_with_curve(series_of(tmp_path), [(1, 2)])
    expected = {"x": GRID_X, "y": GRID_Y, **PLANE, "corners": CORNERS, "curve": PLACES}
    for key, array in expected.items():
        np.testing.assert_allclose(plane[key], array, err_msg=key)


def test_planes_that_are_not_understood(tmp_path):
    path = tmp_path / "model_data/loss_planes_with_alignment/TinyTen/CIFAR10/plane_align_corr_seeds_01_02.npy"
    for content, words in (
        ({"z": PLANE_LOSS}, "no keys are the loss and the accuracy on a grid; it has the keys z"),
        ({**PLANE, "x": X, "y": Y}, "no key is the places of three points; it has the keys loss, accuracy, x, y"),
        ({**PLANE, "corners": CORNERS}, "no keys are the x and y of a grid; it has the keys loss, accuracy, corners"),
        (
            {**PLANE, "x": X[1:], "y": Y, "corners": CORNERS},
            "its grid is (5, 5), for 4 x and 5 y; it has the keys loss, accuracy, x, y, corners",
        ),
    ):
        pickled(path, content)
        with pytest.raises(FileError) as caught:
            results.load_planes_with_alignment(series_of(tmp_path), [(1, 2)])
        assert caught.value.reason == f"is of other code and not understood: {words}"


@pytest.mark.parametrize(
    "content", [[0.1, 0.2, [0.3, 0.4], 0.5], [np.float64(0.1), 0.2, np.array([0.3, 0.4]), [0.5]],
                {"mean": [0.1, 0.2, 0.3, 0.4, 0.5]}, {str(i): i / 10 for i in range(1, 6)},
                [torch.tensor(i / 10, dtype=torch.float64) for i in range(1, 6)]]
)  # fmt: skip
def test_correlations(tmp_path, content):
    """Lists in a list for GoogLeNet's blocks, in order."""
    pickled(tmp_path / "model_data/paired_models/TinyTen/CIFAR10/corr_aligned_mean_seeds_01_02.npy", content)
    (found,) = results.load_correlations(series_of(tmp_path), [(1, 2)], "aligned")
    np.testing.assert_allclose(found, np.arange(1, 6) / 10)


@pytest.mark.parametrize("content", [{"a": "b"}, [np.arange(16.0), np.arange(32.0)], [Bomb(), 1.0], [0.1, np.nan]])
def test_no_correlations(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path / "model_data/paired_models/TinyTen/CIFAR10/corr_aligned_mean_seeds_01_02.npy", content)
    with pytest.raises(FileError, match="it does not hold a number for each layer|finite"):
        results.load_correlations(series_of(tmp_path), [(1, 2)], "aligned")
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("folder", ["paired_models", "paired_models_on_curve"])
def test_correlations_of_midpoints(tmp_path, folder):
    arrays = {f"{which}_{end}": np.arange(9.0) + i for i, (which, end) in enumerate(
        (which, end) for which in ("unaligned", "aligned") for end in "ab")}  # fmt: skip
    content = {which: {"start": arrays[f"{which}_a"], "end": list(arrays[f"{which}_b"])}
               for which in ("unaligned", "aligned")}  # fmt: skip
    pickled(tmp_path / f"model_data/{folder}/TinyTen/CIFAR10/curve_align_corr_seeds_01_02-250.npy", content)
    (found,) = results.load_along_curve(series_of(tmp_path), [(1, 2)], 0.5)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "content", [{"train_loss": np.linspace(2, 1, 250), "train_acc": np.linspace(40, 85, 250), "test_acc": [1.0] * 9},
                {"loss": {"train": np.linspace(2, 1, 250)}, "accuracy": {"train": np.linspace(0.4, 0.85, 250)}}]
)  # fmt: skip
def test_histories(tmp_path, content):
    pickled(tmp_path / "model_data/training/curve_models/TinyTen/CIFAR10/curve_align_corr_seeds_01_02.npy", content)
    (history,) = histories.load_histories(series_of(tmp_path), [(1, 2)])
    np.testing.assert_allclose(history["loss_train"], np.linspace(2, 1, 250))
    np.testing.assert_allclose(history["accuracy_train"], np.linspace(40, 85, 250))


@pytest.mark.parametrize(
    "key, words",
    [
        ("test_loss", {"test", "loss"}),
        ("testLoss", {"test", "loss"}),
        ("trAccs", {"train", "accuracy"}),
        ("te-err", {"test", "error"}),
        ("testacc", {"test", "accuracy"}),
        ("Arc length", {"length"}),
        ("avgloss", {"avgloss"}),
        ("lossx", {"lossx"}),
        ("xy", {"place"}),
    ],
)
def test_words_of_keys(key, words):
    assert words_of(key) == words
