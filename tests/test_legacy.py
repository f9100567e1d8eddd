"""Files as the original code writes them: matches, PAM's files, and pickled dictionaries of results."""

import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Bomb, data_of, randomize
from stages import run

from models import MODELS, TinyTen, builder
from utils.curves import FlatParameters, midpoint
from utils.errors import FileError
from utils.permutations import permute
from utils.reports import paths, results
from utils.stages.layout import Layout
from utils.stages.loading import load_curve, load_pair
from utils.stages.matches import load_match, permutations_from_rows, rows_from_permutations
from utils.symmetries.spec import permutation_spec


def pickled(path, value, module="numpy.core"):
    """np.save of something that is not an array of numbers: as numpy before 2.0 did it, or as this one does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(value, object) if not isinstance(value, list) else np.empty(len(value), object)
    if isinstance(value, list):
        array[:] = value
    if module is None:
        np.save(path, array, allow_pickle=True)
        return path
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    stream.write(pickle.dumps(array, protocol=3).replace(b"numpy._core", module.encode()))
    path.write_bytes(stream.getvalue())
    return path


WRITERS = {"numpy 1": pickled, "numpy 2": partial(pickled, module=None)}

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


def doubled(value, depth=40):
    for _ in range(depth):
        value = [value, value]
    return value


ITSELF = []
ITSELF.append(ITSELF)

NO_MATCHES = {
    "hostile": [Bomb()],
    "dictionary": {"a": 1},
    "fractions": [np.arange(3.0)],
    "text": ["text"],
    "nothing": [[]],
    "itself": ITSELF,
    "laughs": [doubled(np.arange(3))],
    "much of nothing": [doubled([])],
    "none": [None],
}


@pytest.mark.parametrize("kind", NO_MATCHES)
def test_no_matches(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    spec = permutation_spec(TinyTen(4))
    with pytest.raises((FileError, ValueError)) as caught:
        permutations_from_rows(spec, load_match(pickled(tmp_path / "m.npy", NO_MATCHES[kind])).rows)
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
    return load_curve(builder("TinyTen"), layout, data_of(4), (1, 2), 250, epochs, alignment=alignment)


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
            load_pair(builder("TinyTen"), layout, data_of(4), (1, 2), 250, alignment=alignment)
    with pytest.raises(FileError, match="align_null_seeds_01_02-250.pt does not exist"):
        load(layout, "", 250)


# --- results -----------------------------------------------------------------------------------------------

N = 9
T = np.linspace(0, 1, N)
CORNERS = np.array([[0, 0], [20, 0], [10, 8.0]])
PLACES = np.stack([(1 - T) ** 2, T**2, 2 * T * (1 - T)], axis=1) @ CORNERS
LENGTH = np.concatenate([[0], np.linalg.norm(np.diff(PLACES, axis=0), axis=1).cumsum()])
EVALUATED = {
    "curve_len": LENGTH,
    "test_loss": 0.4 + T * (1 - T),
    "test_acc": (88 - 20 * T * (1 - T)).tolist(),
    "loss_line_integral": 0.5,
    "acc_line_integral": 80.0,
    "curve_coords": PLACES,
    "model1_coords": CORNERS[1],
    "model2_coords": CORNERS[2],
}
OF_EVALUATED = {
    "t": T,
    "length": LENGTH,
    "loss": EVALUATED["test_loss"],
    "accuracy": EVALUATED["test_acc"],
    "coordinates": PLACES,
}


def route_of(root, alignment="corr", epochs=250, robust=False, model="TinyTen"):
    return paths.Route(Layout(root, model, "CIFAR10", robust), alignment, epochs)


def write_evaluated(root, content, alignment="corr", epochs=250, folder="curves", write=pickled):
    return write(
        root / f"model_data/{folder}/TinyTen/CIFAR10/curve_align_{alignment}_seeds_01_02-{epochs}.npy", content
    )


def expect(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_evaluated_curves(tmp_path, write):
    write_evaluated(tmp_path, EVALUATED, write=write)
    expect(results.load_path(route_of(tmp_path), (1, 2)), OF_EVALUATED)


def test_robust_curves(tmp_path):
    robust = {"test_loss_robust": EVALUATED["test_loss"] + 1, "test_acc_robust": EVALUATED["test_loss"] * 30}
    write_evaluated(tmp_path, EVALUATED | robust, folder="adversarial_curves")
    expected = {"loss_robust": robust["test_loss_robust"], "accuracy_robust": robust["test_acc_robust"]}
    expect(results.load_path(route_of(tmp_path, robust=True), (1, 2)), OF_EVALUATED | expected)


@pytest.mark.parametrize("folder", ["curves", "curves_pam", "curve_pam_models", "curves/same_seed"])
def test_where_curves_of_the_original_are(tmp_path, folder):
    if folder.endswith("same_seed"):
        write_evaluated(tmp_path, EVALUATED, folder=folder)
        expect(results.load_path(route_of(tmp_path), (1, 2)), OF_EVALUATED)
        return
    write_evaluated(tmp_path, EVALUATED, "pam_", 270, folder)
    for epochs in (270, 250):
        expect(results.load_path(route_of(tmp_path, "pam_null", epochs), (1, 2)), OF_EVALUATED)
    ((route, pairs),) = paths.evaluated(tmp_path).items()
    assert (route.alignment, route.epochs, pairs) == ("pam_null", 270, [(1, 2)])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"test_loss": None}, "it lacks 'test_loss'; it has the keys curve_len, test_acc"),
        ({"test_acc": None}, "it lacks accuracy; it has the keys curve_len, test_loss"),
        ({"test_loss": EVALUATED["test_loss"][1:]}, "length has the shape (9,); it has the keys"),
        ({"test_loss": EVALUATED["test_loss"] * np.nan}, "loss has entries that are not finite numbers; it has"),
        ({"test_acc": ["a"] * N}, "could not convert string to float: 'a'; it has"),
    ],
)
def test_results_that_are_not_understood(tmp_path, change, words):
    content = {key: value for key, value in (EVALUATED | change).items() if value is not None}
    path = write_evaluated(tmp_path, content)
    with pytest.raises(FileError) as caught:
        results.load_path(route_of(tmp_path), (1, 2))
    assert words in caught.value.reason
    assert caught.value.reason.startswith("is of other code and not understood: ")
    assert (caught.value.path, caught.value.mend) == (path, "")


def test_results_of_ours_come_first(tmp_path):
    write_evaluated(tmp_path, EVALUATED)
    path = route_of(tmp_path).layout.evaluated("corr", 1, 2, 250)
    ours = OF_EVALUATED | {"loss": EVALUATED["test_loss"] + 1}
    np.savez(path, **ours)
    expect(results.load_path(route_of(tmp_path), (1, 2)), ours)
    path.rename(path.with_name("curve_align_corr_seeds_01_02-250.partial.npz"))
    with pytest.raises(FileError, match="is not finished"):
        results.load_path(route_of(tmp_path), (1, 2))


X, Y = np.linspace(-1, 21, 5), np.linspace(-0.4, 6, 5)
LOSS = 0.1 + (Y / 4) ** 2 + (X[:, None] / 20 - 0.5) ** 4  # [i, j] at X[i], Y[j]
PLANE = {"t1": X, "t2": Y, "loss": LOSS, "acc": 90 - 5 * LOSS, "model1_coords": CORNERS[1]}
GRID_X, GRID_Y = np.meshgrid(X, Y)
OF_PLANE = {"x": GRID_X, "y": GRID_Y, "loss": LOSS.T, "accuracy": 90 - 5 * LOSS.T, "corners": CORNERS}


@pytest.mark.parametrize("third", [[10, 8.0], [10, 4.0]], ids=["turning point", "half the way"])
@pytest.mark.parametrize(
    "alignment, called, epochs", [("corr", "corr", 250), ("", "", 250), ("pam_null", "pam_", 270)]
)
def test_planes_with_curves(tmp_path, third, alignment, called, epochs):
    folder = tmp_path / "model_data/loss_planes_with_curve/TinyTen/CIFAR10"
    content = PLANE | {"model2_coords": np.array(third)}
    pickled(folder / f"{called}_loss_plane_dict_seeds_01_02-{epochs}.npy", content)
    pickled(folder / "other_loss_plane_dict_seeds_01_02-250.npy", {"of": "another"})
    write_evaluated(tmp_path, EVALUATED, called or "null", epochs)
    plane = results.load_plane_with_curve(route_of(tmp_path, alignment), (1, 2))
    expect(plane, OF_PLANE | {"curve": PLACES})


def test_planes_with_alignments(tmp_path):
    folder = tmp_path / "model_data/loss_planes_with_alignment/TinyTen/CIFAR10"
    path = pickled(folder / "corr_loss_plane_dict_seeds_01_02.npy", PLANE | {"model2_coords": CORNERS[2]})
    plane = results.load_plane_with_alignment(route_of(tmp_path), (1, 2))
    expect(plane, OF_PLANE)
    pickled(path, PLANE)
    with pytest.raises(FileError, match="it lacks 'model2_coords'; it has the keys t1, t2, loss, acc, model1_coords"):
        results.load_plane_with_alignment(route_of(tmp_path), (1, 2))


def test_correlations_of_networks_and_midpoints(tmp_path):
    """Plain arrays; of midpoints one a way of aligning, with a row for each end."""
    of_networks, of_midpoint = np.arange(9.0) / 9, np.arange(18.0).reshape(2, 9) / 40
    files = {"paired_models": {"corr_aligned_mean_seeds_01_02": of_networks}}
    files["paired_models_on_curve"] = {
        f"corr_{way}_mean_seeds_01_02_ends_align_corr-250": factor * of_midpoint
        for way, factor in (("unaligned", 1), ("aligned", -1), ("aligned_noid", 2))
    }
    for folder, arrays in files.items():
        (tmp_path / f"model_data/{folder}/TinyTen/CIFAR10").mkdir(parents=True)
        for name, array in arrays.items():
            np.save(tmp_path / f"model_data/{folder}/TinyTen/CIFAR10/{name}.npy", array)
    layout = route_of(tmp_path).layout
    found = results.load_result(layout, layout.correlation("corr", "aligned", 1, 2), {})
    np.testing.assert_array_equal(found["correlation"], of_networks)
    found = results.load_along_curve(route_of(tmp_path), (1, 2), t=0.5)
    for way, factor in (("unaligned", 1), ("aligned", -1), ("noid", 2)):
        expect(found, {f"{way}_{end}": factor * row for end, row in zip("ab", of_midpoint, strict=True)})
    with pytest.raises(FileError, match="does not exist"):
        results.load_along_curve(route_of(tmp_path), (1, 2), t=0.25)


def test_histories(tmp_path):
    """The first number is from before the training, and those of epochs without validation are none."""
    tested = [np.nan, 0.5, np.nan, 0.4]
    content = {"loss_train": [np.nan, 3.0, 2.0, 1.0], "acc_train": [np.nan, 40.0, 50.0, 60.0], "loss_test": tested}
    content |= {"acc_test": tested, "loss_time": tested, "acc_time": tested, "change_perm": []}
    pickled(tmp_path / "model_data/training/curve_models/TinyTen/CIFAR10/curve_align_corr_seeds_01_02.npy", content)
    history = results.load_history(route_of(tmp_path, epochs=3), (1, 2))
    expect(history, {"loss_train": [3, 2, 1], "accuracy_train": [40, 50, 60], "loss_test": tested[1:]})


@pytest.mark.parametrize("content", [{"loss_train": [{}]}, {"loss_train": [np.nan, 1e30]}, [Bomb()], {}])
def test_a_broken_file_of_one_kind_does_not_stop_the_others(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    write_evaluated(tmp_path, EVALUATED)
    folder = tmp_path / "model_data/training/curve_models/TinyTen/CIFAR10"
    path = pickled(folder / "curve_align_corr_seeds_01_02.npy", content)
    flags = ["--root", tmp_path, "--dataset", "CIFAR10", "--alignment", "corr", "--epochs", 250]
    run("visualization/viz_curve.py", *flags)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Not drawn: "))
    assert path.stem in line
    assert [path.name for path in tmp_path.glob("figures/*.png")] == ["curve_CIFAR10_TinyTen.png"]
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("content", [[np.arange(16.0), np.arange(32.0)], {"test_loss": Bomb(), "test_acc": Bomb()}])
def test_no_results(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    write_evaluated(tmp_path, content)
    with pytest.raises(FileError, match="is of other code and not understood"):
        results.load_path(route_of(tmp_path), (1, 2))
    assert not (tmp_path / "bomb").exists()
