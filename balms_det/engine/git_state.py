"""Commit and state of a git checkout, as git tells them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# It writes nothing (not even a refreshed index) and speaks English, whatever the user's language.
_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
# The monitor is a program that the checkout's config may name; git shall not run it for this.
_OPTIONS = ["-c", "core.fsmonitor=false", "--literal-pathspecs"]
_SECONDS = 60


class GitError(ValueError):
    """git is not installed, or does not want to read a checkout; the message is its own."""


def git_state(folder: str | os.PathLike, tracked: str | os.PathLike | None = None) -> dict | None:
    """What is checked out where a folder lies.

    Args:
        folder: any folder of the checkout.
        tracked: a file that has to be of the checkout, and does not just lie inside it.

    Returns:
        ``root``; ``commit`` (hexadecimal, or None before the first); ``branch`` (None where there
        is none); ``dirty``: whether a file differs from the commit in its content, or is gone.
        Files that git does not track do not count. None outside of a checkout.

    Raises:
        GitError: git cannot be asked, or refuses.
    """
    folder = Path(os.path.abspath(folder))
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if tracked is not None and not _git(folder, "ls-files", "--", os.path.abspath(tracked)):
        return None
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    lines = status.splitlines()
    told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit, branch = told["branch.oid"], told["branch.head"]
    return {
        "root": _git(folder, "rev-parse", "--show-toplevel"),
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("# ") for line in lines),
    }


def _git(folder: Path, *words: str) -> str:
    command = ["git", *_OPTIONS, "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git did not answer in {_SECONDS} s") from error
    if done.returncode:
        raise GitError(done.stderr.strip() or f"git ended with {done.returncode}")
    return done.stdout.rstrip("\n")
