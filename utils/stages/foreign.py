"""Checkpoints from elsewhere: read without running anything of theirs, and the state dict in them found."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ..errors import UserError
from .inert import Inert, plain, read_saved

# Under which names a checkpoint may have its state dict, the first that is there counts
STATE_NAMES = (
    "model_state",
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
)
AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|shadow)(_|$)")  # beside the state of the network itself
DEPTH = 3  # of dictionaries in which a state dict is looked for
SAVED_RIGHT = "save its state dict: torch.save(model.state_dict(), PATH)"


class Unusable(UserError):
    """What a file is instead of a checkpoint, as a phrase of which the file is the subject."""


def read_content(stream: io.BytesIO) -> object:
    """What torch.save put into a file, as torch reads it where that is safe; objects of other kinds are Inert.

    inert.Unreadable for a file of something else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, by what is in the file
        stream.seek(0)
        return plain(read_saved(stream))


def as_checkpoint(content: object, entry: str | None = None) -> tuple[dict, list[str]]:
    """The content of a file as a checkpoint, with a state dict as `model_state`; and what was left aside, in words.

    entry: where its network is, as "ema.module"; None: where it is looked for.

    Raises Unusable for what is none.
    """
    if entry is not None:
        return as_checkpoint(_entry(content, entry))
    if isinstance(content, Inert):
        words = f"is not a checkpoint, which is {EXPECTED}; it holds an object ({content.origin}); {SAVED_RIGHT}"
        raise Unusable(_whole_network(content) if _is_network(content) else words)
    if isinstance(content, (list, tuple)) and any(isinstance(entry, dict) for entry in content):
        content = {str(number): entry for number, entry in enumerate(content)}
    if not isinstance(content, dict):
        raise Unusable(f"is not a checkpoint, which is {EXPECTED}; it holds a {_kind(content)}")
    tensors = {name: value for name, value in content.items() if is_state_dict({name: value})}
    nested = "model_state" in content or next(_states(content), None)
    if not nested and 2 * len(tensors) > len(content):  # a state dict, perhaps with the epoch among its entries
        return {"model_state": _tensors(tensors)}, [_aside(*one) for one in content.items() if one[0] not in tensors]
    place, state = _find_state(content)
    kept = {name: value for name, value in content.items() if not _holds_inert(value)}
    notes = [] if place == "model_state" else [f"its network is the entry {place}"]
    notes += [_aside(name, value) for name, value in content.items() if name not in kept]
    return kept | {"model_state": _tensors(state)}, notes


def _entry(content: object, path: str) -> object:
    """What a file has under a name, or under names joined by dots."""
    names = content if isinstance(content, dict) else {}
    if path in names:
        return names[path]
    for name, value in names.items():
        if isinstance(name, str) and path.startswith(f"{name}.") and isinstance(value, dict):
            return _entry(value, path.removeprefix(f"{name}."))
    raise Unusable(f"has no entry {path}; it holds {', '.join(map(str, list(names)[:6])) or 'none'}")


def other_networks(checkpoint: Mapping[str, object]) -> list[str]:
    """Where a checkpoint, as `as_checkpoint` gives it, holds other networks, as averages of its own."""
    own = checkpoint["model_state"]
    states = ((place, state) for place, state in _states(dict(checkpoint)) if is_state_dict(state))
    return [place for place, state in states if len(state) == len(own) and not _same(_tensors(state), own)]


def _same(state: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


EXPECTED = "a dictionary with a state dict as `model_state`, or a state dict"


def is_state_dict(value: object) -> bool:
    """Whether it is a dictionary of tensors, or of numpy's arrays, by name."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(entry, _NUMBERS) for name, entry in value.items())
    )


_NUMBERS = (torch.Tensor, np.ndarray)


def _tensors(state: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(entry.copy()) if isinstance(entry, np.ndarray) else entry
        for name, entry in state.items()
    }


def _find_state(content: dict) -> tuple[str, dict]:
    """The state dict of the network in a checkpoint, and where it was."""
    usual = [(name, content[name]) for name in STATE_NAMES if isinstance(content.get(name), dict)]
    if "model_state" in content:
        found = [("model_state", content["model_state"])]
    else:
        found = sorted(_states(content), key=_rank) or usual
    if not found:
        told = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise Unusable(f"is not a checkpoint, which is {EXPECTED}; it holds {told}; {SAVED_RIGHT}")
    place, state = found[0]
    if _is_network(state):
        raise Unusable(_whole_network(state, f" as its entry {place}"))
    if not is_state_dict(state):
        raise Unusable(f"is not a checkpoint, which is {EXPECTED}; its `{place}` {_lacks(state)}; {SAVED_RIGHT}")
    rivals = [one[0] for one in found[1:] if _rank(one) == _rank(found[0]) and one[1] is not state]
    if rivals:
        raise Unusable(f"holds several networks ({', '.join([place, *rivals][:6])}); {SAVED_RIGHT}")
    return place, state


def _states(content: dict, depth: int = DEPTH, path: str = "") -> Iterator[tuple[str, object]]:
    """The state dicts and whole networks in a dictionary, and their places."""
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        place = f"{path}{name}"
        if is_state_dict(value) or _is_network(value):
            yield place, value
        elif isinstance(value, dict) and depth > 1:
            yield from _states(value, depth - 1, f"{place}.")


def _rank(found: tuple[str, object]) -> tuple[int, int]:
    """By which the candidates are sorted: the network before averages of it, then by the usual names."""
    names = found[0].split(".")
    known = [STATE_NAMES.index(name) for name in names if name in STATE_NAMES]
    averaged = any(AVERAGED.search(name) for name in names)
    return averaged, min(known, default=len(STATE_NAMES))


def _is_network(value: object) -> bool:
    """Whether an object that was not made is a torch module: their state has these."""
    state = value.state if isinstance(value, Inert) else None
    return isinstance(state, dict) and {"_modules", "_parameters"} <= set(state)


def _whole_network(network: Inert, place: str = "") -> str:
    return f"holds a whole network{place} ({network.origin}), which only its own code can read; {SAVED_RIGHT}"


def _lacks(state: object) -> str:
    """What is wrong with something that was to be a state dict."""
    if not isinstance(state, dict):
        return f"is no dictionary but a {_kind(state)}"
    if not state:
        return "is empty"
    name, entry = next((n, e) for n, e in state.items() if not (isinstance(n, str) and isinstance(e, _NUMBERS)))
    return f"has an entry that is no tensor: {name}, a {_kind(entry)}"


def _holds_inert(value: object) -> bool:
    left, seen = [value], set()
    while left:
        value = left.pop()
        if isinstance(value, Inert):
            return True
        if isinstance(value, (dict, list)) and id(value) not in seen:
            seen.add(id(value))
            left += [*value, *value.values()] if isinstance(value, dict) else value
    return False


def _aside(name: object, value: object) -> str:
    return f"its entry {name} is left aside ({_kind(value)})"


def _kind(value: object) -> str:
    """The type of a value in words; of an object that was not made, its class; of a container, that in it."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        inert = next((one for one in inner if _holds_inert(one)), None)
        return type(value).__name__ if inert is None else f"{type(value).__name__} with {_kind(inert)}"
    return value.origin if isinstance(value, Inert) else type(value).__name__
