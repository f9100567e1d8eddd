"""What the stages begin with that evaluate the path between two networks: which it is, and loading it."""

import argparse
from pathlib import Path

from ..curves import Curve
from ..devices import memory_format
from .data import Data
from .files import expect, expect_writable
from .layout import Layout, Variant
from .loading import load_curve
from .records import Record, behind


class NamedPath:
    """The path that the flags of a stage name: a learned curve, or the straight line.

    names: its alignment and seeds, the first arguments of what `Layout` has for paths. variant: the kind of curve.
    drawn: the flags by which scripts for figures name it.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.layout = Layout(args.root, args.model, args.dataset, args.robust, args.replaced)
        self.seeds, self.variant = (args.seed_a, args.seed_b), Variant(args.seed, args.num_bends, args.curve)
        self.names = (args.alignment, *self.seeds)
        self.drawn = {"seed_a": args.seed_a, "seed_b": args.seed_b, "alignment": args.alignment}
        self.drawn |= {"epochs": args.epochs_curve, **self.variant.drawn}

    def load(self, file: Path, *, writes: bool = False) -> tuple[Data, Curve, Record]:
        """The images, the path on the device, and the record of what is made from them in `file`.

        writes: whether more than this file is written to its folder. FileError, before images are loaded, if networks
        or curve are missing, or the folder cannot be written to.
        """
        args, layout, epochs = self.args, self.layout, (self.args.epochs_model, self.args.epochs_curve)
        made_from = behind(layout, self.seeds, args.epochs_model, args.alignment, args.epochs_curve, self.variant)
        expect(*made_from.values())
        if writes or args.overwrite or not file.exists():
            expect_writable(file.parent)
        data = args.load()
        of_path = {"alignment": args.alignment, "variant": self.variant}
        curve = load_curve(args.build, layout, data, self.seeds, *epochs, **of_path)
        curve.to(args.device, memory_format=memory_format(args.device))
        if args.compile:
            curve.compile()
        return data, curve, args.record.of(args.model, made_from, images=data.digest, points=curve.digests())
