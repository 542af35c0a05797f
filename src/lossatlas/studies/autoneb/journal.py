"""Where a job of many bands finds its place again after a kill: at the last cycle of the bands under way."""

import time
from collections.abc import Callable
from typing import Any

from lossatlas.elastic_band.auto_neb import Store

SAVE_SECONDS = 1.0  # between two saves: what took less is as soon done again


class Journal:
    """The parts of a job that are finished, by name, and the state of the bands that the next part is busy with.

    It is itself the store of those bands. Without a store nothing outlives the process. A part runs bands once at most,
    and its result is a tree that a `Checkpoint` can hold.
    """

    def __init__(self, store: Store | None = None):
        self._store, self._saved_at = store, time.monotonic()
        saved = store.load() if store else None
        self.finished: dict[str, Any] = saved["finished"] if saved else {}
        self.bands: Any | None = saved["bands"] if saved else None

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result of a part: what was kept of it, or what `compute()` returns."""
        if name not in self.finished:
            self.finished[name] = compute()
            self.save(None)
        return self.finished[name]

    def load(self) -> Any | None:
        """The state of the bands under way."""
        return self.bands

    def save(self, state: Any | None) -> None:
        """Keep the state of the bands under way, and all finished parts."""
        self.bands = state
        if self._store and time.monotonic() - self._saved_at > SAVE_SECONDS:
            self._store.save({"finished": self.finished, "bands": state})
            self._saved_at = time.monotonic()
