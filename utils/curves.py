"""Curves in parameter space: a curve is a matrix whose rows are the control points.

The curve between networks A and B is θ(t) = Σ_j c_j(t) θ_j with θ_0 = A, θ_last = B and t in [0, 1].
`Bezier` and `PolyChain` are the two families of coefficients c(t); `Curve` holds the points and runs any
base model at θ(t) (Tatro et al., 2020, section 2; Garipov et al., 2018).
"""

import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import functional_call

from .devices import as_weight, compile_options


def bezier(t: torch.Tensor, num_bends: int) -> torch.Tensor:
    """Bernstein polynomials C(n, j) t^j (1−t)^(n−j), j = 0…n, n = num_bends − 1: a tensor (num_bends,)."""
    n = num_bends - 1
    j = torch.arange(num_bends, device=t.device)
    binomials = torch.tensor([math.comb(n, k) for k in range(num_bends)], dtype=t.dtype, device=t.device)
    return binomials * t**j * (1 - t) ** (n - j)


def polychain(t: torch.Tensor, num_bends: int) -> torch.Tensor:
    """Hat functions: piecewise linear through equally spaced points, a tensor (num_bends,)."""
    j = torch.arange(num_bends, device=t.device, dtype=t.dtype)
    return (1 - (t * (num_bends - 1) - j).abs()).clamp(min=0)


CURVES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"Bezier": bezier, "PolyChain": polychain}


def digest(vector: torch.Tensor) -> str:
    """A hash of the numbers in a tensor."""
    return hashlib.sha256(vector.detach().cpu().numpy().tobytes()).hexdigest()


def network_digest(network: nn.Module) -> str:
    """A hash of a network's parameters, by which a match tells for which networks it was made."""
    return digest(FlatParameters(network).flatten(network.state_dict()))


