"""Align network B to network A, by the correlation of their activations or otherwise, and save the match.

python alignment/align_models.py --dataset CIFAR100 --model TinyTen --seed_a 1 --seed_b 2 --epochs 250
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from utils.stages import start

start.quietly()

import torch

import models
from utils.curves import network_digest
from utils.devices import memory_format
from utils.matching import (
    METHODS,
    TO,
    align,
    attacked,
    cross_correlations,
    cross_moments,
    mean_correlations,
    mean_distances,
)
from utils.permutations import permute
from utils.progress import track
from utils.stages import flags, hints, process
from utils.stages.data import ALIGNMENT_IMAGES
from utils.stages.files import expect, expect_writable, save_array
from utils.stages.flags import name_part, new_match, positive_int, seed_number, true_or_false
from utils.stages.loading import load_alignment, load_endpoints, spec_of
from utils.stages.machine import cost
from utils.stages.matches import row_labels, rows_from_permutations, save_match, save_matrices
from utils.stages.parser import NEW
from utils.stages.records import behind


def parse_args(argv=None, description=__doc__, script=__file__, model=None, method="corr"):
    parser = flags.stage_parser(description, script, models, "pair trained", model=model)
    robust_help = "align robust networks, in their own folders; GoogLeNets on attacked images"
    parser.networks("--adversarial", bool, False, robust_help, dest="robust")
    parser.alignment("--align_name", new_match, None, "name of the match (default: that of the method)")
    parser.set_defaults(init=None)
    if method == "corr":
        parser.alignment("--method", METHODS, method, "what is compared", outcome=True)
        init_help = "name of a match with which --method weight begins (default: none)"
        parser.alignment("--init", name_part, None, init_help, outcome=True)
    else:
        # Published so: what the flag does is the opposite of what it says.
        help_text = "compare activations themselves, and not what goes into the activation functions"
        parser.alignment("--pre_act", action="store_false", help=help_text, outcome=True)
    images_help = "compare activations on so many training images; unless the default, part of the match's name"
    parser.alignment("--align_images", positive_int, ALIGNMENT_IMAGES, images_help, outcome=NEW)
    parser.networks("--seed", seed_number, 1, "of random orders and permutations", outcome=True)
    rotations_help = "besides, rotate units where the network allows it (--method weight or corr)"
    parser.alignment("--rotations", bool, False, rotations_help, outcome=NEW)
    matrices_help = "also keep how every two channels correlate, which viz_align_models.py draws"
    parser.alignment("--matrices", bool, False, matrices_help)
    given = {"type": true_or_false, "nargs": "?", "const": True, "default": argparse.SUPPRESS}
    parser.add_argument("--adv_flag", dest="robust", help=argparse.SUPPRESS, **given)
    parser.files("--overwrite", bool, False, "replace a match that is there and is another")
    args = flags.parse(parser, argv, fp32_only=True)
    if args.robust and args.model == "GoogLeNet":  # as published, for this network alone
        args.attack = flags.published_attack(args.dataset)
    if method == "w2_pre":
        args.method = "w2_pre" if args.pre_act else "w2_post"
    if args.init and not METHODS[args.method].begins_with_a_match:
        parser.error(f"--init {args.init} is for --method weight; {args.method} does not begin with a match")
    usual = f"{args.method}_rotations" if args.rotations else args.method
    if args.align_images != ALIGNMENT_IMAGES:
        usual += f"_{args.align_images}"
    if args.rotations and (args.method not in ("weight", "corr") or args.init or args.matrices):
        parser.error("--rotations are found by --method weight or corr, without --init and --matrices")
    return flags.name_match(parser, args, usual, METHODS, TO)


def main(args):
    torch.manual_seed(args.seed)
    layout, seeds = args.layout, args.seeds
    expect(*behind(layout, seeds, args.epochs, args.init or "").values())
    expect_writable(layout.folder("matches"), layout.folder("correlations"))
    data = args.load()
    networks = load_endpoints(args.build, layout, data, seeds, args.epochs)
    for network in networks:
        network.to(args.device, memory_format=memory_format(args.device))
    spec, start = spec_of(networks[1], data.example, rotations=args.rotations), None
    if args.init:
        match = behind(layout, seeds, args.epochs, args.init)["match"]
        _, start = load_alignment(match, networks, spec=spec)

    def batches(images, purpose):
        return track(images.batches(args.batch_size), images.steps(args.batch_size), "batch", purpose)

    images = data.train.some(args.align_images)
    compared = batches(images, "comparing activations")
    if args.attack is not None:
        compared = attacked(compared, networks, images, args.attack)
    with cost(data.test.device) as taken:
        permutations = align(
            *networks, spec, compared, method=args.method, seed=args.seed, start=start, rotations=args.rotations
        )
    made_for = [network_digest(network) for network in networks]
    matrices = cross_correlations(*networks, spec, batches(data.test, "measuring on test images"))
    before = mean_correlations(spec, matrices, spec.identity())
    if args.rotations:
        for network, order in zip(networks, (spec.identity(), permutations), strict=True):
            network.load_state_dict(permute(network.state_dict(), spec, order))
        matched = cross_correlations(*networks, spec, batches(data.test, "measuring on test images"))
        after = mean_correlations(spec, matched, spec.identity())
    else:
        after = mean_correlations(spec, matrices, permutations)
    measured = {layout.correlation(args.align_name, "unaligned", *seeds): before}
    measured |= {layout.correlation(args.align_name, "aligned", *seeds): after}
    if distance := METHODS[args.method].distance:
        moments = cross_moments(*networks, spec, data.test.batches(args.batch_size), before=distance.before)
        for which, order in (("unaligned", spec.identity()), ("aligned", permutations)):
            measured[layout.distance(args.align_name, which, *seeds)] = mean_distances(spec, moments, order)
    path, of_channels = (named(args.align_name, *seeds) for named in (layout.match, layout.matrices))
    made_from = behind(layout, seeds, args.epochs, args.init or "")
    record = args.record.having(method=args.method).of(made_from, images=data.digest)
    replaced = [*measured, of_channels]
    stored = record.at(path).stored()
    save_match(path, spec, permutations, made_for, overwrite=args.overwrite, replaces=replaced, record=stored)
    record = replace(record.of(behind(layout, seeds, args.epochs, args.align_name)), cost=taken)
    for file, values in measured.items():
        save_array(file, values, {"networks": made_for, "record": record.at(file).stored()})
    if args.matrices:
        rows, stored = rows_from_permutations(spec, permutations), record.at(of_channels).stored()
        save_matrices(of_channels, row_labels(spec)[:-1], matrices[:-1], rows, stored)
    print("Mean correlation of matched channels on the test set:")
    process.print_table(row_labels(spec), {"unaligned": before, "aligned": after})
    curve = {"seed_a": args.seed_a, "seed_b": args.seed_b, "epochs_model": args.epochs, "alignment": args.align_name}
    next_command = hints.command(args.here, "training/train_curve.py", curve)
    hints.closing_words(args.here, [path, *measured, *([of_channels] if args.matrices else [])], next_command)


if __name__ == "__main__":
    process.run(parse_args, main)
