"""Networks, matches and curves from their files, and what is said of files that do not fit."""

from functools import partial

import networks
import numpy as np
import pytest
import torch
from conftest import data_of, randomize
from stages import REPOSITORY, run

from models import MODELS, TinyTen, builder
from utils.curves import Curve, network_digest
from utils.errors import FileError, UserError
from utils.permutations import groups_in, permute
from utils.stages.files import save_array, save_checkpoint
from utils.stages.layout import Layout
from utils.stages.loading import load_alignment, load_curve, load_network, load_pair, spec_of
from utils.stages.matches import load_match, save_match
from utils.symmetries import spec as spec_module
from utils.symmetries.spec import permutation_spec

DATA = data_of(4)
OF_TWO_KINDS = "the two kinds have stages and folders of their own"


def swaps(spec):
    """A permutation of every group that is not its own inverse."""
    return [np.roll(np.arange(group.size), 1) for group in spec.groups]


@pytest.fixture
def layout(tmp_path):
    """Networks 1 and 2 of three epochs, and their match `corr`."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    networks = [randomize(TinyTen(4), seed) for seed in (1, 2)]
    for seed, network in zip((1, 2), networks, strict=True):
        save_checkpoint(layout.endpoint(seed, 3), {"epoch": 3, "model_state": network.state_dict()})
    spec = permutation_spec(networks[1])
    save_match(layout.match("corr", 1, 2), spec, swaps(spec), list(map(network_digest, networks)))
    return layout


def refused(load, *args, **options):
    with pytest.raises(FileError) as caught:
        load(*args, **options)
    assert "\n" not in str(caught.value)
    return caught.value


# --- networks ----------------------------------------------------------------------------------------------


def test_weights_may_be_complex_and_tied(tmp_path):
    network = torch.nn.Module()
    network.one = network.other = torch.nn.Parameter(torch.randn(3, dtype=torch.complex64))
    save_checkpoint(tmp_path / "c.pt", {"model_state": network.state_dict()})
    before = network.one.detach().clone()
    torch.nn.init.zeros_(network.one)
    load_network(tmp_path / "c.pt", network, transform="none")
    assert network.one is network.other and torch.equal(network.one, before)


def stored(path, state=None, **settings):
    save_checkpoint(path, {"model_state": state or TinyTen(4).state_dict(), "settings": settings})
    return path


def test_networks_that_do_not_fit(tmp_path):
    path = tmp_path / "c.pt"
    load = partial(load_network, path, transform="TinyTen")
    error = refused(load, TinyTen(4))
    assert (error.path, error.mend) == (path, "make")
    stored(path, TinyTen(3).state_dict(), transform="TinyTen")
    error = refused(load, TinyTen(4))
    fits = "does not fit TinyTen: it has 3 classes, and 4 are wanted"
    assert error.reason == f"{fits}; use the model and dataset it was trained with"
    assert error.mend == ""  # it may be a good network of something else, and stays where it is
    broken = TinyTen(4).state_dict()
    broken["dense.bias"][0] = float("nan")
    stored(path, broken, transform="TinyTen")
    error = refused(load, TinyTen(4))
    assert (error.reason, error.mend) == ("holds weights that are not finite numbers", "remake")


def test_robust_networks_are_not_mistaken_for_plain_ones(tmp_path):
    plain = stored(tmp_path / "p.pt", transform="Adversarial")
    robust = stored(tmp_path / "r.pt", transform="Adversarial", epsilon=0.03)
    load_network(plain, TinyTen(4), transform="Adversarial")
    load_network(robust, TinyTen(4), transform="Adversarial", robust=True)
    error = refused(load_network, plain, TinyTen(4), transform="Adversarial", robust=True)
    assert (error.reason, error.mend) == (f"is a plain network, not a robust one; {OF_TWO_KINDS}", "")
    error = refused(load_network, robust, TinyTen(4), transform="Adversarial")
    assert (error.reason, error.mend) == (f"is a robust network, not a plain one; {OF_TWO_KINDS}", "")


@pytest.mark.parametrize("seed", [1, 2])
def test_the_networks_of_the_repository_are_there(seed):
    """Points of a path that an earlier version exported into networks' places: plain, and of no training seed."""
    layout = Layout(
        REPOSITORY, "TinyTen", "FashionMNIST10k", replaced={"models": REPOSITORY / "results/demo/networks"}
    )
    path, network = layout.endpoint(seed, 8), TinyTen(10)
    load_network(path, network, transform="TinyTen")
    expected = torch.load(path, weights_only=True)["model_state"]
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_network_sees_images_normalized_as_those_it_was_trained_on(tmp_path):
    path = stored(tmp_path / "c.pt", transform="TinyTen")
    load_network(path, TinyTen(4), transform="ResNet32")  # alike
    error = refused(load_network, path, TinyTen(4), transform="Adversarial")
    words = (
        "was trained with the transform TinyTen, which normalizes images unlike the transform Adversarial; use the"
    )
    assert words in str(error)
    told = stored(tmp_path / "d.pt", transform="none", moments=[[0.5] * 3, [0.25] * 3])
    load_network(told, TinyTen(4), transform="standard", moments=((0.5,) * 3, (0.25,) * 3))
    error = refused(load_network, told, TinyTen(4), transform="none")
    assert "the transform none --mean 0.5 0.5 0.5 --std 0.25 0.25 0.25, which normalizes" in str(error)


# --- pairs and matches -------------------------------------------------------------------------------------


