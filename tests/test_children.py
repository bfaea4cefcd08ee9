"""Children end with their parent, and wait without using the processor. Each child holds a named
pipe open: its end is the end of what can be read there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from balms_det.utils.children import child_environment, quiet_children, waiting_policy

pytestmark = pytest.mark.skipif(os.name == "nt", reason="named pipes and signals of POSIX")

CHILD = """
import signal, sys
from balms_det.utils.command_line import one_line_errors
pipe = open(sys.argv[1], "w")
@one_line_errors
def main():
    pipe.write("ready\\n"); pipe.flush()
    while True:
        signal.pause()
main()
"""
STEP = """
import sys
from functools import partial
from pathlib import Path
from balms_det.workflows.quickstart import run, side_by_side
child, *pipes = sys.argv[1:]
tasks = [partial(run, Path.cwd(), [sys.executable, child, pipe]) for pipe in pipes]
side_by_side(tasks) if len(tasks) > 1 else tasks[0]()
"""
POOL = """
import multiprocessing, signal, sys
from concurrent.futures import ProcessPoolExecutor
from balms_det.utils.children import end_worker_with_parent, ended_with_errors
def job(path):
    pipe = open(path, "w"); pipe.write("ready\\n"); pipe.flush()
    while True:
        signal.pause()
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(2, context, initializer=end_worker_with_parent)
    with pool, ended_with_errors(pool):
        for done in [pool.submit(job, path) for path in sys.argv[1:]]:
            done.result()
"""


@pytest.fixture
def pipes(tmp_path):
    paths = [tmp_path / "a.pipe", tmp_path / "b.pipe"]
    for path in paths:
        os.mkfifo(path)
    return paths


def start(tmp_path, code, words):
    program = tmp_path / "parent.py"
    program.write_text(code)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, str(program), *map(str, words)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], **quiet)


def end_and_watch(parent, pipes, how):
    opened = [path.open() for path in pipes]  # waits until the child has opened it
    assert [pipe.readline() for pipe in opened] == ["ready\n"] * len(pipes)
    parent.send_signal(how)
    assert [pipe.read() for pipe in opened] == [""] * len(pipes)  # returns when the child has ended
    assert parent.wait() != 0
    for pipe in opened:
        pipe.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("several", [False, True])
def test_steps_of_the_demo_end_with_it(tmp_path, pipes, how, several):
    (tmp_path / "child.py").write_text(CHILD)
    used = pipes if several and os.cpu_count() > 1 else pipes[:1]
    parent = start(tmp_path, STEP, [tmp_path / "child.py", *used])
    end_and_watch(parent, used, how)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_of_a_sweep_end_with_it(tmp_path, pipes, how):
    end_and_watch(start(tmp_path, POOL, pipes), pipes, how)


def test_a_choice_of_the_user_stays(monkeypatch):
    assert waiting_policy({}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert waiting_policy({"OMP_WAIT_POLICY": "ACTIVE"}) == {}
    assert waiting_policy({"GOMP_SPINCOUNT": "1000"}) == {}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert child_environment(threads=3)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert child_environment(threads=3)["OMP_NUM_THREADS"] == "3"


def test_the_environment_is_as_before_after_a_pool(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with quiet_children():
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in os.environ
