"""How threads of OpenMP should wait in the processes that the tools start: seconds of a loop of
small convolutions, as in the demo's detector, under several settings, quiet and beside busy
processes.

python benchmarks/openmp_waiting.py [--busy 4] [--rounds 3] [--threads 2]

Every round runs each setting once, in turn; what is shown is the median, and its ratio to the
default of the library.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

SETTINGS = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
}
LOOP = """
import sys, time, torch
torch.manual_seed(0)
net = torch.nn.Sequential(*[torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(8)])
image = torch.randn(2, 32, 48, 48)
def step():
    net.zero_grad(); net(image).square().mean().backward()
step()
started = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print(time.perf_counter() - started)
"""


def seconds(setting: dict[str, str], threads: int, steps: int) -> float:
    """Of the loop, in a process of its own: the settings are read when the library is loaded."""
    keys = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in keys}
    environment |= setting | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", LOOP, str(steps)]
    return float(
        subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    )


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """While it is open, other processes compute without end."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--busy", type=int, default=4, help="busy processes (default: 4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of the loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    for others in (0, args.busy):
        times: dict[str, list[float]] = {name: [] for name in SETTINGS}
        with busy(others):
            for _ in range(args.rounds):
                for name, setting in SETTINGS.items():
                    times[name].append(seconds(setting, args.threads, args.steps))
        reference = statistics.median(times["default"])
        print(
            f"beside {others} busy processes, {args.threads} threads, load {os.getloadavg()[0]:.1f}"
        )
        for name, own in times.items():
            median = statistics.median(own)
            print(f"  {name:26s} {median:7.2f} s  {median / reference:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
