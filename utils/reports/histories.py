"""How curves and networks were learned, epoch by epoch, as figures show it."""

from collections.abc import Sequence

import numpy as np

from ..errors import FileError, UserError
from ..stages.files import load_array
from ..stages.layout import Layout
from ..stages.originals import load_arrays
from .paths import Pair, Series
from .results import Arrays

WORDS = {"train": "training images", "test": "test images"}


def load_histories(series: Series, pairs: Sequence[Pair]) -> list[Arrays]:
    """The history of every pair's curve."""
    return [load_history(series, pair) for pair in pairs]


def load_history(series: Series, pair: Pair) -> Arrays:
    """A curve's training by epoch: arrays loss_train and accuracy_train, at least as long as the series' epochs."""
    path = series.layout.curve_history(series.alignment, *pair, series.variant_of(pair))
    untold = {"epochs": series.epochs}  # which the file's name does not tell
    try:
        history = load_arrays(path, loss_train=("n",), accuracy_train=("n",))
    except FileError as error:
        error.flags |= untold
        raise
    if len(history["loss_train"]) < series.epochs:
        raise FileError(path, f"has fewer than {series.epochs} epochs", "continue", **untold)
    return history


def load_network_histories(
    layout: Layout, pairs: Sequence[Pair], missing: list[UserError]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """How networks A and B were trained, by (A or B, train or test): arrays accuracy and loss (pairs, epochs).

    NaN stands where an epoch was not tested. All are as long as the shortest. What not every network has (some were
    never tested) is left out, and `missing` tells; networks from elsewhere have no history, and nothing is missing.
    """
    of_networks = [layout.model_history(seed) for pair in pairs for seed in pair]
    if not any(path.exists() for history in of_networks for path in history.values()):
        return {}
    found: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for kind in ("train", "test"):
        try:
            for i, end in enumerate("AB"):
                histories = [layout.model_history(pair[i]) for pair in pairs]
                found[end, kind] = {
                    quantity: [load_array(history[f"{quantity}_{kind}"], gaps=True) for history in histories]
                    for quantity in ("accuracy", "loss")
                }
        except FileError as error:
            if error.mend != "make":
                raise
            found = {line: arrays for line, arrays in found.items() if line[1] != kind}
            missing.append(UserError(f"{error}, so the figure of the networks' training lacks {WORDS[kind]}"))
    epochs = min((len(one) for of_line in found.values() for series in of_line.values() for one in series), default=0)
    return {
        line: {quantity: np.stack([one[:epochs] for one in series]) for quantity, series in of_line.items()}
        for line, of_line in found.items()
    }
