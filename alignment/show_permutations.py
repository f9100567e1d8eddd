"""Show what of a network can be permuted, where alignment measures it, and what stays as it is and why.

python alignment/show_permutations.py --model torchvision:resnet18
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import json
import math
import textwrap

import torch

import models
from utils.errors import FileError, UserError, first_line
from utils.permutations import axis_size, groups_in
from utils.stages import hints, process
from utils.stages.files import load_array, write_atomically
from utils.stages.flags import (
    dataset_name,
    folder_path,
    name_part,
    network_options,
    new_file,
    positive_int,
    seed_number,
)
from utils.stages.layout import REPOSITORY, Layout
from utils.stages.loading import spec_of
from utils.stages.matches import row_labels
from utils.stages.parser import Parser
from utils.symmetries.running import has_fractions

WIDTH = 96
SHOWN = 8  # of a long list


def parse_args(argv=None):
    parser = Parser(__doc__, __file__)
    parser.networks("--model", default="TinyTen", **network_options(models, "architecture"))
    parser.networks("--num_classes", positive_int, 10, "classes for which the network is built")
    size_help = "side of the images on which the network is run"
    parser.networks("--image_size", positive_int, 32, size_help, dest="side")
    parser.files("--json", type=new_file, metavar="FILE", help="write all of it there too (default: nowhere)")
    pair = "also show the correlations by layer of a match: "
    parser.networks("--seed_a", type=seed_number, help=pair + "network A (default: none)")
    parser.networks("--seed_b", type=seed_number, help=pair + "network B (default: none)")
    parser.images("--dataset", type=dataset_name, default="FashionMNIST10k", help="on which they were measured")
    parser.networks("--alignment", type=name_part, default="corr", help="name of the match")
    parser.files("--root", type=folder_path, default=REPOSITORY, help="folder under which results are found")
    args = parser.parse_args(argv)
    if (args.seed_a is None) != (args.seed_b is None):
        parser.error("--seed_a and --seed_b name a pair of networks together; one of them is missing")
    args.here = hints.Here(Layout(args.root, args.model, args.dataset))
    return args


def main(args):
    model = models.build(args.model, args.num_classes)
    example = torch.zeros(2, 3, args.side, args.side)
    try:
        with torch.no_grad():
            model.eval()(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        size = f"{args.side}×{args.side}"
        raise UserError(f"{args.model} does not run on images of {size} ({first_line(error)})") from error
    spec = spec_of(model, example)
    description = {"model": args.model, **describe(model.state_dict(), spec)}
    correlations = {}
    if args.seed_a is not None:
        for which in ("unaligned", "aligned"):
            path = args.here.layout.correlation(args.alignment, which, args.seed_a, args.seed_b)
            correlations[which] = load_array(path)
            if len(correlations[which]) != len(row_labels(spec)):
                raise FileError(path, f"is not of {args.model} as it is now, which has other activations", "replace")
        description["correlations"] = {which: values.tolist() for which, values in correlations.items()}
    print(f"{args.model}, {sum(p.numel() for p in model.parameters()):,} parameters")
    for line in lines(description):
        print(line)
    if correlations:
        print("\nMean correlation of matched channels on the test set:")
        process.print_table(row_labels(spec), correlations)
    if args.json:
        text = json.dumps(description, indent=1)
        write_atomically(args.json, lambda stream: stream.write(text.encode()))
        hints.closing_words(args.here, [args.json])


def describe(state, spec):
    """What can be permuted, in words and numbers that JSON holds.

    state: the network's, of which only shapes are read.

    `groups`, by number: `size`, the number of units; `depends_on`, the groups in each block of which they have an
    order of their own, and `blocks`, how many of each there are; `members`, the dimensions of state entries that they
    are on, as "conv1.weight[0]"; `measured`, the activations that decide how they are matched.
    `activations`: the rows of a match, in forward order, with the groups that are on their channels.
    `fixed`, by operation: the dimensions that keep their order, and the modules in which the operation does that.
    """
    groups = [
        {
            "size": group.size,
            "depends_on": list(group.depends_on),
            "blocks": list(spec.blocks(number)),
            "members": members_of(spec, number),
            "measured": [row.label for row in spec.rows if number in row.votes],
        }
        for number, group in enumerate(spec.groups)
    ]
    activations = [
        {"label": row.label, "channels": row.channels, "groups": sorted(groups_in(row.axis))} for row in spec.rows
    ]
    return {
        "moved_share": moved_share(state, spec),
        "modes": list(spec.modes),
        "groups": groups,
        "activations": activations,
        "fixed": reasons(spec),
    }


def moved_share(state, spec):
    """The share of entries of all weights with two or more dimensions that some permutation moves."""
    moved = total = 0.0
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.dim() >= 2 and tensor.numel() and has_fractions(tensor):
            total += tensor.numel()
            stays = math.prod(map(fixed_share, spec.axes[name])) if name in spec.axes else 1.0
            moved += (1 - stays) * tensor.numel()
    return moved / total if total else 0.0


def fixed_share(axis):
    return axis_size(tuple(segment for segment in axis if not groups_in((segment,)))) / axis_size(axis)


def members_of(spec, group):
    axes = ((f"{entry}[{d}]", axis) for entry, all_axes in spec.axes.items() for d, axis in enumerate(all_axes))
    return [dimension for dimension, axis in axes if group in groups_in(axis)]


def reasons(spec):
    """What stays, by operation: most networks have thousands of such dimensions, and few reasons."""
    found = {}
    for fixed in spec.fixed:
        operation, _, module = fixed.reason.partition(" in ")
        one = found.setdefault(operation, {"reason": operation, "dimensions": [], "modules": []})
        one["dimensions"].append(f"{fixed.entry}[{fixed.dimension}]")
        if module and module not in one["modules"]:
            one["modules"].append(module)
    return list(found.values())


def lines(description):
    """A description as text, in lines of at most WIDTH characters where names allow; long lists are cut short."""
    groups, activations = description["groups"], description["activations"]
    share = 100 * description["moved_share"]
    yield (
        f"{counted(len(groups), 'group')} of units can be permuted, measured at "
        f"{counted(len(activations), 'activation')}."
    )
    yield f"They move {share:.1f} % of the entries of all weights with two or more dimensions."
    if description["modes"] == ["eval"]:
        yield "It was followed in evaluation only: it does not run in training mode on an example alone."
    for number, group in enumerate(groups):
        yield ""
        yield f"group {number}: {size_of(group)}"
        yield from shortened(f"on {counted(len(group['members']), 'dimension')}: ", group["members"])
        if group["measured"]:
            yield from shortened(f"measured at {counted(len(group['measured']), 'activation')}: ", group["measured"])
        else:
            yield "    measured nowhere: no activation shows it"
    yield ""
    yield "What stays, and the operation that is the reason:"
    for fixed in description["fixed"]:
        where = f" in {counted(len(fixed['modules']), 'module')}" if fixed["modules"] else ""
        yield f"  {fixed['reason']}: {counted(len(fixed['dimensions']), 'dimension')}{where}"
        yield from shortened("", fixed["dimensions"])


def size_of(group):
    if not group["depends_on"]:
        return counted(group["size"], "unit")
    blocks = " × ".join(f"{n} of group {g}" for n, g in zip(group["blocks"], group["depends_on"], strict=True))
    return f"{counted(group['size'], 'unit')} in each block ({blocks}), in an order of its own"


def shortened(start, names):
    """The first of the names, in lines that begin with four spaces and `start`."""
    text = ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * 8}
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {start}", **options)


def counted(number, word):
    return f"{number:,} {word}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    process.run(parse_args, main)
