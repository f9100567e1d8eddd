"""What all scripts that draw do: draw, save and show the figures of each model, and name what is missing in them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..stages.layout import Layout
from . import figures

Draw = Callable[[Layout, list[UserError]], list[figures.Drawing]]


def run(flags: Mapping[str, object], draw: Draw, tell: Callable[[Sequence[Path]], None]) -> None:
    """Draw the figures of every model, and say in a line each what is missing in them.

    draw: makes the figures of a model, none if nothing of them is there; it adds what is missing to the list that it
        is given.
    tell: says which files were written.

    Raises the first error of that list if there is nothing to draw at all.
    """
    drawings, files, missing = [], [], []
    with figures.style():
        for model in flags["model"]:
            layout = Layout(flags["root"], model, flags["dataset"], flags["robust"], flags["replaced"])
            drawn = draw(layout, missing)
            how = {"name": flags["name"], "titled": not flags["no_title"]}
            files += figures.save(drawn, pairs=flags["pairs"], command=flags["command"], **how)
            drawings += drawn
        if not drawings:
            raise missing[0]
        for error in missing:
            print(f"Not drawn: {flags['stage'].explain(error)}")
        tell(files)
        if flags["show"]:
            figures.show(drawings)
