"""Running a command of ``tools/`` in a process that starts at once: a fork of one that has imported
everything already.
"""

from __future__ import annotations

import hashlib
import os
import random
import runpy
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from torch.utils.data._utils import worker

from balms_det.engine import LongTailTrainer
from tests.soak.kills import Counter, Kill

ROOT = Path(__file__).resolve().parents[2]
# A run that takes longer, in seconds, hangs: SIGALRM ends it.
LONGEST = 300
# So many seconds after a run has ended, all processes that it started must have, too.
LONGEST_AFTER = 30


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        code: exit status, 0 if it finished; negative: the signal that ended it.
        outlived: whether processes that it had started went on.
        calls, files: of :class:`Counter`, 0 unless it finished.
    """

    code: int
    outlived: bool
    calls: int = 0
    files: int = 0


def attempt(command: Sequence[str], log: Path, kill: Kill | None = None) -> Outcome:
    """Run ``command``, a script and its arguments, to its end or to the moment of ``kill``.

    Its output is appended to ``log``, and what :class:`Witness` sees to ``steps.txt`` beside it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(command, log, kill, writer)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    counts, outlived = _read_to_the_end(reader)
    if outlived:
        os.killpg(child, signal.SIGKILL)
    return Outcome(os.waitstatus_to_exitcode(status), outlived, *map(int, counts.split()))


def _read_to_the_end(reader: int) -> tuple[bytes, bool]:
    """What a run wrote to the pipe, and whether a process still has it open after a while."""
    content = b""
    with open(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], LONGEST_AFTER)[0]:
            part = pipe.read(100)
            if not part:
                return content, False
            content += part
    return content, True


def _run(command: Sequence[str], log: Path, kill: Kill | None, writer: int) -> None:
    """The life of the forked process; it does not return."""
    code = 1
    try:
        os.setsid()
        signal.alarm(LONGEST)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        # How often, in seconds, a loader worker looks whether its parent still lives.
        worker.MP_STATUS_CHECK_INTERVAL = 0.5
        sys.argv = [str(word) for word in command]
        LongTailTrainer.build_hooks = _with_witness(log.with_name("steps.txt"))
        counter = Counter(kill)
        counter.start()
        code = _exit_code(sys.argv[0])
        sys.setprofile(None)
        if code == 0:
            os.write(writer, f"{counter.calls} {counter.files}".encode())
    except BaseException:
        # This process is a copy of its parent, whose work it must never go on with.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(script: str) -> int:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


class Witness(HookBase):
    """Notes a digest of the weights and of all random generators after every iteration."""

    def __init__(self, path: Path):
        self.path = path

    def after_step(self) -> None:
        digest = hashlib.sha256()
        for name, value in self.trainer.model.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        digest.update(torch.get_rng_state().numpy().tobytes())
        digest.update(repr((random.getstate(), np.random.get_state())).encode())
        with open(self.path, "a") as file:
            file.write(f"{self.trainer.iter} {digest.hexdigest()}\n")


def _with_witness(path: Path):
    original = LongTailTrainer.build_hooks

    def build_hooks(self):
        return [*original(self), Witness(path)]

    return build_hooks


def witnessed(log: Path) -> set[tuple[str, str]]:
    """(iteration, digest) of every step of all attempts that share a log."""
    path = log.with_name("steps.txt")
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {tuple(line.split()) for line in lines if line.endswith("\n")}
