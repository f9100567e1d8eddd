"""benchmarks/networks.py: which units it takes to be told apart, and which to be found."""

import numpy as np
import pytest
import torch
from networks import build
from torch import nn

from benchmarks import networks
from utils.symmetries.spec import permutation_spec


def test_units_that_are_alike_do_not_count():
    """Two of six hidden units are copies of each other, and one never fires."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    images = torch.randn(64, 3, 4, 4)
    spec = permutation_spec(model, images[:2])
    planted = spec.random(1)

    def correlations():
        with torch.no_grad():
            hidden = model[2](model[1](model[0](images)))
        with np.errstate(invalid="ignore"):
            both = np.corrcoef(hidden.T, hidden[:, planted[0]].T)
        return [np.nan_to_num(both[:6, 6:])]

    (seen,) = networks.distinct_units(spec, planted, correlations())
    assert seen.all()
    with torch.no_grad():
        for values in (model[1].weight, model[1].bias):
            values[4] = values[1]
        model[1].bias[2] = -1e6
    (seen,) = networks.distinct_units(spec, planted, correlations())
    assert seen.tolist() == [True, False, False, True, False, True]


@pytest.mark.parametrize("name", ["mlp", "attention_packed", "grouped_twice"])
def test_units_are_at_home_in_their_own_blocks_alone(name):
    model, example = build(name)
    spec = permutation_spec(model, *example)
    planted = spec.random(1)
    found = [order.copy() for order in spec.identity()]
    for number in sorted(range(len(planted)), key=lambda n: len(spec.groups[n].depends_on)):
        blocks = [found[other] for other in spec.groups[number].depends_on]
        for place in np.ndindex(*spec.blocks(number)):
            there = tuple(order[(*place[:depth], place[depth])] for depth, order in enumerate(blocks))
            found[number][place] = np.argsort(planted[number][there])
    assert all(mask.all() for mask in networks.units_at_home(spec, planted, found))
    outer = next((g.depends_on[0] for g in spec.groups if g.depends_on), 0)
    found[outer] = np.roll(found[outer], 1)
    home = networks.units_at_home(spec, planted, found)
    assert not home[outer].any()
    assert not any(home[n].any() for n, g in enumerate(spec.groups) if outer in g.depends_on)


def test_a_network_that_is_measured(tmp_path):
    """The smallest one that torchvision has, from the command's flags to its tables; a second run finds it there."""
    flags = ["--only", "torchvision:shufflenet_v2_x0_5", "--no-recovery", "--out", str(tmp_path)]
    networks.main(networks.parse_args(flags))
    (row,) = networks.read_rows(tmp_path / "torchvision.csv").values()
    assert (float(row["moved_share"]), row["remark"]) == (1, "") and float(row["difference"]) <= 1e-5
    assert float(row["log10_orders"]) > 1000 and f"| 10^{row['log10_orders']} |" in networks.table([row])
    assert networks.is_done(row, recovery=False) and not networks.is_done(row, recovery=True)
    assert "1 of 1 networks are proved" in (tmp_path / "torchvision.md").read_text()
    assert "| torchvision, 1 networks | 100.0 % | 1 of 1 |" in (tmp_path / "summary.md").read_text()
