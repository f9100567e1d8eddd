"""Correlation matrices of a match: how every channel of A correlates with every channel of B, layer by layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import check_shapes, read, save_arrays
from .records import Record


class Layer(NamedTuple):
    """The channels of one row of a match.

    correlations: (C, C), of A's channels, down, with those of B as it is, across.
    order: (C,), the channel of B at each place of A after alignment.
    """

    label: str
    correlations: np.ndarray
    order: np.ndarray

    @property
    def aligned(self) -> np.ndarray:
        """The correlations (C, C) of A's channels with those of aligned B."""
        return self.correlations[:, self.order]


def save_matrices(
    path: Path,
    labels: Sequence[str],
    matrices: Sequence[np.ndarray],
    orders: Sequence[np.ndarray],
    record: Record,
) -> None:
    """An .npz file of all layers: their `labels`, and `correlations_0`, in half precision, `order_0`, and so on."""
    arrays = {"record": record.at(path).as_array(), "labels": np.array(labels)}
    for number, (matrix, order) in enumerate(zip(matrices, orders, strict=True)):
        arrays |= {f"correlations_{number}": matrix.astype(np.float16), f"order_{number}": order}
    save_arrays(path, **arrays)


def layers_in(path: Path, arrays: Mapping[str, np.ndarray]) -> list[Layer]:
    """The layers, in order, of the arrays in such a file. FileError if they are something else."""

    def layer(number: int, label: str) -> Layer:
        names = f"correlations_{number}", f"order_{number}"
        check_shapes(arrays, dict(zip(names, (("channels", "channels"), ("channels",)), strict=True)))
        correlations, order = (arrays[name] for name in names)
        if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError(f"{names[1]} is not a permutation")
        return Layer(label, correlations, order)

    def parse() -> list[Layer]:
        if not (layers := [layer(number, str(label)) for number, label in enumerate(arrays["labels"])]):
            raise ValueError("it has no layers")
        return layers

    return read(path, "a file of correlation matrices", parse)
