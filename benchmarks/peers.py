"""Match two pairs of networks by weights, by this code and by rebasin, a package on PyPI: is the function kept?

python -m pip install --no-deps --target peers rebasin==0.0.47 torchview==0.2.7 graphviz==0.21
PYTHONPATH=peers python benchmarks/peers.py

The pairs: TinyTens with batch norm, those of `make quick`; and MLPs without, which learn for two epochs. B must keep
its accuracy when it is permuted. Batch norm is re-estimated at the midpoint of the line.
"""

import copy
import importlib.metadata
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch
from rebasin import PermutationCoordinateDescent

from benchmarks.repair import trained
from models import TinyTen
from utils import align, evaluate, evaluate_curve, line, permutation_spec, permute
from utils.stages.data import REPOSITORY_DATA, load_data

NETWORKS = REPOSITORY / "results/demo/networks/TinyTen/FashionMNIST10k"
RESULTS = REPOSITORY / "results/peers/peers.md"


def tinyten(seed, data):
    network = TinyTen(data.num_classes).eval()
    file = NETWORKS / f"checkpoint_seed_{seed:02d}-8.pt"
    network.load_state_dict(torch.load(file, weights_only=True)["model_state"])
    return network


def mlp(seed, data):
    return trained(256, data, seed, 2, 0.02)


def by_rebasin(a, b, example):
    torch.manual_seed(1)  # its order of layers is random
    PermutationCoordinateDescent(a, b, example).rebasin()  # changes b


def by_this_code(a, b, example):
    spec = permutation_spec(b, example)
    b.load_state_dict(permute(b.state_dict(), spec, align(a, b, spec, method="weight")))


PAIRS = {"TinyTen, batch norm": tinyten, "MLP, no batch norm": mlp}
HOW = {
    "as trained": lambda *_: None,
    f"rebasin {importlib.metadata.version('rebasin')}": by_rebasin,
    "NeuronAlignment": by_this_code,
}


def main():
    data = load_data("FashionMNIST10k", folder=REPOSITORY_DATA, transform="TinyTen")
    lines = ["| networks | B | accuracy of B | accuracy at t = ½ |", "| --- | --- | --- | --- |"]
    for words, make in PAIRS.items():
        a, b = (make(seed, data) for seed in (1, 2))
        for name, how in HOW.items():
            aligned = copy.deepcopy(b)
            how(a, aligned, data.example[0])
            _, accuracy = evaluate(aligned.eval(), data.test)
            middle = evaluate_curve(line(a, aligned), data.train.some(2_000), data.test, points=3)["accuracy"][1]
            lines.append(f"| {words} | {name} | {accuracy:.1f} | {middle:.1f} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*lines, ""]))
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    main()
