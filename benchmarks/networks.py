"""Measure on torchvision's and timm's networks what can be permuted, and whether planted permutations are found.

python benchmarks/networks.py
python benchmarks/networks.py --only torchvision:resnet50 torchvision:vit_b_16

Weights and running statistics are random. timm's networks, where it is installed, are those of timm_networks.txt.
Every network that has been measured is a row of results/networks/*.csv, and is measured again only if --only names
it: a run that was stopped goes on. torchvision's 80 networks take one to two hours on a core.
"""

import argparse
import copy
import csv
import importlib
import importlib.metadata
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from alignment.show_permutations import moved_share
from models import build
from utils.activations import TIE, correlation_scores
from utils.assignment import assign_groups
from utils.errors import first_line
from utils.permutations import PermutationSpec, axis_index, compose, permute, places_of
from utils.stages.files import write_atomically
from utils.stages.flags import folder_path
from utils.symmetries.proof import prove, random_like
from utils.symmetries.running import copy_with, to_meta
from utils.symmetries.spec import permutation_spec
from utils.weights import match_weights

RESULTS = Path(__file__).resolve().parent.parent / "results" / "networks"

CLASSES = 10
SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 299, 384)  # a network gets the smallest images that it takes
IMAGES = 256
TRACED_ONLY = 400_000_000  # networks of more parameters are traced, but not run on numbers: that takes over 8 GB
UNPROVED = "traced only, for its size"
DISTINCT = 10 * TIE  # two channels differ if their correlation is so far from 1: beyond rounding and broken ties

FIELDS = ("network", "parameters", "image_size", "moved_share", "groups", "groups_in_blocks", "activations")
FIELDS += ("trace_s", "difference", "proof_s", "units", "distinct", "recovered", "recovery_s", "by_weights")
FIELDS += ("by_weights_s", "remark", "log10_orders")

Row = dict[str, str]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    only_help = "measure these networks, again if need be: torchvision:NAME or timm:NAME"
    add("--only", nargs="+", metavar="NAME", help=only_help)
    add(
        "--no-recovery", dest="recovery", action="store_false", help="plant no permutations: that takes the most time"
    )
    add("--out", type=folder_path, default=RESULTS, help="folder of the results")
    return parser.parse_args(argv)


# --- which networks ----------------------------------------------------------------------------------------


def names(library: str) -> list[str]:
    """The networks of a library that count; none where it is not installed."""
    try:
        return {"torchvision": _of_torchvision, "timm": _of_timm}[library]()
    except ModuleNotFoundError:
        print(f"{library} is not installed; it is in requirements-networks.txt.")
        return []


def _of_torchvision() -> list[str]:
    from torchvision import models

    return [f"torchvision:{name}" for name in models.list_models(module=models)]


def _of_timm() -> list[str]:
    there = set(importlib.import_module("timm").list_models())
    lines = Path(__file__).with_name("timm_networks.txt").read_text().splitlines()
    return [f"timm:{name}" for name in lines if name in there]


def made(name: str) -> tuple[nn.Module, int]:
    """The network, and the size of the smallest images that it takes, for which it is made if it is for one size."""
    library, _, own = name.partition(":")
    of_any_size: nn.Module | None = None
    first_error: Exception | None = None
    for size in SIZES:
        try:
            network = _made_for(library, own, size)
            if network is None:
                network = of_any_size = of_any_size or build(name, CLASSES)
            copy_with(network, to_meta).train()(torch.empty(2, 3, size, size, device="meta"))
        except Exception as error:  # of any kind, by what a network does with images that are too small
            first_error = first_error or error
        else:
            return network, size
    raise first_error


def _made_for(library: str, name: str, size: int) -> nn.Module | None:
    """A network made for one size of images, if the library can be told the size."""
    module = importlib.import_module({"torchvision": "torchvision.models", "timm": "timm"}[library])
    try:
        if library == "torchvision":
            return module.get_model(name, weights=None, num_classes=CLASSES, image_size=size)
        return module.create_model(name, num_classes=CLASSES, img_size=size)
    except TypeError:
        return None


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- measuring one -----------------------------------------------------------------------------------------


def measured(name: str, recovery: bool) -> Row:
    """All that there is to know of a network; `remark` tells what went wrong."""
    row: dict[str, object] = {"network": name}
    try:
        for found in _steps(name, recovery):
            row |= found
    except Exception as error:  # a library's network may fail in any way, and the others still count
        row["remark"] = first_line(error)
    return {field: str(row.get(field, "")) for field in FIELDS}


