"""Train a network: one of the two ends of a curve.

python training/train_model.py --dataset CIFAR100 --model TinyTen --seed 1 --epochs 250
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

import models
from utils.devices import compile_options, memory_format
from utils.stages import flags, hints, process
from utils.stages.files import expect_writable
from utils.stages.flags import NEW, epochs_or_none, partner
from utils.stages.foreign import fitted
from utils.stages.runs import Run
from utils.training import NetworkTask, fit


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    groups = "sgd epochs attack momentum" if robust else "sgd epochs"
    parser = flags.stage_parser(description, script, models, groups)
    pretrained_help = "begin with torchvision's or timm's published weights, which are downloaded"
    parser.optimization("--pretrained", bool, False, pretrained_help, outcome=NEW)
    parser.optimization("--val_freq", epochs_or_none, 1, "test every so many epochs, or none")
    return flags.parse(parser, argv)


def main(args):
    layout = args.layout
    if args.overwrite or not layout.endpoint(args.seed, args.epochs).exists():
        expect_writable(layout.folder("models"), layout.folder("model_history"))
    data = args.load()
    torch.manual_seed(args.seed)
    model = args.build(data.num_classes, data.channels).to(args.device, memory_format=memory_format(args.device))
    if args.compile:
        model.compile(**compile_options(args.device))
    run = Run(
        layout.endpoint_stem(args.seed),
        args.record.of(args.model, images=data.digest),
        args.epochs,
        args.save_freq,
        layout.model_history(args.seed),
        resume=args.resume,
        overwrite=args.overwrite,
        log=args.log_dir,
        adapted=partial(fitted, model),
    )
    history = fit(
        NetworkTask(model, data.test, args.attack, data.task),
        data.train,
        run,
        rates=args.rates,
        batch_size=args.batch_size,
        momentum=args.momentum,
        weight_decay=args.wd,
        optimizer=args.optimizer,
        seed=args.seed,
        precision=args.precision,
        val_freq=args.val_freq,
    )

    other = partner(args.seed)
    if layout.endpoint(other, args.epochs).exists():
        seed_a, seed_b = sorted((args.seed, other))
        next_command = hints.align_command(args.here, {"epochs": args.epochs, "seed_a": seed_a, "seed_b": seed_b})
    else:
        next_command = hints.again(args.here, {"seed": other})
    hints.closing_words(args.here, run.files(history), next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
