"""The state of a checkout, in one call."""

import os
import shutil
import subprocess

import pytest

from balms_det.engine.run_record import GitError, git_state

git_is_here = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to compare")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(folder, *words):
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with a commit: files in folders whose names sort otherwise than their paths."""
    root = tmp_path / "checkout"
    for name in ("a.txt", "a/b/c.txt", "a/b.txt", "a-b/d.txt", "z/long name of a file.txt", "z/é"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "run.sh").write_text("x")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("a.txt")
    git(tmp_path, "init", "-q", "-b", "trunk", "checkout")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    (root / "untracked.txt").write_text("does not count")
    return root


def seen(root):
    """What we see, checked against git."""
    state = git_state(root / "a" / "b")
    assert state["commit"] == git(root, "rev-parse", "HEAD")
    assert state["dirty"] == bool(git(root, "status", "--porcelain", "--untracked-files=no"))
    assert state["root"] == str(root)
    return state


@git_is_here
def test_a_clean_checkout(checkout):
    state = seen(checkout)
    assert (state["branch"], state["dirty"]) == ("trunk", False)


CHANGES = {
    "changed": lambda root: (root / "a.txt").write_text("other"),
    "of the same size": lambda root: (root / "a.txt").write_text("b.txt"),
    "gone": lambda root: (root / "a/b/c.txt").unlink(),
    "a folder now": lambda root: [(root / "run.sh").unlink(), (root / "run.sh").mkdir()],
    "another link": lambda root: [(root / "link").unlink(), (root / "link").symlink_to("z")],
    "a file now": lambda root: [(root / "link").unlink(), (root / "link").write_text("a.txt")],
    "staged": lambda root: [(root / "a.txt").write_text("other"), git(root, "add", "a.txt")],
    "staged anew": lambda root: git(root, "add", "untracked.txt"),
    "to be added": lambda root: git(root, "add", "-N", "untracked.txt"),
    "removed": lambda root: git(root, "rm", "-q", "--cached", "a.txt"),
}


@git_is_here
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(checkout, change):
    CHANGES[change](checkout)
    assert seen(checkout)["dirty"] is True


@git_is_here
def test_a_touched_file_is_looked_into(checkout):
    os.utime(checkout / "a.txt", (1, 1))
    assert seen(checkout)["dirty"] is False


@git_is_here
def test_worktrees_clones_and_detached_heads(checkout, tmp_path):
    git(checkout, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "side")
    (tmp_path / "tree" / "a.txt").write_text("other")
    assert seen(tmp_path / "tree")["branch"] == "side"
    assert seen(checkout)["dirty"] is False
    git(tmp_path, "clone", "-q", "--shared", str(checkout), str(tmp_path / "clone"))
    git(tmp_path / "clone", "checkout", "-q", "--detach")
    state = seen(tmp_path / "clone")
    assert (state["branch"], state["dirty"]) == (None, False)


@git_is_here
def test_before_the_first_commit(tmp_path):
    git(tmp_path, "init", "-q", "-b", "trunk")
    assert git_state(tmp_path) == {
        "root": str(tmp_path),
        "commit": None,
        "branch": "trunk",
        "dirty": False,
    }


@git_is_here
def test_a_file_that_only_lies_in_a_checkout_is_not_of_it(checkout):
    assert git_state(checkout, checkout / "a" / "b.txt")["commit"]
    assert git_state(checkout, checkout / "untracked.txt") is None


def test_outside_of_any_checkout(tmp_path):
    assert git_state(tmp_path) is None


@git_is_here
def test_no_program_of_the_checkout_is_run(checkout):
    git(checkout, "config", "core.fsmonitor", f"touch {checkout}/loot; false")
    assert git_state(checkout)["dirty"] is False
    assert not (checkout / "loot").exists()


@git_is_here
def test_nothing_is_written(checkout):
    before = (checkout / ".git" / "index").stat().st_mtime_ns
    os.utime(checkout / "a.txt", (1, 1))
    git_state(checkout)
    assert (checkout / ".git" / "index").stat().st_mtime_ns == before


@git_is_here
def test_what_git_refuses_is_an_error(checkout):
    (checkout / ".git" / "HEAD").unlink()
    with pytest.raises(GitError, match="not a git repository"):
        git_state(checkout)


def test_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GitError, match="not installed"):
        git_state(tmp_path)