@torch.no_grad()
def _steps(name: str, recovery: bool) -> Iterator[dict[str, object]]:
    network, size = made(name)
    yield {"parameters": _parameters(network), "image_size": size}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, size, size, generator=generator)
    spec, seconds = timed(lambda: permutation_spec(network, images[:2], proof=False))
    state = network.state_dict()
    yield {
        "moved_share": f"{moved_share(state, spec):.4f}",
        "groups": len(spec.groups),
        "groups_in_blocks": sum(bool(group.depends_on) for group in spec.groups),
        "activations": len(spec.rows),
        "log10_orders": f"{spec.log10_orders:.0f}",
        "trace_s": seconds,
    }
    if _parameters(network) > TRACED_ONLY:
        yield {"remark": UNPROVED}
        return
    difference, seconds = timed(lambda: prove(network, spec, images[:2]))
    yield {"difference": f"{difference:.1e}", "proof_s": seconds}
    if recovery:
        yield recovered(network.eval(), spec, images)


def timed(work: Callable[[], object]) -> tuple[object, str]:
    start = time.perf_counter()
    result = work()
    return result, f"{time.perf_counter() - start:.2f}"


def recovered(network: nn.Module, spec: PermutationSpec, images: torch.Tensor) -> dict[str, object]:
    """How many units of a randomized network find themselves in a permuted copy of it.

    units: all that can move. distinct: those whose channels vary, and differ from all others in some activation.
    recovered: those among the distinct that correlation finds. by_weights: those of all that weight matching finds.
    """
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        values = random_like(tensor, generator)
        # Weights as He et al. (2015), so that activations neither vanish nor explode
        tensor.copy_(values * 2**0.5 if tensor.dim() > 1 and tensor.is_floating_point() else values)
    planted = spec.random(2)
    other = copy.deepcopy(network)
    other.load_state_dict(permute(network.state_dict(), spec, planted))
    scores, by_activations = timed(lambda: correlation_scores(network, other, spec, [images]))
    found, by_assignment = timed(lambda: assign_groups(spec, scores))
    seen, home = distinct_units(spec, planted, scores), units_at_home(spec, planted, found)
    weights = (dict(one.named_parameters()) for one in (network, other))
    by_weights, weight_s = timed(lambda: match_weights(*weights, spec))
    return {
        "units": sum(mask.size for mask in seen),
        "distinct": sum(int(mask.sum()) for mask in seen),
        "recovered": sum(int((mask & right).sum()) for mask, right in zip(seen, home, strict=True)),
        "recovery_s": f"{float(by_activations) + float(by_assignment):.2f}",
        "by_weights": sum(int(right.sum()) for right in units_at_home(spec, planted, by_weights)),
        "by_weights_s": weight_s,
    }


