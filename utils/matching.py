"""Neuron alignment: which neuron of B does the work of which neuron of A (Tatro et al., 2020, section 3).

Two networks see the same images. Of every activation only sums over images and positions are kept, so memory does
not grow with the number of images: with x_i and y_j the channels of A and B, these are Σx, Σy, Σx², Σy², Σxyᵀ.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from utils import distributed
from utils.attack import Attack
from utils.datasets import Data
from utils.images import Images
from utils.outputs import main_output
from utils.permutations import PermutationSpec, axis_index, identity, places_of
from utils.progress import track
from utils.symmetries import Group, Recording
from utils.symmetries.recording import samples
from utils.symmetries.spec import groups_in

# Networks run on so many images at once. All activations of one chunk are alive together.
CHUNK = 64


@dataclass
class Moments:
    """Sums over n samples of the channels of A, x (C_a,), and of B, y (C_b,), in float64 on the CPU.

    They are taken about `shift_a` and `shift_b`, rough means, so that products in float32 lose nothing.
    """

    shift_a: torch.Tensor
    shift_b: torch.Tensor
    count: int = 0
    a: torch.Tensor | float = 0.0
    b: torch.Tensor | float = 0.0
    aa: torch.Tensor | float = 0.0
    bb: torch.Tensor | float = 0.0
    ab: torch.Tensor | float = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Count samples x (C_a, n) and y (C_b, n)."""
        x, y = x - self.shift_a[:, None], y - self.shift_b[:, None]
        self.count += x.shape[1]
        for name, value in (
            ("a", x.sum(1)),
            ("b", y.sum(1)),
            ("aa", x.square().sum(1)),
            ("bb", y.square().sum(1)),
            ("ab", x @ y.T),
        ):
            setattr(self, name, getattr(self, name) + value.cpu().double())

    def sum_over_all(self) -> None:
        """Count the samples of all processes, each of which has taken its own about shifts of its own."""
        if distributed.size() == 1:
            return
        shift_a, shift_b = self.shift_a.cpu().double(), self.shift_b.cpu().double()
        n = self.count
        about_zero = (
            torch.tensor([n], dtype=torch.float64),
            self.a + n * shift_a,
            self.b + n * shift_b,
            self.aa + 2 * shift_a * self.a + n * shift_a.square(),
            self.bb + 2 * shift_b * self.b + n * shift_b.square(),
            self.ab + torch.outer(self.a, shift_b) + torch.outer(shift_a, self.b) + n * torch.outer(shift_a, shift_b),
        )
        count, self.a, self.b, self.aa, self.bb, self.ab = map(distributed.sum_over_all, about_zero)
        self.count = int(count)
        self.shift_a, self.shift_b = torch.zeros_like(shift_a), torch.zeros_like(shift_b)

    def product(self) -> np.ndarray:
        """Mean product Σ x_i y_j / n (C_a, C_b). Its best assignment has the least L2 distance between channels."""
        mean_a, mean_b = self.a / self.count, self.b / self.count
        shift_a, shift_b = self.shift_a.cpu().double(), self.shift_b.cpu().double()
        about_shift = self.ab / self.count + torch.outer(mean_a, shift_b) + torch.outer(shift_a, mean_b)
        return (about_shift + torch.outer(shift_a, shift_b)).numpy()

    def squared_distance(self) -> np.ndarray:
        """Mean squared difference Σ (x_i − y_j)² / n (C_a, C_b)."""
        second_a = _second_moment(self.a, self.aa, self.shift_a, self.count)
        second_b = _second_moment(self.b, self.bb, self.shift_b, self.count)
        return (second_a[:, None] + second_b).numpy() - 2 * self.product()

    def correlation(self) -> np.ndarray:
        """Cross-correlation (C_a, C_b) of z-scored channels; 0 for a channel that never varies."""
        covariance = self.ab / self.count - torch.outer(self.a / self.count, self.b / self.count)
        scale = torch.outer(_deviation(self.a, self.aa, self.count), _deviation(self.b, self.bb, self.count))
        return torch.where(scale > 0, covariance / scale, 0).numpy()


