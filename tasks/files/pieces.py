"""Which connection fetches which piece of a file: a queue, and when that is empty, half of what a slow one has left.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from tasks.files.sparse_file import GRAIN

_FAR_BELOW = 4
"""Under a rate limit every connection is slow: only one so many times slower than the best has a fault of its own."""
_LOOK_S = 0.5


class Piece:
    """A stretch that one connection fetches: bytes below ``at`` are written, those below ``claimed`` are its own."""

    def __init__(self, start: int, end: int) -> None:
        self.start = self.at = self.claimed = start
        self.end = end
        self.since = time.monotonic()


class Pieces:
    """All pieces of one file, for several threads.

    :param worth_s: what would take a connection longer than so many seconds is worth another request
    :param limited: the rate is limited by us, so that slow is what all connections are
    """

    def __init__(self, stretches: Iterable[tuple[int, int]], size: int, *, worth_s: float, limited: bool) -> None:
        self._waiting = deque((at, min(at + size, end)) for start, end in stretches for at in range(start, end, size))
        self._under_way: list[Piece] = []
        self._worth_s, self._limited = worth_s, limited
        self._best = 0.0
        self._changed = threading.Condition()

    def take(self) -> Piece | None:
        """The next piece, once there is one; None when every byte is there."""
        with self._changed:
            while True:
                if self._waiting:
                    piece = Piece(*self._waiting.popleft())
                    self._under_way.append(piece)
                    return piece
                if not self._under_way:
                    return None
                shared = self._half_of_the_slowest()
                if shared is not None:
                    self._under_way.append(shared)
                    return shared
                self._changed.wait(_LOOK_S)

    def claim(self, piece: Piece, most: int) -> int:
        """How many bytes, at most ``most``, the piece's own connection fetches next: nobody takes these from it."""
        with self._changed:
            count = min(most, piece.end - piece.at)
            piece.claimed = piece.at + count
            return count

    def wrote(self, piece: Piece) -> None:
        """What was claimed is in the file."""
        with self._changed:
            piece.at = piece.claimed

    def ended(self, piece: Piece) -> None:
        """Its connection is done with it; what is missing of it is for whoever comes next."""
        with self._changed:
            self._under_way.remove(piece)
            self._best = max(self._best, _rate(piece))
            if piece.at < piece.end:
                self._waiting.append((piece.at, piece.end))
            self._changed.notify_all()

    def _half_of_the_slowest(self) -> Piece | None:
        """Of the piece that would take longest, the second half of what nobody has claimed yet, in whole GRAINs."""
        slow = [piece for piece in self._under_way if piece.end > piece.claimed and self._is_slow(piece)]
        if not slow:
            return None
        victim = max(slow, key=lambda piece: (piece.end - piece.claimed) / max(_rate(piece), 1e-9))
        middle = victim.claimed + (victim.end - victim.claimed) // 2 // GRAIN * GRAIN
        taken = Piece(middle, victim.end)
        victim.end = middle
        return taken

    def _is_slow(self, piece: Piece) -> bool:
        if time.monotonic() - piece.since < self._worth_s:
            return False  # it may only have begun
        rate = _rate(piece)
        if self._limited and rate * _FAR_BELOW > self._best:
            return False
        return piece.end - piece.at > rate * self._worth_s


def _rate(piece: Piece) -> float:
    """Bytes per second since it began; of less than a second it says nothing, as a rate limit lets some through."""
    return (piece.at - piece.start) / max(time.monotonic() - piece.since, 1.0)
