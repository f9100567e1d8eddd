"""Learn a curve and the permutation of network B together, by proximal alternating minimization (PAM).

python training/train_curve_pam.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --epochs_model 250 --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models import MODELS
from utils import checkpoint, cli, pam, training
from utils.curves import Curve
from utils.data import load_data
from utils.errors import UserError
from utils.pair import load_endpoint, load_match, load_named_match, midpoint
from utils.permutations import identity, permutation_spec, permute, rows_from_permutations


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=128)
    cli.add_training_flags(parser, epochs=None)
    cli.add_pair_flags(parser)
    cli.add_alignment_flag(parser)
    add = parser.add_argument
    add("--outer_iters", type=cli.positive_int, default=1, help="how often both phases are gone through")
    add("--inner_iters_perm", type=cli.positive_int, default=20, help="epochs of the permutation phase")
    add("--inner_iters_phi", type=cli.positive_int, default=250, help="epochs of the curve phase")
    val_freq_help = "test every so many epochs, or none; a second number is for the curve phase"
    add("--val_freq", type=cli.frequency, nargs="+", default=[None], help=val_freq_help)
    add("--dir", type=Path, help="folder of curves instead of the published one")
    add("--dir2", type=Path, help="folder of histories instead of the published one")
    cli.add_pair_folders(parser)
    args = cli.parse(parser, argv)
    if len(args.val_freq) > 2:
        parser.error("--val_freq takes one number or two")
    return args


def main(args):
    layout = checkpoint.Layout(
        args.root,
        args.model,
        args.dataset,
        models=args.dir_models,
        matches=args.dir_alignment,
        curves=args.dir,
        curve_history=args.dir2,
    )
    data = load_data(args)
    network_a, network_b = (
        load_endpoint(layout, args, data.num_classes, seed, args.epochs_model) for seed in (args.seed_a, args.seed_b)
    )
    spec = permutation_spec(network_b)
    permutations = load_match(layout, args, network_b) or identity(spec)
    state_a, state_b = network_a.state_dict(), network_b.state_dict()
    torch.manual_seed(args.seed)
    base = MODELS[args.model](data.num_classes).to(args.device, memory_format=torch.channels_last)
    curve = Curve(base).to(args.device)
    curve.set_point(0, state_a)
    phi = torch.zeros_like(curve.row(0))

    names = (f"pam_{checkpoint.tag(args.alignment)}", args.seed_a, args.seed_b)

    def run(suffix, epochs):
        """The files of one phase; they carry the curve's own name, and a suffix for all but the last."""
        stem, history = layout.curve_stem(*names), layout.curve_history(*names)
        settings = training.settings_of(args, "seed_a", "seed_b", "epochs_model", "alignment", "inner_iters_perm")
        settings |= {"ends": curve.fixed_ends()}
        history = history.with_name(history.stem + suffix + history.suffix)
        return training.Run(stem.with_name(stem.name + suffix), settings, epochs, args.save_freq, history)

    files = []
    for iteration in range(1, args.outer_iters + 1):
        is_last = iteration == args.outer_iters
        start = permute(state_b, spec, permutations)
        curve.set_point(2, start)
        phase = run(f"_perm{iteration}", args.inner_iters_perm)
        match_name = names[0] + ("" if is_last else f"_iter{iteration}")
        match = layout.match(match_name, *names[1:])
        if args.overwrite:
            match.unlink(missing_ok=True)
        elif match.exists() and not phase.is_finished:
            raise UserError(f"{match} is there, but not the run that found it; add --overwrite to find it anew")
        if match.exists():
            permutations = load_named_match(layout, args, network_b, match_name)
        else:
            order = pam.permutation_phase(phase, args, data, curve, start, spec, phi)
            permutations = [p[q] for p, q in zip(permutations, order, strict=True)]
            checkpoint.save_match(match, rows_from_permutations(spec, permutations), args.overwrite)

        aligned = permute(state_b, spec, permutations)
        base.load_state_dict(aligned)  # so that batch-norm buffers, too, do not depend on where a run was resumed
        curve.set_point(2, aligned)
        linear = layout.curve(*names, 0)
        checkpoint.save_checkpoint(linear, {"epoch": 0, "model_state": midpoint(state_a, aligned)})
        phase = run("" if is_last else f"_phi{iteration}", args.inner_iters_phi)
        files = [match, linear, *pam.curve_phase(phase, args, data, curve, phi)]
        phi = (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()

    flags = {"alignment": names[0], "epochs_curve": args.inner_iters_phi}
    cli.finish(files, cli.command("evaluation/eval_curve.py", args, "seed_a", "seed_b", "epochs_model", **flags))


if __name__ == "__main__":
    cli.run(parse_args, main)
