"""Align a point of a path with the path's ends: do the networks along a curve do the same work neuron by neuron?

python alignment/align_along_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import models
from utils.matching import align, cross_correlations, each_by_itself, mean_correlations, unheard_apart
from utils.progress import track
from utils.repairing import renormalizer
from utils.stages import flags, hints, process
from utils.stages.flags import fraction
from utils.stages.loading import spec_of
from utils.stages.matches import padded_rows, row_labels, rows_from_permutations
from utils.stages.runs import GrowingTable

# As the point is; permuted to match the end; and with each activation matched on its own, where some share a stream
WHICH = ("unaligned", "aligned", "noid")


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, flags.PATH)
    parser.networks("--point_t", fraction, 0.5, "the point, from 0 at A to 1 at B", outcome=True)
    return flags.parse(parser, argv, fp32_only=True)


def main(args):
    named = args.alignment, *args.seeds, args.epochs_curve
    path = args.layout.along_curve(*named, args.point_t, args.variant)
    data, curve, record = flags.load_path(args, path)
    spec = spec_of(curve.base, data.example)
    # Correlations along curves were measured on other images before.
    record = record.having(before={"measured_on": "test images"}, measured_on="alignment images")
    tied = unheard_apart(spec)
    if tied is not None:  # as published; before, those that are not heard had the order of those that are
        record = record.having(before={"unheard": "as the others"}, unheard="by themselves")
    table = GrowingTable(path, record, overwrite=args.overwrite)
    if not table.finished:
        images = data.for_batch_norm(args.bn_images)
        size, precision = args.batch_size, args.precision
        renormalize = renormalizer(curve, images, repaired=args.repair, batch_size=size, precision=precision)

        def network(t):
            """The network at t. The ends are points as any other, with batch-norm statistics estimated as theirs."""
            model = curve.place(t)
            renormalize(model, t)
            return copy.deepcopy(model)

        arrays = {}
        point = network(args.point_t)
        for end, t in (("a", 0.0), ("b", 1.0)):
            compared = compare(network(t), point, tied or spec, data.alignment, args.batch_size)
            arrays |= {f"{name}_{end}": values for name, values in compared.items()}
        table.finish(**arrays)

    print(f"Mean correlation of channels at t = {args.point_t:g} with those of A and B on the alignment images:")
    which = [name for name in WHICH if f"{name}_a" in table.arrays]
    columns = {f"{name} with {end.upper()}": table.arrays[f"{name}_{end}"] for end in "ab" for name in which}
    process.print_table(row_labels(spec), columns)
    script = "visualization/layerwise_mean_correlation/viz_align_along_curves.py"
    next_command = hints.command(args.here, script, flags.drawn(args) | {"point_t": args.point_t})
    hints.closing_words(args.here, [path], next_command)


def compare(end, point, spec, images, batch_size):
    """Mean correlations of matched channels, the logits last, by WHICH; and the matches, as padded rows.

    All on `images`, on which the point was matched to the end, too.
    """

    def batches(purpose):
        return track(images.batches(batch_size), images.steps(batch_size), "batch", purpose)

    correlations = cross_correlations(end, point, spec, batches("measuring correlations"))
    results = {"unaligned": mean_correlations(spec, correlations, spec.identity())}
    for name, suffix, tied in (("aligned", "", spec), ("noid", "_noid", each_by_itself(spec))):
        if tied is not None:
            permutations = align(end, point, tied, batches("comparing activations"))
            results[name] = mean_correlations(tied, correlations, permutations)
            results[f"match{suffix}"] = padded_rows(rows_from_permutations(tied, permutations))
    return results


if __name__ == "__main__":
    process.run(parse_args, main)
