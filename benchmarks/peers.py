"""Match pairs of networks by weights, by this code and by two packages on PyPI: is the function kept?

python -m pip install --no-deps --target peers rebasin==0.0.47 torchview==0.2.7 torchviz==0.0.3 graphviz==0.21
python -m pip install --no-deps --target peers/sinkhorn sinkhorn-rebasin==0.0.2
PYTHONPATH=peers python benchmarks/peers.py

First, trained pairs: TinyTens with batch norm, those of `make quick`; and MLPs without, which learn for two epochs. B
must keep its accuracy when it is permuted. Batch norm is re-estimated at the midpoint of the line. Then pairs of
random networks: the largest difference of B's logits, relative to the largest of them. Some 10 minutes on one core.
"""

import copy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch
from rebasin import PermutationCoordinateDescent
from sinkhorn.rebasin import RebasinNet  # both packages call their module rebasin
from sinkhorn.rebasin.loss import DistL2Loss

from benchmarks.repair import trained
from models import TinyTen, build
from utils import align, evaluate, evaluate_curve, line, permutation_spec, permute
from utils.stages.data import REPOSITORY_DATA, load_data
from utils.symmetries.proof import random_like

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


def by_sinkhorn(a, b, example):
    """By gradient descent on soft permutations, with its own loss for matching weights, and rounded at the end."""
    torch.manual_seed(1)  # where it begins is random
    soft, distance = RebasinNet(b, example.shape), DistL2Loss(copy.deepcopy(a))
    adam = torch.optim.AdamW(soft.p.parameters(), lr=0.1)
    for _ in range(1_000):
        adam.zero_grad()
        distance(soft()).backward()
        adam.step()
    b.load_state_dict(soft.eval()().state_dict())


def by_this_code(a, b, example):
    spec = permutation_spec(b, example)
    b.load_state_dict(permute(b.state_dict(), spec, align(a, b, spec, method="weight")))


PAIRS = {"TinyTen, batch norm": tinyten, "MLP, no batch norm": mlp}
RANDOM = ("ResNet32", "torchvision:squeezenet1_1", "torchvision:convnext_tiny", "models/vit.py:ViT")
HOW = {
    "as trained": lambda *_: None,
    "rebasin 0.0.47": by_rebasin,
    "sinkhorn-rebasin 0.0.2": by_sinkhorn,
    "NeuronAlignment": by_this_code,
}


def trained_pairs():
    data = load_data("FashionMNIST10k", folder=REPOSITORY_DATA, transform="TinyTen")
    yield from ("| networks | B | accuracy of B | accuracy at t = ½ |", "| --- | --- | --- | --- |")
    for words, make in PAIRS.items():
        a, b = (make(seed, data) for seed in (1, 2))
        for name, how in HOW.items():
            aligned = copy.deepcopy(b)
            how(a, aligned, data.example[0])
            _, accuracy = evaluate(aligned.eval(), data.test)
            middle = evaluate_curve(line(a, aligned), data.train.some(2_000), data.test, points=3)["accuracy"][1]
            yield f"| {words} | {name} | {accuracy:.1f} | {middle:.1f} |"


def random_pairs():
    names = list(HOW)[1:]
    yield from (f"| difference of the logits of B | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|")
    for network in RANDOM:
        yield f"| {network} | {' | '.join(difference(network, HOW[name]) for name in names)} |"


def difference(name, how):
    """Of B's logits, permuted and not; or the error."""
    a, b = build(name, 10).eval(), build(name, 10).eval()
    for seed, network in enumerate((a, b), start=1):
        generator = torch.Generator().manual_seed(seed)
        state = {key: random_like(value, generator) for key, value in network.state_dict().items()}
        network.load_state_dict(state)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    with torch.no_grad():
        before = b(images)
        try:
            with torch.enable_grad():
                how(a, b, images)
        except Exception as error:  # of any kind: other people's code
            return type(error).__name__
        return f"{((b.eval()(images) - before).abs().max() / before.abs().max()).item():.1g}"


def main():
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*trained_pairs(), "", *random_pairs(), ""]))
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    main()