def _second_moment(total: torch.Tensor, squares: torch.Tensor, shift: torch.Tensor, count: int) -> torch.Tensor:
    """Mean squares Σ x² / n (C,), from sums about `shift`."""
    shift = shift.cpu().double()
    return squares / count + 2 * shift * total / count + shift.square()


def _deviation(total: torch.Tensor, squares: torch.Tensor, count: int) -> torch.Tensor:
    """Standard deviations; 0 for channels that do not vary beyond rounding."""
    variance = squares / count - (total / count).square()
    return torch.where(variance > 1e-12 * squares / count, variance.clamp(min=0).sqrt(), 0)


class Views(NamedTuple):
    """The same images as they are shown to A and to B, each (b, 3, H, W): attacked on the one and on the other."""

    a: torch.Tensor
    b: torch.Tensor


# Images (b, 3, H, W), or images and what comes with them, or two views of them
Batch = torch.Tensor | Sequence[torch.Tensor] | Views


def cross_correlations(*networks_and_batches, before: bool = False) -> list[np.ndarray]:
    """Correlation matrices (C_a, C_b) of every row's activation, the logits last: `cross_moments` z-scored."""
    return [moments.correlation() for moments in cross_moments(*networks_and_batches, before=before)]


@torch.no_grad()
def cross_moments(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    batches: Iterable[Batch],
    *,
    before: bool = False,
) -> list[Moments]:
    """The moments of every row's activation, and of the logits last, over all images (b, 3, H, W).

    Both networks run in eval mode, on the device they are on. before: of what goes into each activation function.
    """
    moments: list[Moments] = []
    device = next(network_a.parameters()).device
    record_a, record_b = (Recording(network, spec, before) for network in (network_a, network_b))
    for views in _chunks(batches):
        rows_a, output_a = record_a(views.a.to(device))
        rows_b, output_b = record_b(views.b.to(device))
        pairs = zip([*rows_a, _logits(output_a)], [*rows_b, _logits(output_b)], strict=True)
        for layer, (x, y) in enumerate((x.T, y.T) for x, y in pairs):
            if layer == len(moments):
                # This process may have no part of a small batch, and so no means
                moments.append(Moments(x.mean(1).nan_to_num(), y.mean(1).nan_to_num()))
            moments[layer].add(x, y)
    for moment in moments:
        moment.sum_over_all()
    return moments


def _chunks(batches: Iterable[Batch]) -> Iterator[Views]:
    """The images in pieces of CHUNK, whatever batches they come in: sums are then the same to the last bit."""
    rest, is_first = None, True
    for views in map(_views, batches):
        if rest is not None and len(rest.a):
            views = Views(*(torch.cat(parts) for parts in zip(rest, views, strict=True)))
        whole = len(views.a) // CHUNK * CHUNK
        for start in range(0, whole, CHUNK):
            yield Views(*(view[start : start + CHUNK] for view in views))
            is_first = False
        rest = Views(*(view[whole:] for view in views))
    if rest is not None and (is_first or len(rest.a)):  # a process without images has sums to add as the others have
        yield rest


def _logits(output: object) -> torch.Tensor:
    """(samples, classes) in float32; those of auxiliary heads are not compared."""
    logits = main_output(output)
    return samples(logits, (1,) if logits.dim() > 1 else (0,))


def _views(batch: Batch) -> Views:
    if isinstance(batch, Views):
        return batch
    images = batch if isinstance(batch, torch.Tensor) else batch[0]
    return Views(images, images)


def assign(score: np.ndarray) -> np.ndarray:
    """The permutation p that maximizes Σ_i score[i, p[i]]: channel p[i] of B goes to place i of A."""
    return linear_sum_assignment(score, maximize=True)[1]


