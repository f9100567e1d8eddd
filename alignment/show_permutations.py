"""Show what of a network can be permuted, where alignment measures it, and what stays as it is and why.

python alignment/show_permutations.py --model torchvision:resnet18
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import json

import torch

import models
from utils.errors import FileError, UserError, first_line
from utils.stages import process
from utils.stages.commands import REPOSITORY
from utils.stages.files import load_array, write_atomically
from utils.stages.layout import Layout
from utils.stages.loading import spec_of
from utils.stages.matches import row_labels
from utils.stages.parser import Parser, dataset_name, folder_path, name_part, network_name, positive_int, seed_number
from utils.symmetries.describing import describe, lines


def parse_args(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=network_name, default="TinyTen", help=f"architecture: {models.FORMS}")
    add("--num_classes", type=positive_int, default=10, help="classes for which the network is built")
    size_help = "side of the images on which the network is run"
    add("--image_size", dest="side", type=positive_int, default=32, help=size_help)
    add("--json", type=Path, metavar="FILE", help="write all of it there too (default: nowhere)")
    pair = "also show the correlations by layer of a match: "
    add("--seed_a", type=seed_number, help=pair + "network A (default: none)")
    add("--seed_b", type=seed_number, help=pair + "network B (default: none)")
    add("--dataset", type=dataset_name, default="FashionMNIST10k", help="on which they were measured")
    add("--alignment", type=name_part, default="corr", help="name of the match")
    add("--root", type=folder_path, default=REPOSITORY, help="folder under which results are found")
    args = parser.parse_args(argv)
    if (args.seed_a is None) != (args.seed_b is None):
        parser.error("--seed_a and --seed_b name a pair of networks together; one of them is missing")
    args.robust = False
    return args


def main(args):
    try:
        model = models.build(args.model, args.num_classes)
    except ValueError as error:
        raise UserError(f"--model: {error}", exit_code=2) from error
    example = torch.zeros(2, 3, args.side, args.side)
    try:
        with torch.no_grad():
            model.eval()(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        size = f"{args.side}×{args.side}"
        raise UserError(f"{args.model} does not run on images of {size} ({first_line(error)})") from error
    spec = spec_of(model, example)
    description = {"model": args.model, **describe(model.state_dict(), spec)}
    correlations = {}
    if args.seed_a is not None:
        layout = Layout(args.root, args.model, args.dataset)
        for which in ("unaligned", "aligned"):
            path = layout.correlation(args.alignment, which, args.seed_a, args.seed_b)
            correlations[which] = load_array(path)
            if len(correlations[which]) != len(row_labels(spec)):
                raise FileError(path, f"is not of {args.model} as it is now, which has other activations", "replace")
        description["correlations"] = {which: values.tolist() for which, values in correlations.items()}
    print(f"{args.model}, {sum(p.numel() for p in model.parameters()):,} parameters")
    for line in lines(description):
        print(line)
    if correlations:
        print("\nMean correlation of matched channels on the test set:")
        process.print_table(row_labels(spec), correlations)
    if args.json:
        text = json.dumps(description, indent=1)
        write_atomically(args.json, lambda stream: stream.write(text.encode()))
        process.closing_words([args.json])


if __name__ == "__main__":
    process.run(parse_args, main)
