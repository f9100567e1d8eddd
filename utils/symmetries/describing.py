"""What of a network can be permuted, told for people and as JSON: groups, where they are, and what stays and why."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import torch

from ..permutations import PermutationSpec, groups_in, moved_share

Description = dict[str, object]


def describe(state: Mapping[str, torch.Tensor], spec: PermutationSpec) -> Description:
    """A spec in words and numbers that JSON holds.

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
            "members": _members(spec, number),
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
        "fixed": _fixed(spec),
    }


def _members(spec: PermutationSpec, group: int) -> list[str]:
    axes = ((f"{entry}[{d}]", axis) for entry, all_axes in spec.axes.items() for d, axis in enumerate(all_axes))
    return [dimension for dimension, axis in axes if group in groups_in(axis)]


def _fixed(spec: PermutationSpec) -> list[dict[str, object]]:
    """What stays, by operation: most networks have thousands of such dimensions, and few reasons."""
    found: dict[str, dict[str, object]] = {}
    for fixed in spec.fixed:
        operation, _, module = fixed.reason.partition(" in ")
        one = found.setdefault(operation, {"reason": operation, "dimensions": [], "modules": []})
        one["dimensions"].append(f"{fixed.entry}[{fixed.dimension}]")
        if module and module not in one["modules"]:
            one["modules"].append(module)
    return list(found.values())


# --- for people --------------------------------------------------------------------------------------------

WIDTH = 96
SHOWN = 8  # of a long list


def lines(description: Description) -> Iterator[str]:
    """A description as text, in lines of at most WIDTH characters where names allow; long lists are cut short."""
    groups, activations = description["groups"], description["activations"]
    share = 100 * description["moved_share"]
    yield (
        f"{_count(len(groups), 'group')} of units can be permuted, measured at "
        f"{_count(len(activations), 'activation')}."
    )
    yield f"They move {share:.1f} % of the entries of all weights with two or more dimensions."
    if description["modes"] == ["eval"]:
        yield "It was followed in evaluation only: it does not run in training mode on an example alone."
    for number, group in enumerate(groups):
        yield ""
        yield f"group {number}: {_size(group)}"
        yield from _list(f"on {_count(len(group['members']), 'dimension')}: ", group["members"])
        if group["measured"]:
            yield from _list(f"measured at {_count(len(group['measured']), 'activation')}: ", group["measured"])
        else:
            yield "    measured nowhere: no activation shows it"
    yield ""
    yield "What stays, and the operation that is the reason:"
    for fixed in description["fixed"]:
        where = f" in {_count(len(fixed['modules']), 'module')}" if fixed["modules"] else ""
        yield f"  {fixed['reason']}: {_count(len(fixed['dimensions']), 'dimension')}{where}"
        yield from _list("", fixed["dimensions"])


def _size(group: Mapping[str, object]) -> str:
    if not group["depends_on"]:
        return _count(group["size"], "unit")
    blocks = " × ".join(f"{n} of group {g}" for n, g in zip(group["blocks"], group["depends_on"], strict=True))
    return f"{_count(group['size'], 'unit')} in each block ({blocks}), in an order of its own"


def _list(start: str, names: Sequence[str]) -> list[str]:
    """The first of the names, in lines that begin with four spaces and `start`."""
    text = ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * 8}
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {start}", **options)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
