"""The part that all scripts that draw share: draw, save and show each model's figures, and say what they lack."""

import argparse
from collections.abc import Callable

from ..errors import UserError
from ..stages import hints
from ..stages.layout import Layout
from . import figures, paths

Draw = Callable[[Layout, paths.Selection, list[UserError]], list[figures.Drawing]]


def run(args: argparse.Namespace, draw: Draw) -> None:
    """Draw the figures of every model, and say in a line each what is missing in them.

    draw: makes the figures of a model from the paths that are asked for, none if none of these exists; it adds what
        is missing to the list that it is given.

    Raises the first error of that list if there is nothing to draw at all.
    """
    drawings, files, missing = [], [], []
    with figures.style():
        for model in args.model:
            layout = Layout(args.root, model, args.dataset, robust=args.robust, replaced=args.replaced)
            chosen = args.alignment, args.epochs_of[model], args.curve_seed, args.num_bends, args.curve
            asked_for = paths.Selection([args.dataset], args.model, args.pairs, *chosen)
            drawn = draw(layout, asked_for, missing)
            files += figures.save(
                drawn, pairs=args.pairs, command=args.command, name=args.name, titled=not args.no_title
            )
            drawings += drawn
        if not drawings:
            raise missing[0]
        for error in missing:
            print(f"Not drawn: {hints.explain(error, args)}")
        hints.closing_words(args, files)
        if args.show:
            figures.show(drawings)
