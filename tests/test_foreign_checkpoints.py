"""Checkpoints from elsewhere: what loads, and in which words the rest is refused."""

import argparse
import collections
import io
import json
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Bomb, data_of, randomize
from torch import nn

from models import MODELS, TinyTen, builder
from utils.curves import Curve
from utils.errors import FileError
from utils.stages.files import save_checkpoint
from utils.stages.layout import Layout
from utils.stages.loading import load_curve, load_network
from utils.stages.originals import load_checkpoint

STATE = randomize(TinyTen(4), 3).state_dict()
AVERAGE = {name: value + 1 for name, value in STATE.items()}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def expect_loaded(path, expected=STATE):
    network = TinyTen(4)
    load_network(path, network, transform="TinyTen")
    assert not network.training
    assert all(value.dtype == expected[name].dtype for name, value in network.state_dict().items())
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def refusal(path, network=None):
    """In what words a file is refused: in one line, as a file that nobody is to delete."""
    with pytest.raises(FileError) as caught:
        load_network(path, network or TinyTen(4), transform="TinyTen")
    error = caught.value
    assert error.path == path
    for never in ("\n", "\x1b", "delete", "Weights only", "weights_only", "Error(s) in loading"):
        assert never not in str(error)
    return error.reason


def without(part):
    return {name: value for name, value in STATE.items() if part not in name}


def prefixed(prefix, state=STATE):
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


# --- where the state is ------------------------------------------------------------------------------------


class AttributeDict(dict):
    """As of easydict, and of others."""


class OtherOrder(collections.OrderedDict):
    pass


@pytest.mark.parametrize("legacy", [False, True], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        dict(STATE),
        {"model_state": STATE, "epoch": 250, "optimizer_state": torch.optim.SGD([torch.zeros(1)]).state_dict()},
        {"state_dict": STATE, "best_acc1": 61.3},
        {"net": STATE, "acc": 61.3, "epoch": 7},
        {"model": STATE, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}},
        {"model_state_dict": STATE, "loss": torch.tensor(0.5)},
        {"model": STATE, "model_ema": AVERAGE},
        {"ema": {"module": STATE, "updates": 7}},
        {"state_dict_ema": STATE},
        {"weights": {name: value.numpy() for name, value in STATE.items()}},
        {"trained": {"classifier": STATE}, "rng": torch.get_rng_state()},
        {**STATE, "epoch": 3},
        AttributeDict(model=STATE, epoch=3),
        {"state_dict": OtherOrder(STATE)},
        AttributeDict(prefixed("module.")),
        (STATE, 3),
        [{"epoch": 3}, {"net": prefixed("net.")}],
    ],
    ids=[
        *("bare", "bare dict", "model_state", "state_dict", "net", "model", "model_state_dict", "beside ema", "ema"),
        *("state_dict_ema", "numpy", "other names", "bare with epoch"),
        *("other dictionary", "other order", "bare other dictionary", "tuple", "list"),
    ],
)
def test_states_wherever_they_are(tmp_path, content, legacy):
    expect_loaded(saved(tmp_path / "c.pt", content, _use_new_zipfile_serialization=not legacy))


def test_states_where_torch_is_told_to_read_weights_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    expect_loaded(saved(tmp_path / "c.pt", {"state_dict": STATE}))
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_state_pickled_without_torch(tmp_path):
    (tmp_path / "c.pt").write_bytes(pickle.dumps({"state_dict": STATE}))
    expect_loaded(tmp_path / "c.pt")


def test_the_network_is_taken_and_not_its_average(tmp_path, capsys):
    momenta = {"state": {i: {"momentum_buffer": torch.zeros(3)} for i in range(9)}}
    content = {"ema_state_dict": AVERAGE, "teacher": 3, "network": STATE, "optimizer": momenta}
    content["criterion"] = {"weight": torch.ones(4)}
    path = saved(tmp_path / "c.pt", content)
    expect_loaded(path)
    words = ("its network is the entry network", "the network in its entry ema_state_dict is left in the file")
    assert capsys.readouterr().out == "".join(f"{path}: {line}\n" for line in words)


# --- how its entries are called ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module.module._orig_mod."),
        prefixed("model."),
        prefixed("net.module."),
        prefixed("backbone.model."),
        prefixed("0."),
        prefixed("module.") | {"n_averaged": torch.tensor(3)},  # as AveragedModel has it
        {name.replace(".conv.", "._orig_mod.conv."): value for name, value in STATE.items()},
        without("num_batches_tracked"),
    ],
    ids=lambda state: next(iter(state)) + f" of {len(state)}",
)
def test_entries_under_names_of_wrappers(tmp_path, state):
    expected = STATE
    if len(state) < len(STATE):
        expected = STATE | {n: torch.zeros_like(v) for n, v in STATE.items() if n.endswith("num_batches_tracked")}
    expect_loaded(saved(tmp_path / "c.pt", {"state_dict": state}), expected)


