"""Curves in parameter space: a curve is a matrix whose rows are the control points.

The curve between networks A and B is θ(t) = Σ_j c_j(t) θ_j with θ_0 = A, θ_last = B and t in [0, 1].
`Bezier` and `PolyChain` are the two families of coefficients c(t); `Curve` holds the points and runs any
base model at θ(t) (Tatro et al., 2020, section 2; Garipov et al., 2018).
"""

import contextlib
import copy
import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves

from .batches import Inputs
from .devices import as_weight, compile_options, device_of
from .permutations import as_real


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
    return hashlib.sha256(vector.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def network_digest(network: nn.Module) -> str:
    """A hash of a network's parameters, by which a match tells for which networks it was made."""
    return digest(torch.cat([_in_a_row(parameter) for parameter in network.parameters()]))


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network. `copy.deepcopy` alone fails where weights are computed: by weight norm, by pruning."""
    values = tree_leaves([list(vars(module).values()) for module in network.modules()])
    computed = [value for value in values if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def stored(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a network, and the buffers that it leaves out."""
    return {**dict(network.named_buffers()), **network.state_dict()}


@contextlib.contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """After this block, however it ends, the modules of a network are in the modes they were in."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def load_state(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a state dict into a network. ValueError, in one line, if names or shapes are not the network's."""
    state = OrderedDict(state)
    state._metadata = network.state_dict()._metadata  # the versions of its modules: some refuse a state without
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # a headline, and a line for each thing that does not fit
        raise ValueError(str(error).splitlines()[-1].strip()) from error


def midpoint(state_a: Mapping[str, torch.Tensor], state_b: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of two state dicts (integer entries, which count batches, are A's)."""
    return {name: torch.lerp(a, state_b[name], 0.5) if a.is_floating_point() else a for name, a in state_a.items()}


# --- what a network stores beside its parameters --------------------------------------------------------------

POWER_ITERATIONS = 100


def batch_norm_layers(model: nn.Module) -> list[nn.Module]:
    """The layers with running statistics: batch norm of all kinds, and instance norm that keeps them.

    None that is frozen, so that `train` does not put it into training mode.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    layers = [module for module in model.modules() if isinstance(module, kinds) and module.running_mean is not None]
    with modes_kept(model):
        return [layer for layer in layers if layer.train().training]


def _statistics(model: nn.Module) -> set[str]:
    """The names of the buffers of layers with running statistics."""
    layers, names = batch_norm_layers(model), dict(model.named_buffers())
    return {name for name in names if model.get_submodule(name.rpartition(".")[0]) in layers}


def _spectral_norms(model: nn.Module) -> Iterator[tuple[set[str], Callable[[], object]]]:
    """Of every spectral norm the names of its singular vectors, and a step of the iteration that finds them."""
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                names = {f"{path}.{hook.name}_{vector}".lstrip(".") for vector in "uv"}
                yield names, functools.partial(hook.compute_weight, module, do_power_iteration=True)
        for number, norm in enumerate(module if isinstance(module, nn.ModuleList) else ()):
            if isinstance(norm, _SpectralNorm):
                yield {f"{path}.{number}.{vector}" for vector in ("_u", "_v")}, module


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _have_a_mean(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether there is anything between two values: not so for integers, masks of 0 and 1, or infinities."""
    is_real = (a.is_floating_point() or a.is_complex()) and all(value.isfinite().all() for value in (a, b))
    return is_real and not all(((value == 0) | (value == 1)).all() for value in (a, b))


def _in_a_row(value: torch.Tensor) -> torch.Tensor:
    """All numbers of a tensor, of a 4-D one with its channels last."""
    return (value.permute(0, 2, 3, 1) if value.dim() == 4 else value).reshape(-1)


# --- curves ---------------------------------------------------------------------------------------------------


class FlatParameters:
    """Converts between a model's parameters and one vector of real numbers.

    4-D weights lie in the vector in channels-last order, so that a slice of it viewed as a weight already has
    the memory format the convolutions want and needs no copy (on most devices: see `utils.devices`). Complex numbers
    are pairs of real ones. Of parameters of several types the vector has the largest, and each its own again.

    names: of the parameters, and maybe buffers, that count, in their order; all parameters by default.
    """

    def __init__(self, model: nn.Module, names: Iterable[str] | None = None):
        every = _entries(model)
        names = [name for name, _ in model.named_parameters()] if names is None else names
        entries = {name: as_real(every[name]) for name in names}
        self.shapes = {name: value.shape for name, value in entries.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.complex = [name for name in entries if every[name].is_complex()]
        types = {name: value.dtype for name, value in entries.items()}
        self.dtype = functools.reduce(torch.promote_types, types.values())
        self.other_types = {name: dtype for name, dtype in types.items() if dtype != self.dtype}

    def __len__(self) -> int:
        return sum(self.sizes)

    def flatten(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What counts of `state` (a state dict) as one vector (P,)."""
        return torch.cat([_in_a_row(as_real(state[name])) for name in self.shapes])

    def views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The vector (P,) as named parameters; differentiable, and no copy where convolutions take channels last."""
        views = {}
        for part, (name, shape) in zip(vector.split(self.sizes), self.shapes.items(), strict=True):
            if len(shape) == 4:
                out, inner, height, width = shape
                views[name] = as_weight(part.view(out, height, width, inner).permute(0, 3, 1, 2))
            else:
                views[name] = part.view(shape)
        for name, dtype in self.other_types.items():
            views[name] = views[name].to(dtype)
        for name in self.complex:
            views[name] = torch.view_as_complex(views[name].contiguous())
        return views


def _entries(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a model, each by one name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def expect_alike(*networks: nn.Module) -> None:
    """ValueError if these networks are not of one architecture, or on several devices."""
    if len(devices := {str(device_of(network)) for network in networks}) > 1:
        raise ValueError(f"the networks are on several devices, {' and '.join(sorted(devices))}; bring them to one")
    first, *others = (dict(network.named_parameters()) for network in networks)
    for other in others:
        _expect_same_shapes(first, other)


def _expect_same_shapes(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """ValueError, in one line, if these are not the entries of two networks of one architecture."""
    for name in sorted(a.keys() ^ b.keys()):
        raise ValueError(f"A and B are not of one architecture: only one of them has {name}")
    for name, value in a.items():
        if (ours := value.shape) != (theirs := b[name].shape):
            owner, widths = name.rpartition(".")[0] or name, [shape[:1].numel() for shape in (ours, theirs)]
            shapes = f"{widths[0]} and {widths[1]} channels" if widths[0] != widths[1] else f"{ours} and {theirs}"
            raise ValueError(f"A and B are not of one architecture: {owner} has {shapes}")


class Curve(nn.Module):
    """A curve of `num_bends` control points in the parameter space of `base`, a network that stays as it is.

    The rows of the matrix are split by who may change them: `learned`, a parameter, and `fixed`, a buffer. The
    ends are fixed unless `fix_start` or `fix_end` is false.

    What of the networks at its ends is not learned belongs to a path too (`connect`): buffers, and parameters that
    are frozen, as they require no gradient in `base` while others do. Batch norm's running statistics alone are
    those of `base`: a point on a curve has none until they are re-estimated there
    (`utils.measuring.reestimate_batch_norm`).
    """

    def __init__(
        self, base: nn.Module, num_bends: int = 3, curve: str = "Bezier", fix_start: bool = True, fix_end: bool = True
    ):
        super().__init__()
        if num_bends < 2:
            raise ValueError(f"a curve has at least 2 control points, not {num_bends}")
        if curve not in CURVES:
            raise ValueError(f"the families of curves are {' and '.join(CURVES)}, not {curve!r}")
        self.base = copied(base).requires_grad_(False)
        self.num_bends = num_bends
        self.coefficients = CURVES[curve]
        parameters = {name: p for name, p in base.named_parameters() if p.is_floating_point() or p.is_complex()}
        # Where none requires a gradient, the network was put aside, and nothing of it is frozen.
        free = [name for name, parameter in parameters.items() if parameter.requires_grad] or [*parameters]
        self.flat = self.whole = FlatParameters(self.base, free)  # what is learned; and all that is not the same
        self.statistics = _statistics(self.base)
        self.estimated = self.statistics.union(*(names for names, _ in _spectral_norms(self.base)))
        self.fixed_rows = [index for index, fixed in ((0, fix_start), (num_bends - 1, fix_end)) if fixed]
        self.learned_rows = [index for index in range(num_bends) if index not in self.fixed_rows]
        like = torch.empty(0, dtype=self.flat.dtype, device=device_of(base))
        self.register_buffer("fixed", like.new_zeros(len(self.fixed_rows), len(self.flat)), persistent=False)
        self.register_buffer("unlearned", like.new_zeros(num_bends, 0), persistent=False)
        self.learned = nn.Parameter(like.new_zeros(len(self.learned_rows), len(self.flat)))
        self.buffer_names = [name for name, _ in self.base.named_buffers() if name not in self.estimated]
        first: dict[nn.Parameter, str] = {}
        names = self.base.named_parameters(remove_duplicate=False)
        ties = {name: first.setdefault(parameter, name) for name, parameter in names}
        self.tied = {name: other for name, other in ties.items() if name != other}  # by the names that come first
        self.options: dict[str, object] | None = None  # with which it is compiled
        self.end_statistics: list[Mapping[str, torch.Tensor]] = []  # of the networks at its ends, if they are told

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

        Raises ValueError as `connect` does.
        """
        made = cls(base, num_bends, curve, fix_start, fix_end)
        made.connect({0: state_a, num_bends - 1: state_b})
        return made

    @torch.no_grad()
    def connect(self, states: Mapping[int, Mapping[str, torch.Tensor]], apart: Collection[str] = ()) -> None:
        """Put networks at control points, the ends among them; if at these alone, the others are spaced in between.

        What the networks have in common of what is not learned, all points have. Where they differ in it, points have
        it mixed by the coefficients of the weights, so that the networks are the path's ends. (Frozen parameters so
        go straight from the one to the other.) The singular vectors of spectral norms are found anew in between.

        states: state dicts of the base model, by the number of the control point. apart: names of what is mixed even
        where it is the same.

        Raises ValueError, in one line, if the networks are not of one architecture, or differ in what has no value
        in between: integers, and masks of 0 and 1.
        """
        own, networks = _entries(self.base), list(states.values())
        for network in networks:
            self._expect_fitting(network)
        mixed = []
        for name in (name for name in own if name not in self.statistics.union(self.flat.shapes)):
            first, *others = (network.get(name, own[name]) for network in networks)
            if name not in apart and all(_same(first, other) for other in others):
                own[name].copy_(first)
            elif all(_have_a_mean(first, other) for other in others):
                mixed.append(name)
            elif not name.endswith("num_batches_tracked"):  # a count, on which nothing depends
                raise ValueError(f"the networks differ in {name}, and nothing lies between its values")
        self.whole = FlatParameters(self.base, [*self.flat.shapes, *mixed])
        self.unlearned = self.fixed.new_zeros(
            self.num_bends, len(self.whole) - len(self.flat), dtype=self.whole.dtype
        )
        for index, network in states.items():
            self.set_point(index, network)
            self.unlearned[index] = self.whole.flatten(network)[len(self.flat) :]
        if len(states) == 2:
            self.init_linear()
        self.settle()
        self.end_statistics = [
            {name: network[name].clone() for name in self.statistics & network.keys()}
            for network in (states[0], states[self.num_bends - 1])
        ]

    def _expect_fitting(self, state: Mapping[str, torch.Tensor]) -> None:
        """ValueError, in one line, if this is no state dict of the base model."""
        own = {name: v for name, v in _entries(self.base).items() if name in state or name in self.flat.shapes}
        _expect_same_shapes(own, {name: state[name] for name in own.keys() & state.keys()})
        for name, first in self.tied.items():
            if name in state and not _same(state[name], state[first]):
                raise ValueError(
                    f"{first} and {name} are one weight in the network, and have two values in its state"
                )

    def __repr__(self) -> str:
        learned = f"{len(self.learned_rows)} of them learned"
        points = f"Curve of {self.num_bends} control points ({self.coefficients.__name__}), {learned}"
        return f"{points}\nbetween two {type(self.base).__name__} of {len(self.flat):,} parameters"

    def row(self, index: int) -> torch.Tensor:
        """Control point `index` as a vector (P,), a view of the matrix."""
        if index in self.fixed_rows:
            return self.fixed[self.fixed_rows.index(index)]
        return self.learned[self.learned_rows.index(index)]

    def vector(self, index: int) -> torch.Tensor:
        """Control point `index` as a vector, with what is not learned behind its row."""
        row = self.row(index)
        return torch.cat([row, self.unlearned[index]]) if self.unlearned.shape[1] else row

    @torch.no_grad()
    def set_point(self, index: int, state: Mapping[str, torch.Tensor]) -> None:
        """Put what is learned of a base model's state dict at control point `index`."""
        self.row(index).copy_(self.flat.flatten(state))

    @torch.no_grad()
    def init_linear(self) -> None:
        """Space the points between the ends equally on the straight line from first to last."""
        start, end = self.row(0), self.row(self.num_bends - 1)
        for index in range(1, self.num_bends - 1):
            share = index / (self.num_bends - 1)
            self.row(index).copy_(torch.lerp(start, end, share))
            self.unlearned[index].copy_(torch.lerp(self.unlearned[0], self.unlearned[-1], share))

    @torch.no_grad()
    def settle(self) -> None:
        """Round what is learned to the types of the parameters, so that control points are networks."""
        for row in self.learned if self.flat.other_types else ():
            row.copy_(self.flat.flatten(self.flat.views(row)))

    def state(self, index: int) -> dict[str, torch.Tensor]:
        """Control point `index` as a state dict of the base model, with a copy of what is the base's own."""
        views = self.whole.views(self.vector(index).detach())
        entries = {name: value for name, value in views.items() if name not in self.estimated}
        return {
            name: entries.get(self.tied.get(name, name), value).clone(memory_format=torch.contiguous_format)
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
        return [digest(self.vector(index)) for index in range(self.num_bends)]

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
        own = {name: value.clone() for name, value in self.base.named_buffers() if name in self.buffer_names}
        stored = self.base.state_dict().keys() & own.keys()
        for index, state in points.items():
            load_state(self.base, {**state, **{name: own[name] for name in stored}})
            self.set_point(index, state)

    def point(self, t: float) -> torch.Tensor:
        """θ(t) as a vector (P,), and what is not learned behind it; exactly the first and last at t = 0 and t = 1."""
        # On the CPU, where t is drawn: as numbers of the host's they need not be sent to the device.
        coefficients = self.coefficients(torch.tensor(t, dtype=torch.float64), self.num_bends)
        coefficients = coefficients.to(self.fixed.dtype).tolist()

        def mixed(numbers: Iterable[int], rows: torch.Tensor) -> torch.Tensor:
            terms = (coefficients[number] * row for number, row in zip(numbers, rows.unbind(), strict=True))
            return functools.reduce(torch.add, terms)

        parts = ((self.fixed_rows, self.fixed), (self.learned_rows, self.learned))
        theta = functools.reduce(torch.add, [mixed(*part) for part in parts if part[0]])
        if not self.unlearned.shape[1]:
            return theta
        return torch.cat([theta, mixed(range(self.num_bends), self.unlearned)])

    def forward(self, x: torch.Tensor | Inputs, theta: torch.Tensor) -> object:
        """The base model's output for x at `theta`, a vector that `point` returned.

        In training mode what it estimates of images and weights is its own, and other buffers stay as they are.
        """
        values = self.whole.views(theta)
        if self.training:
            values = {name: value for name, value in values.items() if name not in self.estimated}
        for name in self.buffer_names:
            values[name] = values.get(name, self.base.get_buffer(name)).detach().clone()
        args, keywords = x if isinstance(x, Inputs) else ((x,), {})
        return functional_call(self.base, values, args, keywords)

    def compile(self) -> None:
        """Compile the curve for fixed shapes of batches, and the networks that `network` returns, by themselves."""
        self.options = compile_options(self.fixed.device)
        super().compile(**self.options)

    def network(self) -> nn.Module:
        """A copy of the base model, into which `place` and `place_vector` can put one point after the other."""
        network = copied(self.base)
        if self.options is not None:
            network.compile(**self.options)
        return network

    def place(self, t: float, network: nn.Module | None = None) -> nn.Module:
        """The network at θ(t), to be run as any is: a new one, or `network`, one of this curve's, changed."""
        return self.place_vector(self.point(t), network)

    @torch.no_grad()
    def place_vector(self, theta: torch.Tensor, network: nn.Module | None = None) -> nn.Module:
        """The network at a vector as `point` returns; as `place`."""
        network = self.network() if network is None else network
        values = {**_entries(self.base), **self.whole.views(theta)}
        for name, value in _entries(network).items():
            value.copy_(values[name])
        norms = list(_spectral_norms(network))
        if norms and not any(torch.equal(theta, self.vector(index)) for index in range(self.num_bends)):
            with modes_kept(network):
                network.train()
                for step in [step for _, step in norms] * POWER_ITERATIONS:
                    step()
        return network

    @torch.no_grad()
    def place_statistics(self, network: nn.Module, t: float) -> None:
        """Give a network of this curve batch norm's running statistics (1−t)·A + t·B of the networks at the ends.

        They are those of no network between the two; a line without re-estimated statistics is evaluated so.
        """
        own, (of_a, of_b) = dict(network.named_buffers()), self.end_statistics
        for name, value in of_a.items():
            if value.is_floating_point():
                own[name].copy_(torch.lerp(value, of_b[name], t))


def line(network_a: nn.Module, network_b: nn.Module) -> Curve:
    """The straight line between two networks of one architecture, as a curve to be evaluated, drawn or sampled.

    ValueError if they are not of one architecture.
    """
    expect_alike(network_a, network_b)
    return Curve.between(network_a, stored(network_a), stored(network_b), num_bends=2)
