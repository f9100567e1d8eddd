"""State dicts put into models: wrappers' names and half precision undone, and in words what does not fit."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from ..curves import Curve, as_state_dict
from .foreign import is_state_dict

# Modules that wrap a model, or a part of it: of DataParallel, compile, FSDP and checkpointing
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNTERS = {"total_ops", "total_params", "n_averaged"}  # what profilers, and averages of weights, add to a state

State = Mapping[str, torch.Tensor]


def load_state(model: nn.Module, state: State) -> None:
    """Put a state dict into a model. ValueError, in one line, if it does not fit."""
    model.load_state_dict(fitted(model, state))


def load_points(curve: Curve, checkpoint: Mapping[str, object]) -> None:
    """Put the learned control points of a checkpoint in place. ValueError, in one line, if they are others.

    Points are called and stored as states of networks may be (`fitted`).
    """
    points = checkpoint.get("points") or {curve.num_bends // 2: checkpoint["model_state"]}
    if not isinstance(points, dict) or not all(map(is_state_dict, points.values())):
        raise ValueError("its points are no state dicts")
    curve.load_checkpoint({"points": {index: fitted(curve.base, state) for index, state in points.items()}})


def fitted(model: nn.Module, state: State) -> dict[str, torch.Tensor]:
    """The state dict with the model's own names and types of numbers. ValueError, in one line, if it does not fit."""
    own = model.state_dict()
    state = _without_wrappers(state, own)
    counters = [name for name in state if _last(name) in COUNTERS and name not in own]
    if counters:
        print(f"{len(counters)} counters ({counters[0]}, …) are no part of {type(model).__name__} and left aside.")
    state = {name: value for name, value in state.items() if name not in counters}
    for name, value in own.items():  # which torch did not count before 0.4.1, and which changes nothing
        if name.removesuffix("num_batches_tracked") + "running_mean" in state:
            state.setdefault(name, value)
    if reason := _misfit(state, own):
        raise ValueError(reason)
    return as_state_dict(model, {n: state[n].reshape(value.shape).to(value.dtype) for n, value in own.items()})


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def changes(model: nn.Module, state: State) -> list[str]:
    """In words, what `fitted` changes of a state dict that fits."""
    own, names = model.state_dict(), _names(state, model.state_dict())
    told = []
    if renamed := [name for name, short in names.items() if short in own and short != name]:
        told.append(f"{_count(renamed)} renamed, as {renamed[0]} to {names[renamed[0]]}")
    for dtype in dict.fromkeys(value.dtype for value in state.values()):
        kept = [n for n, short in names.items() if short in own and state[n].dtype == dtype != own[short].dtype]
        if kept:
            now = str(own[names[kept[0]]].dtype).removeprefix("torch.")
            told.append(f"{_count(kept)} of {_kind(state[kept[0]])} converted to {now}")
    if added := [name for name in own if name not in names.values()]:
        told.append(f"{_count(added)} added, as {added[0]}")
    return told


def _without_wrappers(state: State, own: Collection[str]) -> dict[str, torch.Tensor]:
    return {short: state[name] for name, short in _names(state, own).items()}


def _names(state: State, own: Collection[str]) -> dict[str, str]:
    """For each entry its name before the model was wrapped, or was made a part of something."""
    wrappers = WRAPPERS - {part for name in own for part in name.split(".")}
    bare: dict[str, str] = {}  # by that name
    for name in state:
        short = ".".join(part for part in name.split(".") if part not in wrappers)
        if short in bare:
            raise ValueError(f"it has {short} twice")
        bare[short] = name
    first = next(iter(own), "")
    if first in bare:
        return {name: short for short, name in bare.items()}
    prefixes = {name.removesuffix(first) for name in bare if name.endswith(f".{first}")}
    whole = sorted(prefix for prefix in prefixes if all(prefix + name in bare for name in own))
    if len(whole) > 1:
        raise ValueError(f"it holds several networks ({', '.join(prefix[:-1] for prefix in whole)})")
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in bare for name in own), default="")
    return {name: short.removeprefix(prefix) for short, name in bare.items()}


def _misfit(state: State, own: State) -> str:
    """What a state has too little, too much or otherwise, with the first entry of each; '' if it fits."""
    missing, more = [name for name in own if name not in state], [name for name in state if name not in own]
    shared = [name for name in own if name in state]
    shapes = [name for name in shared if not _same_shape(state[name], own[name])]
    odd = [name for name in shared if not _is_usable(state[name], own[name])]
    if shapes and not missing and not more and (classes := _classes(state, own, shapes)):
        return f"it is of {classes[0]} classes, and {classes[1]} are wanted"
    told = []
    if missing:
        told.append(f"lacks {_count(missing)} ({_first(missing)})")
    if more:
        told.append(f"has {_count(more)} too many ({_first(more)})")
    if shapes:
        sizes = f"{tuple(state[shapes[0]].shape)} instead of {tuple(own[shapes[0]].shape)}"
        told.append(f"has {_count(shapes)} of another shape ({_first(shapes)}: {sizes})")
    if odd and not told:
        told.append(f"has {_count(odd)} of another kind of numbers ({_first(odd)}: {_kind(state[odd[0]])})")
    return f"it {', '.join(told)}" if told else ""


def _classes(state: State, own: State, names: list[str]) -> tuple[int, int] | None:
    """How many classes state and model have, if the entries that differ are those of layers that tell them."""
    sizes = {(*state[name].shape[:1], *own[name].shape[:1]) for name in names}
    same_inputs = all(state[name].shape[1:] == own[name].shape[1:] for name in names)
    if names[-1] != list(own)[-1] or len(sizes) != 1 or not same_inputs:  # the last layer's, and others like it
        return None
    (size,) = sizes
    return size if len(size) == 2 else None


def _count(names: list[str]) -> str:
    return "an entry" if len(names) == 1 else f"{len(names)} entries"


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"the first: {names[0]}"


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape or a.numel() == b.numel() == 1


def _is_usable(value: torch.Tensor, own: torch.Tensor) -> bool:
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta and not value.is_complex()
    return plain and (value.is_floating_point() or not own.is_floating_point())


def _kind(value: torch.Tensor) -> str:
    return "none are there" if value.is_meta else str(value.dtype).removeprefix("torch.")
