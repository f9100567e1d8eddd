"""The paths between networks that tables, figures and the report show: which there are, and their names in words.

A path is a straight line or a learned curve. Curves between the same networks differ by their alignment, their number
of epochs, and what `Variant` tells: seed, control points and family.
"""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from models import MODELS

from ..errors import UserError
from ..stages.layout import (
    FOLDERS,
    ROBUST_FOLDERS,
    USUAL,
    Layout,
    Variant,
    is_network,
    model_folder,
    read_name,
    tag,
)

# Alignments in the order of the paper's table, then others that scripts here make: their name in words, their colour
# everywhere (Okabe and Ito's colours, which stay apart for colour-blind readers), and their symbol, for grey print.
ALIGNMENTS = {
    "null": ("unaligned", "#D55E00", "o"),
    "pam_null": ("PAM unaligned", "#E69F00", "v"),
    "pam_corr": ("PAM aligned", "#009E73", "^"),
    "corr": ("aligned", "#0072B2", "s"),
    "w2_post": ("aligned by L2", "#CC79A7", "D"),
    "w2_pre": ("aligned by L2 before activation", "#56B4E9", "d"),
    "weight": ("aligned by weights", "#882255", "P"),
}
OTHER_COLOURS = ("#7A7A7A", "#000000", "#8C564B", "#6A3D9A", "#A6761D")
OTHER_SYMBOLS = "X*p<>"

Pair = tuple[int, int]  # the seeds of networks A and B

# --- one path, and its name in words -----------------------------------------------------------------------


class Route(NamedTuple):
    """What a path is between whichever pair of networks."""

    epochs: int  # of the curve; 0 for the straight line
    alignment: str  # '' or null for none
    variant: Variant = USUAL  # of the curve


class Series(NamedTuple):
    """One line of a figure or table: the same path between every pair."""

    layout: Layout
    alignment: str  # '' or null for none
    epochs: int  # of the curve; 0 for the straight line
    words: str
    rank: int = 0  # among the kinds of curves, where there are several
    variant: Variant = USUAL
    seeds: tuple[tuple[Pair, int], ...] = ()  # of the curves, if every pair's has its own

    @property
    def dataset(self) -> str:
        return self.layout.dataset

    @property
    def model(self) -> str:
        return self.layout.model

    @property
    def robust(self) -> bool:
        return self.layout.robust

    @property
    def is_line(self) -> bool:
        return self.epochs == 0

    def variant_of(self, pair: Pair) -> Variant:
        """The variant of the pair's curve."""
        return self.variant._replace(seed=dict(self.seeds).get(pair, self.variant.seed))


def combined(epochs: Iterable[int], alignments: Sequence[str], variants: Sequence[Variant] = (USUAL,)) -> list[Route]:
    """The paths of every number of epochs with every alignment and variant; lines have no variants."""
    routes = (
        Route(number, alignment, _of_path(number, alignment, variant))
        for number in sorted(set(epochs))
        for alignment in alignments
        for variant in variants
    )
    return list(dict.fromkeys(routes))


def _of_path(epochs: int, alignment: str, variant: Variant) -> Variant:
    """The variant of a path. A line has none, unless PAM, with the seed of a curve, found its end."""
    return variant if epochs else Variant(variant.seed) if _has_seed(epochs, alignment) else USUAL


def _has_seed(epochs: int, alignment: str) -> bool:
    return bool(epochs) or alignment.startswith("pam_")


def named(layout: Layout, routes: Sequence[Route], seeds: Mapping[Pair, int] | None = None) -> list[Series]:
    """The paths with their names in words. seeds: of each pair's curves, if they differ."""
    kinds = list(dict.fromkeys((route.epochs, route.variant) for route in routes if route.epochs))
    several = len({epochs for epochs, _ in kinds}) > 1
    series = []
    for epochs, alignment, variant in routes:
        own = tuple(seeds.items()) if seeds and _has_seed(epochs, alignment) else ()
        words = [_curve_words(epochs if several else None, variant) if epochs else "line", alignment_words(alignment)]
        if own:
            words.append(f"curve seeds {', '.join(str(seed) for _, seed in own)}")
        elif variant.seed != USUAL.seed:
            words.append(f"curve seed {variant.seed}")
        rank = kinds.index((epochs, variant)) if epochs else 0
        series.append(Series(layout, alignment, epochs, ", ".join(words), rank, variant, own))
    return series


def _curve_words(epochs: int | None, variant: Variant) -> str:
    """As "curve of 250 epochs and 5 bends"; what is usual, or the same for all, is left out."""
    family = "" if variant.curve == USUAL.curve else f"{variant.curve} "
    of = [f"{epochs} epochs"] if epochs else []
    of += [] if variant.num_bends == USUAL.num_bends else [f"{variant.num_bends} bends"]
    return f"{family}curve" + (f" of {' and '.join(of)}" if of else "")


def alignment_words(alignment: str) -> str:
    return _look(alignment)[0]


def alignment_order(alignment: str) -> tuple[int, str]:
    """By which the tags of alignments are sorted: the paper's and ours first, then by name."""
    known = list(ALIGNMENTS)
    return known.index(alignment) if alignment in known else len(known), alignment


def model_order(model: str) -> tuple[int, str]:
    """By which networks are sorted: the paper's first, then by name."""
    known = list(MODELS)
    return known.index(model) if model in known else len(known), model


def _order(route: Route) -> tuple:
    """By which paths are sorted: as in the paper's tables, and then the usual curves before others."""
    seed, num_bends, curve = route.variant
    return route.epochs, alignment_order(route.alignment), (num_bends, curve, seed)


