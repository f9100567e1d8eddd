"""Evaluate a curve: loss and accuracy on the test set at equally spaced points from network A to network B.

python evaluation/eval_curve.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 250
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import numpy as np

import models
from utils.curves import batch_norm_layers
from utils.losses import CLASSES
from utils.measuring import evaluate_ensemble, evaluate_path, measure
from utils.repairing import renormalizer
from utils.reports.results import CHOSEN_BY, is_loss, robust_places, summary
from utils.stages import flags, hints, process
from utils.stages.flags import at_least_two, true_or_false
from utils.stages.runs import GrowingTable, write_csv


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    parser = flags.stage_parser(description, script, models, flags.PATH + (" attack" if robust else ""))
    parser.evaluation("--num_points", at_least_two, 65, "points evaluated, the two ends included", outcome=True)
    parser.set_defaults(ensemble=None)
    if not robust:
        ensemble_help = "evaluate the ensemble of so many equally spaced points too (default: none)"
        parser.evaluation("--ensemble", at_least_two, None, ensemble_help, metavar="POINTS")
    taken, train_help = {"nargs": "?", "const": True, "metavar": "True"}, "on training images too, not augmented"
    parser.evaluation("--eval_train", true_or_false, False, train_help, outcome=True, **taken)
    parser.add_unused("--lr", "nothing is learned here")
    args = flags.parse(parser, argv)
    if args.ensemble and args.task not in CLASSES:
        parser.error(f"--ensemble: means of probabilities are for {', '.join(CLASSES)}, not for --task {args.task}")
    return args


def main(args):
    named = args.alignment, *args.seeds, args.epochs_curve
    path = args.layout.evaluated(*named, args.variant)
    data, curve, record = flags.load_path(args, path, writes=bool(args.ensemble))
    images = data.for_batch_norm(args.bn_images)
    table = GrowingTable(path, record, overwrite=args.overwrite)
    size, precision = args.batch_size, args.precision
    renormalizing = partial(renormalizer, curve, images, batch_size=size, precision=precision)
    if not table.finished:
        splits = {"": data.test, "_train": data.train} if args.eval_train else {"": data.test}
        if args.robust and (not len(table) or CHOSEN_BY in table.arrays):  # tables from before lack it
            splits["_held_out"] = data.held_out
        at = partial(measure, splits=splits, loss=data.task, batch_size=size, precision=precision)
        repair = renormalizing(repaired=True) if args.repair else None
        measured = measuring(curve, images, at, repair, args.attack)
        ts, done = np.linspace(0, 1, args.num_points), len(table)
        length = table.arrays["length"][-1] if done else 0.0
        for row in evaluate_path(curve, ts, measured, done=done, length=length):
            table.add(**row)
        table.finish()
    files = [path, path.with_suffix(".csv")]
    shown = with_perplexity(table.arrays, args.task)
    write_csv(files[-1], shown)
    print_summary(shown, args.robust)
    if "chosen" in (places := robust_places(table.arrays)):
        t, accuracy = (table.arrays[name][places["chosen"]] for name in ("t", "accuracy_robust"))
        print(f"Most robust on held-out training images: t = {t:.3f}, {accuracy:.1f} % robust on the test set.")
    if args.ensemble:
        path = args.layout.ensemble(*named, args.ensemble, args.variant)
        together = GrowingTable(path, record.without("num_points", "eval_train"), overwrite=args.overwrite)
        if not together.finished:
            ts, renormalize = np.linspace(0, 1, args.ensemble), renormalizing(repaired=args.repair)
            of_all = partial(evaluate_ensemble, loss=args.task, batch_size=size, precision=precision)
            together.finish(**of_all(curve, ts, renormalize, data.test, data.held_out))
        files += [path, path.with_suffix(".csv")]
        shown = with_perplexity(together.arrays, args.task)
        write_csv(files[-1], shown)
        print_ensemble(shown)
    next_command = hints.command(args.here, "visualization/viz_curve.py", flags.drawn(args))
    hints.closing_words(args.here, files, next_command)


def measuring(curve, images, at, repair, attack):
    """What `at` measures of the network at point t, given it and t, in each way in which it can be evaluated."""
    # Only on a line do statistics between those of the ends have a meaning; attacks would double the time.
    interpolates = curve.num_bends == 2 and batch_norm_layers(curve.base) and not attack

    def measured(model, t):
        metrics = at(model, for_batch_norm=images, attack=attack)
        if interpolates:
            curve.place_statistics(model, t)
            metrics |= at(model, way="_interpolated")
        if repair:
            repair(model, t)
            metrics |= at(model, way="_repaired")
        return metrics

    return measured


def with_perplexity(arrays, task):
    """Of language, the perplexity beside each loss in nats: how many equally likely tokens would be as uncertain."""
    if task != "language":
        return arrays
    return arrays | {name.replace("loss", "perplexity"): np.exp(arrays[name]) for name in arrays if is_loss(name)}


def print_summary(arrays, robust):
    """What there is to say of a path in a few numbers, a line for each loss, accuracy or other metric."""
    columns = {"ends": "endpoints", "average": "average", "minimum": "minimum", "maximum": "maximum"}
    columns |= {"barrier": "barrier"} | ({"better": "more robust end"} if robust else {})
    print(f"{'':<24}" + "".join(f"{words:>17}" for words in columns.values()))
    of_points = {name for name, values in arrays.items() if values.shape == arrays["t"].shape} - {"t", "length"}
    for name in sorted(of_points):
        numbers = summary(arrays, name)
        is_share = name.startswith("accuracy")
        if not is_share and not is_loss(name):  # whether more or less of it is good is not known
            del numbers["barrier"]
        unit = "15.1f" if is_share else "17.4f"
        cells = (f"{numbers[one]:{unit}}{' %' * is_share}" for one in columns if one in numbers)
        print(f"{name.replace('_', ' '):<24}" + "".join(cells))


BARE = ("loss", "perplexity")  # the other columns are percent


def print_ensemble(arrays):
    """The best point, and the ensembles of the ends and of all points, a line each."""
    columns = {"accuracy": "accuracy", "calibration_error": "calibration error", "loss": "loss"}
    columns |= {"perplexity": "perplexity"} if "perplexity" in arrays else {}
    print(f"{'':<24}" + "".join(f"{words:>20}" for words in columns.values()))
    points = int(np.sum(arrays["what"] == "point"))
    for row in range(points, len(arrays["what"])):
        what, t = arrays["what"][row], arrays["t"][row]
        words = {"best point": f"best point, t = {t:.3f}", "ends": "ensemble of the ends"}
        cells = (f"{arrays[name][row]:{'20.4f' if name in BARE else '18.1f'}}" for name in columns)
        units = ("" if name in BARE else " %" for name in columns)
        print(
            f"{words.get(what, f'ensemble of {points}'):<24}" + "".join(map("".join, zip(cells, units, strict=True)))
        )


if __name__ == "__main__":
    process.run(parse_args, main)
