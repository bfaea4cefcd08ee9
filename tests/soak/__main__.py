"""Kill runs at random moments, resume them, and compare with runs that nobody interrupted.

python -m tests.soak --kills 20                      # every job
python -m tests.soak --jobs stage1,icons --kills 2

A table at the end says how often each job was killed, in how many chains of kills and resumes, and
how long that took. The exit status is 1 if anything differed.
"""

import argparse
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from tests.soak.attempts import attempt, witnessed
from tests.soak.folders import faults_in
from tests.soak.jobs import JOBS, make_data
from tests.soak.kills import Length

# So often at most a run is killed before it may finish.
LONGEST_CHAIN = 4


class Soak:
    """Uninterrupted runs, made once, and chains of kills to compare with them.

    Args:
        root: folder of everything.
    """

    def __init__(self, root: Path):
        self.root, self.shared = root, root / "shared"
        self.lengths: dict[str, Length] = {}
        make_data(self.shared)

    def kill(self, name: str, kills: int, seed: int) -> tuple[Counter, int]:
        """Kill a job so many times: kills by kind, and chains.

        Raises:
            AssertionError: something differs from the uninterrupted run.
        """
        length = self.uninterrupted(name)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        done, chains = Counter(), 0
        while done.total() < kills:
            done += self.chain(name, self.root / f"{name}.{chains}", length, rng)
            chains += 1
        return done, chains

    def uninterrupted(self, name: str) -> Length:
        """Run a job, and what it needs, without a kill."""
        if name not in self.lengths:
            job = JOBS[name]
            if job.needs:
                self.uninterrupted(job.needs)
            folder, log = self.shared / name, self.shared / f"{name}.logs" / "log"
            log.parent.mkdir()
            outcome = attempt(job.command(self.shared, folder), log)
            assert outcome.code == 0, log.read_text()
            largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.lengths[name] = Length(outcome.calls, outcome.files, largest)
        return self.lengths[name]

    def chain(
        self, name: str, folder: Path, length: Length, rng: np.random.Generator
    ) -> Counter:
        """Start a run, kill and resume it until it finishes; the kills by kind."""
        log = folder.with_suffix(f"{folder.suffix}.logs") / "log"
        log.parent.mkdir()
        command = JOBS[name].command(self.shared, folder)
        history, done = [], Counter()
        while True:
            kill = length.draw(rng) if len(history) < LONGEST_CHAIN else None
            outcome = attempt(command, log, kill)
            history.append(str(kill))
            faults = faults_in(folder, self.shared / name, finished=outcome.code == 0)
            faults += self.other_steps(name, log)
            if outcome.code > 0 and not (kill and kill.kind == "write"):
                # A helper that "write" ended may well be an error of the whole.
                faults.append(f"it failed:\n{log.read_text()[-3000:]}")
            assert not faults, f"{name}, after {', '.join(history)}:\n" + "\n".join(faults)
            if outcome.code == 0:
                return done
            done[kill.kind] += 1

    def other_steps(self, name: str, log: Path) -> list[str]:
        """Steps that the uninterrupted run did not make: other weights or random states."""
        other = witnessed(log) - witnessed(self.shared / f"{name}.logs" / "log")
        return [f"iteration {step} differs" for step, _ in sorted(other)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, with commas between them")
    parser.add_argument("--kills", type=int, default=20, help="of each job")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        soak = Soak(Path(root))
        for name in args.jobs.split(","):
            start = time.perf_counter()
            done, chains = soak.kill(name, args.kills, args.seed)
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(done.items()))
            seconds = time.perf_counter() - start
            print(f"{name}: {done.total()} kills ({kinds}) in {chains} runs, {seconds:.0f} s")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