# Weight of what breaks ties in `align`: below any difference in correlation that matters.
TIE = 1e-6
TIE_IMAGES = 512

METHODS = ("corr", "w2_post", "w2_pre")


def align(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    batches: Iterable[Batch],
    *,
    method: str = "corr",
) -> list[np.ndarray]:
    """The permutations of B, one a group of `spec`, that match its activations to A's.

    batches: images (b, 3, H, W), or tuples that begin with them, as a DataLoader gives; read once.
    method: corr, the greatest correlation; w2_post or w2_pre, the least L2 distance, of activations or of what goes
        into the activation functions.

    Channels that never fire, or fire for one image only, correlate with each other equally (not at all, or fully).
    Among those the correlation of what goes into the activations decides, on the first TIE_IMAGES images, in whatever
    batches they come. A network so finds its own shuffled copy exactly.
    """
    if method not in METHODS:
        raise ValueError(f"the methods are {', '.join(METHODS)}, not {method!r}")
    if method != "corr":
        moments = cross_moments(network_a, network_b, spec, batches, before=method == "w2_pre")
        return assign_groups(spec, [moment.product() for moment in moments])
    batches = map(_views, batches)
    first: list[Views] = []
    wanted = TIE_IMAGES // distributed.size()  # of this process
    while sum(len(views.a) for views in first) < wanted and (views := next(batches, None)) is not None:
        first.append(views)
    for_ties = Views(*(torch.cat(images)[:wanted] for images in zip(*first, strict=True)))
    ties = cross_correlations(network_a, network_b, spec, [for_ties], before=True)
    correlations = cross_correlations(network_a, network_b, spec, itertools.chain(first, batches))
    return assign_groups(spec, [matrix + TIE * tie for matrix, tie in zip(correlations, ties, strict=True)])


