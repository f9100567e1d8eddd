"""Train a network, one of the two ends of a curve, or several, one after another.

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
from utils.stages.loading import expect_seeded
from utils.stages.runs import Run
from utils.training import NetworkTask, fit


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    groups = "sgd epochs attack momentum" if robust else "sgd epochs"
    parser = flags.stage_parser(description, script, models, groups)
    pretrained_help = "begin with torchvision's or timm's published weights, which are downloaded"
    parser.optimization("--pretrained", bool, False, pretrained_help, outcome=NEW)
    parser.optimization("--val_freq", epochs_or_none, 1, "test every so many epochs, or none")
    return flags.parse_each(parser, argv)


def main(args):
    layout, networks = args.layout, args.networks
    if any(one.overwrite or not layout.endpoint(one.seed, one.epochs).exists() for one in networks):
        expect_writable(layout.folder("models"), layout.folder("model_history"))
    data = args.load()

    def network(seed):
        torch.manual_seed(seed)
        return args.build(data.num_classes, data.channels)

    runs = [
        Run(
            layout.endpoint_stem(one.seed),
            one.record.of(images=data.digest),
            args.epochs,
            args.save_freq,
            layout.model_history(one.seed),
            resume=args.resume,
            overwrite=args.overwrite,
            log=args.log_dir,
        )
        for one in networks
    ]
    if len(runs) > 1:
        expect_seeded(network, args.model)
    for run in runs[1:]:  # what is in their way is said before the first is trained
        run.expect_free()
    for one, run in zip(networks, runs, strict=True):
        if len(runs) > 1:
            print(f"Seed {one.seed}:")
        model = network(one.seed).to(args.device, memory_format=memory_format(args.device))
        if args.compile:
            model.compile(**compile_options(args.device))
        run.adapted = partial(fitted, model)
        history = fit(
            NetworkTask(model, data.test, args.attack, data.task),
            data.train,
            run,
            rates=args.rates,
            batch_size=args.batch_size,
            momentum=args.momentum,
            weight_decay=args.wd,
            optimizer=args.optimizer,
            seed=one.seed,
            precision=args.precision,
            val_freq=args.val_freq,
        )
        hints.closing_words(one.here, run.files(history), next_command(args) if run is runs[-1] else None)


def next_command(args):
    """What aligns the first pair that there is, or else trains the partner of the last network."""
    for one in args.networks:
        pair = sorted((one.seed, partner(one.seed)))
        if all(args.layout.endpoint(seed, args.epochs).exists() for seed in pair):
            return hints.align_command(one.here, {"epochs": args.epochs, "seed_a": pair[0], "seed_b": pair[1]})
    return hints.again(one.here, {"seed": partner(one.seed)})


if __name__ == "__main__":
    process.run(parse_args, main)
