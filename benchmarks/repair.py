"""Width, alignment and repair: the barrier between two MLPs without batch norm, of several widths.

python benchmarks/repair.py --width 64 128 256 512 1024

For each width two networks of six hidden layers are trained on the embedded images, matched by correlation, and
evaluated on the straight line between them: B as it is, aligned, and aligned with every point repaired. Written are
a table (Markdown and CSV) and a figure. This took half an hour on one CPU core, mostly for the widest networks.
"""

import argparse
import copy
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from utils.curves import Curve
from utils.geometry import barrier
from utils.matching import align
from utils.measuring import evaluate
from utils.permutations import permute
from utils.repairing import repairer
from utils.reports import figures, results, tables
from utils.stages import process
from utils.stages.data import REPOSITORY_DATA, load_data
from utils.stages.files import write_atomically
from utils.stages.flags import folder_path, positive_float, positive_int
from utils.symmetries.spec import permutation_spec
from utils.training import NetworkTask, fit, step_rates

HIDDEN_LAYERS = 6
POINTS = 5  # on each line, the ends included
REPAIR_IMAGES = 2_000
HOW = {"line": ("#D55E00", "o"), "line, aligned": ("#0072B2", "s"), "line, aligned and repaired": ("#009E73", "^")}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    widths = [64, 128, 256, 512, 1024]
    add("--width", nargs="+", type=positive_int, default=widths, help="units of every hidden layer")
    add("--pairs", type=positive_int, default=3, help="of networks, for each width")
    add("--epochs", type=positive_int, default=8, help="of training, for each network")
    add("--lr", type=positive_float, default=0.02, help="learning rate of the first epoch")
    add("--dir", type=folder_path, default=Path("results/width"), help="what is written goes here")
    return parser.parse_args(argv)


def mlp(width, num_classes, inputs):
    widths = [inputs, *[width] * HIDDEN_LAYERS]
    hidden = [layer for size in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(*size), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))
    for layer in (module for module in network if isinstance(module, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network


def trained(width, data, seed, epochs, lr):
    torch.manual_seed(seed)
    network = mlp(width, data.num_classes, 3 * data.train.size[0] * data.train.size[1])
    fit(NetworkTask(network), data.train, rates=step_rates(epochs, lr, drop=2), weight_decay=5e-4, seed=seed)
    return network.eval()


def compare(a, b, data):
    """Loss and accuracy (POINTS, 2) on the lines from A to B, by HOW."""
    example, _ = next(data.test.batches(2))
    spec = permutation_spec(b, example)
    aligned = copy.deepcopy(b)
    aligned.load_state_dict(permute(b.state_dict(), spec, align(a, b, spec, data.alignment.batches(500))))
    repair = repairer((a, aligned), data.for_batch_norm(REPAIR_IMAGES))
    lines = {how: [] for how in HOW}
    for end, kinds in ((b, [None]), (aligned, [None, repair])):
        line = Curve.between(copy.deepcopy(a), a.state_dict(), end.state_dict(), num_bends=2)
        for t in np.linspace(0, 1, POINTS):
            for kind in kinds:
                network = line.place(t)
                if kind:
                    kind(network, (1 - t, t))
                how = list(HOW)[(end is aligned) + (kind is repair)]
                lines[how].append(evaluate(network, data.test))
    return {how: np.array(values) for how, values in lines.items()}


def measure(widths, pairs, epochs, lr):
    """For each width and pair a row: the ends, and for each line the middle and the barriers."""
    data = load_data("FashionMNIST10k", folder=REPOSITORY_DATA, transform="TinyTen")
    rows = []
    for width in widths:
        for pair in range(pairs):
            a, b = (trained(width, data, 2 * pair + seed, epochs, lr) for seed in (1, 2))
            for how, values in compare(a, b, data).items():
                loss, accuracy = values.T
                t, middle = np.linspace(0, 1, POINTS), POINTS // 2
                row = {"width": width, "pair": pair + 1, "path": how, "accuracy_ends": accuracy[[0, -1]].mean()}
                row |= {"accuracy_middle": accuracy[middle], "loss_barrier": barrier(t, loss)}
                rows.append(row | {"accuracy_barrier": barrier(t, -accuracy)})
                print(
                    "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()), flush=True
                )
    return rows


def of(rows, name, **wanted):
    """A number of each pair, in the rows that are wanted."""
    return [row[name] for row in rows if all(row[key] == value for key, value in wanted.items())]


def to_markdown(rows, epochs):
    heads = [f"{how}, {what}" for how in HOW for what in ("middle", "barrier")]
    lines = [f"| width | ends | {' | '.join(heads)} |", "| --- |" + " --- |" * (1 + len(heads))]
    for width in dict.fromkeys(row["width"] for row in rows):
        numbers = [(of(rows, "accuracy_ends", width=width, path="line"), 1)]
        for how in HOW:
            numbers.append((of(rows, "accuracy_middle", width=width, path=how), 1))
            numbers.append((of(rows, "loss_barrier", width=width, path=how), 3))
        cells = [tables.number(results.mean_and_deviation(values), decimals) for values, decimals in numbers]
        lines.append(f"| {width} | {' | '.join(cells)} |")
    pairs = max(row["pair"] for row in rows)
    of_pairs = f"mean ± standard deviation of {pairs} pairs" if pairs > 1 else "one pair"
    note = f"MLPs of {HIDDEN_LAYERS} hidden layers on FashionMNIST10k, {epochs} epochs; {of_pairs}. "
    note += "Test accuracy in percent, of the ends and at t = 1/2; barrier of the loss."
    return "\n".join([*lines, "", note, ""])


def to_csv(rows):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def draw(rows):
    widths = list(dict.fromkeys(row["width"] for row in rows))

    def by_pair(name, how):
        return np.array([of(rows, name, width=width, path=how) for width in widths]).T

    figure, axes = figures.panels(2, height=2.1, width=figures.WIDTH, sharex=True)
    for axis, name, words in zip(
        axes.flat,
        ("loss_barrier", "accuracy_middle"),
        ("barrier of the loss", "accuracy at t = 1/2 (%)"),
        strict=True,
    ):
        for how, (colour, marker) in HOW.items():
            figures.draw(axis, widths, by_pair(name, how), color=colour, marker=marker, label=how)
        axis.set(ylabel=words, xscale="log")
        axis.set_xticks(widths, map(str, widths))
        axis.minorticks_off()
    ends = np.mean(by_pair("accuracy_ends", "line"), axis=0)
    axes[1, 0].plot(widths, ends, color="black", linestyle=":", label="the two networks")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set(xlabel="width of the hidden layers")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def main(args):
    rows = measure(args.width, args.pairs, args.epochs, args.lr)
    texts = {"md": to_markdown(rows, args.epochs), "csv": to_csv(rows)}
    print(texts["md"])
    files = [args.dir / f"width.{suffix}" for suffix in (*texts, "png")]
    for path, text in zip(files, texts.values(), strict=False):
        write_atomically(path, lambda stream, text=text: stream.write(text.encode()))
    with figures.style():
        figure = draw(rows)
        write_atomically(files[-1], lambda stream: figure.savefig(stream, format="png", dpi=300))
    print("\n  ".join(["Wrote:", *map(str, files)]))


if __name__ == "__main__":
    process.run(parse_args, main)
