"""What the keys of the original code's dictionaries mean: their numbers under our names.

The keys are matched by their words, in whatever order and however written: `test_loss`, `lossTest` and
{"test": {"loss": …}} are the same. What cannot be told is refused with the keys that are there.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

Found = list[tuple[frozenset[str], np.ndarray]]  # arrays with the words of their keys
Arrays = dict[str, np.ndarray]

# Words that mean the same, by the one that stands for them here
WORDS = {
    "accuracy": "accuracy accuracies acc accs",
    "error": "error errors err errs",
    "loss": "loss losses",
    "entropy": "entropy nll ce xent",
    "train": "train training tr trn",
    "test": "test testing te tst val valid validation eval",
    "robust": "robust adv adversarial attacked pgd perturbed",
    "clean": "clean natural nat standard",
    "t": "t ts lint",
    "length": "length lengths arclength arc distance distances dist dl",
    "place": "coordinates coordinate coords coord position positions proj projection projections xy grid points",
    "curve": "curve path bezier",
    "corner": "corner corners bend bends vertex vertices endpoint endpoints ends",
    "x": "x xs alpha alphas",
    "y": "y ys beta betas",
    "unaligned": "unaligned before unperm unpermuted un",
    "aligned": "aligned after perm permuted",
    "a": "a start first left",
    "b": "b end second right last",
    "": "list array values series data all vec stats over the of along at plane arr np time epoch epochs cross",
}
_SYNONYMS = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
_KNOWN = re.compile("|".join(sorted(_SYNONYMS, key=len, reverse=True)))
EXTRA = {"", "curve", "test", "clean"}  # words that are often left out, and do not make another quantity


class Unclear(ValueError):
    """What is missing in a dictionary of the original code, and what it has."""


# --- from a tree to arrays by their words ------------------------------------------------------------------


def found_in(content: object) -> Found:
    """The arrays of numbers in a tree of dictionaries and lists."""
    return [
        (frozenset(word for key in keys for word in words_of(key)), array) for keys, array in _leaves(content, ())
    ]


def _leaves(value: object, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Arrays, and the keys of the dictionaries in which they are, from the outermost."""
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        shared = [key for key in value[0] if all(key in entry for entry in value)]
        value = {key: [entry[key] for entry in value] for key in shared}  # a dictionary a point
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, (*keys, str(key)))
        return
    array = as_numbers(value)
    if array is not None:
        yield keys, array


def as_numbers(value: object) -> np.ndarray | None:
    """Numbers, in lists or not, as an array without axes of length 1; None for others, and for ragged lists."""
    if isinstance(value, list):
        value = [entry.tolist() if isinstance(entry, torch.Tensor) else entry for entry in value]
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return np.squeeze(array.astype(np.float64)) if array.dtype.kind in "biuf" else None


def words_of(key: str) -> set[str]:
    """The words of a key, each as the one that stands for it: testAcc, test_acc and acc-te are {test, accuracy}."""
    words = set()
    for token in re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()):
        parts = [token] if token in _SYNONYMS else _KNOWN.findall(token)
        is_whole = "".join(parts) == token and (len(parts) == 1 or min(map(len, parts)) > 1)
        words |= {_SYNONYMS.get(part, part) for part in (parts if is_whole else [token])}
    return words


def keys_of(content: object) -> str:
    """What keys a tree has, for a sentence."""
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if not isinstance(content, dict):
        return f"no keys: it is a {type(content).__name__}"
    names = []
    for key, value in content.items():
        names += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [str(key)]
    return "the keys " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


# --- from words to quantities ------------------------------------------------------------------------------


def one(
    found: Found, *words: str, without: Sequence[str] = (), fits: Callable[[np.ndarray], bool]
) -> np.ndarray | None:
    """The array whose key has these words, and fewest besides; None if there is none. Unclear if several could be."""
    candidates = [
        (len(key - set(words) - EXTRA), "test" not in key, key, array)
        for key, array in found
        if key >= set(words) and not key & set(without) and fits(array)
    ]
    if not candidates:
        return None
    best = min(candidates, key=lambda candidate: candidate[:2])
    rivals = [candidate for candidate in candidates if candidate[:2] == best[:2]]
    if any(not np.array_equal(array, best[3], equal_nan=True) for *_, array in rivals):
        told = " and ".join(" ".join(sorted(key - {""})) for _, _, key, _ in rivals[:3])
        raise Unclear(f"several keys could be {' '.join(words)} ({told})")
    return best[3]