def align_on(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    data: Data,
    *,
    batch_size: int,
    method: str,
    attack: Attack | None = None,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """`align` on the alignment images of `data`, and what comes of it on its test images.

    attack: how alignment images are attacked before the networks see them, if they are.

    Returns the permutations, and the mean correlation of matched channels of each row, the logits last (rows + 1,),
    before and after.
    """

    def batches(images: Images, purpose: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return track(images.batches(batch_size), -(-len(images) // batch_size), "batch", purpose)

    compared: Iterable[Batch] = batches(data.alignment, "comparing activations")
    if attack is not None:
        compared = _attacked(compared, (network_a, network_b), data.alignment, attack)
    permutations = align(network_a, network_b, spec, compared, method=method)
    on_test = cross_correlations(network_a, network_b, spec, batches(data.test, "measuring on test images"))
    before = mean_correlations(spec, on_test, identity(spec))
    return permutations, before, mean_correlations(spec, on_test, permutations)


ATTACK_SEED = 0  # of the random starts, which are the same for both networks


def _attacked(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    networks: Sequence[nn.Module],
    images: Images,
    attack: Attack,
) -> Iterator[Views]:
    """Every batch of images and labels as attacked on each of the two networks."""
    generators = [torch.Generator().manual_seed(ATTACK_SEED) for _ in networks]
    for x, labels in batches:
        pairs = zip(networks, generators, strict=True)
        yield Views(*(attack(network, x, labels, images, generator) for network, generator in pairs))


def assign_groups(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The best permutation of each group from a matrix (C_a, C_b) of scores of each row of the spec.

    A group that several activations show (a residual stream) is decided by the sum of those that vote. Units in
    blocks are matched exactly: the best assignment of units for each pair of blocks, and of blocks on top of it.
    """
    totals = group_scores(spec, scores)
    children: dict[int, list[int]] = {number: [] for number in range(len(spec.groups))}
    for number, group in enumerate(spec.groups):
        if group.depends_on:
            children[group.depends_on[-1]].append(number)
    permutations = spec.identity()

    def best(group: int, a: int, b: int) -> tuple[float, np.ndarray, list]:
        """For block b of B on block a of A: the score, the order, and for each child its results by places."""
        score = totals[group][a, b]
        size, inner = len(score), []
        for child in children[group]:
            results = [[best(child, a * size + i, b * size + j) for j in range(size)] for i in range(size)]
            score = score + np.array([[value for value, *_ in line] for line in results])
            inner.append((child, results))
        order = assign(score)
        return score[np.arange(size), order].sum(), order, inner

    def write(group: int, block: tuple[int, ...], order: np.ndarray, inner: list) -> None:
        permutations[group][block] = order
        for child, results in inner:
            for i, j in enumerate(order):
                write(child, (*block, i), *results[i][j][1:])

    for number, group in enumerate(spec.groups):
        if not group.depends_on:
            write(number, (), *best(number, 0, 0)[1:])
    return permutations


def group_scores(spec: PermutationSpec, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each group the sum of what its rows say, (blocks of A, blocks of B, size, size).

    scores: for each row how alike each two channels are, (C_a, C_b); what follows the rows (the logits) says nothing.
    """
    totals = []
    for number, group in enumerate(spec.groups):
        blocks = math.prod(spec.blocks(number))
        totals.append(np.zeros((blocks, blocks, group.size, group.size)))
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        for number in row.votes:
            total = totals[number]
            places = places_of(number, row.axis, spec).reshape(len(total), total.shape[-1], -1)
            for copy in np.moveaxis(places, -1, 0):
                total += matrix[copy[:, None, :, None], copy[None, :, None, :]]
    return totals


def each_by_itself(spec: PermutationSpec) -> PermutationSpec | None:
    """The spec as if no two activations shared channels, each having groups of its own; None if none share any.

    In a residual stream its permutations differ from activation to activation, so they are nothing that a network can
    be permuted by: they tell how well the channels of each activation could be matched if nothing tied them.
    """
    groups: list[Group] = []
    rows = []
    for row in spec.rows:
        number = {group: len(groups) + i for i, group in enumerate(sorted(groups_in(row.axis)))}
        for group in number:
            size, depends_on = spec.groups[group]
            groups.append(Group(size, tuple(number[other] for other in depends_on)))
        axis = tuple(
            tuple(factor._replace(groups=tuple(number.get(g) for g in factor.groups)) for factor in segment)
            for segment in row.axis
        )
        rows.append(replace(row, axis=axis, votes=frozenset(number.values())))
    return PermutationSpec(tuple(groups), {}, tuple(rows), ()) if len(groups) > len(spec.groups) else None


def mean_correlations(
    spec: PermutationSpec, correlations: Sequence[np.ndarray], permutations: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean correlation of each row's matched channels, the logits last, for B permuted so: (rows + 1,).

    Two channels that both never vary have no correlation and do not count.
    """
    means = []
    for matrix, order in zip(correlations, _orders(spec, correlations, permutations), strict=True):
        varies = matrix.any(axis=1) | matrix.any(axis=0)[order]
        means.append(matrix[np.arange(len(order)), order][varies].mean() if varies.any() else 0.0)
    return np.array(means)


def mean_distances(
    spec: PermutationSpec, moments: Sequence[Moments], permutations: Sequence[np.ndarray]
) -> np.ndarray:
    """Root mean squared distance of each row's matched channels, the logits last, for B permuted so: (rows + 1,)."""
    squares = [moment.squared_distance() for moment in moments]
    orders = _orders(spec, squares, permutations)
    matched = [matrix[np.arange(len(order)), order] for matrix, order in zip(squares, orders, strict=True)]
    return np.sqrt([values.mean().clip(min=0) for values in matched])  # rounding can leave less than 0


def _orders(
    spec: PermutationSpec, matrices: Sequence[np.ndarray], permutations: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each row, and for the logits, which are as they were, the channel of B at each place of A."""
    return [*(axis_index(row.axis, spec, permutations) for row in spec.rows), np.arange(len(matrices[-1]))]
