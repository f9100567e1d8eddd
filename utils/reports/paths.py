"""The paths between networks that tables, figures and the report show: which ones exist, and their names in words.

A path is a straight line or a learned curve. Curves between the same networks differ by their alignment, their number
of epochs and their `Variant`: seed, control points and family.
"""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..stages.layout import (
    FOLDERS,
    NETWORKS,
    ROBUST_FOLDERS,
    USUAL,
    Layout,
    Variant,
    is_network,
    model_folder,
    of_path,
    read_name,
    tag,
)

Pair = tuple[int, int]  # the seeds of networks A and B

# --- how an alignment looks --------------------------------------------------------------------------------


class Look(NamedTuple):
    """How an alignment is shown everywhere: colours stay apart for colour-blind readers, symbols in grey print."""

    words: str
    colour: str
    symbol: str  # as matplotlib names it


# In the order of the paper's table, then others made by scripts here; the colours are Okabe and Ito's
ALIGNMENTS = {
    "null": Look("unaligned", "#D55E00", "o"),
    "pam_null": Look("PAM unaligned", "#E69F00", "v"),
    "pam_corr": Look("PAM aligned", "#009E73", "^"),
    "corr": Look("aligned", "#0072B2", "s"),
    "w2_post": Look("aligned by L2", "#CC79A7", "D"),
    "w2_pre": Look("aligned by L2 before activation", "#56B4E9", "d"),
    "weight": Look("aligned by weights", "#882255", "P"),
    "corr_rotations": Look("aligned, with rotations", "#999933", "X"),
    "weight_rotations": Look("aligned by weights, with rotations", "#332288", ">"),
}
OTHER_COLOURS = ("#7A7A7A", "#000000", "#8C564B", "#6A3D9A", "#A6761D")
OTHER_SYMBOLS = "hHp<*"


def look(alignment: str) -> Look:
    """The look of an alignment; the user's own alignments get a colour and a symbol by their names."""
    name = tag(alignment)
    number = zlib.crc32(name.encode())
    own = OTHER_COLOURS[number % len(OTHER_COLOURS)], OTHER_SYMBOLS[number % len(OTHER_SYMBOLS)]
    return ALIGNMENTS.get(name) or Look(alignment, *own)


def position(name: str, known: Collection[str]) -> tuple[int, str]:
    """The sort key of a name: known names first, in their order, then others by name."""
    names = list(known)
    return names.index(name) if name in names else len(names), name


# --- one path, and its name in words -----------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A straight line or learned curve between networks A and B, the same between every pair.

    words, rank: how it is named beside others (`named`); two routes that differ only in these are equal.
    """

    layout: Layout
    alignment: str  # as in file names: null for none
    epochs: int  # of the curve; 0 for the straight line
    variant: Variant = USUAL  # of the curve
    seeds: tuple[tuple[Pair, int], ...] = ()  # of the curves, where each pair's has its own
    words: str = field(default="", compare=False)
    rank: int = field(default=0, compare=False)  # among the kinds of curves shown together

    @property
    def is_line(self) -> bool:
        return self.epochs == 0

    @property
    def has_seed(self) -> bool:
        return bool(self.epochs) or self.alignment.startswith("pam_")

    @property
    def order(self) -> tuple:
        """The sort key: as in the paper's tables, usual curves before others."""
        seed, num_bends, curve = self.variant
        network = self.layout.dataset, position(self.layout.model, NETWORKS)
        return *network, self.epochs, position(self.alignment, ALIGNMENTS), (num_bends, curve, seed)

    def variant_of(self, pair: Pair) -> Variant:
        """The variant of the pair's curve."""
        return self.variant._replace(seed=dict(self.seeds).get(pair, self.variant.seed))

    def evaluated(self, pair: Pair) -> Path:
        """The file of its evaluation between a pair."""
        return self.layout.evaluated(self.alignment, *pair, self.epochs, self.variant_of(pair))

    def plane(self, pair: Pair) -> Path:
        """The file of the plane of its curve between a pair."""
        return self.layout.plane_with_curve(self.alignment, *pair, self.epochs, self.variant_of(pair))


def named(routes: Sequence[Route]) -> list[Route]:
    """The routes with their names in words, which leave out what is usual or the same for all."""
    kinds = list(dict.fromkeys((route.epochs, route.variant) for route in routes if route.epochs))
    several = len({epochs for epochs, _ in kinds}) > 1
    ranks = {kind: rank for rank, kind in enumerate(kinds)}
    return [
        replace(route, words=_words(route, with_epochs=several), rank=ranks.get((route.epochs, route.variant), 0))
        for route in routes
    ]


def _words(route: Route, *, with_epochs: bool) -> str:
    """For example "PolyChain curve of 250 epochs and 5 bends, aligned, curve seed 2"."""
    family = "" if route.variant.curve == USUAL.curve else f"{route.variant.curve} "
    length = [f"{route.epochs} epochs"] if with_epochs else []
    length += [] if route.variant.num_bends == USUAL.num_bends else [f"{route.variant.num_bends} bends"]
    curve = f"{family}curve" + (f" of {' and '.join(length)}" if length else "")
    parts = ["line" if route.is_line else curve, look(route.alignment).words]
    if route.seeds:
        parts.append(f"curve seeds {', '.join(str(seed) for _, seed in route.seeds)}")
    elif route.variant.seed != USUAL.seed:
        parts.append(f"curve seed {route.variant.seed}")
    return ", ".join(parts)