def _is_series(array: np.ndarray) -> bool:
    return array.ndim == 1 and len(array) > 1


def quantities(found: Found, fits: Callable[[np.ndarray], bool], *, robust: bool) -> Arrays:
    """Losses and accuracies (%) under our names; of curves' training those with the suffix _train."""
    as_fraction = _are_fractions(found)
    arrays = {}
    for kind in ("", "_robust") if robust else ("",):
        for split in ("", "_train"):
            words = [word for word in (kind[1:], split[1:]) if word]
            without = [word for word in ("robust", "train") if word not in words]
            loss = one(found, "entropy", *words, without=without, fits=fits)  # which has no L2 term in it
            loss = one(found, "loss", *words, without=without, fits=fits) if loss is None else loss
            accuracy = one(found, "accuracy", *words, without=without, fits=fits)
            error = one(found, "error", *words, without=without, fits=fits)
            scale = 100.0 if as_fraction else 1.0
            if accuracy is None and error is not None:
                accuracy = 100 / scale - error
            if loss is not None:
                arrays[f"loss{kind}{split}"] = loss
            if accuracy is not None:
                arrays[f"accuracy{kind}{split}"] = accuracy * scale
    rates = [array for name, array in arrays.items() if name.startswith("accuracy")]
    if any(array.min() < 0 or array.max() > 100 + 1e-6 for array in rates):
        raise Unclear("its accuracies are neither fractions nor percentages")
    return arrays


def _are_fractions(found: Found) -> bool:
    """Whether accuracies and errors are fractions of 1, and not percentages: of all, none is above 1."""
    rates = [array.max() for key, array in found if key & {"accuracy", "error"} and array.size > 1]
    return bool(rates) and max(rates) <= 1 + 1e-9


def series(content: object, *, robust: bool) -> Arrays:
    """Losses and accuracies by epoch."""
    return quantities(found_in(content), _is_series, robust=robust)


def evaluated(content: object, *, robust: bool) -> Arrays:
    """An evaluated path: arrays t, losses and accuracies, each (n,), and where it has them length, coordinates.

    Points that are not told are equally spaced, as the original's are.
    """
    found = found_in(content)
    arrays = quantities(found, _is_series, robust=robust)
    if not arrays:
        raise Unclear("no key is a loss or an accuracy along it")
    n = len(next(iter(arrays.values())))

    def along(array: np.ndarray) -> bool:
        return array.shape == (n,)

    t = one(found, "t", fits=along)
    is_t = t is not None and abs(t[0]) < 1e-6 and abs(t[-1] - 1) < 1e-6 and bool((np.diff(t) > 0).all())
    arrays["t"] = t if is_t else np.linspace(0, 1, n)
    places = _places(found, along, (n, 2))
    length = one(found, "length", without=("accuracy", "loss", "error"), fits=along)
    if places is not None:
        arrays["coordinates"] = places
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        arrays["length"] = np.concatenate([[0], steps.cumsum()])
    elif length is not None:
        arrays["length"] = length if _is_cumulative(length) else np.concatenate([[0], length[1:].cumsum()])
    return arrays


def _is_cumulative(length: np.ndarray) -> bool:
    """Whether these are lengths of the path up to each point, and not of its steps (the first of which is 0)."""
    return bool((np.diff(length) >= 0).all()) and length[-1] > 1.5 * length[min(1, len(length) - 1)]


def _places(found: Found, fits: Callable[[np.ndarray], bool], shape: tuple[int, int]) -> np.ndarray | None:
    """Coordinates (n, 2): as one array, turned or not, or as x and y."""
    for key, array in found:
        if key & {"place", "curve"} and "corner" not in key and array.shape in (shape, shape[::-1]):
            return array if array.shape == shape else array.T
    x, y = (one(found, axis, fits=fits) for axis in "xy")
    return None if x is None or y is None else np.stack([x, y], axis=1)


# --- planes ------------------------------------------------------------------------------------------------


