"""Draw loss and accuracy along evaluated curves, and by epoch while the curves were learned.

python visualization/viz_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib.pyplot as plt
import numpy as np

from utils import checkpoint, cli, figures, results


def parse_args(argv=None):
    parser = results.results_parser(__doc__)
    parser.add_argument("--show", action="store_true", help="open the figures in a window too")
    return results.parse(parser, argv)


def main(args):
    files = []
    for model in args.model:
        series = results.series_of(args, model)
        files += along_curve(args, model, series)
        learned = [s for s in series if not s.is_line]
        if learned:
            files += by_epoch(args, model, learned)
    cli.finish(files)
    if args.show:
        plt.show()


def along_curve(args, model, series):
    figure, axes = figures.panels(2)
    for s in series:
        tables = results.load_series(args, s)
        style = figures.line_style(args, s)
        for axis, quantity in zip(axes, ("accuracy", "loss"), strict=True):
            figures.draw(axis, tables[0]["t"], np.stack([table[quantity] for table in tables]), **style)
    for axis, label in zip(axes, ("test accuracy (%)", "test loss (cross-entropy)"), strict=True):
        axis.set(xlabel="position $t$ on the path from A to B", ylabel=label, xlim=(0, 1))
    return figures.finish(args, figure, axes, f"{model} on {args.dataset}", f"curve_{args.dataset}_{model}")


def by_epoch(args, model, series):
    figure, axes = figures.panels(2)
    layout = checkpoint.Layout(args.root, model, args.dataset)
    for s in series:
        histories = []
        for pair in zip(args.seed_a, args.seed_b, strict=True):
            path = layout.curve_history(s.alignment, *pair)
            maker = results.train_command(args, s, *pair)
            histories.append(checkpoint.load_arrays(path, maker, "loss_train", "accuracy_train"))
        style = figures.line_style(args, s)
        for axis, quantity in zip(axes, ("accuracy_train", "loss_train"), strict=True):
            values = np.stack([history[quantity][: s.epochs] for history in histories])
            figures.draw(axis, np.arange(1, values.shape[1] + 1), values, **style)
    for axis, label in zip(axes, ("training accuracy (%)", "training loss (cross-entropy)"), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    title = f"Learning the curve: {model} on {args.dataset}"
    return figures.finish(args, figure, axes, title, f"training_{args.dataset}_{model}")


if __name__ == "__main__":
    cli.run(parse_args, main)