def distinct_units(
    spec: PermutationSpec, planted: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each group, which units of A correlate with their copies in B, and less with all others."""
    seen = [np.zeros(order.shape, bool) for order in spec.identity()]
    for row, matrix in zip(spec.rows, scores[: len(spec.rows)], strict=True):
        order = axis_index(row.axis, spec, planted)  # B's channel i is A's channel order[i]
        own = matrix[order, np.arange(len(order))]
        others = matrix[order].copy()
        np.fill_diagonal(others, -1)
        channels = np.empty(len(order), bool)
        channels[order] = own > others.max(1, initial=0) + DISTINCT
        for group in row.votes:
            places = places_of(group, row.axis, spec)
            if places.shape[-1]:
                seen[group] |= channels[places].all(-1)
    return seen


def units_at_home(
    spec: PermutationSpec, planted: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """For each group, which places have the unit again that they had before it was moved; in the right block."""
    back, home = compose(spec, planted, found), {}
    for number in sorted(range(len(spec.groups)), key=lambda number: len(spec.groups[number].depends_on)):
        home[number] = back[number] == spec.identity()[number]
        if outer := spec.groups[number].depends_on:
            home[number] &= home[outer[-1]][..., None]
    return [home[number] for number in range(len(spec.groups))]


# --- the tables --------------------------------------------------------------------------------------------


def read_rows(path: Path) -> dict[str, Row]:
    """What has been measured, by network."""
    if not path.is_file():
        return {}
    return {row["network"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}


def is_done(row: Row, recovery: bool) -> bool:
    """Whether nothing that is asked for is missing; what has a remark would end as it did."""
    return bool(row["remark"] or row["recovered"] or (row["difference"] and not recovery))


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """The table of a library as CSV, and as Markdown beside it."""
    ordered = [rows[name] for name in sorted(rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    made_by = f"{path.stem} {importlib.metadata.version(path.stem)}, torch {torch.__version__}"
    words = "\n".join([table(ordered), "", f"{made_by}, {torch.get_num_threads()} thread(s). {summary(ordered)}", ""])
    others = [
        row for other in sorted(path.parent.glob("*.csv")) if other != path for row in read_rows(other).values()
    ]
    contents = {
        path: text.getvalue(),
        path.with_suffix(".md"): words,
        path.with_name("summary.md"): brief([*others, *ordered]),
    }
    for name, content in contents.items():
        write_atomically(name, lambda stream, content=content: stream.write(content.encode()))


HEAD = ("network", "parameters", "moved", "permutations", "groups (in blocks)", "activations", "function kept")
HEAD += ("found by corr", "found by weight", "trace", "proof")


def table(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def cells(row: Row) -> list[str]:
    """A network's row in the table."""
    name = row["network"].partition(":")[2]
    if not row["moved_share"]:
        return [name, _millions(row), *[""] * 4, row["remark"], *[""] * 4]
    kept = f"yes, to {row['difference']}" if row["difference"] else row["remark"]
    by_corr = f"{int(row['recovered']):,} of {int(row['distinct']):,}" if row["distinct"] else ""
    by_weight = f"{int(row['by_weights']):,} of {int(row['units']):,}" if row["by_weights"] else ""
    return [
        name,
        _millions(row),
        f"{100 * float(row['moved_share']):.1f} %",
        f"10^{row['log10_orders']}" if row.get("log10_orders") else "",
        f"{row['groups']} ({row['groups_in_blocks']})",
        row["activations"],
        kept,
        by_corr,
        by_weight,
        f"{row['trace_s']} s",
        f"{row['proof_s']} s" if row["proof_s"] else "",
    ]


def _millions(row: Row) -> str:
    return f"{int(row['parameters']) / 1e6:.1f} M" if row["parameters"] else ""


def summary(rows: Sequence[Row]) -> str:
    """What the networks of a table have in common, in sentences."""
    proved = [float(row["difference"]) for row in rows if row["difference"]]
    words = f"{len(proved)} of {len(rows)} networks are proved to keep their function"
    if proved:
        words += f" (relative difference at most {max(proved):.0e} in float64)"
    if shares := [100 * float(row["moved_share"]) for row in rows if row["moved_share"]]:
        words += (
            f"; of the weights {min(shares):.1f} % or more can move, {statistics.median(shares):.1f} % in the median"
        )
    if sum(int(row["distinct"] or 0) for row in rows):
        words += (
            f". In a copy that was permuted, correlation on {IMAGES} random images finds, among units that differ "
            f"from each other, {_share(rows, 'recovered', 'distinct')}, and weight matching finds, among all units, "
            f"{_share(rows, 'by_weights', 'units')}"
        )
    return f"{words}."


def _share(rows: Sequence[Row], part: str, whole: str) -> str:
    """How many of all units, of the networks that tell both."""
    told = [(int(row[part]), int(row[whole])) for row in rows if row[part]]
    parts, wholes = map(sum, zip(*told, strict=True)) if told else (0, 0)
    of_some = f" (of {len(told)} networks)" if len(told) < len(rows) else ""
    return f"{100 * parts / wholes:.2f} % of {wholes:,}{of_some}" if wholes else ""


SHOWN = ("torchvision:resnet50", "torchvision:swin_t")  # in the README, above what holds for all


def brief(rows: Sequence[Row]) -> str:
    """The table of the README: a few networks, and all of each library."""
    head = ("network", "weights that move", "function kept", "planted: found by correlation", "by weights")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    named = {row["network"]: [row] for row in rows if row["network"] in SHOWN}
    for library in sorted({row["network"].partition(":")[0] for row in rows}, reverse=True):
        of_it = [row for row in rows if row["network"].startswith(f"{library}:")]
        named[f"{library}, {len(of_it)} networks"] = of_it
    return "\n".join([*lines, *(f"| {name} | {' | '.join(_together(of_it))} |" for name, of_it in named.items()), ""])


def _together(rows: Sequence[Row]) -> list[str]:
    """Of some networks: the least share of weights that can move, how many are proved, and what is found again."""
    share = min((100 * float(row["moved_share"]) for row in rows if row["moved_share"]), default=0.0)
    tried = [row for row in rows if row["remark"] != UNPROVED]
    kept = sum(bool(row["difference"]) for row in tried)
    found = [_share(rows, "recovered", "distinct"), _share(rows, "by_weights", "units")]
    return [f"{share:.1f} % or more" if len(rows) > 1 else f"{share:.1f} %", f"{kept} of {len(tried)}", *found]


def main(args):
    asked = args.only or [name for library in ("torchvision", "timm") for name in names(library)]
    for name in asked:
        path = args.out / f"{name.partition(':')[0]}.csv"
        rows = read_rows(path)
        if name in rows and is_done(rows[name], args.recovery) and not args.only:
            continue
        rows[name] = measured(name, args.recovery)
        write(path, rows)
        print(" | ".join(filter(None, cells(rows[name]))), flush=True)


if __name__ == "__main__":
    main(parse_args())
