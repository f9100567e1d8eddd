"""What is said in one line, where Python or torch would say less: of arguments, and of data that suit no network."""

import functools
import inspect
import os
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from .batches import tensors_of
from .curves import Curve
from .errors import UserError, first_line
from .losses import Criterion, heads
from .permutations import PermutationSpec

EXPECTED = {
    nn.Module: "a network is a torch.nn.Module",
    Curve: "a curve is what fit_curve or line returns",
    PermutationSpec: "a spec is what permutation_spec returns",
    Mapping: "{} is a dictionary",
    Callable: "{} is a function",
}
OF_MISFITS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)


def plainly(function: Callable) -> Callable:
    """A public function whose arguments are first compared with their annotations (TypeError, ValueError).

    Whole numbers are from 1 on, but for a seed. What a network raises for data that do not suit it is a UserError.
    """
    signature = inspect.signature(function)
    needs_values = not function.__module__.endswith("symmetries.spec")  # which gives random ones

    @functools.wraps(function)
    def wrapped(*args, **named):
        for name, value in signature.bind(*args, **named).arguments.items():
            annotation = signature.parameters[name].annotation
            kind = typing.get_origin(annotation) or annotation
            if kind is int and not (isinstance(value, Integral) and (value > 0 or name == "seed")):
                raise ValueError(f"{name} is a whole number{', at least 1' * (name != 'seed')}, and not {value!r}")
            if kind in EXPECTED and not isinstance(value, kind):
                raise TypeError(f"{EXPECTED[kind].format(name)}, and not a {type(value).__name__}")
            held = value.parameters() if kind is nn.Module else tensors_of(value)
            if needs_values and any(tensor.is_meta for tensor in held):
                raise ValueError("on the device meta neither networks nor data have values: bring them to another")
        try:
            return function(*args, **named)
        except Exception as error:
            if isinstance(error, UserError) or (message := misfit(error)) is None:
                raise
            raise UserError(message) from error

    return wrapped


def misfit(error: Exception) -> str | None:
    """What an error says that a network, or its loss, raises for data that do not suit it; None for all others."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, TypeError) and frames[-1].f_code is heads.__code__:
        return f"the network is no classifier: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        return None
    for depth, frame in enumerate(frames):
        names = frame.f_locals
        if frame.f_code is Criterion.__call__.__code__ and callable(names["self"].loss):
            return f"the loss fails as a function of (output, batch): {first_line(error)}"
        is_call = frame.f_code is nn.Module._wrapped_call_impl.__code__ and not isinstance(names["self"], Curve)
        given = [*names["args"], *names["kwargs"].values()] if is_call and isinstance(error, OF_MISFITS) else []
        if given := tensors_of(given) or given:
            return _unsuited(names["self"], given[0], error, frames[depth:])
    return None


def _unsuited(network: nn.Module, x: object, error: Exception, frames: Sequence[FrameType]) -> str:
    """How a network failed on x (b, …), and where in its code."""
    name, library = type(network).__name__, f"{Path(torch.__file__).parent}{os.sep}"
    if "more than 1 value per channel" in str(error):
        return (
            f"the batch normalization of {name} needs at least two images in a batch, and the last one has one; "
            "use another --batch_size, or more images"
        )
    places = [(frame.f_code.co_filename, frame.f_lineno) for frame in frames]
    own = [f" ({Path(file).name}, line {line})" for file, line in places if not file.startswith(library)]
    if not isinstance(x, torch.Tensor):
        return f"{name} cannot take a {type(x).__name__}: {first_line(error)}"
    images = f"images of {x.shape[3]}×{x.shape[2]}" if x.dim() == 4 else f"samples of {tuple(x.shape[1:])}"
    images += f" with {x.shape[1]} channels (--channels 1 or 3)" if x.dim() == 4 and "channels" in str(error) else ""
    return f"{name} cannot take {images}: {first_line(error)}{''.join(own[-1:])}"