def colour(alignment: str) -> str:
    """The alignment's own colour, the same in every figure; the user's own have one by their name."""
    return _look(alignment)[1]


def symbol(alignment: str) -> str:
    """The alignment's own symbol, as matplotlib names it; the user's own have one by their name."""
    return _look(alignment)[2]


def _look(alignment: str) -> tuple[str, str, str]:
    name = tag(alignment)
    number = zlib.crc32(name.encode())
    own = OTHER_COLOURS[number % len(OTHER_COLOURS)], OTHER_SYMBOLS[number % len(OTHER_SYMBOLS)]
    return ALIGNMENTS.get(name, (alignment, *own))


# --- what there is, and what is asked for ------------------------------------------------------------------


class Found(NamedTuple):
    """An evaluated path, as its file name tells."""

    layout: Layout
    alignment: str  # as file names have it: null for none
    epochs: int
    pair: Pair
    variant: Variant = USUAL

    @property
    def dataset(self) -> str:
        return self.layout.dataset

    @property
    def model(self) -> str:
        return self.layout.model


@dataclass(frozen=True)
class Selection:
    """Which of the evaluated paths are asked for; None stands for all that there is of a kind.

    curve_seeds: one for the curves of all pairs, or one a pair, in the order of `pairs`.
    """

    datasets: Collection[str] | None = None
    models: Collection[str] | None = None
    pairs: Sequence[Pair] | None = None
    alignments: Collection[str] | None = None
    epochs: Collection[int] | None = None
    curve_seeds: Sequence[int] | None = None
    num_bends: Collection[int] | None = None
    curves: Collection[str] | None = None

    @property
    def seeds(self) -> dict[Pair, int] | None:
        """The seed of each pair's curves, if every pair has its own."""
        several = self.pairs and self.curve_seeds and len(self.curve_seeds) > 1
        return dict(zip(self.pairs, self.curve_seeds, strict=True)) if several else None

    @property
    def variants(self) -> list[Variant]:
        """The variants asked for; what is not told is the usual."""
        seed = self.curve_seeds[0] if self.curve_seeds and not self.seeds else USUAL.seed
        return [
            Variant(seed, num_bends, curve)
            for num_bends in self.num_bends or [USUAL.num_bends]
            for curve in self.curves or [USUAL.curve]
        ]

    def includes(self, one: Found) -> bool:
        tags = None if self.alignments is None else [tag(alignment) for alignment in self.alignments]
        folders = None if self.models is None else [model_folder(model) for model in self.models]
        wanted = [
            (self.datasets, one.dataset),
            (folders, model_folder(one.model)),
            (self.pairs, one.pair),
            (tags, one.alignment),
            (self.epochs, one.epochs),
        ]
        if one.epochs:
            wanted += [(self.num_bends, one.variant.num_bends), (self.curves, one.variant.curve)]
        if _has_seed(one.epochs, one.alignment):
            own = self.seeds
            wanted.append(
                (self.curve_seeds, one.variant.seed) if own is None else ([own.get(one.pair)], one.variant.seed)
            )
        return all(values is None or value in values for values, value in wanted)

    def routes(self, found: Iterable[Found]) -> list[Route]:
        """The paths that are found, each once, in order; curves that differ by pairs' own seeds are one."""
        return sorted({self.route(one) for one in found}, key=_order)

    def route(self, one: Found) -> Route:
        variant = one.variant if self.seeds is None else one.variant._replace(seed=USUAL.seed)
        return Route(one.epochs, one.alignment, variant)

    def with_pairs(self, found: Iterable[Found]) -> "Selection":
        """The same, with the pairs that there are where a seed of each pair's curves is told and no pairs are."""
        if self.pairs or len(self.curve_seeds or ()) < 2:
            return self
        anything = replace(self, curve_seeds=None)
        pairs = sorted({one.pair for one in found if anything.includes(one)})
        if len(pairs) != len(self.curve_seeds):
            told = f"{len(self.curve_seeds)} seeds of curves are asked for and {len(pairs)} pairs are evaluated"
            raise UserError(f"{told}; one seed is for all pairs, several are one a pair", exit_code=2)
        return replace(self, pairs=pairs)


def midpoints(layout: Layout, pairs: Sequence[Pair], alignments: Sequence[str]) -> list[Series]:
    """The curves of these alignments whose midpoints have been compared with their ends, the longest of each."""
    found = filter(None, map(read_name, layout.folder("correlations").glob("curve_align_*_t_0.5.npz")))
    usual = [name for name in found if name.seeds in pairs and name.variant == USUAL and name.epoch]
    epochs = {alignment: [one.epoch for one in usual if one.alignment == alignment] for alignment in alignments}
    return named(layout, [Route(max(those), alignment) for alignment, those in epochs.items() if those])


def evaluated(root: Path, *, robust: bool = False) -> list[Found]:
    """All paths under `root` whose evaluation is finished or begun, in the order of the paper's tables."""
    folder = root / (ROBUST_FOLDERS if robust else FOLDERS)["evaluated"]
    files = [*folder.glob("*/*/*.np[yz]"), *folder.parent.glob("*pam*/*/*/*.npy")]  # the original's are .npy
    names = filter(None, map(read_name, files))
    found = {
        Found(Layout(root, name.model, name.dataset, robust), name.alignment, name.epoch, name.seeds, name.variant)
        for name in names
        if name.kind == "evaluated" and is_network(name.model)
    }
    return sorted(
        found,
        key=lambda one: (
            one.dataset,
            model_order(one.model),
            _order(Route(one.epochs, one.alignment, one.variant)),
            one.pair,
        ),
    )
