"""Long work: a bar on a terminal or in a notebook, lines with the time left in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from . import distributed
from .errors import check_interrupt

Item = TypeVar("Item")


class Progress:
    """A tqdm bar on a terminal; in a log file, only the lines given to `line`, each with the time left.

    In a notebook there is one bar, which stays with the last line beside it. (Without ipywidgets: as in a log file.)
    """

    def __init__(self, total: int, unit: str, description: str = "", done: int = 0, *, is_silent: bool = False):
        """done: of `total`, what an earlier process did."""
        from tqdm.auto import tqdm  # slow to import

        self.bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=description,
            disable=True if is_silent or not distributed.is_main() else None,
            leave=False,
            dynamic_ncols=True,
        )
        self.is_widget = self.bar.leave = hasattr(self.bar, "container")  # tqdm's, in a notebook
        self.is_silent = is_silent
        self.total, self.done, self.start = total - done, 0, time.monotonic()

    @property
    def is_shown(self) -> bool:
        return not self.bar.disable

    def step(self) -> None:
        check_interrupt()
        self.done += 1
        self.bar.n += 1
        self.bar.update(0)

    def reach(self, done: int) -> None:
        """So many of the total are done, with those that other processes did."""
        self.done += done - self.bar.n
        self.bar.n = done
        self.bar.update(0)

    def show(self, **metrics: float) -> None:
        """Metrics to stand beside the bar."""
        self.bar.set_postfix(metrics)

    def line(self, text: str) -> None:
        if self.is_silent:
            return
        if self.is_widget:
            self.bar.set_postfix_str(text)
            return
        rest = (time.monotonic() - self.start) / max(self.done, 1) * (self.total - self.done)
        self.bar.write(f"{text}  {duration(rest)} left", file=sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()


def track(items: Iterable[Item], total: int, unit: str, description: str) -> Iterator[Item]:
    """The items, with a bar that counts them."""
    with Progress(total, unit, description) as progress:
        for item in items:
            yield item
            progress.step()


def duration(seconds: float) -> str:
    """A time in words, e.g. "1 h 5 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def in_words(metrics: Mapping[str, float]) -> str:
    """Losses and accuracies as a user reads them in a log."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.1f} %"
        if name.startswith("accuracy")
        else f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in metrics.items()
    )
