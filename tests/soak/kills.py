"""Moments of a run at which its process ends itself, as ``kill -9`` or a lost machine would end it.

A moment is counted in the run's own steps and not in seconds, so that a seed draws the same one on
any machine:

    call    the n-th call of a function, anywhere in the run
    file    just before the n-th operation on files (open, rename, remove, ...)
    write   after the n-th operation on files, as soon as a file grows beyond some size: in the
            middle of writing it. The kernel does this (the limit on file size), also to C++ code.

None of them leaves any clean-up to the process.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass

import numpy as np

KINDS = ("call", "file", "write")
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.chmod"}


@dataclass(frozen=True)
class Kill:
    """One moment.

    Attributes:
        kind: one of ``KINDS``.
        at: which call or operation, from 1.
        size: bytes of a file, for "write".
    """

    kind: str
    at: int
    size: int = 0

    def __str__(self) -> str:
        size = f" at {self.size} bytes" if self.kind == "write" else ""
        return f"{self.kind} {self.at}{size}"


@dataclass(frozen=True)
class Length:
    """How long an uninterrupted run is: calls, operations on files, bytes of its largest file."""

    calls: int
    files: int
    largest: int

    def draw(self, rng: np.random.Generator) -> Kill:
        """A random moment of such a run."""
        kind = KINDS[rng.integers(len(KINDS))]
        if kind == "call":
            return Kill(kind, int(rng.integers(1, self.calls + 1)))
        at = int(rng.integers(1, self.files + 1))
        # Evenly in the logarithm: files of all sizes are cut off.
        size = int(np.exp(rng.uniform(0, np.log(self.largest)))) if kind == "write" else 0
        return Kill(kind, at, size)


class Counter:
    """Counts the calls and operations of this process, and ends it at the moment of ``kill``.

    Once started it cannot be stopped: it is for a process that does nothing else. Its children and
    other threads are not counted, though the limit of "write" holds for them too.
    """

    def __init__(self, kill: Kill | None):
        self.calls = self.files = 0
        self._kill = kill
        self._process = os.getpid()

    def start(self) -> None:
        if self._kill is not None and self._kill.kind == "write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python makes it an error
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(self._on_audit)
        sys.setprofile(self._on_call)

    def _on_call(self, frame, event: str, argument) -> None:
        if event == "call":
            self.calls += 1
            if self._reached("call", self.calls) and os.getpid() == self._process:
                os.kill(self._process, signal.SIGKILL)

    def _on_audit(self, event: str, arguments) -> None:
        if event not in _FILE_EVENTS or threading.current_thread() is not threading.main_thread():
            return
        self.files += 1
        if self._reached("file", self.files) and os.getpid() == self._process:
            os.kill(self._process, signal.SIGKILL)
        if self._reached("write", self.files):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._kill.size, hard))

    def _reached(self, kind: str, number: int) -> bool:
        return self._kill is not None and self._kill.kind == kind and self._kill.at == number