# --- which exist, and which are asked for ------------------------------------------------------------------

Found = dict[Route, list[Pair]]  # routes, each with the pairs between which it has been evaluated


def evaluated(root: Path, *, robust: bool = False) -> Found:
    """All paths under `root` whose evaluation is finished or begun, in the order of the paper's tables."""
    folder = root / (ROBUST_FOLDERS if robust else FOLDERS)["evaluated"]
    files = [*folder.glob("*/*/*.np[yz]"), *folder.parent.glob("*pam*/*/*/*.npy")]  # the original's are .npy
    names = {name for name in map(read_name, files) if name and name.kind == "evaluated" and is_network(name.model)}
    layouts = {name: Layout(root, name.model, name.dataset, robust=robust) for name in names}
    paths = {(Route(layouts[name], name.alignment, name.epoch, name.variant), name.seeds) for name in names}
    found: Found = {}
    for route, pair in sorted(paths, key=lambda one: (one[0].order, one[1])):
        found.setdefault(route, []).append(pair)
    return found


@dataclass(frozen=True)
class Selection:
    """Which of the evaluated paths are asked for; None stands for everything that exists of a kind.

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

    def includes(self, route: Route, pair: Pair) -> bool:
        tags = None if self.alignments is None else [tag(alignment) for alignment in self.alignments]
        folders = None if self.models is None else [model_folder(model) for model in self.models]
        wanted = [
            (self.datasets, route.layout.dataset),
            (folders, model_folder(route.layout.model)),
            (self.pairs, pair),
            (tags, route.alignment),
            (self.epochs, route.epochs),
        ]
        if route.epochs:
            wanted += [(self.num_bends, route.variant.num_bends), (self.curves, route.variant.curve)]
        if route.has_seed:
            own = self.seeds
            wanted.append((self.curve_seeds if own is None else [own.get(pair)], route.variant.seed))
        return all(values is None or value in values for values, value in wanted)

    def among(self, found: Found) -> Found:
        """The found paths that are asked for; curves that differ by their pairs' own seeds are one route."""
        merged: Found = {}
        for route, pairs in found.items():
            if those := [pair for pair in pairs if self.includes(route, pair)]:
                merged.setdefault(self._common(route), []).extend(those)
        return dict(sorted(merged.items(), key=lambda one: one[0].order))

    def _common(self, route: Route) -> Route:
        """The route of all pairs to which a curve belongs, where each pair's has its own seed."""
        if self.seeds is None:
            return route
        seeds = tuple(self.seeds.items()) if route.has_seed else ()
        return replace(route, variant=route.variant._replace(seed=USUAL.seed), seeds=seeds)

    def by_name(self, layout: Layout, epochs: Iterable[int] | None = None) -> list[Route]:
        """Every path that is named by epochs, alignment and variant, whether or not it exists.

        epochs: instead of the selection's. A variant that is not given is the usual one.
        """
        seed = self.curve_seeds[0] if self.curve_seeds and not self.seeds else USUAL.seed
        routes = [
            Route(layout, name, number, of_path(name, number, Variant(seed, num_bends, curve)))
            for number in sorted(set(self.epochs if epochs is None else epochs))
            for name in map(tag, self.alignments)
            for num_bends in self.num_bends or [USUAL.num_bends]
            for curve in self.curves or [USUAL.curve]
        ]
        return list(dict.fromkeys(map(self._common, routes)))

    def with_pairs(self, found: Mapping[Route, Iterable[Pair]]) -> "Selection":
        """The same with the pairs that exist, where a seed of each pair's curves is given and no pairs are."""
        if self.pairs or len(self.curve_seeds or ()) < 2:
            return self
        anything = replace(self, curve_seeds=None)
        pairs = sorted({pair for route, those in found.items() for pair in those if anything.includes(route, pair)})
        if len(pairs) != len(self.curve_seeds):
            counts = f"{len(self.curve_seeds)} seeds of curves are asked for and {len(pairs)} pairs are evaluated"
            raise UserError(f"{counts}; one seed is for all pairs, several are one a pair", exit_code=2)
        return replace(self, pairs=pairs)


def midpoints(layout: Layout, pairs: Sequence[Pair], alignments: Sequence[str]) -> list[Route]:
    """The curves of these alignments whose midpoints have been compared with their ends, the longest of each."""
    found = filter(None, map(read_name, layout.folder("correlations").glob("curve_align_*_t_0.5.npz")))
    usual = [name for name in found if name.seeds in pairs and name.variant == USUAL and name.epoch]
    epochs = {alignment: [one.epoch for one in usual if one.alignment == alignment] for alignment in alignments}
    return named([Route(layout, alignment, max(those)) for alignment, those in epochs.items() if those])
