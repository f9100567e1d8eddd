"""Learn a low-loss curve between two trained networks, aligned or not.

python training/train_curve.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --alignment corr --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models import MODELS
from utils import checkpoint, cli, training
from utils.curves import Curve
from utils.data import load_data
from utils.pair import layout_of, load_pair, midpoint


def parse_args(argv=None, description=__doc__, adversarial=False):
    parser = cli.stage_parser(description, batch_size=128)
    cli.add_training_flags(parser)
    if adversarial:
        cli.add_attack_flags(parser, training=True)
    cli.add_pair_flags(parser)
    cli.add_curve_flags(parser)
    cli.add_alignment_flag(parser)
    parser.add_argument("--val_freq", type=cli.frequency, help="test every so many epochs, or none")
    parser.add_argument("--dir", type=Path, help="folder of curves instead of the published one")
    parser.add_argument("--dir2", type=Path, help="folder of histories instead of the published one")
    cli.add_pair_folders(parser)
    return cli.parse(parser, argv)


def main(args):
    layout = layout_of(args, curves=args.dir, curve_history=args.dir2)
    names = (args.alignment, args.seed_a, args.seed_b)
    data = load_data(args)
    state_a, state_b = load_pair(layout, args, data.num_classes)
    linear = layout.curve(*names, 0)

    torch.manual_seed(args.seed)
    base = MODELS[args.model](data.num_classes).to(args.device, memory_format=torch.channels_last)
    curve = Curve(base, args.num_bends, args.curve, args.fix_start, args.fix_end).to(args.device)
    if args.compile:
        curve.compile()
    next_command = cli.command("evaluation/eval_curve.py", args, "seed_a", "seed_b", "epochs_model", "alignment")
    if not curve.learned_rows:
        checkpoint.save_checkpoint(linear, {"epoch": 0, "model_state": midpoint(state_a, state_b)})
        print("With two fixed ends and nothing between them there is nothing to learn: the curve is a line.")
        cli.finish([linear], f"{next_command} --epochs_curve 0")
        return
    curve.set_point(0, state_a)
    curve.set_point(args.num_bends - 1, state_b)
    if args.init_linear_off:
        for index in range(1, args.num_bends - 1):
            curve.set_point(index, MODELS[args.model](data.num_classes).state_dict())
    else:
        curve.init_linear()

    settings = training.settings_of(args, *cli.CURVE_FLAGS, "seed_a", "seed_b", "epochs_model", "alignment")
    run = training.Run(
        layout.curve_stem(*names),
        settings | {"ends": curve.fixed_ends()},
        args.epochs,
        args.save_freq,
        layout.curve_history(*names),
    )
    files = training.fit_curve(run, args, data, curve, args.val_freq)
    checkpoint.save_checkpoint(linear, {"epoch": 0, "model_state": midpoint(state_a, state_b)})
    cli.finish([linear, *files], f"{next_command} --epochs_curve {args.epochs}")


if __name__ == "__main__":
    cli.run(parse_args, main)
