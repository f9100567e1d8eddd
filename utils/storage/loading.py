"""Networks, matches and curves from their files, each checked against what it is to be used with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.curves import Curve, network_digest
from utils.errors import FileError, UserError, first_line
from utils.permutations import PermutationSpec, permutation_spec, permutations_from_rows, permute
from utils.storage.files import load_checkpoint
from utils.storage.layout import USUAL, Layout, Variant, tag
from utils.storage.matches import load_match, match_networks


def load_network(path: Path, network: nn.Module, *, transform: str, robust: bool = False) -> nn.Module:
    """Put a checkpoint into `network`, which is returned in eval mode.

    FileError if there is none or it does not fit: another architecture, a plain network where a robust one is wanted
    or the other way round, or one trained on images normalized unlike those of `transform`.
    """
    stored = load_checkpoint(path)
    try:
        load_state(network, stored["model_state"])
    except ValueError as error:
        reason = f"does not fit {type(network).__name__} with this dataset's classes ({error})"
        raise FileError(path, f"{reason}; use the model and dataset it was trained with", "remake") from error
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise FileError(path, "holds weights that are not finite numbers", "remake")
    settings = stored.get("settings")  # the original code saves none
    if settings is not None and ("epsilon" in settings) != robust:
        kind, wanted = ("plain", "robust") if robust else ("robust", "plain")
        raise FileError(path, f"is a {kind} network, not a {wanted} one", "remake")
    if settings is not None and _is_normalized(settings["transform"]) != _is_normalized(transform):
        raise FileError(
            path,
            f"was trained with the transform {settings['transform']}, which normalizes images unlike {transform}; "
            "use the same",
        )
    return network.eval()


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a state dict into a model. ValueError, in one line, if it is of another architecture or size."""
    # A module saved from DataParallel calls its entries module.*
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError((lines or [str(error)])[0][:160]) from error


def _is_normalized(transform: str) -> bool:
    return not transform.startswith("Adversarial")


def spec_of(network: nn.Module) -> PermutationSpec:
    """`permutation_spec`, with what it refuses as a UserError."""
    try:
        return permutation_spec(network)
    except ValueError as error:
        raise UserError(f"{type(network).__name__} cannot be aligned: {error}") from error


def load_permutations(path: Path, spec: PermutationSpec, networks: Sequence[nn.Module]) -> list[np.ndarray]:
    """The permutations, one a group, of a match of two networks A and B.

    FileError if there is none, or it is for another architecture, or was made for other networks.
    """
    rows = load_match(path)
    if match_networks(path) not in (None, [network_digest(network) for network in networks]):
        raise FileError(path, "was made for other networks, of other epochs or trained anew", "replace")
    try:
        return permutations_from_rows(spec, rows)
    except ValueError as error:
        raise FileError(path, f"is not a match for {type(networks[1]).__name__}: {error}", "remake") from error


def load_pair(
    layout: Layout,
    build: Callable[[], nn.Module],
    seeds: tuple[int, int],
    epochs: int,
    *,
    alignment: str = "",
    transform: str,
    variant: Variant = USUAL,
) -> tuple[nn.Module, nn.Module]:
    """Networks A and B of two seeds after `epochs`, B permuted by the match `alignment` ('' or null: as it is).

    build: makes an untrained network. variant: of the curve with which PAM found the match, if PAM did.
    """
    a, b = (
        load_network(layout.endpoint(seed, epochs), build(), transform=transform, robust=layout.robust)
        for seed in seeds
    )
    name = tag(alignment)
    if name != "null":
        spec = spec_of(b)
        permutations = load_permutations(layout.match(name, *seeds, variant), spec, (a, b))
        b.load_state_dict(permute(b.state_dict(), spec, permutations))
    return a, b


def load_curve(
    layout: Layout,
    build: Callable[[], nn.Module],
    seeds: tuple[int, int],
    epochs_model: int,
    epochs_curve: int,
    *,
    alignment: str = "",
    transform: str,
    variant: Variant = USUAL,
) -> Curve:
    """The curve that was learned for `epochs_curve` between a pair (`load_pair`); for 0, the line from A to B.

    FileError if a file is missing, or the curve was learned between other networks.
    """
    ends = {"alignment": alignment, "transform": transform, "variant": variant}
    a, b = load_pair(layout, build, seeds, epochs_model, **ends)
    base = build().to(memory_format=torch.channels_last)
    if epochs_curve == 0:
        return Curve.between(base, a.state_dict(), b.state_dict(), num_bends=2)
    path = layout.curve(alignment, *seeds, epochs_curve, variant)
    learned = load_checkpoint(path)
    settings = learned.get("settings", {})  # the original code saves none: three control points
    shape = {name: settings[name] for name in ("num_bends", "curve", "fix_start", "fix_end") if name in settings}
    curve = Curve.between(base, a.state_dict(), b.state_dict(), **shape)
    if settings.get("ends", curve.fixed_ends()) != curve.fixed_ends():
        raise FileError(
            path, "was learned between other networks, or with another match, than there are now", "replace"
        )
    try:
        curve.load_checkpoint(learned)
    except (ValueError, RuntimeError, KeyError) as error:
        raise FileError(path, f"is not a curve of {type(base).__name__} ({first_line(error)})", "remake") from error
    return curve
