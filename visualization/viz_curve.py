"""Draw evaluated curves: loss and accuracy along them, the loss' spectrum, and training of curves and networks.

python visualization/viz_curve.py --dataset CIFAR100 --seed_a 1 3 5 --seed_b 2 4 6 --epochs 0 250
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import numpy as np

import models
from utils.reports import drawing, figures, paths, results
from utils.stages import flags, process


def parse_args(argv=None, description=__doc__, script=__file__, robust=False):
    parser = flags.results_parser(description, models, robust=robust)
    flags.add_figure_flags(parser)
    flags.add_variant_flags(parser)
    return flags.parse_results(parser, argv, script=script)


def main(args):
    drawing.run(args, draw)


def draw(layout, asked_for, missing):
    routes = paths.named(asked_for.by_name(layout))
    evaluated = results.load_there(routes, asked_for.pairs, results.load_paths, missing)
    if not evaluated:
        return []
    curves = [route for route in routes if not route.is_line and route in evaluated]
    learned = results.load_there(curves, asked_for.pairs, results.load_histories, missing)
    drawn = [along_curve(layout, evaluated)]
    if waves := having_spectra(evaluated):
        drawn.append(loss_spectrum(layout, waves))
    if learned:
        drawn.append(by_epoch(layout, learned))
    if trained := results.load_network_histories(layout, asked_for.pairs, missing):
        drawn.append(networks_by_epoch(layout, trained))
    return figures.showing(drawn, results.files_of(evaluated))


def having_spectra(evaluated):
    """The spectra of the paths that have them; a line is printed about those that have none, and why."""
    spectra, without = {}, {}
    for route, tables in evaluated.items():
        if reason := next(filter(None, map(results.no_spectrum, tables)), None):
            without.setdefault(reason, []).append(route)
        else:
            spectra[route] = results.spectra(route, tables)
    for reason, those in without.items():
        words = "; ".join(route.words for route in those)
        print(f"{those[0].layout.model}: no spectrum of {words}: {reason}.")
    return spectra


def along_curve(layout, evaluated):
    other = figures.say_images(layout, evaluated)
    quantities = results.quantities(layout.robust)
    figure, axes = figures.panels(len(quantities), height=1.75 if len(quantities) < 3 else 1.5, sharex=True)
    for axis, (name, words) in zip(axes.flat, quantities.items(), strict=True):
        for route, tables in evaluated.items():
            style = figures.line_style(route) | {"label": with_barrier(route, tables)}
            figures.draw(axis, tables[0]["t"], [table[name] for table in tables], **style)
        if layout.robust and name.startswith("accuracy"):
            mark_robust(axis, name, evaluated)
        axis.set(ylabel=label(f"test {words}", layout.robust), xlim=(-0.02, 1.02))
        drawn = {route: figures.reach([table[name] for table in tables]) for route, tables in evaluated.items()}
        curves = [ends for route, ends in drawn.items() if not route.is_line]
        figures.press_far_values(axis, curves, [ends for route, ends in drawn.items() if route.is_line])
    axes[-1, 0].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nA", "0.25", "0.5", "0.75", "1\nB"])
    axes[-1, 0].set(xlabel="position $t$ on the path from network A to B")
    return figures.Drawing(figure, layout, "curve", f"along the path{other}", legend_columns=1)


def with_barrier(route, tables):
    """A path in words, with the barrier of its loss, the mean over pairs; of robust networks clean and robust."""
    losses = [name for name in results.quantities(route.layout.robust) if results.is_loss(name)]
    barriers = (np.mean([results.summary(table, name)["barrier"] for table in tables]) for name in losses)
    return f"{route.words} (barrier\u00a0{', '.join(f'{value:.2f}' for value in barriers)})"


def mark_robust(axis, name, evaluated):
    """Where robust accuracy, its mean over pairs, is lowest and highest on each path; and the more robust network."""
    for tables in evaluated.values():
        places = results.robust_places(np.mean([table["accuracy_robust"] for table in tables], axis=0))
        marks = {f"{word} robust accuracy": places[f"at_{word}"] for word in ("lowest", "highest")}
        figures.draw_places(axis, tables[0]["t"], [table[name] for table in tables], marks)
    better = [results.summary(table, name)["better"] for table in next(iter(evaluated.values()))]
    axis.axhline(np.mean(better), color="black", linestyle=":", linewidth=1, label="the more robust network")


def label(words, robust):
    """The long words for robust networks have their unit on a line of its own."""
    return words.replace(" (", "\n(") if robust else words


def loss_spectrum(layout, spectra):
    losses = {name: words for name, words in results.quantities(layout.robust).items() if results.is_loss(name)}
    figure, axes = figures.panels(len(losses), height=1.9, sharex=True)
    for axis, (name, words) in zip(axes.flat, losses.items(), strict=True):
        for route, of_pairs in spectra.items():
            amplitudes = [spectrum[name] for spectrum in of_pairs]
            figures.draw(axis, np.arange(1, len(amplitudes[0]) + 1), amplitudes, **figures.line_style(route))
        axis.set(ylabel=f"{words.removesuffix(' (cross-entropy)')}: amplitude × $k$,\nof unit energy", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="frequency $k$ (cycles on the whole path)")
    return figures.Drawing(figure, layout, "spectrum", "spectrum of the loss")


def by_epoch(layout, learned):
    figure, axes = figures.panels(2, sharex=True)
    for route, of_pairs in learned.items():
        for axis, quantity in zip(axes.flat, ("accuracy_train", "loss_train"), strict=True):
            values = [history[quantity][: route.epochs] for history in of_pairs]
            figures.draw(axis, np.arange(1, route.epochs + 1), values, **figures.line_style(route))
    words = "robust training" if layout.robust else "training"
    for axis, quantity in zip(axes.flat, ("accuracy (%)", "loss (cross-entropy)"), strict=True):
        axis.set(ylabel=f"{words}\n{quantity}")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="epoch")
    return figures.Drawing(figure, layout, "training", "learning the curve")


def networks_by_epoch(layout, trained):
    """Training and test accuracy and loss of networks A and of networks B, which have their symbols of planes."""
    figure, axes = figures.panels(2, sharex=True)
    for (end, kind), of_pairs in trained.items():
        colour, symbol = {"A": ("black", "o"), "B": ("#7A7A7A", "s")}[end]
        attacked = "attacked " if layout.robust and kind == "train" else ""
        style = {"color": colour, "marker": symbol, "label": f"{end}, {attacked}{results.SPLITS[kind]}"}
        style |= {"linestyle": "--", "markerfacecolor": "white"} if kind == "train" else {}
        for axis, quantity in zip(axes.flat, ("accuracy", "loss"), strict=True):
            values = of_pairs[quantity]
            measured = np.isfinite(values).all(axis=0)  # not every epoch is tested
            figures.draw(axis, np.flatnonzero(measured) + 1, values[:, measured], **style)
    for axis, words in zip(axes.flat, ("accuracy (%)", "loss (cross-entropy)"), strict=True):
        axis.set(ylabel=words)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set(xlabel="epoch")
    return figures.Drawing(figure, layout, "training_networks", "training the networks")


if __name__ == "__main__":
    process.run(parse_args, main)
