"""Align a point of a path with the path's ends: do the networks along a curve do the same work neuron by neuron?

python alignment/align_along_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import cli, evaluation
from utils.checkpoint import padded_rows
from utils.data import load_data
from utils.pair import align_networks, layout_of, load_curve, row_labels, traced_spec
from utils.permutations import rows_from_permutations

WHICH = ("unaligned", "aligned")  # as the point is, and permuted to match the end


def parse_args(argv=None):
    parser = cli.stage_parser(__doc__, batch_size=512)
    cli.add_path_flags(parser)
    cli.add_evaluation_flags(parser)
    parser.add_argument("--point_t", type=cli.fraction, default=0.5, help="the point, from 0 at A to 1 at B")
    return cli.parse(parser, argv)


def main(args):
    layout = layout_of(args, curves=args.dir_curves)
    data = load_data(args)
    curve = load_curve(layout, args, data.num_classes).to(args.device)
    spec = traced_spec(curve.base)
    path = layout.along_curve(args.alignment, args.seed_a, args.seed_b, args.epochs_curve, args.point_t)
    results = evaluation.open_results(path, args, curve, "point_t")
    if not results.finished:

        def network(t):
            """The network at t. The ends are points as any other, with batch-norm statistics estimated as theirs."""
            model = curve.place(t)
            images = data.for_batch_norm(args.bn_images)
            evaluation.reestimate_batch_norm(model, images, args.batch_size, args.precision)
            return copy.deepcopy(model)

        arrays = {}
        point = network(args.point_t)
        for end, t in (("a", 0.0), ("b", 1.0)):
            permutations, before, after = align_networks(network(t), point, spec, data, args.batch_size)
            arrays |= {f"unaligned_{end}": before, f"aligned_{end}": after}
            arrays[f"match_{end}"] = padded_rows(rows_from_permutations(spec, permutations))
        results.finish(**arrays)

    table = results.arrays
    print(f"Mean correlation of channels at t = {args.point_t:g} with those of A and B on the test set:")
    columns = {f"{which} with {end.upper()}": table[f"{which}_{end}"] for end in "ab" for which in WHICH}
    cli.print_table(row_labels(spec), columns)
    flags = {"epochs": args.epochs_curve, "point_t": args.point_t}
    command = "visualization/layerwise_mean_correlation/viz_align_along_curves.py"
    cli.finish([path], cli.command(command, args, "seed_a", "seed_b", "alignment", **flags))


if __name__ == "__main__":
    cli.run(parse_args, main)
