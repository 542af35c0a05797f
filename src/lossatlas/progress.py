"""Lines for the person at the console, also while a job's output goes to its log file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

# `job.start` puts the terminal and the rule's name here before it sends stdout and stderr to the log.
console: TextIO | None = None
prefix = ""


def say(text: str) -> None:
    """Print one line on the console, and in the log when that is another place."""
    for stream in {console, sys.stderr} - {None}:
        print(f"{prefix}{text}", file=stream, flush=True)


def meter(label: str, *, every: float = 5.0) -> Callable[[int, int], None]:
    """A function of (done, total) that says what is done and left, at most once in `every` seconds."""
    start = said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= every and 0 < done < total:
            said = now
            say(f"{label}: {done}/{total}, {_duration((now - start) / done * (total - done))} left")

    return tell


def progress(items: Iterable[Item] | int, label: str, *, every: float = 5.0) -> Iterator[Item]:
    """Yield `items` (or `range(items)`), all of which are known beforehand, under a `meter`."""
    items = range(items) if isinstance(items, int) else list(items)
    tell = meter(label, every=every)
    for done, item in enumerate(items):
        tell(done, len(items))
        yield item


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
