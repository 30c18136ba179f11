"""Files that a process keeps open because they are wanted again: as many as it may, of whatever they belong to."""

import weakref
from typing import Protocol, TypeVar


class Closable(Protocol):
    """What opens again by itself when it is used after `close`."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class KeptOpen:
    """At most `most` of some files are open in this process: the one that was not used for longest is closed.

    One of these stands in a module, so that it counts whoever uses them; what nothing else holds any more leaves it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        # The one used last at the end.
        self._recent: weakref.WeakKeyDictionary[Closable, None] = weakref.WeakKeyDictionary()

    def used(self, file: T) -> T:
        """The file, which will be used now."""
        self._recent.pop(file, None)
        self._recent[file] = None
        if len(self._recent) > self.most:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            oldest.close()
        return file
