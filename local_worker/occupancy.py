"""What an engine is busy with, and for how long it has been. Pure: it is told the time.

A request counts from the moment it is handed over until the engine has said that it is over; one
whose client has left counts until then, too, since a step that it is in goes on.
"""

from __future__ import annotations


class Occupancy:
    """Requests in an engine's care."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._seconds = 0.0
        self._since = 0.0

    def enter(self, request_id: str, now: float) -> None:
        """It is in the engine's care."""
        if not self.ids:
            self._since = now
        self.ids.add(request_id)

    def leave(self, request_id: str, now: float) -> None:
        """It no longer is; unknown ids are no error."""
        if request_id in self.ids:
            self.ids.remove(request_id)
            if not self.ids:
                self._seconds += now - self._since

    def seconds(self, now: float) -> float:
        """So far, in which there was at least one."""
        return self._seconds + (now - self._since if self.ids else 0.0)
