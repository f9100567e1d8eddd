"""Draw loss and accuracy along evaluated curves, and by epoch while the curves were learned.

python visualization/viz_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib.pyplot as plt
import numpy as np

from utils import checkpoint, cli, figures, results
from utils.errors import UserError


def parse_args(argv=None, description=__doc__, adversarial=False):
    parser = results.results_parser(description, adversarial)
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
    accuracies = results.accuracies(args)
    figure, axes = figures.panels(len(accuracies), 2)
    for s in series:
        tables = results.load_series(args, s)
        style = figures.line_style(args, s)
        for axis, name in zip(axes.T.flat, quantities(accuracies), strict=True):
            figures.draw(axis, tables[0]["t"], np.stack([table[name] for table in tables]), **style)
    for (left, right), words in zip(axes, accuracies.values(), strict=True):
        left.set(ylabel=f"test {words} (%)")
        right.set(ylabel=f"test {words.replace('accuracy', 'loss')} (cross-entropy)")
    for axis in axes.flat:
        axis.set(xlabel="position $t$ on the path from A to B", xlim=(0, 1))
    return figures.finish(args, figure, axes.flat, f"{model} on {args.dataset}", "curve", model)


def quantities(accuracies):
    """Accuracies, then losses: the columns of the figure."""
    return [*accuracies, *(name.replace("accuracy", "loss") for name in accuracies)]


def by_epoch(args, model, series):
    figure, axes = figures.panels(1, 2)
    layout = checkpoint.Layout(args.root, model, args.dataset, args.adversarial)
    for s in series:
        histories = []
        for pair in zip(args.seed_a, args.seed_b, strict=True):
            path = layout.curve_history(s.alignment, *pair)
            maker = results.train_command(args, s, *pair)
            histories.append(checkpoint.load_arrays(path, maker, "loss_train", "accuracy_train"))
            if len(histories[-1]["loss_train"]) < s.epochs:
                raise UserError(f"{path} has fewer than {s.epochs} epochs; make it with: {maker} --resume")
        style = figures.line_style(args, s)
        for axis, quantity in zip(axes.flat, ("accuracy_train", "loss_train"), strict=True):
            values = np.stack([history[quantity][: s.epochs] for history in histories])
            figures.draw(axis, np.arange(1, values.shape[1] + 1), values, **style)
    for axis, label in zip(axes.flat, ("training accuracy (%)", "training loss (cross-entropy)"), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    title = f"Learning the curve: {model} on {args.dataset}"
    return figures.finish(args, figure, axes.flat, title, "training", model)


if __name__ == "__main__":
    cli.run(parse_args, main)
