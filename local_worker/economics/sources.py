"""Where the figures on energy come from: counters of the machine's own, a meter, or a wattage.

Each source says whether it measures. Where none can, a wattage stands in, and everything that
follows from it says 'estimated from N W'.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Protocol

from local_worker.economics.energy import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from local_worker.probe.nvml import Nvml

COMMAND_SECONDS = 5.0
"""Between two calls of a command that asks a meter, and what one call may take."""

POWERMETRICS = ("powermetrics", "--samplers", "cpu_power", "-n", "1", "-i", "500")
_COMBINED = re.compile(r"Combined Power \([^)]*\): *(\d+(?:\.\d+)?) *mW")
_WATTS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*[wW]?\s*")


class PowerSource(Protocol):
    """Counters of joules.

    Attributes:
        label: for people: what is measured, or estimated.
        measures: False where the figures follow from a wattage that somebody gave.
    """

    label: str
    measures: bool

    def read(self, now: float, busy: float) -> Reading:
        """The counters now.

        Args:
            now: seconds, of a clock that only goes forward.
            busy: seconds so far in which something was being computed.
        """
        ...

    def close(self) -> None:
        """Ends what it has begun."""
        ...


class Wattage:
    """No meter at all: so many watts while computing, and so many while idling.

    Args:
        watts: of the machine while it computes.
        idle: while it does not; None for as many.
        label: what to call it.
    """

    measures = False

    def __init__(self, watts: float, idle: float | None, label: str) -> None:
        self._watts = watts
        self._idle = watts if idle is None else idle
        self.label = label

    def read(self, now: float, busy: float) -> Reading:
        """What they make by now."""
        return Reading(now, (now * self._idle + busy * (self._watts - self._idle),))

    def close(self) -> None:
        """There is nothing to end."""


class Rapl:
    """Running counters of processor packages and memory, from Linux' powercap tree.

    They go back to zero every hour or so; an interval in which one did is unknown.

    Args:
        zones: folders with an `energy_uj` each.
    """

    measures = True

    def __init__(self, zones: Sequence[Path]) -> None:
        self._files = [zone / "energy_uj" for zone in zones]
        names = " and ".join((zone / "name").read_text().strip() for zone in zones)
        self.label = f"RAPL ({names})"

    def read(self, now: float, busy: float) -> Reading:
        """Microjoules become joules."""
        del busy
        try:
            return Reading(now, tuple(int(file.read_text()) / 1e6 for file in self._files))
        except (OSError, ValueError):
            return Reading(now, None)

    def close(self) -> None:
        """There is nothing to end."""


class NvidiaCounters:
    """What NVIDIA's driver counts for whole cards, since it was loaded (Volta and later).

    Args:
        nvml: the module, initialised.
        devices: handles of the cards.
    """

    measures = True

    def __init__(self, nvml: Nvml, devices: Sequence[object]) -> None:
        self._nvml = nvml
        self._devices = devices
        self.label = f"NVML ({len(devices)} GPU{'s' if len(devices) > 1 else ''})"

    def read(self, now: float, busy: float) -> Reading:
        """Millijoules become joules."""
        del busy
        count = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        try:
            return Reading(now, tuple(count(device) / 1e3 for device in self._devices))
        except self._nvml.NVMLError:
            return Reading(now, None)

    def close(self) -> None:
        """The driver is done with."""
        self._nvml.nvmlShutdown()


class Sampled:
    """A meter that says watts: asked now and then in a thread, each answer holds until the next.

    Args:
        watts: asks; None where there is no answer. It may take its time.
        period: seconds between two answers.
        label: what to call it.
    """

    measures = True

    def __init__(self, watts: Callable[[], float | None], period: float, label: str) -> None:
        self._ask = watts
        self._period = period
        self.label = label
        self._lock = threading.Lock()
        self._joules = 0.0
        self._watts: float | None = None
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power meter", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            begun = time.monotonic()
            watts = self._ask()
            with self._lock:
                self._add(time.monotonic())
                self._watts = watts
            self._closed.wait(max(0.0, self._period - (time.monotonic() - begun)))

    def _add(self, now: float) -> None:
        if self._watts is not None and now > self._since:
            self._joules += self._watts * (now - self._since)
        self._since = now

    def read(self, now: float, busy: float) -> Reading:
        """The sum by now; nothing while the meter does not answer."""
        del busy
        with self._lock:
            if self._watts is None:
                return Reading(now, None)
            self._add(now)
            return Reading(now, (self._joules,))

    def close(self) -> None:
        """No more questions; one that is under way is not waited for."""
        self._closed.set()


class Together:
    """Several sources that measure different parts of the machine."""

    measures = True

    def __init__(self, sources: Sequence[PowerSource]) -> None:
        self._sources = sources
        self.label = " + ".join(source.label for source in sources)

    def read(self, now: float, busy: float) -> Reading:
        """All counters; nothing where one of them cannot be read."""
        joules: list[float] = []
        for source in self._sources:
            found = source.read(now, busy).joules
            if found is None:
                return Reading(now, None)
            joules += found
        return Reading(now, tuple(joules))

    def close(self) -> None:
        """All of them."""
        for source in self._sources:
            source.close()


def asking(command: str) -> Callable[[], float | None]:
    """Runs a command that prints watts, as the tools of smart plugs do; None where it fails."""
    words = shlex.split(command)
    return lambda: _number(_output(words))


def powermetrics_watts() -> float | None:
    """What a Mac's own tool says of processor, GPU and neural engine; it wants root."""
    return combined_watts(_output(POWERMETRICS))


def combined_watts(text: str | None) -> float | None:
    """Watts out of what powermetrics prints."""
    found = None if text is None else _COMBINED.search(text)
    return None if found is None else float(found[1]) / 1e3


def _output(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _number(text: str | None) -> float | None:
    """Nothing but a number is taken: in a plug's JSON, the first one may be anything."""
    found = None if text is None else _WATTS.fullmatch(text)
    return None if found is None else float(found[1])
