"""Processes that this one starts: what their environment says, and that they end when it does.

Threads of OpenMP wait for each other in a busy loop by default. Beside other processes on the same
cores that costs many times the work itself; ``OMP_WAIT_POLICY=PASSIVE`` lets them sleep. It is read
when the library is loaded, so it has to stand in the environment of a process from its start.

A child holds the reading end of a pipe as its standard input. The kernel closes the writing end
when the parent ends, however it ends, and the child that watches it ends as well.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

# By any of these a user has said how threads wait.
_CHOSEN_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_WATCH = "BALMS_DET_ENDS_WITH_STDIN"
_running: set[subprocess.Popen] = set()


def waiting_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child's environment needs beside this one; nothing where the user has chosen."""
    return {} if any(key in environment for key in _CHOSEN_BY) else {"OMP_WAIT_POLICY": "PASSIVE"}


def child_environment(threads: int | None = None) -> dict[str, str]:
    """The environment of a child; ``threads`` limits those of OpenMP, None leaves them."""
    environment = {**os.environ, **waiting_policy(os.environ)}
    return environment | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


@contextlib.contextmanager
def quiet_children() -> Iterator[None]:
    """While it is open, processes that ``multiprocessing`` spawns have :func:`waiting_policy`."""
    added = waiting_policy(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextlib.contextmanager
def child_process(
    command: Sequence[str], *, threads: int | None = None, **options: Any
) -> Iterator[subprocess.Popen]:
    """Start a command that ends with this process, if it calls :func:`end_with_parent`.

    It is waited for at the end of the context; if that is left by an exception, it is terminated.

    Args:
        command: program and arguments.
        threads: see :func:`child_environment`.
        options: of ``subprocess.Popen``, without ``stdin`` and ``env``.
    """
    environment = {**child_environment(threads), _WATCH: "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, **options) as process:
        _running.add(process)
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
        finally:
            process.wait()
            _running.discard(process)


def terminate_children() -> None:
    """Terminate what runs in any :func:`child_process`, in whichever thread."""
    for process in list(_running):
        process.terminate()


def end_with_parent() -> None:
    """In a process of :func:`child_process`: end when the parent does; nothing elsewhere."""
    if os.environ.pop(_WATCH, None) and not sys.stdin.closed:
        threading.Thread(target=_wait_for_end, args=(sys.stdin.fileno(),), daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    while os.read(pipe, 1024):
        pass
    os._exit(1)


def end_worker_with_parent() -> None:
    """In a worker of ``multiprocessing``: end when the parent is killed. Workers would wait for its
    next job for good."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def ended_with_errors(pool: Executor) -> Iterator[None]:
    """Inside a pool of processes: leaving by an exception ends its workers, and drops its jobs."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
