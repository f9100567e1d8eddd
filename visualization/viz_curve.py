"""Draw evaluated curves: loss and accuracy along them, the loss' spectrum, and training of curves and networks.

python visualization/viz_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import numpy as np

import models
from utils.reports import figures, paths, results
from utils.stages import flags, process


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    parser = flags.results_parser(description, script, models, "show titles variants", robust=robust)
    return flags.parse_results(parser, argv)


def main(args):
    figures.run(args, functools.partial(draw, of_networks=not args.name))


def draw(layout, asked_for, missing, *, of_networks):
    """of_networks: training of the networks too, which is the same beside whatever paths a --name tells apart."""
    routes, pairs = paths.named(asked_for.by_name(layout)), asked_for.pairs
    evaluated = results.marked(results.load(results.load_path, routes, pairs, missing))
    if not evaluated:
        return []
    curves = [route for route in routes if not route.is_line and route in evaluated]
    learned = results.load(results.load_history, curves, pairs, missing)
    quantities = results.quantities(evaluated, robust=layout.robust)
    drawn = [along_curve(layout, evaluated, quantities)]
    if waves := having_spectra(evaluated):
        drawn.append(loss_spectrum(layout, waves))
    if learned:
        drawn.append(by_epoch(layout, learned, quantities))
    if trained := results.load_network_histories(layout, pairs, missing) if of_networks else {}:
        drawn.append(networks_by_epoch(layout, trained, quantities))
    return figures.showing(drawn, evaluated)


def having_spectra(evaluated):
    """The spectra of the paths that have them; a line is printed about those that have none, and why.

    Where all paths are evaluated at few points, as for a first look, nobody waits for spectra.
    """
    spectra, without = {}, {}
    if all(len(tables[0]["t"]) < results.SPECTRUM_POINTS for tables in evaluated.values()):
        return spectra
    for route, tables in evaluated.items():
        if reason := next(filter(None, map(results.no_spectrum, tables)), None):
            without.setdefault(reason, []).append(route)
        else:
            spectra[route] = [results.spectra(table, robust=route.layout.robust) for table in tables]
    for reason, those in without.items():
        words = "; ".join(route.words for route in those)
        print(f"{those[0].layout.model}: no spectrum of {words}: {reason}.")
    return spectra


def along_curve(layout, evaluated, quantities):
    """All of each quantity on an even scale; beside it the best values enlarged, where a line may hide others."""
    lines = sum(route.is_line for route in evaluated)
    enlarges = 0 < lines < len(evaluated) or lines > 2
    size = {"width": figures.WIDE if enlarges else figures.WIDTH, "height": 1.85 if len(quantities) < 3 else 1.5}
    figure, axes = figures.panels(len(quantities), 2 if enlarges else 1, sharex=True, **size)
    for row, (name, words) in zip(axes, quantities.items(), strict=True):
        values = {route: [table[name] for table in tables] for route, tables in evaluated.items()}
        for axis in row:
            for route, of_pairs in values.items():
                style = figures.line_style(route) | {"label": with_barrier(route, evaluated[route])}
                figures.draw(axis, evaluated[route][0]["t"], of_pairs, **style)
            if layout.robust and name.startswith("accuracy"):
                mark_robust(axis, name, evaluated)
            axis.set(xlim=(-0.02, 1.02))
        unit = "\n(" if layout.robust else " ("  # whose long words have it on a line of its own
        row[0].set(ylabel=f"test {words}".replace(" (", unit))
        if enlarges:
            drawn = [figures.reach(of_pairs) for of_pairs in values.values()]
            figures.enlarge(*row, drawn, high_is_good=not results.is_loss(name))
    for axis, title in zip(axes[0], ("all", "the grey part, enlarged") if enlarges else ("",), strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nA", "0.25", "0.5", "0.75", "1\nB"])
        axis.set(xlabel="position t on the path from network A to B")
    return figures.Drawing(figure, layout, "curve", "along the path", legend_columns=2 if enlarges else 1)


def with_barrier(route, tables):
    """A path in words, with the barrier of its loss, the mean over pairs; of robust networks clean and robust."""
    names = {"loss": "clean ", "loss_robust": "robust "} if route.layout.robust else {"loss": ""}
    barriers = {
        words: np.mean([results.summary(table, name)["barrier"] for table in tables]) for name, words in names.items()
    }
    return f"{route.words} (barrier\u00a0{', '.join(f'{words}{value:.2f}' for words, value in barriers.items())})"


def mark_robust(axis, name, evaluated):
    """Where robust accuracy, its mean over pairs, is lowest and highest on each path; and the more robust network."""
    for tables in evaluated.values():
        mean = {key: np.mean([table[key] for table in tables], axis=0) for key in ("t", "accuracy_robust", name)}
        places = {word: results.robust_places(mean)[f"at_{word}"] for word in ("lowest", "highest")}
        marks = {f"{word} robust accuracy": (mean["t"][at], mean[name][at]) for word, at in places.items()}
        figures.mark(axis, marks, "v^")
    better = [results.summary(table, name)["better"] for table in next(iter(evaluated.values()))]
    axis.axhline(np.mean(better), color="black", linestyle=":", linewidth=1, label="the more robust network")


def loss_spectrum(layout, spectra):
    losses = {name: words for name, words in results.QUANTITIES[layout.robust].items() if results.is_loss(name)}
    amplitude = "amplitude" if layout.robust else "amplitude × (k + 1)"
    figure, axes = figures.panels(len(losses), height=1.9, sharex=True)
    for axis, (name, words) in zip(axes.flat, losses.items(), strict=True):
        for route, of_pairs in spectra.items():
            amplitudes = [spectrum[name] for spectrum in of_pairs]
            figures.draw(axis, np.arange(1, len(amplitudes[0]) + 1), amplitudes, **figures.line_style(route))
        axis.set(ylabel=f"{words.removesuffix(' (cross-entropy)')}: {amplitude},\nof unit energy", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="frequency k (cycles on the whole path)")
    return figures.Drawing(figure, layout, "spectrum", "spectrum of the loss")


def epoch_panels(words):
    """A figure, and by name its panels over epochs, with these words at their axes."""
    figure, axes = figures.panels(len(words), sharex=True)
    for axis, label in zip(axes.flat, words.values(), strict=True):
        axis.set(ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="epoch")
    return figure, dict(zip(words, axes.flat, strict=True))


def by_epoch(layout, learned, quantities):
    kind = "robust training" if layout.robust else "training"
    names = [name for name in ("accuracy", "loss") if name in quantities]
    figure, axes = epoch_panels({name: f"{kind}\n{quantities[name].removeprefix('clean ')}" for name in names})
    for route, of_pairs in learned.items():
        for name, axis in axes.items():
            values = [history[f"{name}_train"][: route.epochs] for history in of_pairs]
            figures.draw(axis, np.arange(1, route.epochs + 1), values, **figures.line_style(route))
    return figures.Drawing(figure, layout, "training", "learning the curve")


def networks_by_epoch(layout, trained, quantities):
    """Training and test accuracy and loss of networks A and of networks B, which have their symbols of planes."""
    names = [name for name in ("accuracy", "loss") if name in next(iter(trained.values()))]
    figure, axes = epoch_panels({name: quantities.get(name, name).removeprefix("clean ") for name in names})
    for (end, kind), of_pairs in trained.items():
        colour, symbol = {"A": ("black", "o"), "B": ("#7A7A7A", "s")}[end]
        attacked = "attacked " if layout.robust and kind == "train" else ""
        style = {"color": colour, "marker": symbol, "label": f"{end}, {attacked}{results.SPLITS[kind]}"}
        style |= {"linestyle": "--", "markerfacecolor": "white"} if kind == "train" else {}
        for name, axis in axes.items():
            values = of_pairs[name]
            measured = np.isfinite(values).all(axis=0)  # not every epoch is tested
            figures.draw(axis, np.flatnonzero(measured) + 1, values[:, measured], **style)
    return figures.Drawing(figure, layout, "training_networks", "training the networks")


if __name__ == "__main__":
    process.run(parse_args, main)