class Tied(nn.Module):
    """A head and an embedding that are one weight, and something that is kept besides."""

    def __init__(self, count=None):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight, self.layer, self.count = self.embedding.weight, nn.Linear(3, 3), count

    def get_extra_state(self):
        return self.count

    def set_extra_state(self, state):
        self.count = state


TIED = {name: torch.randn(shape) for name, shape in (("layer.weight", (3, 3)), ("layer.bias", 3))}
WEIGHT = torch.randn(5, 3)


@pytest.mark.parametrize(
    "state",
    [
        {"embedding.weight": WEIGHT, **TIED},
        {"head.weight": WEIGHT, **TIED},
        {"embedding.weight": WEIGHT, "head.weight": WEIGHT.clone(), **TIED},
        {"embedding.weight": WEIGHT, **TIED, "_extra_state": {"steps": 3}, "layer._extra_state": None},
        prefixed("model.", {"head.weight": WEIGHT, **TIED, "_extra_state": torch.zeros(2)}),
    ],
)
def test_weights_under_several_names_and_what_is_kept_besides(tmp_path, state):
    network = Tied(count=7)
    load_network(saved(tmp_path / "c.pt", {"model": state}), network, transform="TinyTen")
    assert network.embedding.weight is network.head.weight and torch.equal(network.head.weight, WEIGHT)
    assert torch.equal(network.layer.bias, TIED["layer.bias"]) and network.count == 7


@pytest.mark.parametrize("prefix", ["", "model."])
def test_two_values_of_one_weight_are_refused(tmp_path, prefix):
    state = prefixed(prefix, {"embedding.weight": WEIGHT, "head.weight": WEIGHT + 1, **TIED})
    words = f"does not fit Tied: it has two values of one weight, {prefix}embedding.weight and {prefix}head.weight"
    assert refusal(saved(tmp_path / "c.pt", {"model": state}), Tied()).startswith(words)


ATTACKER = prefixed("module.model.") | prefixed("module.attacker.model.")


@pytest.mark.parametrize(
    "state, aside",
    [
        (ATTACKER | {"module.normalizer.new_mean": torch.zeros(3, 1, 1)}, len(STATE) + 1),
        (prefixed("model.") | {"criterion.weight": torch.ones(4), "metrics.hits": torch.tensor(3)}, 2),
        (dict(STATE) | prefixed("attacker."), len(STATE)),
        (STATE | {"total_ops": torch.zeros(1), "dense.total_params": torch.zeros(1)}, 2),
    ],
    ids=["MadryLab", "Lightning", "by itself, and in an attacker", "a profiler's"],
)
def test_what_is_beside_a_network_is_left_aside_with_a_line(tmp_path, capsys, state, aside):
    expect_loaded(saved(tmp_path / "c.pt", {"state_dict": state, "epoch": 3}))
    assert f"{aside} entries (" in capsys.readouterr().out


def test_another_network_in_the_attacker_is_refused(tmp_path):
    state = prefixed("module.model.") | prefixed("module.attacker.model.", AVERAGE)
    assert "it holds several networks (model, attacker.model)" in refusal(saved(tmp_path / "c.pt", {"model": state}))


# --- what is beside it -------------------------------------------------------------------------------------


class Tracker(dict):
    def __init__(self):
        super().__init__(best=3)
        self.history = [1.0]


BESIDE = {
    "args": argparse.Namespace(lr=0.1, out=Path("runs")),
    "path": Path("runs/1"),
    "best": np.float64(61.5),
    "epoch": np.int64(7),
    "table": np.arange(4.0),
    "tracker": Tracker(),
    "counts": collections.defaultdict(list, a=[1]),
    "names": {"a", "b"},
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "error": ValueError("no"),
    "function": len,
    "nested": [{"deep": (Path("a"), 1)}],
}


@pytest.mark.parametrize("legacy", [False, True], ids=["", "before torch 1.6"])
def test_objects_beside_the_state_are_left_aside(tmp_path, legacy, capsys):
    """Nothing of theirs is looked up or run."""
    content = {"state_dict": prefixed("module."), **BESIDE}
    path = saved(tmp_path / "c.pt", content, _use_new_zipfile_serialization=not legacy)
    expect_loaded(path)
    assert f"{path}: its entry args is left aside (argparse.Namespace)\n" in capsys.readouterr().out


