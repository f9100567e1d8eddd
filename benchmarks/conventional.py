"""The conventional way to do what this repository does, written out plainly, for the benchmark to compare with.

Images are transformed one by one in DataLoader workers (torchvision, PIL), tensors are NCHW in float32, a curve mixes
its weights layer by layer, and alignment keeps all activations. Nothing here is slowed on purpose.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = 2


class TransformedImages(Dataset):
    """uint8 images (n, H, W, 3), each transformed when it is asked for, as torchvision's datasets do."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: transforms.Compose):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def loader(images: np.ndarray, labels: np.ndarray, mean, std, train: bool, batch_size: int) -> DataLoader:
    steps = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if train:
        size = images.shape[1]
        augment = [transforms.RandomAffine(15), transforms.RandomHorizontalFlip(), transforms.RandomCrop(size, 4)]
        steps = [*augment, *steps]
    data = TransformedImages(images, labels, transforms.Compose(steps))
    return DataLoader(data, batch_size, shuffle=train, num_workers=WORKERS)


def train_epoch(model: nn.Module, batches: DataLoader, rate: float = 0.1, decay: float = 5e-4) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)
    loss_sum = correct = 0.0
    for x, labels in batches:
        output = model(x)
        loss = F.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(x)
        correct += (output.argmax(1) == labels).sum().item()


def mix(points: Sequence[dict[str, torch.Tensor]], t: float) -> dict[str, torch.Tensor]:
    """The quadratic Bézier curve through three sets of parameters, layer by layer."""
    weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
    return {name: sum(w * point[name] for w, point in zip(weights, points, strict=True)) for name in points[0]}


def curve_epoch(
    base: nn.Module,
    points: Sequence[dict[str, torch.Tensor]],
    batches: DataLoader,
    rate: float = 0.1,
    decay: float = 5e-4,
) -> None:
    """The middle point learns; the L2 term is summed over the mixed parameters, layer by layer."""
    base.train()
    middle = {name: value.clone().requires_grad_() for name, value in points[1].items()}
    optimizer = torch.optim.SGD(middle.values(), rate, momentum=0.9, nesterov=True)
    loss_sum = correct = 0.0
    for x, labels in batches:
        theta = mix((points[0], middle, points[2]), torch.rand(()).item())
        output = functional_call(base, theta, (x,))
        loss = F.cross_entropy(output, labels) + 0.5 * decay * sum(value.square().sum() for value in theta.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(x)
        correct += (output.argmax(1) == labels).sum().item()


@torch.no_grad()
def evaluate_point(
    base: nn.Module, points: Sequence[dict[str, torch.Tensor]], t: float, train: DataLoader, test: DataLoader
) -> tuple[float, float]:
    """Batch norm re-estimated over the training images at θ(t), then loss and accuracy on the test images."""
    theta = mix(points, t)
    layers = [module for module in base.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
    base.train()
    for x, _ in train:
        functional_call(base, theta, (x,))
    base.eval()
    loss_sum = correct = count = 0.0
    for x, labels in test:
        output = functional_call(base, theta, (x,))
        loss_sum += F.cross_entropy(output, labels, reduction="sum").item()
        correct += (output.argmax(1) == labels).sum().item()
        count += len(x)
    return loss_sum / count, 100 * correct / count


def _activations(model: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    kept: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, output: kept.append(output.clone())) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()
    return kept


@torch.no_grad()
def align(model_a: nn.Module, model_b: nn.Module, batches: DataLoader) -> list[np.ndarray]:
    """Keep every activation of both networks, z-score, correlate, assign: a permutation a layer."""
    kept: dict[int, list[list[torch.Tensor]]] = {}
    layers = [[m for m in model.modules() if isinstance(m, nn.ReLU)] for model in (model_a, model_b)]
    for x, _ in batches:
        for network, model in enumerate((model_a.eval(), model_b.eval())):
            for i, activation in enumerate(_activations(model, layers[network], x)):
                kept.setdefault(i, [[], []])[network].append(activation)
    permutations = []
    for pair in kept.values():
        a, b = (torch.cat(parts).permute(1, 0, 2, 3).flatten(1) for parts in pair)
        a, b = ((z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-8) for z in (a, b))
        correlation = a @ b.T / a.shape[1]
        permutations.append(linear_sum_assignment(correlation.numpy(), maximize=True)[1])
    return permutations


def project(matrix: torch.Tensor, rounds: int = 20) -> torch.Tensor:
    """One matrix at a time: clip at 0, then row and column sums of 1, as published."""
    n = len(matrix)
    one = torch.ones(n, 1)
    for _ in range(rounds):
        matrix = matrix.clamp(min=0)
        rows, columns = matrix @ one - one, one.T @ matrix - one.T
        matrix = matrix - rows @ one.T / n - one @ columns / n + (one.T @ matrix @ one - n) / n**2
    return matrix


def pam_epoch(
    base: nn.Module,
    a: dict[str, torch.Tensor],
    b: dict[str, torch.Tensor],
    batches: DataLoader,
    rate=0.05,
    decay=5e-4,
) -> None:
    """One epoch of TinyTen's permutation phase: a doubly stochastic matrix a layer, multiplied in layer by layer."""
    base.train()
    convolutions = [name.removesuffix(".conv.weight") for name in a if name.endswith(".conv.weight")]
    matrices = [torch.eye(len(b[f"{name}.conv.bias"]), requires_grad=True) for name in convolutions]
    optimizer = torch.optim.SGD(matrices, rate)
    for x, labels in batches:
        permuted = dict(b)
        for i, (name, matrix) in enumerate(zip(convolutions, matrices, strict=True)):
            weight = torch.einsum("ij,jchw->ichw", matrix, b[f"{name}.conv.weight"])
            if i:
                weight = torch.einsum("ichw,kc->ikhw", weight, matrices[i - 1])
            permuted[f"{name}.conv.weight"] = weight
            for part in ("conv.bias", "bn.weight", "bn.bias"):
                permuted[f"{name}.{part}"] = matrix @ b[f"{name}.{part}"]
        permuted["dense.weight"] = b["dense.weight"] @ matrices[-1].T
        t = torch.rand(()).item()
        middle = {name: 0.5 * (a[name] + permuted[name]) for name in a}
        theta = mix((a, middle, permuted), t)
        output = functional_call(base, theta, (x,))
        loss = F.cross_entropy(output, labels) + 0.5 * decay * sum(value.square().sum() for value in theta.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for matrix in matrices:
                matrix.copy_(project((matrix + rate / 1000 * torch.eye(len(matrix))) / (1 + rate / 1000)))
        loss.item()
