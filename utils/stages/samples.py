"""Data of a user's own: what a function gives, or arrays in files. Networks see the samples as they are."""

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from ..batches import IGNORED, NO_SAMPLES, TARGETS, Batch, Samples, Source, as_images, collated, tensors_of
from ..devices import random_state_kept
from ..errors import FileError, UserError, first_line
from ..losses import Loss
from .data import Data, hold_out
from .files import load_arrays

BATCH = 512  # samples that are read at once where all are read
INPUTS, LABELS = ("images", "x", "inputs", "data"), ("labels", "y", "targets")


def load_samples(
    name: str, make: Callable[[], object], *, task: Loss, use_test: bool, device: torch.device | str = "cpu"
) -> Data:
    """What `make` gives, training and test data, each in any form (`utils.batches.as_images`), on the device.

    A DataLoader that takes each sample of a Dataset once is one of batches that may have any size and order here, and
    be divided; another one keeps its own. Everything is read once, for the digest and the number of classes.

    Raises UserError if they are no such data, or are others when they are read again.
    """
    parts = make()
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise UserError(f"{name} gives a {type(parts).__name__}, where a tuple (train, test) of data is wanted")
    try:
        train, test = (_served(part, torch.device(device)) for part in parts)
        digest, classes = _read(name, (train, test), task)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} does not give data for training and testing: {first_line(error)}") from error
    if task == "classification" and not classes:
        raise UserError(f"{name} has no targets that are classes, whole numbers (n,): it is for another task")
    if not use_test:
        train, test = hold_out(name, train)
    return Data(train, test, classes or None, digest, "none", None, task)


def _served(part: object, device: torch.device) -> Source:
    if isinstance(part, DataLoader) and not isinstance(part.dataset, IterableDataset):
        samplers = (type(part.sampler), type(part.batch_sampler))
        is_plain = samplers[0] in (SequentialSampler, RandomSampler) and samplers[1] is BatchSampler
        if is_plain and len(part.sampler) == len(part.dataset) and not getattr(part.sampler, "replacement", False):
            take = partial(collated, part.dataset, device, collate=part.collate_fn)
            return Samples(len(part.dataset), device, take)
    return as_images(part, device)


def _read(name: str, parts: tuple[Source, Source], task: Loss) -> tuple[str, int]:
    """The digest of all samples, training and test, and the number of classes among their targets, 0 if none are."""
    whole, classes = hashlib.sha256(), 0
    for part in parts:
        with _drawn_alike(part.device):
            digests = []
            for batch in replace(part, share=None).batches(BATCH):
                digests.append(_digest(batch))
                classes = max(classes, _classes(batch, task))
        if not digests:
            raise UserError(NO_SAMPLES)
        with _drawn_alike(part.device):
            again = _digest(next(iter(replace(part, share=None).batches(BATCH))))
        if again != digests[0]:
            raise UserError(
                f"{name} gives other samples each time it is read; let it draw by torch's generator alone"
            )
        whole.update(b"".join(digests))
    return whole.hexdigest(), classes


@contextlib.contextmanager
def _drawn_alike(device: torch.device) -> Iterator[None]:
    """In this block all global generators begin alike; after it they are where they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (which data of others draw by)
    with random_state_kept(device):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _digest(batch: Batch) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors_of(batch):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _classes(batch: Batch, task: Loss) -> int:
    """One more than the greatest class of a batch, as far as targets of this task are classes; else 0."""
    named = [batch[name] for name in TARGETS if name in batch] if isinstance(batch, Mapping) else batch[1:]
    targets = tensors_of(named) if not isinstance(batch, torch.Tensor) else []
    if task == "multilabel":
        return next((one.shape[1] for one in targets if one.dim() == 2), 0)
    whole = [one for one in targets if not one.is_floating_point() and not one.is_complex()]
    if task == "segmentation":
        counted = next((one[(one != IGNORED) & (one != 255)] for one in whole if one.dim() > 2), torch.empty(0))
    elif task in ("regression", "language"):
        return 0
    else:
        counted = next((one for one in whole if one.shape[1:] in ((), (1,))), torch.empty(0))
    return int(counted.max()) + 1 if counted.numel() else 0


def read_arrays(path: Path) -> tuple[Batch, Batch]:
    """Training and test data from an .npz file, or from the .npy files of a folder.

    An array's name has its split in front or behind, as train_images or x_test. One called as in INPUTS is what a
    network takes, one as in LABELS are targets; where there are others, a batch is a dictionary of all by name.
    Whole numbers become int64, real ones float32, and pixels, uint8 inputs of 3 dimensions or more, from 0 to 1.
    """
    if path.is_dir():
        arrays = {}
        for file in sorted(path.glob("*.npy")):
            try:
                arrays[file.stem] = np.load(file, allow_pickle=False)
            except Exception as error:  # what a parser raises on a damaged file can be anything
                raise FileError(file, f"is not an array that can be read ({first_line(error)})") from error
    else:
        arrays = load_arrays(path)
    parts: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
    for name, array in arrays.items():
        split = next((split for split in parts if name.startswith(f"{split}_") or name.endswith(f"_{split}")), None)
        if split:
            parts[split][name.removeprefix(f"{split}_").removesuffix(f"_{split}")] = array
    if not all(parts.values()):
        raise FileError(path, f"holds {', '.join(arrays) or 'no arrays'}, where e.g. train_x and test_x are wanted")
    return _batch(parts["train"]), _batch(parts["test"])


def _batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    tensors = {name: _tensor(array, is_label=name in LABELS) for name, array in arrays.items()}
    inputs, labels = ([tensors[name] for name in names if name in tensors] for names in (INPUTS, LABELS))
    if len(inputs) == 1 and len(inputs) + len(labels) == len(tensors) <= 2:
        return (*inputs, *labels) if labels else inputs[0]
    return tensors


def _tensor(array: np.ndarray, *, is_label: bool) -> torch.Tensor:
    if array.dtype == np.uint8 and array.ndim > 2 and not is_label:
        return torch.from_numpy(array.astype(np.float32) / 255)
    kinds = {"u": np.int64, "i": np.int64, "f": np.float32}
    return torch.from_numpy(np.ascontiguousarray(array, kinds.get(array.dtype.kind, array.dtype)))
