"""Images on the device, as one tensor, and augmentation as tensor arithmetic on whole batches.

An image is a row of packed pixels: the bytes R, G, B, 0 of a pixel are one int32, and one more pixel, black, stands
at the end of the row. Crop, flip and affine transform only say *which* source pixel each output pixel shows (the
black one outside the image), so they are composed on coordinates and carried out by a single gather.
Random numbers are drawn for an epoch at once, on the CPU: the same images on every device.

Tensors or a DataLoader can stand in for such a set: see `as_images`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from . import distributed, interrupts
from .devices import images_at_once, memory_format, send

# --- augmentation ------------------------------------------------------------------------------------------


class AugmentationDraw(NamedTuple):
    """The random numbers by which n images are varied, each a tensor (n,).

    Real numbers are float64 and stay on the CPU, where their cosines are those that torchvision computes.
    """

    angle: torch.Tensor  # degrees
    scale: torch.Tensor  # factor
    flip: torch.Tensor  # bool
    top: torch.Tensor  # int64, of the crop in the padded image, in pixels
    left: torch.Tensor
    contrast: torch.Tensor  # factor
    saturation: torch.Tensor  # factor
    contrast_first: torch.Tensor  # bool: before saturation

    def take(self, index: slice | torch.Tensor) -> "AugmentationDraw":
        """Those of the images `index`."""
        return AugmentationDraw(*(values[index] for values in self))

    def to(self, device: torch.device) -> "AugmentationDraw":
        """What is exact on every device, on `device`; real numbers stay on the CPU."""
        return AugmentationDraw(*(values if values.is_floating_point() else send(values, device) for values in self))


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied by the paper's protocol; what comes from outside of an image is black.

    CIFAR: affine, flip, crop. With `affine_last`, as for Tiny ImageNet: flip, crop, affine, colour jitter.
    """

    degrees: float = 15.0  # rotation by at most so many, either way
    scale: tuple[float, float] | None = None  # least and greatest factor
    padding: int = 4  # pixels on each side, before an image is cropped to its size
    affine_last: bool = False
    flip: bool = True
    jitter: float = 0.0  # contrast and saturation factors in 1 ± jitter

    def draw(self, count: int, generator: torch.Generator) -> AugmentationDraw:
        """Random numbers for `count` images by a CPU generator."""

        def uniform(low: float, high: float) -> torch.Tensor:
            return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=generator)

        def integers(end: int) -> torch.Tensor:
            return torch.randint(end, (count,), generator=generator)

        return AugmentationDraw(
            angle=uniform(-self.degrees, self.degrees),
            scale=uniform(*self.scale) if self.scale else torch.ones(count, dtype=torch.float64),
            flip=integers(2).bool() & self.flip,
            top=integers(2 * self.padding + 1),
            left=integers(2 * self.padding + 1),
            contrast=uniform(1 - self.jitter, 1 + self.jitter),
            saturation=uniform(1 - self.jitter, 1 + self.jitter),
            contrast_first=integers(2).bool(),
        )

    def source_pixels(self, drawn: AugmentationDraw, height: int, width: int) -> torch.Tensor:
        """For each output pixel the index of the source pixel it shows; height × width means black.

        Returns int64 (n, height × width). Transforms are applied last to first, since each maps an output
        coordinate to an input coordinate.
        """
        device = drawn.flip.device
        shape = (len(drawn.flip), height, width)
        y = torch.arange(height, device=device).view(1, -1, 1)
        x = torch.arange(width, device=device).view(1, 1, -1)
        inside = torch.ones((), dtype=torch.bool, device=device)
        steps = [self._affine, self._flip, self._crop]
        if self.affine_last:
            steps = [self._flip, self._crop, self._affine]
        for step in reversed(steps):
            y, x = step(drawn, y, x, height, width)
            # Rows and columns first: before an affine transform they are few numbers
            inside = inside & ((y >= 0) & (y < height)) & ((x >= 0) & (x < width))
        index = (y * width + x).expand(shape)  # of whole numbers, exact also as float32
        return torch.where(inside, index, height * width).long().flatten(1)

    def _crop(self, drawn: AugmentationDraw, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        top, left = drawn.top.view(-1, 1, 1), drawn.left.view(-1, 1, 1)
        return y + (top - self.padding), x + (left - self.padding)

    def _flip(self, drawn: AugmentationDraw, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        return y, torch.where(drawn.flip.view(-1, 1, 1), width - 1 - x, x)

    def _affine(self, drawn: AugmentationDraw, y, x, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        # The arithmetic of torchvision's affine_grid and of grid_sample, in their order, so that the nearest
        # neighbours are the same: a normalized grid in [-1, 1], then rounding half to even. Only where the source
        # is on an edge between two pixels, within float32 rounding, may one processor's grid choose the other.
        radians = torch.deg2rad(drawn.angle)
        cos, sin = (send((f(radians) / drawn.scale).float().view(-1, 1, 1), x.device) for f in (torch.cos, torch.sin))
        u, v = x - (width / 2 - 0.5), y - (height / 2 - 0.5)
        grid_x = cos / (width / 2) * u + sin / (width / 2) * v
        grid_y = -sin / (height / 2) * u + cos / (height / 2) * v
        # In place: these are the largest arrays of the augmentation.
        source_x = grid_x.add_(1).mul_(width).sub_(1).div_(2).round_()
        source_y = grid_y.add_(1).mul_(height).sub_(1).div_(2).round_()
        return source_y, source_x  # whole numbers

    def colour(self, images: torch.Tensor, drawn: AugmentationDraw) -> torch.Tensor:
        """Contrast and saturation of uint8 images (n, 3, H, W), in the order each image drew."""
        if not self.jitter:
            return images
        first = drawn.contrast_first.view(-1, 1, 1, 1)
        contrast, saturation = drawn.contrast, drawn.saturation
        images = torch.where(first, _adjust_contrast(images, contrast), _adjust_saturation(images, saturation))
        return torch.where(first, _adjust_saturation(images, saturation), _adjust_contrast(images, contrast))


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8).unsqueeze(1)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    factor = factor.view(-1, 1, 1, 1)
    own, others = (send(share.float(), images.device) for share in (factor, 1 - factor))
    mixed = own * images + others * other
    return mixed.clamp(0, 255).to(torch.uint8)


def _adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images).float().mean((1, 2, 3), keepdim=True), factor)


