"""Learn a curve and the permutation of network B together, by proximal alternating minimization (PAM).

python training/train_curve_pam.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --epochs_model 250 --alignment corr
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models import MODELS
from utils import checkpoint, cli, distributed, pam, training
from utils.curves import Curve
from utils.data import load_data
from utils.errors import UserError
from utils.pair import digests, layout_of, load_endpoint, load_match, midpoint, traced_spec
from utils.permutations import identity, permute, rows_from_permutations


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=128)
    cli.add_training_flags(parser, epochs=None)
    cli.add_pair_flags(parser)
    cli.add_alignment_flag(parser)
    add = parser.add_argument
    # The flags of train_curve.py, at the values for which PAM is defined
    add("--curve", choices=("Bezier",), default="Bezier", help="PAM's curve is the quadratic Bézier curve")
    add("--num_bends", type=int, choices=(3,), default=3, help="with its one turning point")
    add("--fix_start", action="store_true", default=True, help="A is fixed always")
    add("--fix_end", action="store_true", default=True, help="B is fixed but for its permutation always")
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
    layout = layout_of(args, curves=args.dir, curve_history=args.dir2)
    data = load_data(args)
    network_a, network_b = networks = [
        load_endpoint(layout, args, data.num_classes, seed, args.epochs_model) for seed in (args.seed_a, args.seed_b)
    ]
    spec = traced_spec(network_b)
    start_name = checkpoint.tag(args.alignment)
    permutations = identity(spec)
    if start_name != "null":
        permutations = load_match(layout, args, spec, networks, start_name)
    state_a, state_b = network_a.state_dict(), network_b.state_dict()
    torch.manual_seed(args.seed)
    base = MODELS[args.model](data.num_classes).to(args.device, memory_format=torch.channels_last)
    curve = Curve(base).to(args.device)
    if args.compile:
        curve.compile()
    curve.set_point(0, state_a)
    phi = torch.zeros_like(curve.row(0))

    names = (f"pam_{start_name}", args.seed_a, args.seed_b)
    stem, history = layout.curve_stem(*names), layout.curve_history(*names)
    match_names = [f"{names[0]}_iter{i}" for i in range(1, args.outer_iters)] + [names[0]]
    distributed.from_main(lambda: checkpoint.hold(stem))  # until its last phase, which has this name, is done
    if args.overwrite:  # all of it at once, so that what comes after can be resumed
        old_matches = [layout.match(name, *names[1:]) for name in match_names]
        old_matches += [path.with_suffix(".json") for path in old_matches]
        for path in [*stem.parent.glob(f"{stem.name}[-_]*.pt"), *old_matches]:
            checkpoint.remove(path)
        args.overwrite = False
    is_there = distributed.from_main(lambda: [layout.match(name, *names[1:]).exists() for name in match_names])

    def run(suffix, epochs):
        """The files of one phase; they carry the curve's own name, and a suffix for all but the last."""
        settings = ["seed_a", "seed_b", "epochs_model", "alignment", "outer_iters", "inner_iters_perm"]
        if args.outer_iters > 1:
            settings.append("inner_iters_phi")  # a later phase depends on where an earlier one ended
        return training.Run(
            stem.with_name(stem.name + suffix),
            training.settings_of(args, *settings) | {"ends": curve.fixed_ends()},
            epochs,
            args.save_freq,
            history.with_name(history.stem + suffix + history.suffix),
        )

    files = []
    for iteration, match_name in enumerate(match_names, start=1):
        start = permute(state_b, spec, permutations)
        base.load_state_dict(start)  # so that what its checkpoints hold does not depend on where a run was resumed
        curve.set_point(2, start)
        phase = run(f"_perm{iteration}", args.inner_iters_perm)
        match = layout.match(match_name, *names[1:])
        if is_there[iteration - 1]:
            if not phase.is_finished:
                raise UserError(f"{match} is there, but not the run that found it; add --overwrite to find it anew")
            distributed.from_main(partial(phase.open, args.resume, overwrite=False))  # refuses one of other settings
            permutations = load_match(layout, args, spec, networks, match_name)
        else:
            order = pam.permutation_phase(phase, args, data, curve, start, spec, phi)
            permutations = [p[q] for p, q in zip(permutations, order, strict=True)]
            checkpoint.save_match(match, rows_from_permutations(spec, permutations), digests(networks))

        aligned = permute(state_b, spec, permutations)
        base.load_state_dict(aligned)
        curve.set_point(2, aligned)
        is_last = iteration == args.outer_iters
        phase = run("" if is_last else f"_phi{iteration}", args.inner_iters_phi)
        files = pam.curve_phase(phase, args, data, curve, phi)
        phi = (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()

    linear = layout.curve(*names, 0)
    checkpoint.save_checkpoint(linear, {"epoch": 0, "model_state": midpoint(state_a, aligned)})
    flags = {"alignment": names[0], "epochs_curve": args.inner_iters_phi}
    next_command = cli.command("evaluation/eval_curve.py", args, "seed_a", "seed_b", "epochs_model", **flags)
    cli.finish([match, linear, *files], next_command)


if __name__ == "__main__":
    cli.run(parse_args, main)