def test_a_pair_is_a_and_the_permuted_b(layout):
    a, b = load_pair(builder("TinyTen"), layout, DATA, (1, 2), 3, alignment="corr")
    as_they_are = load_pair(builder("TinyTen"), layout, DATA, (1, 2), 3)
    spec = permutation_spec(b)
    expected = permute(as_they_are[1].state_dict(), spec, swaps(spec))
    assert all(torch.equal(value, expected[name]) for name, value in b.state_dict().items())
    assert network_digest(a) == network_digest(as_they_are[0])
    assert network_digest(b) != network_digest(as_they_are[1])
    for name in ("", "null"):
        _, same = load_pair(builder("TinyTen"), layout, DATA, (1, 2), 3, alignment=name)
        assert network_digest(same) == network_digest(as_they_are[1])


def test_a_match_is_for_its_networks(layout):
    path = layout.match("corr", 1, 2)
    networks = load_pair(builder("TinyTen"), layout, DATA, (1, 2), 3)
    spec = spec_of(networks[1], DATA.example)
    for order, expected in zip(load_alignment(path, networks, spec=spec)[1], swaps(spec), strict=True):
        np.testing.assert_array_equal(order, expected)
    error = refused(load_alignment, path, networks[::-1], spec=spec)
    assert error.reason == "was made for other networks, of other epochs or trained anew"
    assert error.mend == "replace"
    save_array(path, np.load(path))  # with no note, as from other code
    load_alignment(path, networks[::-1], spec=spec)
    other = permutation_spec(MODELS["ResNet32"](4))
    error = refused(load_alignment, path, [MODELS["ResNet32"](4)] * 2, spec=other)
    assert error.reason.startswith("is not a match for ResNet32: has 8 rows of ")
    assert error.mend == ""


def test_groups_that_no_row_shows_are_kept_in_a_match(tmp_path):
    """Of a learned query, which stands between weights alone; in a file of before they stay as they are."""
    network, example = networks.build("learned_query")
    spec = permutation_spec(network, *example)
    unseen = set(range(len(spec.groups))) - set().union(*(groups_in(row.axis) for row in spec.rows))
    assert unseen
    permutations, path = spec.random(1), tmp_path / "m.npy"
    save_match(path, spec, permutations, [network_digest(network)] * 2)
    known, found = load_alignment(path, (network, network), None)
    assert known == spec
    for order, expected in zip(found, permutations, strict=True):
        np.testing.assert_array_equal(order, expected)
    save_array(path, np.load(path))
    _, found = load_alignment(path, (network, network), spec=spec)
    assert all(np.array_equal(found[group], spec.identity()[group]) for group in unseen)


def test_a_match_with_a_spec_is_read_without_tracing(small, workspace, monkeypatch):
    """By every stage that reads one; a match of before, which has none, is traced."""
    pair = [*small, "--epochs_model", 3, "--alignment", "corr"]
    stages = {
        "training/train_curve.py": ["--epochs", 2, "--seed", 2],
        "evaluation/eval_curve.py": ["--epochs_curve", 2, "--num_points", 3, "--overwrite"],
        "evaluation/eval_plane_with_curve.py": ["--epochs_curve", 2, "--num_points", 2],
        "evaluation/eval_plane_with_alignment.py": ["--num_points", 2],
        "evaluation/export_point.py": ["--epochs_curve", 2, "--out", workspace / "point.pt"],
        "training/train_curve_pam.py": ["--inner_iters_perm", 1, "--inner_iters_phi", 1],
    }

    def forbidden(*_, **__):
        raise AssertionError("a network is traced")

    monkeypatch.setattr(spec_module, "_spec", forbidden)
    for script, flags in stages.items():
        run(script, *pair, *flags)
    match = Layout(workspace, "TinyTen", "bars").match("corr", 1, 2)
    save_array(match, np.load(match), {"networks": load_match(match).networks})
    with pytest.raises(AssertionError, match="a network is traced"):
        run("evaluation/export_point.py", *pair, *stages["evaluation/export_point.py"], "--overwrite")


def test_a_network_that_cannot_be_aligned():
    class Odd(torch.nn.Sequential):
        aligned_by = {"1": "none such"}

    layers = torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    with pytest.raises(UserError, match="^Odd cannot be aligned: aligned_by names '1' and 'none such'"):
        spec_of(Odd(*layers), DATA.example)


# --- curves ------------------------------------------------------------------------------------------------


def learned(layout, alignment="corr", **shape):
    """A curve between the pair with its points moved, saved as one of seven epochs."""
    a, b = load_pair(builder("TinyTen"), layout, DATA, (1, 2), 3, alignment=alignment)
    curve = Curve.between(TinyTen(4), a.state_dict(), b.state_dict(), **shape)
    with torch.no_grad():
        curve.learned.add_(0.1)
    state = curve.checkpoint() | {"settings": {**shape, "ends": curve.fixed_ends()}}
    save_checkpoint(layout.curve(alignment, 1, 2, 7), state)
    return curve


def load(layout, epochs=7, alignment="corr"):
    return load_curve(builder("TinyTen"), layout, DATA, (1, 2), 3, epochs, alignment=alignment)


@pytest.mark.parametrize(
    "shape", [{}, {"num_bends": 5}, {"num_bends": 4, "curve": "PolyChain"}, {"fix_end": False}], ids=str
)
def test_a_curve_comes_back(layout, shape):
    curve, found = learned(layout, **shape), load(layout)
    assert found.digests() == curve.digests()
    for t in (0.0, 0.3, 1.0):
        assert torch.equal(found.point(t), curve.point(t))


def test_curves_that_do_not_fit(layout):
    error = refused(load, layout)
    assert (error.path, error.mend) == (layout.curve("corr", 1, 2, 7), "make")
    learned(layout)
    path = layout.curve("", 1, 2, 7)
    path.write_bytes(layout.curve("corr", 1, 2, 7).read_bytes())
    error = refused(load, layout, alignment="")
    assert error.reason.startswith("was learned between other networks, or with another match,")
    assert (error.path, error.mend) == (path, "replace")