def test_a_parameter_in_half_precision_beside_a_namespace(tmp_path):
    """What is read inertly is the same to the bit: all types, views, shared and transposed tensors, parameters."""
    shared = torch.arange(24.0)
    state = {
        "parameter": nn.Parameter(torch.randn(3, 4)),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(5).double(),
        "long": torch.tensor(2**40),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "view": shared[4:10].view(2, 3),
        "transposed": shared.view(4, 6).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(7),
    }
    for legacy in (False, True):
        content = {"model_state": state, "args": argparse.Namespace()}
        path = saved(tmp_path / "c.pt", content, _use_new_zipfile_serialization=not legacy)
        found = load_checkpoint(path)["model_state"]
        assert list(found) == list(state)
        for name, value in state.items():
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
            assert torch.equal(found[name], value), name


class StateBomb:
    """Goes off when its state is set."""

    def __setstate__(self, state):
        os.mkdir(state)

    def __getstate__(self):
        return "bomb"


@pytest.mark.parametrize("legacy", [False, True], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "args": Bomb()},
        {"state_dict": STATE, Bomb(): 1},
        {"state_dict": STATE | {"layers.0.conv.weight": Bomb()}},
        Bomb(),
        {"state_dict": STATE, "list": [Bomb()]},
        {"state_dict": STATE, "set": StateBomb()},
    ],
    ids=["beside", "as a key", "in the state", "as all", "in a list", "set"],
)
def test_nothing_of_a_file_is_run(content, tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "c.pt", content, _use_new_zipfile_serialization=not legacy)
    try:
        load_network(path, TinyTen(4), transform="TinyTen")
    except FileError:
        assert isinstance(content, Bomb) or "layers.0.conv.weight" in content["state_dict"]
    assert not Path("bomb").exists()
    with warnings.catch_warnings(action="ignore"):
        torch.load(path, weights_only=False)  # so that the test would see it
    assert Path("bomb").exists()


def shared(open_, item, close):
    """A pickle of 60 containers, each of which holds the one before twice."""
    levels = b"".join(open_ + b"q%c(" % (i + 1) + item % (i, i) + close for i in range(60))
    return b"\x80\x02" + open_ + b"q\x00" + levels + b"."


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def torch_bytes(content):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


