"""Align network B to network A by the correlation of their activations, and save the match.

python alignment/align_models.py --dataset CIFAR100 --model TinyTen --seed_a 1 --seed_b 2 --epochs 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from utils import checkpoint, cli
from utils.data import load_data
from utils.pair import align_networks, digests, layout_of, load_endpoint, row_labels, traced_spec
from utils.permutations import rows_from_permutations


def parse_args(argv=None, description=__doc__, model=None, method="corr"):
    parser = cli.stage_parser(description, batch_size=512, model=model)
    cli.add_pair_flags(parser)
    parser.add_argument("--epochs", type=cli.positive_int, default=250, help="epochs the networks were trained")
    parser.add_argument("--adversarial", action="store_true", help="align robust networks, in their own folders")
    parser.add_argument("--align_name", help="name of the match (default: corr, w2_post or w2_pre)")
    if method != "corr":
        parser.add_argument("--pre_act", action="store_true", help="compare what goes into the activation functions")
    parser.add_argument("--seed", type=cli.nonnegative_int, default=1, help="of torch's random numbers")
    cli.add_pair_folders(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a match that is there and is another")
    args = cli.parse(parser, argv)
    args.method = "w2_pre" if getattr(args, "pre_act", False) else method
    args.align_name = args.align_name or args.method
    return args


def main(args):
    torch.manual_seed(args.seed)
    layout = layout_of(args)
    data = load_data(args)
    network_a, network_b = networks = [
        load_endpoint(layout, args, data.num_classes, seed, args.epochs) for seed in (args.seed_a, args.seed_b)
    ]
    made_for = digests(networks)
    for network in networks:
        network.to(args.device, memory_format=torch.channels_last)
    spec = traced_spec(network_b)

    permutations, before, after = align_networks(network_a, network_b, spec, data, args.batch_size, args.method)
    seeds = (args.seed_a, args.seed_b)
    path = layout.match(args.align_name, *seeds)
    checkpoint.save_match(path, rows_from_permutations(spec, permutations), made_for, args.overwrite)
    print("Mean correlation of matched channels on the test set:")
    cli.print_table(row_labels(spec), {"unaligned": before, "aligned": after})
    files = [path]
    for which, values in (("unaligned", before), ("aligned", after)):
        files.append(layout.correlation(args.align_name, which, *seeds))
        checkpoint.save_array(files[-1], values)
    next_command = cli.command(
        "training/train_curve.py", args, "seed_a", "seed_b", epochs_model=args.epochs, alignment=args.align_name
    )
    cli.finish(files, next_command)


if __name__ == "__main__":
    cli.run(parse_args, main)
