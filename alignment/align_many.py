"""Align many networks with each other, save the match of every two, and evaluate their mean.

python alignment/align_many.py --dataset CIFAR100 --model TinyTen --seeds 1 2 3 --to universe --epochs 250
"""

import copy
import itertools
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from utils.stages import start

start.quietly()

import models
from utils.curves import network_digest
from utils.devices import memory_format
from utils.matching import (
    METHODS,
    METHODS_OF_MANY,
    TO,
    align_many,
    correlations_before_and_after,
    mean_state,
    pairwise,
)
from utils.measuring import measure
from utils.permutations import permute
from utils.progress import track
from utils.repairing import repairer
from utils.stages import flags, hints, process
from utils.stages.files import expect, expect_writable, save_array
from utils.stages.flags import new_match, positive_int, seed_number
from utils.stages.loading import load_endpoints, spec_of
from utils.stages.matches import save_match
from utils.stages.records import behind


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, "trained")
    parser.networks("--seeds", seed_number, [1, 2], "seeds of the networks", nargs="+", outcome=True)
    method_help = "what is compared: activations or weights"
    parser.alignment("--method", METHODS_OF_MANY, "corr", method_help, outcome=True)
    to_help = "match each network to the first, or to what all have in common"
    parser.alignment("--to", TO, "universe", to_help, outcome=True)
    name_help = "name of the matches (default: that of --to and of the method, as universe_corr)"
    parser.alignment("--align_name", new_match, None, name_help)
    parser.networks("--adversarial", bool, False, "align robust networks, in their own folders", dest="robust")
    parser.networks("--seed", seed_number, 1, "of random orders", outcome=True)
    parser.evaluation("--bn_images", positive_int, None, "training images for batch norm (default: all)")
    repair_help = "let activations of the means vary as those of the networks (REPAIR)"
    parser.evaluation("--repair", bool, False, repair_help)
    parser.files("--overwrite", bool, False, "replace matches that are there and are others")
    args = flags.parse(parser, argv, fp32_only=True)
    if len(args.seeds) < 2 or len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds names too few networks, or one twice: at least two different ones are aligned")
    if args.robust and args.model == "GoogLeNet" and args.method == "corr":
        parser.error("--adversarial: robust GoogLeNets are aligned in pairs, on images attacked for each of the two")
    usual = f"{args.to}_{args.method}"
    return flags.name_match(parser, args, usual, METHODS, TO)


def main(args):
    layout = args.layout
    expect(*(layout.endpoint(seed, args.epochs) for seed in args.seeds))
    expect_writable(layout.folder("matches"), layout.folder("correlations"))
    data = args.load()
    networks, made_for = {}, {}
    loaded = load_endpoints(args.build, layout, data, args.seeds, args.epochs)
    for seed, network in zip(args.seeds, loaded, strict=True):
        networks[seed] = network
        made_for[seed] = network_digest(network)
        network.to(args.device, memory_format=memory_format(args.device))
    spec = spec_of(network, data.example)

    def batches(images, purpose):
        return track(images.batches(args.batch_size), images.steps(args.batch_size), "batch", purpose)

    compared = partial(batches, data.alignment, "comparing activations")
    of_each = align_many([*networks.values()], spec, compared, method=args.method, to=args.to, seed=args.seed)
    found = dict(zip(args.seeds, of_each, strict=True))

    record = args.record.of(images=data.digest)
    written, means = [], {}
    for a, b in itertools.combinations(sorted(args.seeds), 2):
        permutations = pairwise(spec, found[a], found[b])
        on_test = batches(data.test, "measuring on test images")
        measured = correlations_before_and_after(networks[a], networks[b], spec, permutations, on_test)
        results = {layout.correlation(args.align_name, which, a, b): values for which, values in measured.items()}
        path, pair = layout.match(args.align_name, a, b), [made_for[a], made_for[b]]
        replaced = [*results, layout.matrices(args.align_name, a, b)]
        stored = record.at(path).stored()
        save_match(path, spec, permutations, pair, overwrite=args.overwrite, replaces=replaced, record=stored)
        made_from = record.of(behind(layout, (a, b), args.epochs, args.align_name))
        for file, values in results.items():
            save_array(file, values, {"networks": pair, "record": made_from.at(file).stored()})
        written += [path, *results]
        means[f"{a} and {b}"] = {which: values[:-1].mean() for which, values in measured.items()}
    print("Mean correlation of matched channels on the test set, over all layers but the logits:")
    print_rows(means, of="networks")

    states = {seed: copy.deepcopy(network.state_dict()) for seed, network in networks.items()}
    aligned = [permute(state, spec, found[seed]) for seed, state in states.items()]
    images = data.for_batch_norm(args.bn_images)
    size, precision = args.batch_size, args.precision

    def placed(state):
        network.load_state_dict(state)
        return network

    def evaluated(ends):
        """The mean of networks, or one."""
        repair = None
        if args.repair and len(ends) > 1:
            repair = repairer(map(placed, ends), images, batch_size=size, precision=precision)
        mean = placed(mean_state(ends))
        if repair:
            repair(mean, [1 / len(ends)] * len(ends))
        on = {"": data.test}
        return measure(mean, on, for_batch_norm=images, loss=data.task, batch_size=size, precision=precision)

    rows = {f"network {seed}": evaluated([state]) for seed, state in states.items()}
    rows |= {"mean, unaligned": evaluated([*states.values()]), "mean, aligned": evaluated(aligned)}
    print("On the test set, with batch norm re-estimated:")
    print_rows(rows, of="network")
    a, b = sorted(args.seeds)[:2]
    follows = {"seed_a": a, "seed_b": b, "epochs_model": args.epochs, "alignment": args.align_name}
    hints.closing_words(args.here, written, hints.command(args.here, "training/train_curve.py", follows))


def print_rows(rows, of):
    """A table of numbers by the name of the row, and of the column."""
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    process.print_table(list(rows), columns, of)


if __name__ == "__main__":
    process.run(parse_args, main)
