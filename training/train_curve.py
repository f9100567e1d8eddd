"""Learn a low-loss curve between two trained networks, aligned or not.

python training/train_curve.py --dataset CIFAR100 --seed_a 1 --seed_b 2 --alignment corr --epochs 250
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

import models
from utils.curves import Curve
from utils.devices import memory_format
from utils.stages import flags, hints, process
from utils.stages.files import expect, expect_writable
from utils.stages.flags import epochs_or_none
from utils.stages.foreign import fitted
from utils.stages.loading import load_pair
from utils.stages.records import behind
from utils.stages.runs import Run, save_line
from utils.training import CurveTask, fit


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    groups = "sgd epochs pair curve alignment" + (" attack momentum" if robust else "")
    parser = flags.stage_parser(description, script, models, groups)
    parser.optimization("--val_freq", epochs_or_none, None, "test every so many epochs (default: none)")
    args = flags.parse(parser, argv)
    if args.init_linear_off and args.num_bends == 2:
        parser.error("--init_linear_off: a curve of 2 control points has none between its ends")
    return args


def main(args):
    layout, names, variant = args.layout, (args.alignment, *args.seeds), args.variant
    expect(*behind(layout, args.seeds, args.epochs_model, args.alignment, 0, variant).values())
    expect_writable(layout.folder("curves"), layout.folder("curve_history"))
    data = args.load()
    pair = args.build, layout, data, args.seeds, args.epochs_model
    networks = load_pair(*pair, alignment=args.alignment, variant=variant)
    state_a, state_b = (network.state_dict() for network in networks)

    torch.manual_seed(args.seed)
    base = args.build(data.num_classes, data.channels).to(args.device, memory_format=memory_format(args.device))
    curve = Curve.between(base, state_a, state_b, args.num_bends, args.curve, args.fix_start, args.fix_end)
    linear = layout.curve(*names, 0, variant)
    record = args.record.of(images=data.digest, ends=curve.fixed_ends())
    path = {"seed_a": args.seed_a, "seed_b": args.seed_b, "epochs_model": args.epochs_model}
    path |= {"alignment": args.alignment, **variant.differing}
    if not curve.learned_rows:
        save_line(linear, state_a, state_b, record)
        print("With two fixed ends and nothing between them there is nothing to learn: the curve is a line.")
        next_command = hints.command(args.here, "evaluation/eval_curve.py", path | {"epochs_curve": 0})
        hints.closing_words(args.here, [linear], next_command)
        return
    if args.compile:
        curve.compile()
    if args.init_linear_off:
        for index in range(1, args.num_bends - 1):
            curve.set_point(index, args.build(data.num_classes, data.channels).state_dict())

    run = Run(
        layout.curve_stem(*names, variant),
        record,
        args.epochs,
        args.save_freq,
        layout.curve_history(*names, variant),
        resume=args.resume,
        overwrite=args.overwrite,
        log=args.log_dir,
        adapted=partial(fitted, base),
    )
    is_decoupled = args.optimizer == "adamw"  # from the loss: its weight decay is of the control points that it moves
    history = fit(
        CurveTask(curve, 0.0 if is_decoupled else args.wd, data.test, args.attack, data.task),
        data.train,
        run,
        rates=args.rates,
        batch_size=args.batch_size,
        momentum=args.momentum,
        weight_decay=args.wd if is_decoupled else 0.0,
        optimizer=args.optimizer,
        seed=args.seed,
        precision=args.precision,
        val_freq=args.val_freq,
    )
    save_line(linear, state_a, state_b, record)
    next_command = hints.command(args.here, "evaluation/eval_curve.py", path | {"epochs_curve": args.epochs})
    hints.closing_words(args.here, [linear, *run.files(history)], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