def _adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images), factor)


# --- images on the device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """A set of samples whose batches several processes may share; in a single process `share` is None."""

    share: distributed.Share | None = field(default_factory=distributed.share, kw_only=True)

    def first(self, count: int) -> torch.Tensor:
        """The first samples, x (count, …) at most, the same in all processes."""
        x, _ = next(replace(self, share=None).batches(count))
        return x[:count]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all processes that share the samples, in place and returned."""
        return tensor if self.share is None else self.share.total(tensor)

    def batch_length(self, part: int, batch_size: int, seen: int) -> int:
        """How many samples the batch has of which this process got `part`, after `seen` samples in all."""
        return part if self.share is None else min(batch_size, len(self) - seen)

    def own_seed(self, seed: int) -> int:
        """A seed of this process alone."""
        return seed % 2**62 if self.share is None else self.share.own_seed(seed)

    def join(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Let a model take batch statistics, and an optimizer gradients, over all processes' parts of a batch."""
        if self.share is not None:
            self.share.join(model, optimizer)

    def _parts(self, batch_size: int) -> Iterator[slice]:
        """This process' part of every batch."""
        for start in interrupts.checked(range(0, len(self), batch_size)):
            count = min(batch_size, len(self) - start)
            part = slice(0, count) if self.share is None else self.share.part(count)
            yield slice(start + part.start, start + part.stop)


