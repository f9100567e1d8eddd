"""How alike two networks' neurons are: sums over images of their activations, and of products.

Two networks see the same images. Of every activation only sums over images and positions are kept, so memory does
not grow with the number of images: with x_i and y_j the channels of A and B, these are Σx, Σy, Σx², Σy², Σxyᵀ.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from . import distributed
from .batches import Batch, joined, mapped, rows, split, taken, tensors_of, token_mask
from .devices import device_of
from .errors import UserError
from .losses import main_output
from .permutations import PermutationSpec
from .symmetries.recording import observe, record, samples

# Networks run on so many samples at once, of texts on so many tokens: what A shows of them is kept until B shows its
# own. Of small images a GPU gets more, of so many numbers: launching kernels takes as long for few samples.
CHUNK = 128
CHUNK_ON_DEVICE = 512
NUMBERS_ON_DEVICE = 2**21
TOKENS = 8192

# So many samples of all channels are summed up at once on the CPU: they stay in its cache. In larger pieces float32
# loses digits where kernels add numbers one by one, as those of old processors do.
PIECE = 4096

# Weight of what breaks ties in `correlation_scores`: below any difference in correlation that matters.
TIE = 1e-6
TIE_IMAGES = 512


@dataclass
class Moments:
    """Sums over n samples of the channels of A, x (C_a,), and of B, y (C_b,), in float64 on the CPU.

    They are taken about shifts s (C_a,) and s′ (C_b,), rough means on the networks' device, so that products in
    float32 lose nothing:

        a = Σ (x−s)     aa = Σ (x−s)²     ab = Σ (x−s)(y−s′)ᵀ, (C_a, C_b)
        b = Σ (y−s′)    bb = Σ (y−s′)²

    A shows samples, then B its own of the same images and positions, then they are counted (`count_shown`): until
    then those of A are kept, (C_a, n) in pieces, and the sums are where they were made.
    """

    shift_a: torch.Tensor | None = None
    shift_b: torch.Tensor | None = None
    count: int = 0
    a: torch.Tensor | float = 0.0
    b: torch.Tensor | float = 0.0
    aa: torch.Tensor | float = 0.0
    bb: torch.Tensor | float = 0.0
    ab: torch.Tensor | float = 0.0
    kept: list[torch.Tensor] = field(default_factory=list, repr=False)
    sums: list[torch.Tensor] = field(default_factory=list, repr=False)

    def show_a(self, x: torch.Tensor) -> None:
        """Keep samples x (…, C_a) of A less the shift, which is the mean of the first ones."""
        self.shift_a = _mean(x) if self.shift_a is None else self.shift_a
        self.kept = [*_about(x, self.shift_a)]

    def show_b(self, y: torch.Tensor) -> None:
        """Sum up samples y (…, C_b) of B beside A's: in float32; on the CPU in pieces, which are added in float64."""
        self.shift_b = _mean(y) if self.shift_b is None else self.shift_b
        total: list = [0.0] * 5
        for about_a, about_b in zip(self.kept, _about(y, self.shift_b), strict=True):
            a, b, ab = about_a.sum(1), about_b.sum(1), about_a @ about_b.T
            sums = (a, b, about_a.square().sum(1), about_b.square_().sum(1), ab)
            exact = (each.double() if each.is_cpu else each for each in sums)
            total = [before + more for before, more in zip(total, exact, strict=True)]
        self.sums = total

    def add(self, sums: Sequence[torch.Tensor]) -> None:
        """Count the samples that were shown; sums: theirs, in float64 on the CPU."""
        a, b, aa, bb, ab = sums
        self.count += sum(piece.shape[1] for piece in self.kept)
        self.kept, self.sums = [], []
        self.a, self.b = self.a + a, self.b + b
        self.aa, self.bb, self.ab = self.aa + aa, self.bb + bb, self.ab + ab

    def sum_over_all(self) -> None:
        """Count the samples of all processes, each of which has taken its own about shifts of its own.

        So they are brought to a shift of 0 first: Σx² = aa + 2sa + ns², and Σxyᵀ = ab + as′ᵀ + sbᵀ + nss′ᵀ.
        """
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
        """Mean product Σ x yᵀ / n (C_a, C_b). Its best assignment has the least L2 distance between channels."""
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


