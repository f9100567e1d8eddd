"""Train a network: one of the two ends of a curve.

python training/train_model.py --dataset CIFAR100 --model TinyTen --seed 1 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models import MODELS
from utils import checkpoint, cli, evaluation, training
from utils.data import load_data


def parse_args(argv=None, description=__doc__, adversarial=False):
    parser = cli.stage_parser(description, batch_size=128)
    cli.add_training_flags(parser)
    if adversarial:
        cli.add_attack_flags(parser, training=True)
    parser.add_argument("--val_freq", type=cli.frequency, default=1, help="test every so many epochs, or none")
    parser.add_argument("--dir", type=Path, help="folder of networks instead of the published one")
    parser.add_argument("--dir2", type=Path, help="folder of histories instead of the published one")
    return cli.parse(parser, argv)


def main(args):
    layout = checkpoint.Layout(
        args.root, args.model, args.dataset, args.adversarial, models=args.dir, model_history=args.dir2
    )
    data = load_data(args)
    torch.manual_seed(args.seed)
    model = MODELS[args.model](data.num_classes).to(args.device, memory_format=torch.channels_last)
    if args.compile:
        model.compile(dynamic=False)

    def forward(x, labels, generator):
        if args.attack is not None:
            x = args.attack(model, x, labels, data.train, generator)
        return model(x), 0.0

    def validate():
        loss, accuracy = evaluation.evaluate(model, data.test, args.batch_size, args.precision)
        return {"loss_test": loss, "accuracy_test": accuracy}

    stem = layout.endpoint_stem(args.seed)
    files = training.fit(
        training.Run(
            stem,
            training.settings_of(args),
            args.epochs,
            args.save_freq,
            layout.model_history(args.seed),
        ),
        args,
        data.train,
        model,
        forward,
        pack=lambda: {"model_state": model.state_dict()},
        unpack=lambda state: checkpoint.load_state(model, state["model_state"], stem, "--overwrite"),
        validate=validate,
        val_freq=args.val_freq,
        schedule=training.schedule_of(args),
        momentum=args.momentum,
        weight_decay=args.wd,
    )
    other = args.seed + 1 if args.seed % 2 else abs(args.seed - 1)
    if layout.endpoint(other, args.epochs).exists():
        seed_a, seed_b = sorted((args.seed, other))
        folder = {"dir_models": args.dir} if args.dir else {}
        next_command = cli.align_command(args, args.epochs, seed_a=seed_a, seed_b=seed_b, **folder)
    else:
        flags = ("epochs", "batch_size", "lr", "wd", "lr_drop", *(("dir",) if args.dir else ()))
        next_command = cli.command("training/train_model.py", args, *flags, seed=other)
    cli.finish(files, next_command)


if __name__ == "__main__":
    cli.run(parse_args, main)
