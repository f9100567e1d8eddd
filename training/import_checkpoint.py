"""Bring a network that other code has trained to where a network of this seed and so many epochs is looked for.

python training/import_checkpoint.py --model torchvision:resnet18 --dataset CIFAR100 --seed 7 --epochs 90 FILE
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.errors import FileError
from utils.measuring import evaluate_all
from utils.stages import flags, hints, process
from utils.stages.files import expect_writable, hold, let_go, remove, save_checkpoint
from utils.stages.flags import file_path, partner, positive_int, seed_number
from utils.stages.layout import EPOCHS
from utils.stages.loading import put_checkpoint


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models)
    for name in ("batch_size", "precision"):  # of the test alone
        del parser.outcome[name]
    parser.files("file", type=file_path, metavar="FILE", help="a checkpoint: a state dict, or what holds one")
    parser.files(
        "--key", help="where in the file the network is, as model_ema or ema.module (default: it is looked for)"
    )
    parser.networks("--seed", seed_number, 1, "by which the network is to be known")
    parser.networks("--epochs", positive_int, EPOCHS, "for which it was trained")
    parser.files("--overwrite", bool, False, "replace a network that is there")
    return flags.parse(parser, argv)


def main(args):
    layout = args.layout
    stem, path = layout.endpoint_stem(args.seed), layout.endpoint(args.seed, args.epochs)
    hold(stem)
    if path.exists() and not args.overwrite:
        raise FileError(path, "is there already", "replace")
    expect_writable(layout.folder("models"))
    data = args.load()
    network = args.build(data.num_classes, data.channels)
    for words in put_checkpoint(args.file, network, args.key)[0]:
        print(f"{args.file}: {words}.")
    network.to(args.device)
    size, precision = args.batch_size, args.precision
    measured = evaluate_all(network, data.test, data.task, batch_size=size, precision=precision)
    numbers = {name: f"{value:.2f} %" if name == "accuracy" else f"{value:.4f}" for name, value in measured.items()}
    print(f"On the test set: {', '.join(f'{name} {number}' for name, number in numbers.items())}.")
    chance = 100 / (data.num_classes or math.inf)
    if data.task == "classification" and measured["accuracy"] < min(2 * chance, chance + (100 - chance) / 10):
        print("That is close to chance: is it --transform, or --mean and --std, with which it was trained?")

    record = args.record.of(images=data.digest)
    if args.overwrite:
        for history in layout.model_history(args.seed).values():  # of the network that is replaced
            remove(history)
    save_checkpoint(path, {"model_state": network.state_dict(), "record": record.at(path).stored()})
    let_go(stem)
    other = partner(args.seed)
    seed_a, seed_b = sorted((args.seed, other))
    next_command = None
    if layout.endpoint(other, args.epochs).exists():
        next_command = hints.align_command(args.here, {"epochs": args.epochs, "seed_a": seed_a, "seed_b": seed_b})
    hints.closing_words(args.here, [path], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