@dataclass(frozen=True)
class Images(Shared):
    """A set of images on the device.

    pixels: int32 (n, height × width + 1), the last pixel of each row black. labels: int64 (n,).
    mean, std: float32 (1, 3, 1, 1), or None for models that see [0, 1].
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    size: tuple[int, int]
    augmentation: Augmentation
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def subset(self, index: torch.Tensor) -> "Images":
        index = send(index, self.device)
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    @property
    def is_sorted(self) -> bool:
        """Whether the images are sorted by class, so that the first ones do not show every class."""
        return bool((self.labels.diff() >= 0).all())

    def spread(self, count: int, from_end: bool = False) -> torch.Tensor:
        """Indices of `count` images: the first or the last, or evenly spaced ones if images are sorted by class."""
        count = min(count, len(self))
        if self.is_sorted:
            return torch.arange(count) * len(self) // count
        return torch.arange(count) + (len(self) - count if from_end else 0)

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, in order, under the test transform: float32 (b, 3, H, W) and labels (b,).

        With several processes, each gets its part of every batch.
        """
        height, width = self.size
        for part in self._parts(batch_size):
            yield self._normalized(unpack(self.pixels[part, : height * width], height, width)), self.labels[part]

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, shuffled, under the training transform: float32 (b, 3, H, W) and labels (b,).

        With several processes, each gets its part of every batch. `generator` is a CPU generator, the same in all.
        """
        parts = list(self._parts(batch_size))
        own = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        order = send(torch.randperm(len(self), generator=generator)[own], self.device)
        drawn = self.augmentation.draw(len(self), generator).take(own).to(self.device)
        labels = self.labels[order]
        together = max(images_at_once(self.device, self.size) // batch_size, 1)
        lengths, start = [part.stop - part.start for part in parts], 0
        for first in range(0, len(parts), together):
            batches = lengths[first : first + together]
            here = slice(start, start := start + sum(batches))
            images = self.augment(order[here], drawn.take(here))
            yield from interrupts.checked(zip(images.split(batches), labels[here].split(batches), strict=True))

    def augment(self, index: torch.Tensor, drawn: AugmentationDraw) -> torch.Tensor:
        """Images `index` (b,) varied as drawn: float32 (b, 3, H, W)."""
        height, width = self.size
        source = self.augmentation.source_pixels(drawn, height, width)
        source += index.view(-1, 1) * (height * width + 1)
        pixels = self.pixels.view(-1).index_select(0, source.view(-1)).view(source.shape)
        images = unpack(pixels, height, width)
        return self._normalized(self.augmentation.colour(images, drawn))

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], float (b, 3, H, W), as the networks see them."""
        return pixels if self.mean is None else (pixels - self.mean) / self.std

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize`."""
        return x if self.mean is None else x * self.std + self.mean

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (b, 3, H, W) as the networks see it."""
        layout = memory_format(images.device)
        result = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=layout)
        result.copy_(images).div_(255)
        return result if self.mean is None else result.sub_(self.mean).div_(self.std)


def unpack(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Packed pixels (b, H·W) as uint8 (b, 3, H, W), a view."""
    channels = pixels.contiguous().view(torch.uint8).view(len(pixels), height, width, 4)
    return channels[..., :3].permute(0, 3, 1, 2)


def pack(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) as packed pixels (n, H·W + 1)."""
    n, height, width, _ = images.shape
    packed = np.zeros((n, height * width + 1, 4), np.uint8)
    packed[:, :-1, :3] = images.reshape(n, -1, 3)
    return torch.from_numpy(packed.view(np.int32).reshape(n, -1))


# --- tensors and loaders in place of images ----------------------------------------------------------------


class _AsTheyAre(Shared):
    """Samples that networks see as they are; as images, their pixels are in [0, 1]."""

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        return x


@dataclass(frozen=True)
class Samples(_AsTheyAre):
    """Samples x, float (n, …), and labels, int64 (n,), both on the device, in place of `Images`; not augmented."""

    x: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every sample once, in order: x (b, …) and labels (b,). With several processes, each gets its part."""
        for part in self._parts(batch_size):
            yield self.x[part], self.labels[part]

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Like `batches`, but shuffled by `generator`, a CPU generator, the same in all processes."""
        order = send(torch.randperm(len(self), generator=generator), self.device)
        for part in self._parts(batch_size):
            yield self.x[order[part]], self.labels[order[part]]


@dataclass(frozen=True)
class Loader(_AsTheyAre):
    """A DataLoader in place of `Images`: the x (b, …) and labels (b,) that it serves, brought to the device.

    Its batch size, order and augmentation are its own; a batch size or generator given here changes nothing.
    """

    loader: DataLoader
    device: torch.device

    def __len__(self) -> int:
        """The number of samples that it serves in an epoch."""
        count = len(self.loader.sampler)
        return count - count % self.loader.batch_size if self.loader.drop_last else count

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, labels in interrupts.checked(self.loader):
            yield send(x, self.device), send(labels, self.device)

    def augmented(
        self, batch_size: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.batches()


Source = Images | Samples | Loader


def as_images(source: object, device: torch.device | str) -> Source:
    """The samples that `source` holds or serves, in the form that networks are trained and measured on.

    source: a pair of tensors x, float (n, …), and labels, whole numbers (n,), or a TensorDataset of them, which go to
    the device; a DataLoader, whose batches do; or `Images`, `Samples` or a `Loader`, which are returned unchanged.

    Raises TypeError for anything else, and ValueError for a DataLoader under several processes, each of which would
    go through all of it.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, DataLoader) and source.batch_size and not isinstance(source.dataset, IterableDataset):
        loader = Loader(source, torch.device(device))
        if loader.share is not None:
            raise ValueError("several processes cannot share a DataLoader; give the tensors themselves")
        return loader
    tensors = source.tensors if isinstance(source, TensorDataset) else source
    if _are_samples(tensors):
        x, labels = tensors
        return Samples(x.to(device), labels.to(device, torch.int64))
    raise TypeError(
        "images are Images, a TensorDataset or a pair of tensors (floats (n, …) and whole numbers (n,)), or a "
        f"DataLoader with a batch_size that serves such pairs of a dataset with a length, not {type(source).__name__}"
    )


def _are_samples(tensors: object) -> bool:
    if not isinstance(tensors, (tuple, list)) or len(tensors) != 2:
        return False
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        return False
    x, labels = tensors
    whole = not labels.is_floating_point() and not labels.is_complex()
    return x.is_floating_point() and whole and labels.dim() == 1 and x.shape[:1] == labels.shape
