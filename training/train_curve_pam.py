"""Learn a curve and the permutation of network B together, by proximal alternating minimization (PAM).

python training/train_curve_pam.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --epochs_model 250 --alignment corr
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from models import MODELS
from utils import distributed, pam
from utils.cli import commands, flags, process
from utils.curves import Curve, midpoint, network_digest
from utils.datasets import load_data
from utils.errors import FileError
from utils.fitting import fit, step_rates
from utils.permutations import identity, permute, rows_from_permutations
from utils.storage.files import hold, remove, save_checkpoint
from utils.storage.layout import Layout, tag
from utils.storage.loading import load_network, load_permutations, spec_of
from utils.storage.matches import save_match
from utils.storage.runs import Run


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, batch_size=128)
    flags.add_training_flags(parser, epochs=None)
    flags.add_pair_flags(parser)
    flags.add_alignment_flag(parser)
    add = parser.add_argument
    # The flags of train_curve.py, at the values for which PAM is defined
    add("--curve", choices=("Bezier",), default="Bezier", help="PAM's curve is the quadratic Bézier curve")
    add("--num_bends", type=int, choices=(3,), default=3, help="with its one turning point")
    add("--fix_start", action="store_true", default=True, help="A is fixed always")
    add("--fix_end", action="store_true", default=True, help="B is fixed but for its permutation always")
    add("--outer_iters", type=flags.positive_int, default=1, help="how often both phases are gone through")
    add("--inner_iters_perm", type=flags.positive_int, default=20, help="epochs of the permutation phase")
    add("--inner_iters_phi", type=flags.positive_int, default=250, help="epochs of the curve phase")
    val_freq_help = "test every so many epochs, or none; a second number is for the curve phase"
    add("--val_freq", type=flags.frequency, nargs="+", default=[None], help=val_freq_help)
    add("--dir", type=Path, help="folder of curves instead of the published one")
    add("--dir2", type=Path, help="folder of histories instead of the published one")
    flags.add_pair_folders(parser)
    args = flags.parse(parser, argv)
    if len(args.val_freq) > 2:
        parser.error("--val_freq takes one number or two")
    return args


def main(args):
    replaced = {"models": args.dir_models, "matches": args.dir_alignment}
    replaced |= {"curves": args.dir, "curve_history": args.dir2}
    layout = Layout(args.root, args.model, args.dataset, args.robust, replaced)
    data = load_data(
        args.dataset,
        folder=args.data_folder,
        transform=args.transform,
        use_test=args.use_test,
        threads=args.num_workers,
        device=args.device,
    )
    seeds, start_name = (args.seed_a, args.seed_b), tag(args.alignment)
    networks = [
        load_network(
            layout.endpoint(seed, args.epochs_model), MODELS[args.model](data.num_classes), transform=args.transform
        )
        for seed in seeds
    ]
    state_a, state_b = (network.state_dict() for network in networks)
    spec = spec_of(networks[1])
    permutations = identity(spec)
    if start_name != "null":
        permutations = load_permutations(layout.match(start_name, *seeds), spec, networks)
    torch.manual_seed(args.seed)
    base = MODELS[args.model](data.num_classes).to(args.device, memory_format=torch.channels_last)
    curve = Curve(base)
    if args.compile:
        curve.compile()
    curve.set_point(0, state_a)
    phi = torch.zeros_like(curve.row(0))

    name = f"pam_{start_name}"
    stem, history_file = layout.curve_stem(name, *seeds), layout.curve_history(name, *seeds)
    match_names = [f"{name}_iter{i}" for i in range(1, args.outer_iters)] + [name]
    matches = [layout.match(match_name, *seeds) for match_name in match_names]
    distributed.from_main(lambda: hold(stem))  # until its last phase, which has this name, is done
    if args.overwrite:  # all of it at once, so that what comes after can be resumed
        notes = [match.with_suffix(".json") for match in matches]
        for path in [*stem.parent.glob(f"{stem.name}[-_]*.pt"), *matches, *notes]:
            remove(path)
    is_there = distributed.from_main(lambda: [match.exists() for match in matches])

    setting_names = ["seed_a", "seed_b", "epochs_model", "alignment", "outer_iters", "inner_iters_perm"]
    if args.outer_iters > 1:
        setting_names.append("inner_iters_phi")  # a later phase depends on where an earlier one ended
    settings = flags.run_settings(vars(args), *setting_names)

    def run(suffix, epochs):
        """The files of one phase; they carry the curve's own name, and a suffix for all but the last."""
        return Run(
            stem.with_name(stem.name + suffix),
            settings | {"ends": curve.fixed_ends()},
            epochs,
            args.save_freq,
            history_file.with_name(history_file.stem + suffix + history_file.suffix),
            args.resume,
        )

    how = {"batch_size": args.batch_size, "seed": args.seed, "precision": args.precision}
    for iteration, match in enumerate(matches, start=1):
        start = permute(state_b, spec, permutations)
        base.load_state_dict(start)  # so that what its checkpoints hold does not depend on where a run was resumed
        curve.set_point(2, start)
        phase = run(f"_perm{iteration}", args.inner_iters_perm)
        if is_there[iteration - 1]:
            if not phase.checkpoint.exists():
                raise FileError(match, "is there, but not the run that found it", "replace")
            distributed.from_main(phase.open)  # refuses one of other settings
            permutations = load_permutations(match, spec, networks)
        else:
            task = pam.PermutationTask(curve, spec, start, phi, args.wd, data.test)
            rates = step_rates(args.inner_iters_perm, args.lr / 2, pam.PERMUTATION_DROP, args.lr_decay)
            fit(task, data.train, phase, rates=rates, momentum=0.0, val_freq=args.val_freq[0], **how)
            order, after, before = pam.round_permutations(task, data.train, **how)
            moved = sum(int((places != np.arange(len(places))).sum()) for places in order)
            print(f"Rounded: {moved} channels moved; training loss along the path {after:.4f}, before {before:.4f}.")
            permutations = [p[q] for p, q in zip(permutations, order, strict=True)]
            save_match(match, rows_from_permutations(spec, permutations), list(map(network_digest, networks)))

        aligned = permute(state_b, spec, permutations)
        base.load_state_dict(aligned)
        curve.set_point(2, aligned)
        phase = run("" if iteration == args.outer_iters else f"_phi{iteration}", args.inner_iters_phi)
        task = pam.TurningPointTask(curve, phi, args.wd, data.test)
        rates = step_rates(args.inner_iters_phi, args.lr, args.lr_drop, args.lr_decay)
        history = fit(task, data.train, phase, rates=rates, momentum=args.momentum, val_freq=args.val_freq[-1], **how)
        phi = (curve.row(1) - torch.lerp(curve.row(0), curve.row(2), 0.5)).detach()

    linear = layout.curve(name, *seeds, 0)
    save_checkpoint(linear, {"epoch": 0, "model_state": midpoint(state_a, aligned)})
    follows = {"alignment": name, "epochs_curve": args.inner_iters_phi}
    next_command = commands.command(
        "evaluation/eval_curve.py", vars(args), "seed_a", "seed_b", "epochs_model", **follows
    )
    process.closing_words([matches[-1], linear, *phase.files(history)], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
