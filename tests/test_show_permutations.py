"""What alignment/show_permutations.py tells of a network, against what the spec says."""

import json

import numpy as np
import pytest
import torch
from networks import build
from stages import fails, run
from test_docs import blocks

from alignment.show_permutations import SHOWN, WIDTH, describe, lines
from models import TinyTen
from utils.stages.files import save_array
from utils.stages.layout import Layout
from utils.symmetries.spec import permutation_spec


def test_every_dimension_of_every_entry_moves_or_has_a_reason(tmp_path):
    run("alignment/show_permutations.py", "--json", tmp_path / "new" / "spec.json")
    told = json.loads((tmp_path / "new" / "spec.json").read_text())
    state = TinyTen(10).state_dict()
    # A dimension of one place has no order
    dimensions = {f"{name}[{d}]" for name, value in state.items() for d, size in enumerate(value.shape) if size > 1}
    moving = {member for group in told["groups"] for member in group["members"]}
    fixed = {dimension for one in told["fixed"] for dimension in one["dimensions"]}
    assert moving | fixed == dimensions and not moving & fixed
    reasons = {one["reason"]: one["dimensions"] for one in told["fixed"]}
    assert reasons["the network's input"] == ["layers.0.conv.weight[1]"]
    assert reasons["the network's output"] == ["dense.weight[0]", "dense.bias[0]"]
    assert set(reasons["convolution"]) == {name for name in dimensions if name[-3:] in ("[2]", "[3]")}  # kernels
    assert told["moved_share"] == 1
    assert [one["label"] for one in told["activations"]] == [one["measured"][0] for one in told["groups"]]


def test_blocks_are_told_by_the_group_on_which_they_depend():
    model, example = build("attention_packed")
    spec = permutation_spec(model, *example)
    told = describe(model.state_dict(), spec)
    inner = [one for one in told["groups"] if one["depends_on"]]
    assert inner
    for one in inner:
        assert one["blocks"] == [told["groups"][other]["size"] for other in one["depends_on"]]
        assert any("an order of its own" in line for line in lines(told))


def test_long_lists_are_cut_in_print_alone():
    told = describe(torch.nn.Linear(2, 2).state_dict(), permutation_spec(torch.nn.Linear(2, 2), torch.ones(2, 2)))
    names = [f"layers.{i}.weight[0]" for i in range(40)]
    told["groups"] = [{"size": 1000, "depends_on": [], "blocks": [], "members": names, "measured": ["relu"]}]
    text = list(lines(told))
    assert max(map(len, text)) <= WIDTH
    assert any("on 40 dimensions: layers.0.weight[0], " in line for line in text)
    assert sum(name in " ".join(text) for name in names) == SHOWN
    assert "group 0: 1,000 units" in text


def test_correlations_of_a_pair(tmp_path, capsys):
    layout, labels = Layout(tmp_path, "TinyTen", "bars"), 9
    pair = ["--root", tmp_path, "--dataset", "bars", "--seed_a", 1, "--seed_b", 2]
    code, line = fails(capsys, "alignment/show_permutations.py", *pair)
    assert code == 1 and "alignment/align_models.py" in line
    for which, value in (("unaligned", 0.125), ("aligned", 0.875)):
        save_array(layout.correlation("corr", which, 1, 2), np.full(labels, value))
    run("alignment/show_permutations.py", *pair)
    table = capsys.readouterr().out.split("on the test set:")[1].splitlines()
    assert [line.split()[-2:] for line in table[2:]] == [["0.125", "0.875"]] * labels
    save_array(layout.correlation("corr", "aligned", 1, 2), np.full(labels + 1, 0.5))
    code, line = fails(capsys, "alignment/show_permutations.py", *pair)
    assert "which has other activations" in line and "--overwrite" in line


def test_the_example_of_the_document(tmp_path, capsys):
    """What docs/any-network.md derives by hand and prints."""
    found = blocks("docs/any-network.md")
    (network,) = (block.text for block in found if block.language == "python")
    (printed,) = (block.text for block in found if "group 0" in block.text)
    (tmp_path / "mixed.py").write_text(network)
    run("alignment/show_permutations.py", "--model", f"{tmp_path / 'mixed.py'}:Mixed")
    assert capsys.readouterr().out.partition("\n")[2] == printed


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--model", "torchvision:vit_b_32"], "torchvision:vit_b_32 does not run on images of 32×32"),
        (["--model", "torchvision:resnet"], "torchvision has no network 'resnet'"),
        (["--seed_a", 1], "one of them is missing"),
    ],
)
def test_what_cannot_be_shown(flags, says, capsys):
    assert says in fails(capsys, "alignment/show_permutations.py", *flags)[1]