ARRAY = named("numpy.core.multiarray", "_reconstruct") + b"N\x85R(K\x01J%b\x85" + named("numpy", "dtype")
TEXT = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x000"
BOMBS = {
    "bytes": b"\x80\x02" + named("builtins", "bytearray") + b"J" + struct.pack("<i", 2**31 - 1) + b"\x85R.",
    "bytes to come": b"\x80\x05\x96" + struct.pack("<Q", 3 * 10**9) + b".",
    "place in the memo": b"\x80\x02]r" + struct.pack("<I", 2**28) + b".",
    "lists": shared(b"]", b"h%ch%c", b"e"),
    "dictionaries": shared(b"}", b"U\x01ah%cU\x01bh%c", b"u"),
    "tuples as keys": b"\x80\x02)q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    + b"}h<K\x01s.",
    "numbers, again and again": b"\x80\x02"
    + TEXT
    + b"]("
    + (named("_codecs", "encode") + b"h\x00\x85R") * 9000
    + b"e.",
    "array": b"\x80\x02" + ARRAY % struct.pack("<i", 2 * 10**9) + b"U\x02O8\x85R\x89]tb.",
    "tensor": torch_bytes({"a": torch.ones(1).expand(10**9)}),
    "storage": torch_bytes({"a": torch.zeros(3)}).replace(b"K\x03", b"J" + struct.pack("<i", 10**9)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_neither_memory_nor_time(tmp_path, name):
    (tmp_path / "c.pt").write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        refusal(tmp_path / "c.pt")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


# --- what is refused ---------------------------------------------------------------------------------------

SAVE_IT = "save its state dict: torch.save(model.state_dict(), PATH)"


@pytest.mark.parametrize("legacy", [False, True], ids=["", "before torch 1.6"])
def test_a_whole_network(tmp_path, legacy):
    save = partial(saved, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    with warnings.catch_warnings(action="ignore"):
        save(TinyTen(4))
    words = "(models.tinyten.TinyTen), which only its own code can read; " + SAVE_IT
    assert refusal(tmp_path / "c.pt") == f"holds a whole network {words}"
    with warnings.catch_warnings(action="ignore"):
        save({"epoch": 3, "model": nn.Sequential(TinyTen(4)), "args": argparse.Namespace()})
    assert "holds a whole network as its entry model (torch.nn.modules.container.Sequential" in refusal(
        tmp_path / "c.pt"
    )


@pytest.mark.parametrize(
    "content, words",
    [
        ([1, 2], "it holds a list"),
        ({"epoch": 1, "best": 2.0}, "it holds epoch, best; save its"),
        ({}, "it holds nothing; save its"),
        ({"model_state": 3}, "it holds a int as its entry model_state; save its"),
        ({"model_state": {}}, "it holds a dict as its entry model_state; save its"),
        ({"state_dict": {"a": torch.zeros(2), "b": Path("x")}}, "it holds a dict as its entry state_dict; save its"),
        (torch.zeros(3), "it holds a Tensor"),
        (argparse.Namespace(model=STATE), "it holds a argparse.Namespace; save its"),
    ],
)
def test_checkpoints_that_are_none(tmp_path, content, words):
    reason = refusal(saved(tmp_path / "c.pt", content))
    assert reason.startswith("is not a checkpoint, which is a dictionary with a state dict as `model_state`, or a ")
    assert words in reason


def test_several_networks(tmp_path):
    path = saved(tmp_path / "c.pt", {"student": STATE, "teacher": STATE | {"more": torch.zeros(1)}})
    assert refusal(path) == f"holds several networks (student, teacher); {SAVE_IT}"
    path = saved(tmp_path / "d.pt", prefixed("student.") | prefixed("teacher.", AVERAGE))
    assert "it holds several networks (student, teacher)" in refusal(path)


FIRST, ONE = next(iter(STATE)), torch.ones(1)
OF_FIRST = STATE[FIRST]


@pytest.mark.parametrize(
    "state, words",
    [
        (TinyTen(7).state_dict(), "it has 7 classes, and 4 are wanted"),
        (prefixed("model.", TinyTen(7).state_dict()), "it has 7 classes, and 4 are wanted"),
        (without("dense.bias"), "it lacks dense.bias"),
        (STATE | {"dense.scale": torch.zeros(3)}, "it has dense.scale too many"),
        (without(".conv.") | {"a": ONE, "b": ONE}, f"it lacks {FIRST} and 15 more, has a and 1 more too many"),
        (STATE | {FIRST: OF_FIRST[:, :1]}, f"it has another shape of {FIRST} ((16, 1, 3, 3) instead of (16, 3, 3"),
        (STATE | {"dense.weight": torch.zeros(4, 32)}, "it has another shape of dense.weight ((4, 32) instead of"),
        (STATE | {FIRST: OF_FIRST.to(torch.int8)}, f"it has another kind of numbers in {FIRST} (torch.int8)"),
        (STATE | {FIRST: OF_FIRST + 0j}, f"it has another kind of numbers in {FIRST} (torch.complex64)"),
        (
            STATE | {"module.dense.bias": torch.zeros(4)},
            "it has two values of one weight, dense.bias and module.dense.bias",
        ),
        (MODELS["ResNet32"](4).state_dict(), "it lacks layers.0.conv.weight and 57 more, has layers.0.0."),
    ],
)
def test_states_that_do_not_fit(tmp_path, state, words):
    reason = refusal(saved(tmp_path / "c.pt", {"state_dict": state}))
    assert reason.startswith(f"does not fit TinyTen: {words}")
    assert reason.endswith("; use the model and dataset it was trained with")


def test_other_classes_of_a_network_with_several_heads(tmp_path):
    def network(classes):
        heads = {"aux": nn.Linear(3, classes), "stem": nn.Linear(8, 3), "fc": nn.Linear(5, classes)}
        return nn.Sequential(collections.OrderedDict(heads))

    path = saved(tmp_path / "c.pt", network(5).state_dict())
    assert "does not fit Sequential: it has 5 classes, and 4 are wanted;" in refusal(path, network(4))


def torchscript():
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


def archive(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, pickle.dumps({"epoch": 1, "x": Path("a")}, 2))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (torchscript(), "it is a TorchScript program: torch.save the state_dict() of what torch.jit.load reads"),
        (archive(name="word/document.xml"), "it is nothing that torch.save wrote, or damaged"),
        (b"hello", "it is nothing that torch.save wrote, or damaged"),
    ],
)
def test_files_of_other_formats(tmp_path, content, words):
    (tmp_path / "c.pt").write_bytes(content)
    assert refusal(tmp_path / "c.pt") == f"is not a checkpoint, or it is damaged ({words})"


