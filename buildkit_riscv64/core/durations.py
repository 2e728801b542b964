"""Durations: the usual duration of a step on this machine, and the remaining time.

The user's cache has the durations of successful steps. For a step that has not run on this
machine, the estimate is a recorded duration, scaled by this machine's speed in a short loop.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import dry_run, filesystem, host, project
from .console import duration, log

#: Seconds on an otherwise idle machine with two amd64 processors (Debian 12), by step.
RECORDED = {
    "build-binaries": 102,
    "build-binaries --bundle": 165,
    "build-binaries: the bundle": 65,
    "build-image": 23,
    "build-image --rootless": 17,
    "validate standalone": 167,
    "validate buildx": 53,
    "validate rootless": 34,
    "validate platforms": 68,
    "build-packages": 24,
    "verify-binaries --rebuild": 102,
    "verify-binaries --rebuild, with the bundle": 165,
    "verify-binaries --cross-check": 102,
    "verify-binaries --cross-check, with the bundle": 165,
    "machine.create": 225,
    "test": 2400,
}
#: Seconds that :func:`_loop` takes on the machine of :data:`RECORDED`.
_LOOP_SECONDS = 0.0224
_PROCESSORS = 2

#: Shorter steps are not announced.
WORTH_ANNOUNCING = 10.0
#: Seconds between log lines with the remaining time.
INTERVAL = 60.0
#: Runs of a step to remember; the estimate is their median.
_REMEMBERED = 5
# Longer durations and larger files are damaged.
_LONGEST = 7 * 24 * 3600
_LARGEST_BYTES = 1 << 16


def _path() -> Path:
    return project.cache() / "durations.json"


def _load() -> dict[str, list[float]]:
    """The remembered durations by step, without invalid entries."""
    path = _path()
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    found = {
        step: [s for s in seconds if type(s) in (int, float) and 0 < s <= _LONGEST]
        for step, seconds in document.items()
        if isinstance(seconds, list)
    }
    return {step: seconds[-_REMEMBERED:] for step, seconds in found.items() if seconds}


def remember(step: str, seconds: float) -> None:
    """Remember the duration of a step, except under `--dry` or without a writable cache."""
    if dry_run.active():
        return
    with contextlib.suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        known = _load()
        known[step] = [*known.get(step, ()), max(0.1, round(seconds, 1))][-_REMEMBERED:]
        filesystem.write_json(_path(), known)


def _loop() -> float:
    """The shortest time of a short loop, in seconds; load on this machine makes it longer."""

    def once() -> float:
        started = time.perf_counter()
        number = 0
        for index in range(200_000):
            number = (number * 31 + index) & 0xFFFFFF
        return time.perf_counter() - started

    return min(once() for _ in range(3))


def slowness() -> float:
    """The approximate duration of a step on this machine, divided by the recorded duration."""
    # Steps gain little from more than twice the processors.
    return _loop() / _LOOP_SECONDS * max(0.5, _PROCESSORS / host.cpus())


@dataclass(frozen=True)
class Estimate:
    """The expected duration of steps.

    Args:
        seconds: the total.
        measured_here: every step has run on this machine before.
    """

    seconds: float
    measured_here: bool


def estimate(*steps: str) -> Estimate | None:
    """The expected duration of consecutive steps; None if a step is unknown."""
    known = _load()
    if any(step not in known and step not in RECORDED for step in steps):
        return None
    measured = sum(statistics.median(known[step]) for step in steps if step in known)
    recorded = sum(RECORDED[step] for step in steps if step not in known)
    return Estimate(measured + (recorded * slowness() if recorded else 0), not recorded)


def _roughly(seconds: float) -> str:
    """A rounded duration, as in '40 s', '12 min' or '1 h 30 min'."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60 // 10 * 10:02} min"


@dataclass
class _Run:
    title: str
    expected: Estimate | None
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def left(self) -> str:
        self.logged = time.monotonic()
        if self.expected is None:
            return ""
        left = self.expected.seconds - self.elapsed
        return f"about {_roughly(left)} left" if left > 0 else "longer than usual"

    def log_remaining(self, ended: threading.Event) -> None:
        """Log the remaining time at intervals, unless a progress display has just shown it."""
        while not ended.wait(INTERVAL):
            if time.monotonic() - self.logged >= INTERVAL:
                parts = (f"{duration(self.elapsed)} so far", self.left())
                log(f"  {self.title}: {', '.join(filter(None, parts))}")


_runs: list[_Run] = []


def left() -> str:
    """The remaining time of the running step, for a progress display; empty if unknown."""
    return _runs[-1].left() if _runs else ""


@contextlib.contextmanager
def announced(title: str, *steps: str, keep: bool = True) -> Iterator[None]:
    """Log the usual duration of a step, and the remaining time at intervals.

    Args:
        title: the step's name in log lines.
        steps: its parts, by their names in the cache.
        keep: remember the duration of a single step when the block succeeds; otherwise the caller
            calls :func:`remember`.
    """
    run = _Run(title, estimate(*steps))
    if run.expected and run.expected.seconds >= WORTH_ANNOUNCING:
        about = _roughly(run.expected.seconds)
        if run.expected.measured_here:
            log(f"{title} usually takes {about} here")
        else:
            log(f"{title} takes about {about} here, estimated from another machine")
    ended = threading.Event()
    reporter = threading.Thread(target=run.log_remaining, args=(ended,), daemon=True)
    reporter.start()
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)
        ended.set()
        reporter.join()
    if keep and len(steps) == 1:
        remember(steps[0], run.elapsed)
