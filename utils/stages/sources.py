"""Of which files a result is: the networks, match and curve behind it, and whether they are those that are there now.

A result keeps digests of their content. They tell weights apart, and not when or how often these were written.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .files import load_checkpoint
from .layout import USUAL, Layout, Variant, tag
from .matches import load_match
from .originals import stand_in

# What files are behind a result, by the name under which it keeps their digests, in words
WORDS = {
    "a": "other networks",
    "b": "other networks",
    "c": "other networks",
    "match": "another match",
    "match_c": "another match",
    "curve": "another curve",
}


def behind(
    layout: Layout,
    seeds: tuple[int, ...],
    epochs_model: int,
    alignment: str = "",
    epochs_curve: int = 0,
    variant: Variant = USUAL,
) -> dict[str, Path]:
    """The files that a path between two networks is of, by name: a, b, and match and curve if it has them.

    The plane of three networks has c and match_c, of C to A, besides.
    """
    files = {end: layout.endpoint(seed, epochs_model) for end, seed in zip("abc", seeds, strict=False)}
    if tag(alignment) != "null":
        for name, seed in zip(("match", "match_c"), seeds[1:], strict=False):
            files[name] = stand_in(layout.match(tag(alignment), seeds[0], seed, variant))
    if epochs_curve:
        files["curve"] = stand_in(layout.curve(alignment, *seeds, epochs_curve, variant))
    return files


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """A digest of the content of each file that is there and can be read."""
    found = {name: _known_digest(path) for name, path in files.items()}
    return {name: digest for name, digest in found.items() if digest}


def others(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In words, what is known of both and not the same, as "other networks and another match"; or nothing."""
    different = (WORDS[name] for name in WORDS if name in before and name in now and before[name] != now[name])
    return " and ".join(dict.fromkeys(different))


def _known_digest(path: Path) -> str:
    """The digest of a file, taken once for what is there; '' if nothing is, or nothing that can be read."""
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except (OSError, UserError, RuntimeError, AttributeError, TypeError):  # of tensors of odd kinds, in other code's
        return ""


@functools.cache
def _digest(path: Path, _mtime: int, _size: int) -> str:
    if path.suffix == ".npy":
        return digest_of((str(i), row) for i, row in enumerate(load_match(path).rows))
    checkpoint = load_checkpoint(path)
    points = checkpoint.get("points") or {"": checkpoint["model_state"]}
    return digest_of(
        (f"{index}.{name}", value.contiguous().reshape(-1).view(torch.uint8).numpy())
        for index, state in points.items()
        for name, value in state.items()
    )


def digest_of(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """sha256 (hex) of arrays with their names."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
