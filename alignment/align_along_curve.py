"""Align a point of a path with the path's ends: do the networks along a curve do the same work neuron by neuron?

python alignment/align_along_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import copy
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import MODELS
from utils.cli import commands, flags, process
from utils.datasets import load_data
from utils.matching import align_on
from utils.measuring import reestimate_batch_norm
from utils.permutations import row_labels, rows_from_permutations
from utils.storage.layout import Layout, Variant
from utils.storage.loading import load_curve, spec_of
from utils.storage.matches import padded_rows
from utils.storage.tables import GrowingTable

WHICH = ("unaligned", "aligned")  # as the point is, and permuted to match the end


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, batch_size=512)
    flags.add_path_flags(parser)
    flags.add_evaluation_flags(parser)
    parser.add_argument("--point_t", type=flags.fraction, default=0.5, help="the point, from 0 at A to 1 at B")
    return flags.parse(parser, argv)


def main(args):
    replaced = {"models": args.dir_models, "matches": args.dir_alignment, "curves": args.dir_curves}
    layout = Layout(args.root, args.model, args.dataset, args.robust, replaced)
    data = load_data(
        args.dataset,
        folder=args.data_folder,
        transform=args.transform,
        use_test=args.use_test,
        threads=args.num_workers,
        device=args.device,
    )
    variant = Variant(args.seed, args.num_bends, args.curve)
    curve = load_curve(
        layout,
        partial(MODELS[args.model], data.num_classes),
        (args.seed_a, args.seed_b),
        args.epochs_model,
        args.epochs_curve,
        alignment=args.alignment,
        transform=args.transform,
        variant=variant,
    ).to(args.device)
    if args.compile:
        curve.compile()
    spec = spec_of(curve.base)
    path = layout.along_curve(args.alignment, args.seed_a, args.seed_b, args.epochs_curve, args.point_t, variant)
    table = GrowingTable(path, flags.evaluation_settings(vars(args), curve, "point_t"), args.overwrite)
    if not table.finished:
        for_batch_norm = data.for_batch_norm(args.bn_images)

        def network(t):
            """The network at t. The ends are points as any other, with batch-norm statistics estimated as theirs."""
            model = curve.place(t)
            reestimate_batch_norm(model, for_batch_norm, batch_size=args.batch_size, precision=args.precision)
            return copy.deepcopy(model)

        arrays = {}
        point = network(args.point_t)
        for end, t in (("a", 0.0), ("b", 1.0)):
            permutations, before, after = align_on(
                network(t), point, spec, data, batch_size=args.batch_size, method="corr"
            )
            arrays |= {f"unaligned_{end}": before, f"aligned_{end}": after}
            arrays[f"match_{end}"] = padded_rows(rows_from_permutations(spec, permutations))
        table.finish(**arrays)

    print(f"Mean correlation of channels at t = {args.point_t:g} with those of A and B on the test set:")
    columns = {f"{which} with {end.upper()}": table.arrays[f"{which}_{end}"] for end in "ab" for which in WHICH}
    process.print_table(row_labels(spec), columns)
    follows = {"epochs": args.epochs_curve, "point_t": args.point_t}
    script = "visualization/layerwise_mean_correlation/viz_align_along_curves.py"
    next_command = commands.command(script, vars(args), "seed_a", "seed_b", "alignment", **follows)
    process.closing_words([path], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