def as_state_dict(network: nn.Module, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by name as a state dict of the network, with the versions of its modules: some refuse one without."""
    state = OrderedDict(values)
    state._metadata = network.state_dict()._metadata
    return state


def load_state(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a state dict into a network. ValueError, in one line, if names or shapes are not the network's."""
    try:
        network.load_state_dict(as_state_dict(network, state))
    except RuntimeError as error:  # a headline, and a line for each thing that does not fit
        raise ValueError(str(error).splitlines()[-1].strip()) from error


def midpoint(state_a: Mapping[str, torch.Tensor], state_b: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of two state dicts (integer entries, which count batches, are A's)."""
    return {name: torch.lerp(a, state_b[name], 0.5) if a.is_floating_point() else a for name, a in state_a.items()}


class FlatParameters:
    """Converts between a model's parameters and one vector.

    4-D weights lie in the vector in channels-last order, so that a slice of it viewed as a weight already has
    the memory format the convolutions want and needs no copy (on most devices: see `utils.devices`).
    """

    def __init__(self, model: nn.Module):
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def __len__(self) -> int:
        return sum(self.sizes)

    def flatten(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The parameters in `state` (a state dict; buffers are passed over) as one vector (P,)."""
        parts = (state[name] for name in self.shapes)
        return torch.cat([(p.permute(0, 2, 3, 1) if p.dim() == 4 else p).reshape(-1) for p in parts])

    def views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The vector (P,) as named parameters; differentiable, and no copy where convolutions take channels last."""
        views = {}
        for part, (name, shape) in zip(vector.split(self.sizes), self.shapes.items(), strict=True):
            if len(shape) == 4:
                out, inner, height, width = shape
                views[name] = as_weight(part.view(out, height, width, inner).permute(0, 3, 1, 2))
            else:
                views[name] = part.view(shape)
        return views


class Curve(nn.Module):
    """A curve of `num_bends` control points in the parameter space of `base`.

    The rows of the matrix are split by who may change them: `learned`, a parameter, and `fixed`, a buffer. The
    ends are fixed unless `fix_start` or `fix_end` is false. The batch-norm buffers are the base model's own:
    a point on a curve has no running statistics until they are re-estimated there
    (`utils.measuring.reestimate_batch_norm`).
    """

    def __init__(
        self,
        base: nn.Module,
        num_bends: int = 3,
        curve: str = "Bezier",
        fix_start: bool = True,
        fix_end: bool = True,
    ):
        super().__init__()
        if num_bends < 2:
            raise ValueError(f"a curve has at least 2 control points, not {num_bends}")
        self.base = base.requires_grad_(False)
        self.num_bends = num_bends
        self.coefficients = CURVES[curve]
        self.flat = FlatParameters(base)
        ends = [index for index, is_fixed in ((0, fix_start), (num_bends - 1, fix_end)) if is_fixed]
        self.fixed_rows = ends
        self.learned_rows = [index for index in range(num_bends) if index not in ends]
        like = next(base.parameters())
        self.register_buffer("fixed", like.new_zeros(len(self.fixed_rows), len(self.flat)), persistent=False)
        self.learned = nn.Parameter(like.new_zeros(len(self.learned_rows), len(self.flat)))
        self.end_buffers: tuple[Mapping[str, torch.Tensor], ...] = ()  # of the networks at its ends, if they are told

    @classmethod
    def between(
        cls,
        base: nn.Module,
        state_a: Mapping[str, torch.Tensor],
        state_b: Mapping[str, torch.Tensor],
        num_bends: int = 3,
        curve: str = "Bezier",
        fix_start: bool = True,
        fix_end: bool = True,
    ) -> "Curve":
        """A curve whose ends are two state dicts of `base`, and its other points equally spaced on the line between.

        `base` becomes the curve's: its own parameters will be those of the points that are evaluated.
        """
        made = cls(base, num_bends, curve, fix_start, fix_end)
        made.set_point(0, state_a)
        made.set_point(num_bends - 1, state_b)
        made.init_linear()
        moving = [
            name for name, value in state_a.items() if name not in made.flat.shapes and value.is_floating_point()
        ]
        made.end_buffers = tuple({name: state[name].clone() for name in moving} for state in (state_a, state_b))
        return made

    def row(self, index: int) -> torch.Tensor:
        """Control point `index` as a vector (P,), a view of the matrix."""
        if index in self.fixed_rows:
            return self.fixed[self.fixed_rows.index(index)]
        return self.learned[self.learned_rows.index(index)]

    @torch.no_grad()
    def set_point(self, index: int, state: Mapping[str, torch.Tensor]) -> None:
        """Put the parameters of a base model's state dict at control point `index`."""
        self.row(index).copy_(self.flat.flatten(state))

    @torch.no_grad()
    def init_linear(self) -> None:
        """Space the points between the ends equally on the straight line from first to last."""
        start, end = self.row(0), self.row(self.num_bends - 1)
        for index in range(1, self.num_bends - 1):
            self.row(index).copy_(torch.lerp(start, end, index / (self.num_bends - 1)))

    def state(self, index: int) -> dict[str, torch.Tensor]:
        """Control point `index` as a state dict of the base model, with a copy of the base's buffers."""
        parameters = self.flat.views(self.row(index).detach())
        return {
            name: parameters.get(name, value).clone(memory_format=torch.contiguous_format)
            for name, value in self.base.state_dict().items()
        }

    def checkpoint(self) -> dict[str, object]:
        """What a file needs to hold the curve between known ends.

        `points` has every learned control point as {index: state dict of the base model}; `model_state` is the
        middle one, which for three control points is the turning point.
        """
        points = {index: self.state(index) for index in self.learned_rows}
        middle = self.num_bends // 2
        return {"model_state": points.get(middle) or self.state(middle), "points": points}

    def digests(self) -> list[str]:
        """A digest of every control point, by which results tell from which networks they were made."""
        return [digest(self.row(index)) for index in range(self.num_bends)]

    def fixed_ends(self) -> dict[int, str]:
        """The digests of the fixed control points: between which networks the curve is learned."""
        digests = self.digests()
        return {index: digests[index] for index in self.fixed_rows}

    def load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        """Put the learned control points of `checkpoint` in place. A file of the original code has one, the middle.

        Raises ValueError if these are not the points this curve learns.
        """
        points = checkpoint.get("points") or {self.num_bends // 2: checkpoint["model_state"]}
        if sorted(points) != self.learned_rows:
            raise ValueError(f"it holds the control points {sorted(points)} and not {self.learned_rows}")
        for index, state in points.items():
            load_state(self.base, state)
            self.set_point(index, self.base.state_dict())

    def point(self, t: float) -> torch.Tensor:
        """θ(t) as a vector (P,); exactly the first and last row at t = 0 and t = 1."""
        # On the CPU, where t is drawn: as numbers of the host's they need not be sent to the device.
        coefficients = self.coefficients(torch.tensor(t, dtype=torch.float64), self.num_bends)
        coefficients = coefficients.to(self.fixed.dtype).tolist()
        terms = (
            [coefficients[number] * row for number, row in zip(numbers, rows.unbind(), strict=True)]
            for numbers, rows in ((self.fixed_rows, self.fixed), (self.learned_rows, self.learned))
        )
        return functools.reduce(torch.add, [functools.reduce(torch.add, some) for some in terms if some])

    def forward(self, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """The base model's output for x with the parameters `theta` (P,), a vector that `point` returned."""
        return functional_call(self.base, self.flat.views(theta), (x,))

    def compile(self) -> None:
        """Compile the curve for fixed shapes of batches, and the base model, which `place` returns, by itself."""
        options = compile_options(self.fixed.device)
        super().compile(**options)
        self.base.compile(**options)

    def place(self, t: float) -> nn.Module:
        """Copy θ(t) into the base model and return it, to be run as any model is."""
        return self.place_vector(self.point(t))

    @torch.no_grad()
    def place_buffers(self, t: float) -> None:
        """Give the base model the buffers (1−t)·A + t·B of the ends' networks, as batch norm's running statistics.

        They are those of no network between the two; a line without re-estimated statistics is evaluated so.
        """
        buffers_a, buffers_b = self.end_buffers
        own = dict(self.base.named_buffers())
        for name, value in buffers_a.items():
            own[name].copy_(torch.lerp(value, buffers_b[name], t))

    @torch.no_grad()
    def place_vector(self, theta: torch.Tensor) -> nn.Module:
        """Copy the parameters `theta` (P,) into the base model and return it."""
        views = self.flat.views(theta)
        for name, parameter in self.base.named_parameters():
            parameter.copy_(views[name])
        return self.base
