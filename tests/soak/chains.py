"""Chains of kills and resumes, compared with the run that nobody interrupted."""

from __future__ import annotations

import os
import signal
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from tests.soak.attempts import Outcome, attempt, witnessed
from tests.soak.folders import faults_in
from tests.soak.jobs import JOBS, make_data
from tests.soak.kills import Kill, Length

# So often at most a run is killed before it may finish.
LONGEST_CHAIN = 4
# Of the kills, so many also cut the last checkpoint off, as a machine that crashes may do.
CUT_OFF = 0.3
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
FALLS_BACK = "resuming from the one before it"


class Soak:
    """Uninterrupted runs, made once, and chains of kills to compare with them.

    Args:
        root: folder of everything; ``shared/<job>`` are the uninterrupted runs.
    """

    def __init__(self, root: Path):
        self.root, self.shared = root, root / "shared"
        self.lengths: dict[str, Length] = {}
        make_data(self.shared)

    def kill(self, name: str, kills: int, seed: int) -> Counter:
        """Kill a job so many times or a few more: kills by kind, "runs" and "cut off" files.

        Raises:
            AssertionError: something differs from the uninterrupted run.
        """
        length = self.uninterrupted(name)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        done, chains = Counter(), 0
        while done["kills"] < kills:
            done += Chain(self, name, self.root / f"{name}.{chains}", length, rng).run()
            chains += 1
        return done

    def uninterrupted(self, name: str) -> Length:
        """Run a job, and what it needs, without a kill."""
        if name not in self.lengths:
            job = JOBS[name]
            if job.needs:
                self.uninterrupted(job.needs)
            folder, log = self.shared / name, self.log(self.shared / name)
            outcome = attempt(job.command(self.shared, folder), log)
            assert outcome.code == 0, log.read_text()
            largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.lengths[name] = Length(outcome.calls, outcome.files, largest)
        return self.lengths[name]

    @staticmethod
    def log(folder: Path) -> Path:
        """Where the output of a run in ``folder`` goes: not into it."""
        log = folder.with_suffix(f"{folder.suffix}.logs") / "log"
        log.parent.mkdir(exist_ok=True)
        return log


class Chain:
    """A run that is killed and resumed until it finishes.

    Args:
        soak: has its uninterrupted run.
        name: of the job.
        folder: of the run; new.
        length: of the uninterrupted run.
        rng: draws the moments.
    """

    def __init__(
        self, soak: Soak, name: str, folder: Path, length: Length, rng: np.random.Generator
    ):
        self.name, self.folder, self.length, self.rng = name, folder, length, rng
        self.log = soak.log(folder)
        self.command = JOBS[name].command(soak.shared, folder)
        self.reference = soak.shared / name
        self.known_steps = witnessed(soak.log(self.reference))
        self.history: list[str] = []
        self.cut_off: dict[Path, int] = {}  # checkpoints that were shortened, and to what size

    def run(self) -> Counter:
        """Kills by kind and in all, and checkpoints that were cut off."""
        done = Counter(runs=1)
        while True:
            kill = self.length.draw(self.rng) if done["kills"] < LONGEST_CHAIN else None
            self.history.append(str(kill))
            outcome = attempt(self.command, self.log, kill)
            faults = self.faults(outcome, kill)
            assert not faults, f"{self.name}: {', '.join(self.history)}:\n" + "\n".join(faults)
            if outcome.code == 0:
                return done
            done += Counter({kill.kind: 1, "kills": 1})
            if self.rng.random() < CUT_OFF and self.cut_off_last_checkpoint():
                done["cut off"] += 1
                self.history.append("checkpoint cut off")

    def faults(self, outcome: Outcome, kill: Kill | None) -> list[str]:
        finished = outcome.code == 0
        still_cut_off = {path for path, size in self.cut_off.items() if path.stat().st_size == size}
        faults = faults_in(self.folder, self.reference, finished, still_cut_off)
        # Other weights or random states than the uninterrupted run had after the same iteration.
        other = witnessed(self.log) - self.known_steps
        faults += [f"iteration {step} differs" for step, _ in sorted(other)]
        text = self.log.read_text() if self.log.exists() else ""
        # Where "write" ended a helper process, an error ends the run.
        expected = (0, *KILLED, *((1,) if kill and kill.kind == "write" else ()))
        if outcome.code not in expected:
            faults.append(f"it ended with {outcome.code}:\n{text[-3000:]}")
        if outcome.outlived:
            faults.append("processes that it had started went on")
        if finished and self.cut_off and FALLS_BACK not in text:
            faults.append("it does not say that it resumed from an earlier checkpoint")
        return faults

    def cut_off_last_checkpoint(self) -> bool:
        """Shorten the last checkpoint to a random part of it, if there is one before it."""
        pointer = self.folder / "last_checkpoint"
        if not pointer.exists():
            return False
        last = self.folder / pointer.read_text()
        if not any(path.name < last.name for path in self.folder.glob("model_0*.pth")):
            return False
        size = int(self.rng.integers(last.stat().st_size))
        os.truncate(last, size)
        self.cut_off[last] = size
        return True
