"""Networks, matches and curves from their files, each checked against what it is to be used with."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ..batches import Batch, Inputs, on_device, split
from ..curves import Curve, network_digest
from ..devices import device_of
from ..errors import FileError, UserError
from ..permutations import Permutations, PermutationSpec, permute
from ..symmetries.spec import permutation_spec
from .data import Data, Normalization, is_normalizing
from .files import expect, load_checkpoint
from .foreign import load_points, load_state
from .layout import USUAL, Layout, Variant, tag
from .matches import Match, load_match, permutations_from_rows
from .originals import stand_in
from .records import Record, expect_named, load_record, other_inputs, record_in

Build = Callable[[int | None, int | None], nn.Module]  # an untrained network for so many classes and channels


def load_network(
    path: Path, network: nn.Module, *, transform: str, moments: Normalization | None = None, robust: bool = False
) -> nn.Module:
    """Put a checkpoint into `network`, which is returned in eval mode.

    FileError if there is none or it does not fit: another architecture, a plain network where a robust one is wanted
    or the other way round, or one trained on images normalized unlike those of `transform` and `moments`.
    """
    stored = load_checkpoint(path)
    try:
        _put(network, stored)
    except ValueError as error:
        reason = f"does not fit {type(network).__name__}: {error}"
        raise FileError(path, f"{reason}; use the model and dataset it was trained with") from error
    if not is_finite(network):
        raise FileError(path, "holds weights that are not finite numbers", "remake")
    flags = expect_named(path, record_in(stored)).flags
    if "transform" not in flags:
        return network.eval()
    if (flags.get("epsilon") is not None) != robust:  # files of before hold None for plain networks
        kind, wanted = ("plain", "robust") if robust else ("robust", "plain")
        reason = f"is a {kind} network, not a {wanted} one; the two kinds have stages and folders of their own"
        raise FileError(path, reason)
    before = flags["transform"], [flags["mean"], flags["std"]] if flags.get("mean") else None
    if _normalized_by(*before) != _normalized_by(transform, moments):
        raise FileError(
            path,
            f"was trained with {_in_words(*before)}, which normalizes images unlike {_in_words(transform, moments)}; "
            "use the same",
        )
    return network.eval()


def _put(network: nn.Module, stored: Mapping[str, object]) -> None:
    """A file of ours fits as it is; any other, as far as `load_state` can make it fit."""
    own, state = network.state_dict(), stored["model_state"]
    if "record" in stored and own.keys() == state.keys() and all(_alike(own[name], state[name]) for name in own):
        network.load_state_dict(state)
    else:
        load_state(network, state)


def _alike(one: object, other: object) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) if isinstance(one, torch.Tensor) else one == other


def is_finite(network: nn.Module) -> bool:
    return all(value.isfinite().all() for value in (*network.parameters(), *network.buffers()))


def import_network(path: Path, network: nn.Module, *, entry: str | None = None) -> list[str]:
    """Put a network of other code into `network`; returns, in words, what was changed of it.

    entry: where it is in the file, as "ema.module"; None: where it is looked for. FileError if it does not fit.
    """
    stored = load_checkpoint(path, entry)
    try:
        changes = load_state(network, stored["model_state"])
    except ValueError as error:
        raise FileError(path, f"does not fit {type(network).__name__}: {error}") from error
    if not is_finite(network):
        raise FileError(path, "holds weights that are not finite numbers")
    return changes


def _normalized_by(transform: str, moments: Normalization | None) -> object:
    return [list(values) for values in moments] if moments else is_normalizing(transform)


def _in_words(transform: str, moments: Normalization | None) -> str:
    numbers = [" ".join(f"{value:g}" for value in values) for values in moments or ()]
    return f"the transform {transform}" + (" --mean {} --std {}".format(*numbers) if numbers else "")


def spec_of(network: nn.Module, example: Batch) -> PermutationSpec:
    """`permutation_spec` for samples such as a batch of them, with what it refuses as a UserError."""
    x = split(network, on_device(example, device_of(network)))[0]
    args, keywords = x if isinstance(x, Inputs) else ((x,), {})
    try:
        return permutation_spec(network, *args, **keywords)
    except ValueError as error:
        raise UserError(f"{type(network).__name__} cannot be aligned: {error}") from error


def load_alignment(path: Path, networks: Sequence[nn.Module], example: Batch) -> tuple[PermutationSpec, Permutations]:
    """What may be permuted in B, and the permutations, one a group, of a match of two networks A and B.

    A match carries its spec. One of other code, or of before, does not: B is then traced on the example.

    FileError if there is none, or it is for another architecture, or was made for other networks.
    """
    match = _match_of(path, networks)
    spec = match.spec or spec_of(networks[1], example)
    return spec, _permutations(path, match, spec, networks[1])


def load_permutations(path: Path, spec: PermutationSpec, networks: Sequence[nn.Module]) -> Permutations:
    """The permutations of a match as `load_alignment` loads them, for a spec that is known."""
    return _permutations(path, _match_of(path, networks), spec, networks[1])


def _match_of(path: Path, networks: Sequence[nn.Module]) -> Match:
    expect_named(path, load_record(path))
    match = load_match(path)
    if match.networks not in (None, [network_digest(network) for network in networks]):
        raise FileError(path, "was made for other networks, of other epochs or trained anew", "replace")
    return match


def _permutations(path: Path, match: Match, spec: PermutationSpec, network: nn.Module) -> Permutations:
    try:
        spec.expect(network.state_dict())
        return permutations_from_rows(spec, match.rows, match.unseen)
    except ValueError as error:
        is_whole = [len(row) for row in match.rows] != [row.channels for row in spec.rows]  # and of another network
        reason = f"is not a match for {type(network).__name__}: {error}"
        raise FileError(path, reason, "" if is_whole else "remake") from error


def there(path: Path) -> Path:
    """The file itself, or what `stand_in` finds in its place."""
    return path if path.exists() else stand_in(path)


def expect_pair(
    layout: Layout, seeds: tuple[int, int], epochs: int, alignment: str = "", variant: Variant = USUAL
) -> None:
    """FileError if a file that `load_pair` reads is missing: cheap, and so before anything takes time."""
    name = tag(alignment)
    expect(*(layout.endpoint(seed, epochs) for seed in seeds))
    expect(*([] if name == "null" else [there(layout.match(name, *seeds, variant))]))


def load_endpoint(build: Build, layout: Layout, data: Data, seed: int, epochs: int) -> nn.Module:
    """The network of a seed after `epochs`, in eval mode (`load_network`)."""
    path, how = layout.endpoint(seed, epochs), {"transform": data.transform, "moments": data.moments}
    network = load_network(path, build(data.num_classes, data.channels), robust=layout.robust, **how)
    record = load_record(path)
    if record.inputs.get("images", data.digest) != data.digest:
        print(f"{path} was trained on other images than {layout.dataset} has here, or with classes in another order")
    is_of_user = ".py:" in layout.model  # ours and libraries' stay what they are
    if is_of_user and other_inputs(record, Record().of(layout.model).inputs):
        raise FileError(path, "was trained with another definition of the network than there is now", "replace")
    return network


def load_endpoints(build: Build, layout: Layout, data: Data, seeds: Sequence[int], epochs: int) -> list[nn.Module]:
    """The networks of several seeds (`load_endpoint`). Two that are the same are said to be."""
    networks = [load_endpoint(build, layout, data, seed, epochs) for seed in seeds]
    for (seed_a, a), (seed_b, b) in itertools.combinations(zip(seeds, networks, strict=True), 2):
        if all(map(torch.equal, a.parameters(), b.parameters())):
            files = " and ".join(str(layout.endpoint(seed, epochs)) for seed in (seed_a, seed_b))
            print(f"{files} hold the same weights: what is measured between them says nothing.")
    return networks


def load_pair(
    build: Build,
    layout: Layout,
    data: Data,
    seeds: tuple[int, int],
    epochs: int,
    *,
    alignment: str = "",
    variant: Variant = USUAL,
) -> tuple[nn.Module, nn.Module]:
    """Networks A and B of two seeds after `epochs`, B permuted by the match `alignment` ('' or null: as it is).

    data: the images on which they are to work. variant: of the curve with which PAM found the match, if PAM did.
    """
    a, b = load_endpoints(build, layout, data, seeds, epochs)
    name = tag(alignment)
    if name != "null":
        spec, permutations = load_alignment(there(layout.match(name, *seeds, variant)), (a, b), data.example)
        b.load_state_dict(permute(b.state_dict(), spec, permutations))
    return a, b


def expect_curve(
    layout: Layout,
    seeds: tuple[int, int],
    epochs_model: int,
    epochs_curve: int,
    alignment: str = "",
    variant: Variant = USUAL,
) -> None:
    """FileError if a file that `load_curve` reads is missing, as `expect_pair`."""
    expect_pair(layout, seeds, epochs_model, alignment, variant)
    if epochs_curve:
        expect(there(layout.curve(alignment, *seeds, epochs_curve, variant)))


def load_curve(
    build: Build,
    layout: Layout,
    data: Data,
    seeds: tuple[int, int],
    epochs_model: int,
    epochs_curve: int,
    *,
    alignment: str = "",
    variant: Variant = USUAL,
) -> Curve:
    """The curve that was learned for `epochs_curve` between a pair (`load_pair`), on the CPU; for 0, the line.

    FileError if a file is missing, or the curve was learned between other networks.
    """
    a, b = load_pair(build, layout, data, seeds, epochs_model, alignment=alignment, variant=variant)
    base = build(data.num_classes, data.channels)
    if epochs_curve == 0:
        return Curve.between(base, a.state_dict(), b.state_dict(), num_bends=2)
    path = there(layout.curve(alignment, *seeds, epochs_curve, variant))
    learned = load_checkpoint(path)
    record = expect_named(path, record_in(learned))
    shape = {"num_bends": variant.num_bends, "curve": variant.curve}
    shape |= {name: record.flags[name] for name in (*shape, "fix_start", "fix_end") if name in record.flags}
    try:
        curve = Curve.between(base, a.state_dict(), b.state_dict(), **shape)
    except (TypeError, ValueError, KeyError) as error:  # settings of other code
        raise FileError(path, f"is of a kind of curve that is not known ({shape})") from error
    if record.inputs.get("ends", curve.fixed_ends()) != curve.fixed_ends():
        raise FileError(
            path, "was learned between other networks, or with another match, than there are now", "replace"
        )
    try:
        load_points(curve, learned)
    except ValueError as error:
        raise FileError(path, f"is not a curve of {type(base).__name__}: {error}") from error
    if not curve.learned.isfinite().all():
        raise FileError(path, "holds weights that are not finite numbers", "remake")
    return curve
