"""A pair of trained networks: A, and B with its neurons permuted to match A's."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import MODELS
from utils import alignment, checkpoint, cli
from utils.curves import Curve, FlatParameters, digest
from utils.data import Data, Images
from utils.errors import UserError
from utils.permutations import PermutationSpec, identity, permutation_spec, permutations_from_rows, permute


def layout_of(args, **folders: Path | None) -> checkpoint.Layout:
    """Where the files of a stage on a pair are; `folders` are those that flags of its own replace."""
    return checkpoint.Layout(
        args.root,
        args.model,
        args.dataset,
        args.adversarial,
        models=args.dir_models,
        matches=args.dir_alignment,
        **folders,
    )


def load_endpoint(layout: checkpoint.Layout, args, num_classes: int, seed: int, epochs: int) -> nn.Module:
    """The network of `seed` after `epochs`, on the CPU, in eval mode. UserError if there is none that fits."""
    maker = cli.command("training/train_model.py", args, seed=seed, epochs=epochs)
    path = layout.endpoint(seed, epochs)
    model = MODELS[args.model](num_classes)
    stored = checkpoint.load_checkpoint(path, maker)
    checkpoint.load_state(model, stored["model_state"], path, maker)
    settings = stored.get("settings")  # the original code saves none
    if settings is not None and ("epsilon" in settings) != args.adversarial:
        kind, wanted = ("plain", "robust") if args.adversarial else ("robust", "plain")
        raise UserError(f"{path} is a {kind} network, not a {wanted} one; make that with: {maker}")
    if settings is not None and _is_normalized(settings["transform"]) != _is_normalized(args.transform):
        raise UserError(
            f"{path} was trained with --transform {settings['transform']}, which normalizes images unlike "
            f"--transform {args.transform}; use the same"
        )
    return model.eval()


def _is_normalized(transform: str) -> bool:
    return not transform.startswith("Adversarial")


def traced_spec(model: nn.Module) -> PermutationSpec:
    """permutation_spec, with what it refuses as a UserError."""
    try:
        return permutation_spec(model)
    except ValueError as error:
        raise UserError(f"{type(model).__name__} cannot be aligned: {error}") from error


def load_match(
    layout: checkpoint.Layout, args, spec: PermutationSpec, networks: Sequence[nn.Module], name: str
) -> list:
    """The permutations, one a group, of the match called `name`.

    Raises UserError if there is none, or it is for another architecture, or was made for other networks.
    """
    path = layout.match(name, args.seed_a, args.seed_b)
    seeds = {"seed_a": args.seed_a, "seed_b": args.seed_b}
    if name.startswith("pam_"):
        if args.adversarial:
            raise UserError("PAM is for plain networks; use --alignment corr or ''", exit_code=2)
        lengths = (getattr(args, flag, None) for flag in ("epochs_curve", "inner_iters_phi", "epochs"))
        epochs = next(filter(None, lengths), args.epochs_model)
        maker = cli.curve_command(args, name, epochs, **seeds, epochs_model=args.epochs_model)
    else:
        maker = cli.align_command(args, args.epochs_model, name, **seeds)
    rows = checkpoint.load_match(path, maker)
    made_for = checkpoint.match_networks(path)
    if made_for not in (None, digests(networks)):
        raise UserError(
            f"{path} was made for other networks, of other epochs or trained anew; "
            f"make it for these with: {maker} --overwrite"
        )
    try:
        return permutations_from_rows(spec, rows)
    except ValueError as error:
        raise UserError(f"{path} is not a match for {args.model}: {error}; make one with: {maker}") from error


def align_networks(
    network_a: nn.Module,
    network_b: nn.Module,
    spec: PermutationSpec,
    data: Data,
    batch_size: int,
    method: str = "corr",
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The permutations of B, one a group, that match its activations to A's on the alignment images.

    And on the test images the mean correlation of matched channels of each row, the logits last (rows + 1,), before
    and after. Both networks run as they are, in eval mode.

    method: corr, the greatest correlation; w2_post or w2_pre, the least L2 distance, of activations or of what goes
        into the activation functions.
    """

    def batches(images: Images, purpose: str) -> Iterator[torch.Tensor]:
        with cli.Progress(-(-len(images) // batch_size), "batch", purpose) as progress:
            for x, _ in images.batches(batch_size):
                yield x
                progress.step()

    def correlations(images: Iterable[torch.Tensor], **options: bool) -> list[np.ndarray]:
        return alignment.cross_correlations(network_a, network_b, spec.rows, images, **options)

    compared = batches(data.alignment, "comparing activations")
    if method == "corr":
        ties = correlations(itertools.islice(batches(data.alignment, "breaking ties"), 1), before=True)
        permutations = alignment.align(spec, correlations(compared), ties)
    else:
        moments = alignment.cross_moments(network_a, network_b, spec.rows, compared, before=method == "w2_pre")
        permutations = alignment.align(spec, [moment.product() for moment in moments])
    on_test = correlations(batches(data.test, "measuring on test images"))
    before = alignment.mean_correlations(spec, on_test, identity(spec))
    return permutations, before, alignment.mean_correlations(spec, on_test, permutations)


def row_labels(spec: PermutationSpec) -> list[str]:
    """What the entries of layerwise correlations belong to: the activations in forward order, and the logits."""
    return [*(row.label for row in spec.rows), "logits"]


def digests(networks: Sequence[nn.Module]) -> list[str]:
    """A digest of each network's weights, by which a match tells for which networks it was made."""
    return [digest(FlatParameters(network).flatten(network.state_dict())) for network in networks]


def load_pair(layout: checkpoint.Layout, args, num_classes: int) -> tuple[dict, dict]:
    """The state dicts of A and of B as the curve sees it, permuted unless --alignment is '' (or null)."""
    a = load_endpoint(layout, args, num_classes, args.seed_a, args.epochs_model)
    b = load_endpoint(layout, args, num_classes, args.seed_b, args.epochs_model)
    name = checkpoint.tag(args.alignment)
    if name == "null":
        return a.state_dict(), b.state_dict()
    spec = traced_spec(b)
    permutations = load_match(layout, args, spec, (a, b), name)
    return a.state_dict(), permute(b.state_dict(), spec, permutations)


def load_curve(layout: checkpoint.Layout, args, num_classes: int) -> Curve:
    """The curve that was learned between the pair for `args.epochs_curve` epochs; for 0, the line from A to B.

    Raises UserError if a file is missing, or the curve was learned between other networks.
    """
    state_a, state_b = load_pair(layout, args, num_classes)
    base = MODELS[args.model](num_classes).to(memory_format=torch.channels_last)
    if args.epochs_curve == 0:
        curve = Curve(base, num_bends=2)
        learned = None
    else:
        path = layout.curve(args.alignment, args.seed_a, args.seed_b, args.epochs_curve)
        ends = {name: getattr(args, name) for name in ("seed_a", "seed_b", "epochs_model")}
        maker = cli.curve_command(args, args.alignment, args.epochs_curve, **ends)
        learned = checkpoint.load_checkpoint(path, maker)
        settings = learned.get("settings", {})  # the original code saves none: three control points
        flags = {name: settings[name] for name in ("num_bends", "curve", "fix_start", "fix_end") if name in settings}
        curve = Curve(base, **flags)
    if args.compile:
        curve.compile()
    curve.set_point(0, state_a)
    curve.set_point(curve.num_bends - 1, state_b)
    if learned is not None:
        if settings.get("ends", curve.fixed_ends()) != curve.fixed_ends():
            raise UserError(
                f"{path} was learned between other networks, or with another match, than there are now; "
                f"use the --epochs_model it was made with, or make it anew with: {maker} --overwrite"
            )
        try:
            curve.load_checkpoint(learned)
        except (ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is not a curve of {args.model} ({reason}); make it with: {maker}") from error
    return curve


def midpoint(state_a: Mapping[str, torch.Tensor], state_b: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of two state dicts (integer entries, which count batches, are A's)."""
    return {name: torch.lerp(a, state_b[name], 0.5) if a.is_floating_point() else a for name, a in state_a.items()}
