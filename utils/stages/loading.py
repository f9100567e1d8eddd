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
from ..permutations import Permutations, PermutationSpec, absorbed, permute
from ..symmetries.spec import permutation_spec
from .data import Data, Normalization, is_normalizing
from .foreign import load_foreign, load_points
from .layout import USUAL, Layout, Variant, file_of
from .matches import load_match, permutations_from_rows
from .originals import load_checkpoint
from .records import Record, behind, code_digest, expect_named, other_inputs, record_in

Build = Callable[[int | None, int | None], nn.Module]  # an untrained network for so many classes and channels


def load_network(
    path: Path, network: nn.Module, *, transform: str, moments: Normalization | None = None, robust: bool = False
) -> Record:
    """Put a checkpoint into `network`, then in eval mode; returns the checkpoint's record.

    FileError if there is none or it does not fit: another architecture, a plain network where a robust one is wanted
    or the other way round, or one trained on images normalized unlike those of `transform` and `moments`.
    """
    record = expect_named(path, put_checkpoint(path, network)[1])
    network.eval()
    if "transform" not in (flags := record.flags):
        return record
    if (flags.get("epsilon") is not None) != robust:  # files of before hold None for plain networks
        kind, wanted = ("plain", "robust") if robust else ("robust", "plain")
        reason = f"is a {kind} network, not a {wanted} one; the two kinds have stages and folders of their own"
        raise FileError(path, reason)
    before = flags["transform"], [flags["mean"], flags["std"]] if flags.get("mean") else None
    if _normalized_by(*before) != _normalized_by(transform, moments):
        of_images = f"which normalizes images unlike {_in_words(transform, moments)}; use the same"
        raise FileError(path, f"was trained with {_in_words(*before)}, {of_images}")
    return record


def put_checkpoint(path: Path, network: nn.Module, entry: str | None = None) -> tuple[list[str], Record]:
    """Put a checkpoint into `network`; returns, in words, what was changed of it, and its record.

    One of ours fits as it is; any other, as far as `load_foreign` can make it fit.
    entry: where the network is in a file of other code, as "ema.module"; None: where it is looked for. FileError if
    there is none, it does not fit, or is not finite.
    """
    stored, changes = load_checkpoint(path, entry), []
    record, state = record_in(stored), stored["model_state"]
    try:
        if record and _forms(state) == _forms(network.state_dict()):
            network.load_state_dict(state)
        else:
            changes = load_foreign(network, state)
    except ValueError as error:
        reason = f"does not fit {type(network).__name__}: {error}; use the model and dataset it was trained with"
        raise FileError(path, reason) from error
    if not all(value.isfinite().all() for value in (*network.parameters(), *network.buffers())):
        raise FileError(path, "holds weights that are not finite numbers", "remake")
    return changes, record


def _forms(state: Mapping[str, object]) -> dict[str, object]:
    return {name: (one.shape, one.dtype) if isinstance(one, torch.Tensor) else one for name, one in state.items()}


def _normalized_by(transform: str, moments: Normalization | None) -> object:
    return [list(values) for values in moments] if moments else is_normalizing(transform)


def _in_words(transform: str, moments: Normalization | None) -> str:
    numbers = [" ".join(f"{value:g}" for value in values) for values in moments or ()]
    return f"the transform {transform}" + (" --mean {} --std {}".format(*numbers) if numbers else "")


def expect_seeded(network: Callable[[int], nn.Module], model: str) -> None:
    """UserError unless a seed makes a network anew: not if a file draws weights when it is imported, or keeps one."""
    one, other = (network(1).state_dict() for _ in range(2))
    pairs = [(value, other[name]) for name, value in one.items() if isinstance(value, torch.Tensor) and value.numel()]
    if not all(torch.equal(*pair) and pair[0].data_ptr() != pair[1].data_ptr() for pair in pairs):
        reason = "two networks of one seed differ, or are one, in this process; train one seed by a command"
        raise UserError(f"{model}: {reason}", exit_code=2)


def spec_of(network: nn.Module, example: Batch, *, rotations: bool = False) -> PermutationSpec:
    """`permutation_spec` for samples such as a batch of them, with what it refuses as a UserError."""
    x = split(network, on_device(example, device_of(network)))[0]
    args, keywords = x if isinstance(x, Inputs) else ((x,), {})
    try:
        return permutation_spec(network, *args, rotations=rotations, **keywords)
    except ValueError as error:
        raise UserError(f"{type(network).__name__} cannot be aligned: {error}") from error


def load_alignment(
    path: Path,
    networks: Sequence[nn.Module],
    example: Batch | None = None,
    spec: PermutationSpec | None = None,
) -> tuple[PermutationSpec, Permutations]:
    """What may be permuted in B, and the permutations, one a group, of a match of two networks A and B.

    A match carries its spec. One of other code, or of before, does not: B is then traced on the example.
    spec: what is permuted in B, where that is known.

    FileError if there is none, or it is for another architecture, or was made for other networks.
    """
    match = load_match(path)
    expect_named(path, record_in(match.note))
    if match.networks not in (None, [network_digest(network) for network in networks]):
        raise FileError(path, "was made for other networks, of other epochs or trained anew", "replace")
    spec = spec or match.spec or spec_of(networks[1], example)
    try:
        spec.expect(networks[1].state_dict())
        return spec, permutations_from_rows(spec, match.rows, match.unseen)
    except ValueError as error:
        is_whole = [len(row) for row in match.rows] != [row.channels for row in spec.rows]  # and of another network
        reason = f"is not a match for {type(networks[1]).__name__}: {error}"
        raise FileError(path, reason, "" if is_whole else "remake") from error


def load_endpoint(build: Build, layout: Layout, data: Data, seed: int, epochs: int) -> nn.Module:
    """The network of a seed after `epochs`, in eval mode (`load_network`)."""
    path, network = layout.endpoint(seed, epochs), build(data.num_classes, data.channels)
    record = load_network(path, network, robust=layout.robust, transform=data.transform, moments=data.moments)
    if record.inputs.get("images", data.digest) != data.digest:
        print(f"{path} was trained on other images than {layout.dataset} has here, or with classes in another order")
    is_of_user = file_of(layout.model) is not None  # ours and libraries' stay what they are
    if is_of_user and other_inputs(record, code_digest(layout.model)):
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

    Where the match rotates, the gains of both are absorbed.

    data: the images on which they are to work. variant: of the curve with which PAM found the match, if PAM did.
    """
    a, b = load_endpoints(build, layout, data, seeds, epochs)
    if match := behind(layout, seeds, epochs, alignment, variant=variant).get("match"):
        spec, permutations = load_alignment(match, (a, b), data.example)
        a.load_state_dict(absorbed(a.state_dict(), spec))
        b.load_state_dict(permute(b.state_dict(), spec, permutations))
    return a, b


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
    path = behind(layout, seeds, epochs_model, alignment, epochs_curve, variant)["curve"]
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
