"""Data of a user's own: what a function gives, or arrays in files. Networks see the samples as they are."""

import hashlib
import lzma
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from ..batches import IGNORED, NO_SAMPLES, TARGETS, Batch, Samples, Source, as_images, collated, tensors_of
from ..devices import random_state_kept
from ..errors import FileError, UserError, first_line
from ..losses import Loss
from .data import Data, hold_out
from .layout import TEXT

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
        read = [_read(name, part, task) for part in (train, test)]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} does not give data for training and testing: {first_line(error)}") from error
    classes = max(count for _, count in read) or None
    if task == "classification" and not classes:
        raise UserError(f"{name} has no targets that are classes, whole numbers (n,): it is for another task")
    digest = hashlib.sha256(b"".join(digest for digest, _ in read)).hexdigest()
    train, test = (train, test) if use_test else hold_out(name, train)
    return Data(train, test, classes, digest, "none", None, task)


def _served(part: object, device: torch.device) -> Source:
    sampler = getattr(part, "sampler", None)
    is_plain = type(sampler) in (SequentialSampler, RandomSampler) and not getattr(sampler, "replacement", False)
    is_plain = is_plain and isinstance(part, DataLoader) and type(part.batch_sampler) is BatchSampler
    if not is_plain or len(sampler) != len(part.dataset):
        return as_images(part, device)
    return Samples(len(part.dataset), device, partial(collated, part.dataset, device, collate=part.collate_fn))


def _read(name: str, part: Source, task: Loss) -> tuple[bytes, int]:
    """The digest of all samples, and the number of classes among their targets, 0 if they are none."""
    part, digests, classes = replace(part, share=None), [], 0
    with random_state_kept(part.device):
        torch.manual_seed(0)  # so that what they draw is the same each time
        for batch in part.batches(BATCH):
            digests.append(_digest(batch))
            classes = max(classes, _classes(batch, task))
        if not digests:
            raise UserError(f"{name}: {NO_SAMPLES}")
        torch.manual_seed(0)
        if _digest(next(iter(part.batches(BATCH)))) != digests[0]:
            raise UserError(f"{name} gives other samples each time it is read; torch's generator alone may vary them")
    return b"".join(digests), classes


def _digest(batch: Batch) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors_of(batch):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _classes(batch: Batch, task: Loss) -> int:
    """How many outputs the targets of a batch ask for, one for each class or number; 0 where that is not known."""
    named = [batch[name] for name in TARGETS if name in batch] if isinstance(batch, Mapping) else batch[1:]
    for one in tensors_of([] if isinstance(batch, torch.Tensor) or task == "language" else named):
        is_real, is_dense = one.is_floating_point(), one.dim() > 2
        is_flags = one[0].numel() > 1 and bool(((one == 0) | (one == 1) | (one == IGNORED)).all())
        if not is_dense and (task in ("regression", "multilabel") or callable(task) and (is_real or is_flags)):
            return one[0].numel()
        if not is_real and (
            is_dense if task == "segmentation" else one[0].numel() == 1 or callable(task) and is_dense
        ):
            counted = one[(one != IGNORED) & ((one != 255) | (not is_dense))]
            return int(counted.max()) + 1 if counted.numel() else 0
    return 0


def read_arrays(path: Path) -> tuple[Batch, Batch]:
    """Training and test data from an .npz file, or from the .npy files of a folder.

    An array's name has its split in front or behind, as train_images or x_test. One called as in INPUTS is what a
    network takes, one as in LABELS are targets; where there are others, a batch is a dictionary of all by name.
    Whole numbers become int64, real ones float32, and pixels, uint8 inputs of 3 dimensions or more, from 0 to 1, with
    their channels before height and width.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"train": {}, "test": {}}
    for file in sorted(path.glob("*.npy")) or [path]:
        try:
            stored = np.load(file, allow_pickle=False)
            arrays = {file.stem: stored} if isinstance(stored, np.ndarray) else dict(stored)
        except Exception as error:  # what a parser raises on a damaged file can be anything
            raise FileError(file, f"holds no arrays that can be read ({first_line(error)})") from error
        for name, array in arrays.items():
            for split in (split for split in parts if split in (name.split("_")[0], name.split("_")[-1])):
                word = name.removeprefix(f"{split}_").removesuffix(f"_{split}")
                parts[split][word] = _tensor(array, is_label=word in LABELS)
    if not all(parts.values()):
        raise FileError(path, "holds no arrays with the names of both splits, as train_x and test_x")
    return _batch(parts["train"]), _batch(parts["test"])


def _tensor(array: np.ndarray, *, is_label: bool) -> torch.Tensor:
    if array.dtype == np.uint8 and array.ndim > 2 and not is_label:
        *_, height, last = array.shape
        is_last = array.ndim == 4 and last in (1, 3, 4) and last != height and array.shape[1] not in (1, 3, 4)
        array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2) if is_last else array
        return torch.from_numpy(array.astype(np.float32, order="C") / 255)
    kinds = {"u": np.int64, "i": np.int64, "f": np.float32}
    return torch.from_numpy(np.ascontiguousarray(array, kinds.get(array.dtype.kind, array.dtype)))


def _batch(tensors: Mapping[str, torch.Tensor]) -> Batch:
    """(x, labels) or x, if these are all; or else the tensors by name."""
    pair = [tensor for names in (INPUTS, LABELS) for name, tensor in tensors.items() if name in names]
    if len(pair) < len(tensors) or len(pair) > 2 or sum(name in INPUTS for name in tensors) != 1:
        return tensors
    return tuple(pair) if len(pair) == 2 else pair[0]


def load_text(name: str, context: int, *, task: Loss, use_test: bool, device: torch.device | str = "cpu") -> Data:
    """The blocks of text:FILE (`read_text`) as samples; its classes are all bytes, or ids up to the largest one."""
    blocks, classes = read_text(Path(name.removeprefix(TEXT)).expanduser(), context)
    data = load_samples(name, lambda: blocks, task=task, use_test=use_test, device=device)
    return replace(data, num_classes=classes)


def read_text(path: Path, context: int) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:
    """The tokens of a file in blocks (n, context), for training (its first 95 %) and tests; how many kinds there are.

    Tokens are the ids of an .npy file, in their order, or else the bytes of the file, unpacked if it is an .xz.
    Raises FileError if they cannot be read, are no ids, or are fewer than two blocks of two tokens or more.
    """
    is_ids = path.suffix == ".npy"
    try:
        if is_ids:
            tokens = np.load(path, allow_pickle=False).reshape(-1)
        else:
            tokens = np.frombuffer((lzma.open if path.suffix == ".xz" else open)(path, "rb").read(), np.uint8)
    except Exception as error:  # what a parser raises on a damaged file can be anything
        raise FileError(path, f"cannot be read as text ({first_line(error)})") from error
    if tokens.dtype.kind not in "iu" or len(tokens) and tokens.min() < 0:
        raise FileError(path, f"holds {tokens.dtype} numbers, and not ids of tokens, whole numbers from 0 on")
    cut = len(tokens) * 19 // 20
    parts = [part[: len(part) // context * context].reshape(-1, context) for part in (tokens[:cut], tokens[cut:])]
    if context < 2 or not all(map(len, parts)):
        wanted = f"blocks of {context} (--context), of which 95 % train and the rest test"
        raise FileError(path, f"holds {len(tokens)} tokens, too few for {wanted}")
    train, test = (torch.from_numpy(part.astype(np.int64)) for part in parts)
    return (train, test), int(tokens.max()) + 1 if is_ids else 256
