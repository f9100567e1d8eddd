"""Draw evaluated curves: loss and accuracy along them, the loss' spectrum, and training by epoch.

python visualization/viz_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import cli, figures, results


def parse_args(argv=None, script=__file__, description=__doc__, adversarial=False):
    return results.parse(figures.parser(script, description, adversarial), argv)


def main(args):
    files = []
    for model in args.model:
        # All is read before anything is drawn, so that there is no figure where another is refused.
        paths = {s: results.load_paths(args, s) for s in results.series_of(args, model)}
        learned = {s: results.load_histories(args, s) for s in paths if not s.is_line}
        spectra = {s: results.spectra(args, s, tables) for s, tables in paths.items()}
        files += along_curve(args, model, paths)
        files += loss_spectrum(args, model, spectra)
        if learned:
            files += by_epoch(args, model, learned)
    figures.finish(args, files)


def along_curve(args, model, paths):
    quantities = results.quantities(args)
    figure, axes = figures.panels(len(quantities), height=1.9 if len(quantities) < 3 else 1.5, sharex=True)
    for axis, (name, words) in zip(axes.flat, quantities.items(), strict=True):
        for s, tables in paths.items():
            figures.draw(axis, tables[0]["t"], [table[name] for table in tables], **figures.line_style(args, s))
        axis.set(ylabel=label(args, f"test {words}"), xlim=(0, 1))
    axes[-1, 0].set(xlabel="position $t$ on the path from A to B")
    return figures.save(args, figure, "along the path", "curve", model)


def label(args, words):
    """The long words for robust networks have their unit on a line of its own."""
    return words.replace(" (", "\n(") if args.adversarial else words


def loss_spectrum(args, model, spectra):
    losses = [name for name in results.quantities(args) if name.startswith("loss")]
    figure, axes = figures.panels(len(losses), height=2.2, sharex=True)
    for axis, name in zip(axes.flat, losses, strict=True):
        for s, of_pairs in spectra.items():
            amplitudes = [spectrum[name] for spectrum in of_pairs]
            figures.draw(axis, np.arange(1, len(amplitudes[0]) + 1), amplitudes, **figures.line_style(args, s))
        words = results.quantities(args)[name].removesuffix(" (cross-entropy)")
        axis.set(ylabel=f"amplitude of {words}\n(cross-entropy)", yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="frequency (cycles on the whole path)")
    return figures.save(args, figure, "spectrum of the loss", "spectrum", model)


def by_epoch(args, model, learned):
    figure, axes = figures.panels(2, sharex=True)
    for s, histories in learned.items():
        for axis, quantity in zip(axes.flat, ("accuracy_train", "loss_train"), strict=True):
            values = [history[quantity][: s.epochs] for history in histories]
            figures.draw(axis, np.arange(1, s.epochs + 1), values, **figures.line_style(args, s))
    words = "robust training" if args.adversarial else "training"
    for axis, quantity in zip(axes.flat, ("accuracy (%)", "loss (cross-entropy)"), strict=True):
        axis.set(ylabel=label(args, f"{words} {quantity}"))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="epoch")
    return figures.save(args, figure, "learning the curve", "training", model)


if __name__ == "__main__":
    cli.run(parse_args, main)