def _mean(samples: torch.Tensor) -> torch.Tensor:
    """Of each channel of samples (…, C); 0 without any, as of a process that has no part of a small batch."""
    return samples.flatten(0, -2).mean(0).nan_to_num()


def _about(samples: torch.Tensor, shift: torch.Tensor) -> Iterator[torch.Tensor]:
    """Samples (…, C) less `shift`, as (C, n) of their own; on the CPU in pieces of about PIECE, one at a time."""
    count = max(math.prod(samples.shape[:-1]), 1)
    for part in samples.split(max(PIECE * len(samples) // count, 1) if samples.is_cpu else max(len(samples), 1)):
        if part.stride(-1) == 1:
            yield (part.flatten(0, -2) - shift).T
        else:  # channels stand before positions: all of one follow each other in the copy too
            moved = part.movedim(-1, 0)
            less = torch.sub(moved, shift.view(-1, *[1] * (moved.dim() - 1)), out=moved.new_empty(moved.shape))
            yield less.flatten(1)


def count_shown(moments: Sequence[Moments]) -> bool:
    """Count what A and B have shown. Returns whether all of it is finite.

    The sums come from the device by a single copy, for which the host waits.
    """
    tensors = [tensor for moment in moments for tensor in moment.sums]
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu().double()
    parts = iter(flat.split([tensor.numel() for tensor in tensors]))
    for moment in moments:
        moment.add([next(parts).view(tensor.shape) for tensor in moment.sums])
    return bool(flat.isfinite().all())


def _second_moment(total: torch.Tensor, squares: torch.Tensor, shift: torch.Tensor, count: int) -> torch.Tensor:
    """Mean squares Σ x² / n (C,), from sums about `shift`."""
    shift = shift.cpu().double()
    return squares / count + 2 * shift * total / count + shift.square()


def _deviation(total: torch.Tensor, squares: torch.Tensor, count: int) -> torch.Tensor:
    """Standard deviations; 0 for channels that do not vary beyond rounding."""
    variance = squares / count - (total / count).square()
    return torch.where(variance > 1e-12 * squares / count, variance.clamp(min=0).sqrt(), 0)


class ImagePair(NamedTuple):
    """The same images as they are shown to A and to B, each (b, 3, H, W): attacked on the one and on the other."""

    a: torch.Tensor
    b: torch.Tensor


def cross_correlations(*networks_and_batches, before: bool = False, strict: bool = True) -> list[np.ndarray]:
    """Correlation matrices (C_a, C_b) of every row's activation, the logits last: `cross_moments` z-scored."""
    moments = cross_moments(*networks_and_batches, before=before, strict=strict)
    return [moment.correlation() for moment in moments]


def correlation_scores(
    network_a: nn.Module, network_b: nn.Module, spec: PermutationSpec, batches: Iterable[Batch | ImagePair]
) -> list[np.ndarray]:
    """The cross-correlations (C_a, C_b) of every row's activation, the logits last, with what breaks ties.

    Channels that never fire, or fire for one image only, correlate with each other equally (not at all, or fully).
    Among those the correlation of the activations' inputs decides, on the first TIE_IMAGES images, in whatever
    batches they come. A network so finds its own shuffled copy exactly.
    """
    batches, first, wanted = iter(batches), [], TIE_IMAGES // distributed.size()  # of this process
    while (missing := wanted - sum(map(rows, first))) > 0 and (batch := next(batches, None)) is not None:
        first.append(batch)
    for_ties = [*first[:-1], taken(first[-1], slice(rows(first[-1]) + min(missing, 0)))] if first else []
    ties = cross_correlations(network_a, network_b, spec, for_ties, before=True, strict=False)
    correlations = cross_correlations(network_a, network_b, spec, itertools.chain(first, batches))
    return [matrix + TIE * tie for matrix, tie in zip(correlations, ties, strict=True)]


@torch.no_grad()
def cross_moments(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    batches: Iterable[Batch | ImagePair],
    *,
    before: bool = False,
    strict: bool = True,
) -> list[Moments]:
    """The moments of every row's activation, and of the logits last, over all samples and positions that count.

    Both networks run in eval mode, on the device they are on. before: of the inputs of each activation function.
    strict: whether activations have to be finite.

    ValueError if there are no samples; UserError, with the sample and the row, if an activation is not finite, or too
    large for its square.
    """
    moments = [Moments() for _ in range(len(spec.rows) + 1)]
    device, seen = device_of(network_a), 0
    for batch in _chunks(batches, device):
        batch = mapped(lambda tensor: tensor.to(device), batch)
        shown_a, shown_b = batch if isinstance(batch, ImagePair) else (split(network_a, batch)[0],) * 2
        mask = None if isinstance(batch, ImagePair) else token_mask(batch)
        output = observe(network_a, spec, shown_a, mask, take=lambda n, x: moments[n].show_a(x), before=before)
        moments[-1].show_a(_logits(output, mask))
        output = observe(network_b, spec, shown_b, mask, take=lambda n, y: moments[n].show_b(y), before=before)
        moments[-1].show_b(_logits(output, mask))
        if not count_shown(moments) and strict:
            both = ((network_a, shown_a), (network_b, shown_b))
            found = (record(network, spec, shown, mask, before=before) for network, shown in both)
            pairs = zip(*([*of_rows, _logits(output, mask)] for of_rows, output in found), strict=True)
            raise UserError(_not_finite(batch, seen, [*(row.label for row in spec.rows), "the output"], [*pairs]))
        seen += rows(batch)
    if moments[-1].shift_a is None or not (seen or distributed.size() > 1):
        raise ValueError("there are no samples on which activations could be compared")
    for moment in moments:
        moment.sum_over_all()
    return moments


def _chunks(batches: Iterable[Batch | ImagePair], device: torch.device) -> Iterator[Batch | ImagePair]:
    """Samples in pieces that fit on a device, whatever batches they come in: sums are then the same to the last bit.

    Only where batches are of unlike shapes, as of texts, a piece ends with them.
    """
    rest, is_first = None, True
    for batch in batches:
        if rest is not None and rows(rest):
            if (both := joined(rest, batch)) is None:
                yield rest
            batch = batch if both is None else both
        count = _at_once(batch, device)
        whole = rows(batch) // count * count
        for start in range(0, whole, count):
            yield taken(batch, slice(start, start + count))
            is_first = False
        rest = taken(batch, slice(whole, None))
    if rest is not None and (is_first or rows(rest)):  # a process without images has sums to add as the others have
        yield rest


def _at_once(batch: Batch | ImagePair, device: torch.device) -> int:
    """How many samples like these run at once."""
    first = tensors_of(batch)[0]
    numbers = max(math.prod(first.shape[1:]), 1)
    if first.dtype in (torch.int32, torch.int64):
        return min(max(TOKENS // numbers, 1), CHUNK)
    return CHUNK if device.type == "cpu" else max(min(NUMBERS_ON_DEVICE // numbers, CHUNK_ON_DEVICE), CHUNK)


LOGITS = 1024  # of more classes (or tokens), the first are compared


def _logits(output: object, mask: torch.Tensor | None) -> torch.Tensor:
    """(…, classes) in float32; those of auxiliary heads are not compared."""
    logits = main_output(output)
    classes = logits.dim() - 1 if logits.dim() < 4 else 1
    return samples(logits.narrow(classes, 0, min(logits.shape[classes], LOGITS)), (classes,), mask=mask)


def _not_finite(
    batch: Batch | ImagePair, seen: int, labels: Sequence[str], pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> str:
    """Of which sample, after `seen` others, and of which row of a batch activations are not finite."""
    for tensor in tensors_of(batch):
        if tensor.is_floating_point() and not (good := tensor.reshape(len(tensor), -1).isfinite().all(1)).all():
            return f"sample {seen + int(good.logical_not().nonzero()[0])} (from 0) has numbers that are not finite"
    for label, pair in zip(labels, pairs, strict=True):
        for which, values in zip("AB", pair, strict=True):
            bad = values.square().isfinite().all(-1).flatten().logical_not()
            if bad.any():
                number = seen + int(bad.nonzero()[0]) * rows(batch) // len(bad)
                return f"activations of {which} at {label} are not finite, or too large, for sample {number} (from 0)"
    return f"activations are too large to be compared, from sample {seen} (from 0) on"