SAFE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def safetensors(state, **changes):
    """A file as safetensors writes it; changes: of the header."""
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, value in state.items():
        own = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        place = [len(numbers), len(numbers) + len(own)]
        header[name] = {"dtype": SAFE[value.dtype], "shape": list(value.shape), "data_offsets": place}
        numbers += own
    written = json.dumps(header | changes).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + numbers


def test_safetensors_are_read_without_a_package(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(STATE))
    expect_loaded(path)
    kinds = {
        "half": torch.randn(3, 2).half(),
        "brain": torch.randn(4).bfloat16(),
        "bool": torch.tensor([True, False]),
    }
    path.write_bytes(safetensors(kinds | {"number": torch.tensor(2**40), "none": torch.zeros(0, 3)}))
    found = load_checkpoint(path)["model_state"]
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in kinds.items())
    assert found["number"] == 2**40 and found["none"].shape == (0, 3)


@pytest.mark.parametrize(
    "about",
    [
        {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]},
        [],
    ],
)
def test_safetensors_that_say_what_is_not_there(tmp_path, about):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"w": torch.ones(1)}, w=about))
    assert refusal(path).startswith("is not a checkpoint, or it is damaged (")


def test_truncated_files_with_objects_in_them(tmp_path):
    for legacy in (False, True):
        content = {"state_dict": STATE, "args": argparse.Namespace()}
        path = saved(tmp_path / "c.pt", content, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for length in (3, 50, 3000, len(whole) // 2, *range(len(whole) - 130, len(whole), 3)):
            path.write_bytes(whole[:length])
            assert refusal(path).startswith("is not a checkpoint, or it is damaged (")


def test_a_tensor_beyond_its_numbers(tmp_path):
    path = saved(tmp_path / "c.pt", {"state_dict": {"a": torch.zeros(3)}, "args": argparse.Namespace()})
    with zipfile.ZipFile(path) as before:
        parts = {name: before.read(name) for name in before.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    assert parts[pickled].count(b"K\x03\x85") == 1  # its shape
    parts[pickled] = parts[pickled].replace(b"K\x03\x85", b"K\x09\x85")
    with zipfile.ZipFile(path, "w") as after:
        for name, part in parts.items():
            after.writestr(name, part)
    assert refusal(path) == "is not a checkpoint, or it is damaged (it is nothing that torch.save wrote, or damaged)"


# --- curves, and runs --------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    for seed in (1, 2):
        save_checkpoint(layout.endpoint(seed, 3), {"model_state": randomize(TinyTen(4), seed).state_dict()})
    layout.folder("curves").mkdir(parents=True)
    return layout


def the_curve(layout, epochs=7):
    return load_curve(builder("TinyTen"), layout, data_of(4), (1, 2), 3, epochs)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.base.", "net."])
def test_curves_from_elsewhere(layout, prefix):
    saved(layout.curve("", 1, 2, 7), {"state_dict": prefixed(prefix), "args": argparse.Namespace()})
    assert torch.equal(the_curve(layout).row(1), Curve(TinyTen(4)).flat.flatten(STATE))


def test_every_control_point_of_a_wrapped_curve(layout):
    points = {1: prefixed("_orig_mod."), 2: prefixed("module.")}
    content = {"model_state": STATE, "points": points, "settings": {"num_bends": 4}}
    save_checkpoint(layout.curve("", 1, 2, 7), content)
    curve = the_curve(layout)
    assert curve.num_bends == 4
    assert torch.equal(curve.row(1), curve.row(2))


@pytest.mark.parametrize(
    "content, words",
    [
        (TinyTen(7).state_dict(), "is not a curve of TinyTen: it has 7 classes, and 4 are wanted"),
        (without("dense.bias"), "TinyTen: it lacks dense.bias"),
        ({"model_state": STATE, "points": {1: {"a": 3}}}, "TinyTen: its points are no state dicts"),
        ({"model_state": STATE, "points": [STATE]}, "TinyTen: its points are no state dicts"),
        ({"model_state": STATE, "points": {2: STATE}}, "TinyTen: it holds the control points [2] and not [1]"),
        ({"model_state": STATE, "settings": {"num_bends": "x"}}, "is of a kind of curve that is not known"),
        ({"model_state": STATE, "settings": {"curve": "Arc"}}, "is of a kind of curve that is not known"),
        ({"model_state": STATE | {"dense.bias": torch.full((4,), torch.nan)}}, "weights that are not finite numbers"),
    ],
)
def test_curves_that_do_not_fit(layout, content, words):
    path = saved(layout.curve("", 1, 2, 7), content)
    with pytest.raises(FileError) as caught:
        the_curve(layout)
    assert caught.value.path == path
    assert words in str(caught.value)
