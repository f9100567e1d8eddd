"""Images as rows of one tensor, and augmentation as tensor arithmetic on whole batches.

An image is a row of packed pixels: the bytes R, G, B, 0 of a pixel are one int32 (a grey pixel is one byte), and one
more pixel, black, stands at the end of the row. Crop, flip and affine transform only say *which* source pixel each
output pixel shows (the black one outside the image), so they are composed on coordinates and carried out by a single
gather. The rows may be a file that is mapped into memory, or stay there while a GPU gets a few thousand at a time.
Random numbers are drawn for an epoch at once, on the CPU: the same images on every device.

Any other data can stand in for such a set: see `as_images`.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from . import distributed
from .devices import images_at_once, memory_format, send
from .errors import UserError, checked

NO_SAMPLES = "there are no samples that count: the data are empty, or a loader drops its only batch"

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
        """Contrast and saturation of uint8 images (n, C, H, W), in the order each image drew."""
        if not self.jitter:
            return images
        first = drawn.contrast_first.view(-1, 1, 1, 1)
        contrast, saturation = drawn.contrast, drawn.saturation
        images = torch.where(first, _adjust_contrast(images, contrast), _adjust_saturation(images, saturation))
        return torch.where(first, _adjust_saturation(images, saturation), _adjust_contrast(images, contrast))


def _grey(images: torch.Tensor) -> torch.Tensor:
    if images.shape[1] == 1:
        return images
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
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


MAPPED_AT_ONCE = 64  # rows of a mapped file: where one is read, the system may map 2 MB around it

# --- images on the device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """A set of samples whose batches several processes may share; in a single process `share` is None."""

    share: distributed.Share | None = field(default_factory=distributed.share, kw_only=True)

    def first(self, count: int) -> "Batch":
        """A batch of the first samples, `count` at most, the same in all processes."""
        for batch in replace(self, share=None).batches(count):
            return taken(batch, slice(count))
        raise UserError(NO_SAMPLES)

    def steps(self, batch_size: int) -> int:
        """How many batches there are."""
        return -(-len(self) // batch_size)

    def some(self, count: int) -> "Source":
        """So many samples, or all if there are fewer, as `spread` chooses them."""
        return self.subset(self.spread(count))

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all processes that share the samples, in place and returned."""
        return tensor if self.share is None else self.share.total(tensor)

    def whole(self, count: int) -> int:
        """How many there are in all processes, of which this one has `count`."""
        return count if self.share is None else self.share.whole(count)

    def own_seed(self, seed: int) -> int:
        """A seed of this process alone."""
        return seed % 2**62 if self.share is None else self.share.own_seed(seed)

    def join(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Let a model take batch statistics, and an optimizer gradients, over all processes' parts of a batch."""
        if self.share is not None:
            self.share.join(model, optimizer)

    def _parts(self, batch_size: int) -> Iterator[slice]:
        """This process' part of every batch."""
        for start in checked(range(0, len(self), batch_size)):
            count = min(batch_size, len(self) - start)
            part = slice(0, count) if self.share is None else self.share.part(count)
            yield slice(start + part.start, start + part.stop)


@dataclass(frozen=True)
class Images(Shared):
    """A set of images, some or all rows of a tensor of pixels.

    pixels: (N, height × width + 1), int32 for three channels and uint8 for one, the last pixel of each row black. On
        the device; or on the CPU, from where the images go to the device in chunks, as they are used.
    labels: int64 (n,), on the device.
    mean, std: float32 (1, C, 1, 1), on the device, or None for models that see [0, 1].
    index: int64 (n,), where the pixels are: the row of each image; None if that is its number.
    unmap: takes what was read of a mapped file out of this process' memory, after each chunk.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    size: tuple[int, int]
    augmentation: Augmentation
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None
    index: torch.Tensor | None = None
    unmap: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def subset(self, index: torch.Tensor) -> "Images":
        """Images `index` (m,): the same pixels, of which none are copied."""
        return replace(self, labels=self.labels[send(index, self.device)], index=self._rows(index))

    def packed(self, index: slice | torch.Tensor) -> torch.Tensor:
        """The rows of pixels (b, height × width + 1) of images `index`, on the device."""
        rows, pixels = self._rows(index), []
        is_whole = self.unmap is None or isinstance(rows, slice)
        for some in [rows] if is_whole else rows.split(MAPPED_AT_ONCE):
            pixels.append(self.pixels[some])
            if self.unmap is not None:
                self.unmap()
        return send(pixels[0] if is_whole else torch.cat(pixels), self.device)

    def _rows(self, index: slice | torch.Tensor) -> slice | torch.Tensor:
        index = send(index, self.pixels.device) if isinstance(index, torch.Tensor) else index
        return index if self.index is None else self.index[index]

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
        """Every image once, in order, under the test transform: float32 (b, C, H, W) and labels (b,).

        With several processes, each gets its part of every batch.
        """
        height, width = self.size
        for part in self._parts(batch_size):
            pixels = self.packed(part)[:, : height * width]
            yield self._normalized(unpack(pixels, height, width)), self.labels[part]

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every image once, shuffled, under the training transform: float32 (b, C, H, W) and labels (b,).

        With several processes, each gets its part of every batch. `generator` is a CPU generator, the same in all.
        """
        parts = list(self._parts(batch_size))
        own = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        order = torch.randperm(len(self), generator=generator)[own]
        drawn = self.augmentation.draw(len(self), generator).take(own).to(self.device)
        labels, order = self.labels[send(order, self.device)], send(order, self.pixels.device)
        together = max(images_at_once(self.device, self.size) // batch_size, 1)
        lengths, start = [part.stop - part.start for part in parts], 0
        for first in range(0, len(parts), together):
            batches = lengths[first : first + together]
            here = slice(start, start := start + sum(batches))
            images = self.augment(order[here], drawn.take(here))
            yield from checked(zip(images.split(batches), labels[here].split(batches), strict=True))

    def augment(self, index: torch.Tensor, drawn: AugmentationDraw) -> torch.Tensor:
        """Images `index` (b,) varied as drawn: float32 (b, C, H, W)."""
        height, width = self.size
        pixels = self.packed(index).gather(1, self.augmentation.source_pixels(drawn, height, width))
        images = unpack(pixels, height, width)
        return self._normalized(self.augmentation.colour(images, drawn))

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1], float (b, C, H, W), as the networks see them."""
        return pixels if self.mean is None else (pixels - self.mean) / self.std

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize`."""
        return x if self.mean is None else x * self.std + self.mean

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (b, C, H, W) as the networks see it."""
        layout = memory_format(images.device)
        result = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=layout)
        result.copy_(images).div_(255)
        return result if self.mean is None else result.sub_(self.mean).div_(self.std)


def unpack(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Packed pixels (b, H·W), int32 or uint8, as uint8 (b, 3 or 1, H, W), a view."""
    channels = pixels.contiguous().view(torch.uint8).view(len(pixels), height, width, pixels.element_size())
    return channels[..., :3].permute(0, 3, 1, 2)


def pack(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3 or 1) as packed pixels (n, H·W + 1), int32 or uint8."""
    n, height, width, channels = images.shape
    kind = np.dtype(np.int32 if channels == 3 else np.uint8)
    packed = np.zeros((n, height * width + 1, kind.itemsize), np.uint8)
    packed[:, :-1, :channels] = images.reshape(n, -1, channels)
    return torch.from_numpy(packed.view(kind).reshape(n, -1))


# --- what a batch is ---------------------------------------------------------------------------------------

# A tensor x (b, …); a tuple that begins with x, or with as much as a network takes, and goes on with the targets; or
# a dictionary. What is no tensor in it is for the loss alone.
Batch = torch.Tensor | Sequence | Mapping

TARGETS = ("labels", "label", "targets", "target", "y")  # what the targets are called in a dictionary
WHOLE = ("batch", "data", "sample", "example")  # what a network's argument is called that is the whole dictionary
IGNORED = -100  # the label of a position that counts nowhere


class Inputs(NamedTuple):
    """What a network is called with, where that is not one tensor."""

    args: tuple
    keywords: dict[str, object]


def split(network: nn.Module, batch: Batch) -> tuple[torch.Tensor | Inputs, object]:
    """What a network takes of a batch, for `call`, and the targets, or None if there are none.

    Of a tuple, that is as many entries as the network's forward requires; the next one are the targets. Of a
    dictionary, it is what has the name of an argument, and the targets are one of TARGETS. If no entry has such a
    name, it is the only tensor besides the targets, or else the dictionary itself.
    """
    if isinstance(batch, torch.Tensor):
        return batch, None
    arguments = inspect.signature(network.forward).parameters.values()
    required = [p.name for p in arguments if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if not isinstance(batch, Mapping):
        count = max(len(required), 1)
        target = batch[count] if len(batch) > count else None
        return (batch[0] if count == 1 else Inputs(tuple(batch[:count]), {})), target
    target = next((batch[name] for name in TARGETS if name in batch), None)
    names = {p.name for p in arguments}
    others = {name: value for name, value in batch.items() if name not in TARGETS or name in required}
    if named := {name: value for name, value in others.items() if name in names}:
        return Inputs((), named), target
    if not required and any(p.kind is p.VAR_KEYWORD for p in arguments):
        return Inputs((), others), target
    tensors = [value for value in others.values() if isinstance(value, torch.Tensor)]
    is_whole = len(tensors) != 1 or required[:1] in ([name] for name in WHOLE)
    return (Inputs((batch,), {}) if is_whole else tensors[0]), target


def call(network: Callable, x: torch.Tensor | Inputs) -> object:
    """A network's output for what `split` took of a batch."""
    return network(*x.args, **x.keywords) if isinstance(x, Inputs) else network(x)


def mapped(function: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> Batch:
    """A batch, in its own form, with `function` of each of its tensors."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return function(torch.as_tensor(batch))
    if isinstance(batch, Mapping):
        return {name: mapped(function, value) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [mapped(function, value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch that have a dimension of samples."""
    found: list[torch.Tensor] = []
    mapped(found.append, batch)
    return [tensor for tensor in found if tensor.dim()]


def rows(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(tensors_of(batch)[0])


def taken(batch: Batch, index: slice | torch.Tensor) -> Batch:
    """The samples `index` of a batch."""
    count = rows(batch)
    return mapped(lambda tensor: tensor[index] if tensor.dim() and len(tensor) == count else tensor, batch)


def joined(first: Batch, second: Batch) -> Batch | None:
    """The samples of two batches as one batch; None if they are of unlike shapes."""
    parts, others = tensors_of(first), tensors_of(second)
    if [part.shape[1:] for part in parts] != [other.shape[1:] for other in others]:
        return None
    left = iter(parts)
    return mapped(lambda tensor: torch.cat([next(left), tensor]) if tensor.dim() else tensor, second)


def token_mask(batch: Batch) -> torch.Tensor | None:
    """Which positions (b, T) of a batch count: those of its mask, or else those whose labels are not IGNORED.

    A dictionary may have `attention_mask` or `mask`, 1 where a position counts, or a mask of padding.
    """
    named = batch if isinstance(batch, Mapping) else {}
    for name, mask in named.items():
        if name.endswith("mask") and mask.dim() == 2:
            return ~mask.bool() if "padding" in name else mask.bool()
    for labels in [named[name] for name in TARGETS if name in named] or tensors_of(batch)[1:]:
        if isinstance(labels, torch.Tensor) and labels.dim() == 2 and not labels.is_floating_point():
            return labels != IGNORED
    return None


# --- other data in place of images -------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples(Shared):
    """Samples taken by their numbers, in place of `Images`; networks see them as they are."""

    count: int
    device: torch.device
    take: Callable[[slice | torch.Tensor], Batch]

    def __len__(self) -> int:
        return self.count

    def subset(self, index: torch.Tensor) -> "Samples":
        return replace(self, count=len(index), take=lambda part: self.take(index[part]))

    def spread(self, count: int, from_end: bool = False) -> torch.Tensor:
        """Indices of `count` samples, evenly spaced, as it is not known how they are sorted."""
        count = min(count, len(self))
        return torch.arange(count) * len(self) // max(count, 1)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Every sample once, in order. With several processes, each gets its part of every batch."""
        yield from map(self.take, self._parts(batch_size))

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Like `batches`, but shuffled by `generator`, a CPU generator, the same in all processes."""
        order = torch.randperm(len(self), generator=generator)
        for part in self._parts(batch_size):
            yield self.take(order[part])


@dataclass(frozen=True)
class Loader(Shared):
    """Batches that somebody else makes, in place of `Images`, brought to the device.

    Their size, order and augmentation are their own; a batch size or generator given here changes nothing.
    """

    loader: Iterable[Batch]
    device: torch.device

    def some(self, count: int) -> "Loader":
        """The first batches, until there are so many samples; they are kept."""
        kept: list[Batch] = []
        for batch in self.loader:
            kept.append(batch)
            if (count := count - rows(batch)) <= 0:
                break
        return replace(self, loader=kept)

    def steps(self, batch_size: int) -> int:
        try:
            return len(self.loader)
        except TypeError:  # of a stream
            return sum(1 for _ in self.loader)

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        for batch in checked(self.loader):
            yield on_device(batch, self.device)

    def augmented(self, batch_size: int | None = None, generator: torch.Generator | None = None) -> Iterator[Batch]:
        return self.batches()


Source = Images | Samples | Loader

Data = Source | Batch | Dataset | Iterable[Batch]  # what `as_images` takes


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device. Raises TypeError if it has no tensors, and ValueError if it has no samples."""
    batch = mapped(lambda tensor: send(tensor, device), batch)
    if not tensors_of(batch):
        raise TypeError(f"{A_BATCH}, not {_in_words(batch)}")
    if not rows(batch):
        raise ValueError("a batch is empty: it has no samples")
    return batch


A_BATCH = "a batch is a tensor (b, …), a tuple of tensors such as (x, labels), or a dictionary of tensors"
DATA = (
    "data are a tensor, a tuple (x, labels, …) or a dictionary of tensors (n, …), a Dataset, a DataLoader, or "
    "anything else that gives batches each time it is read"
)


def _in_words(value: object) -> str:
    inside = f" of {type(value[0]).__name__}" if isinstance(value, (tuple, list)) and len(value) else ""
    return f"a {type(value).__name__}{inside}"


def as_images(source: object, device: torch.device | str, *, once: bool = False) -> Source:
    """The samples that `source` holds or serves, in the form that networks are trained and measured on.

    source: a tensor x (n, …); a tuple (x, labels, …) or a dictionary of tensors or arrays, or a TensorDataset, which
    go to the device; a Dataset (or Subset) with a length; a DataLoader or another iterable of batches (`Batch`),
    which go there one by one; or `Images`, `Samples` or a `Loader`, which are returned unchanged. Tensors in a list,
    or more than two of them, that are alike but for their length are batches.
    once: whether the source need not be readable more than once.

    Raises TypeError for anything else, and ValueError if there are no samples or not as many in each tensor, or for
    batches of somebody else under several processes, each of which would go through all of them.
    """
    if isinstance(source, Source):
        return source
    device = torch.device(device)
    whole = source.tensors if isinstance(source, TensorDataset) else source
    if _is_whole(whole):
        whole = on_device(whole, device)
        if len(counts := {len(tensor) for tensor in tensors_of(whole)}) > 1:
            raise ValueError(f"data have {' and '.join(map(str, sorted(counts)))} samples in their tensors")
        return Samples(rows(whole), device, partial(taken, whole))
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset) and hasattr(source, "__len__"):
        return Samples(len(source), device, partial(collated, source, device))
    is_data = isinstance(source, Iterable) and not isinstance(source, str | Mapping | nn.Module | IterableDataset)
    if not is_data:
        raise TypeError(f"{DATA}, not {_in_words(source)}")
    if isinstance(source, Iterator) and not once:
        raise ValueError("data have to be read again, and a generator can be read once: give a list or a DataLoader")
    loader = Loader(source, device)
    if loader.share is not None and not once:
        raise ValueError("several processes cannot share a DataLoader; give the tensors themselves")
    return loader


def collated(
    dataset: Dataset, device: torch.device, index: slice | torch.Tensor, collate: Callable = default_collate
) -> Batch:
    """The samples `index` of a dataset as a batch on the device."""
    numbers = range(len(dataset))[index] if isinstance(index, slice) else index.tolist()
    batch = collate([dataset[number] for number in numbers or [0]])  # a process may have no part of a batch
    return taken(on_device(batch, device), slice(len(numbers)))


def _is_whole(source: object) -> bool:
    """Whether these are tensors (or arrays) of all samples, and no list of batches."""
    if isinstance(source, torch.Tensor | np.ndarray):
        return True
    if not isinstance(source, Mapping | tuple | list):
        return False
    entries = list(source.values() if isinstance(source, Mapping) else source)
    if not entries or not all(isinstance(entry, torch.Tensor | np.ndarray) for entry in entries):
        return False
    are_alike = len({(entry.shape[1:], entry.dtype) for entry in entries}) == 1
    is_pair = isinstance(source, tuple) and len(entries) == 2 and len(entries[0]) == len(entries[1])
    return isinstance(source, Mapping) or is_pair or not are_alike