def plane(content: object, *, of_curve: bool) -> Arrays:
    """A plane: arrays x, y, loss, accuracy (rows, columns), corners (3, 2): of A, B and the third point.

    of_curve: whether the third point is a curve's turning point.
    """
    found = found_in(content)
    values = quantities(found, lambda array: array.ndim == 2 and min(array.shape) > 1, robust=False)
    if not {"loss", "accuracy"} <= set(values):
        raise Unclear("no keys are the loss and the accuracy on a grid")
    corners = _corners(found)
    x, y = _grid(found, values["loss"], corners)
    arrays = {"x": x, "y": y, "loss": values["loss"], "accuracy": values["accuracy"]}
    if np.ptp(x[:, 0]) > np.ptp(x[0]):  # x is to vary within rows
        arrays = {name: array.T for name, array in arrays.items()}
    if of_curve and np.isclose(1.5 * corners[2, 1], y.max(), rtol=0.02):  # θ(1/2): grids are 1.5 times as high
        corners[2] = 2 * corners[2] - corners[:2].sum(axis=0) / 2
    return arrays | {"corners": corners}


def _corners(found: Found) -> np.ndarray:
    """A, B and the third point (3, 2): A nearest to the origin, B nearest to the x axis."""
    arrays = [(key, array) for key, array in found if array.shape in ((3, 2), (2, 3))]
    arrays = [array for key, array in arrays if "corner" in key] or [array for _, array in arrays]
    points = [array for _, array in found if array.shape == (2,)]
    if len(arrays) != 1 and len(points) != 3:
        raise Unclear("no key is the places of three points")
    corners = np.array(arrays[0] if len(arrays) == 1 else points)
    corners = corners if corners.shape == (3, 2) else corners.T.copy()
    a, *others = sorted(range(3), key=lambda i: np.linalg.norm(corners[i]))
    return corners[[a, *sorted(others, key=lambda i: abs(corners[i, 1]))]]


def _grid(found: Found, loss: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates x and y of a grid, each of the shape of `loss`."""
    for _, array in found:
        if array.shape == (*loss.shape, 2):
            return array[..., 0], array[..., 1]
        if array.shape == (2, *loss.shape):
            return array[0], array[1]
    x, y = (one(found, axis, fits=lambda array: array.shape == loss.shape) for axis in "xy")
    if x is not None and y is not None:
        return x, y
    x, y = (one(found, axis, fits=_is_series) for axis in "xy")
    if x is None or y is None:
        raise Unclear("no keys are the x and y of a grid")
    if x.max() < 3 < corners[1, 0]:  # as fractions of the way to B, and of the third point's height
        x, y = x * corners[1, 0], y * corners[2, 1]
    ways = [np.meshgrid(x, y), np.meshgrid(x, y, indexing="ij")]
    if len(x) != len(y):
        ways = [grid for grid in ways if grid[0].shape == loss.shape]
    if not ways:
        raise Unclear(f"its grid is {loss.shape}, for {len(x)} x and {len(y)} y")

    def loss_at_b(grid: Sequence[np.ndarray]) -> float:
        return loss.flat[np.hypot(grid[0] - corners[1, 0], grid[1] - corners[1, 1]).argmin()]

    return tuple(min(ways, key=loss_at_b))  # of a square, the way in which a trained network is where B is


# --- correlations ------------------------------------------------------------------------------------------


def along_curve(content: object) -> Arrays:
    """Layerwise correlations of a point with the ends: {unaligned,aligned}_{a,b}, each (layers,)."""
    found = found_in(content)
    names = [(which, end) for which in ("unaligned", "aligned") for end in "ab"]
    arrays = {"_".join(words): one(found, *words, fits=_is_series) for words in names}
    if missing := [name for name, array in arrays.items() if array is None]:
        raise Unclear(f"no key is {missing[0].replace('_', ' with ')}")
    return arrays


MOST_BRANCHES = 8  # of a block, whose numbers are a list in the list of layers


def layers(content: object) -> np.ndarray:
    """A series (layers,) of numbers in lists, nested or not, in order."""
    content = list(content.values()) if isinstance(content, Mapping) else content
    content = content[0] if isinstance(content, list) and len(content) == 1 else content
    return np.array(list(_numbers(content, nested=False)), np.float64)


def _numbers(value: object, nested: bool = True) -> Iterator[float]:
    value = value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, list) and not (nested and len(value) > MOST_BRANCHES):
        for entry in value:
            yield from _numbers(entry)
    else:
        raise Unclear("it does not hold a number for each layer")
