"""Files of other people: what they may not do, and how to let them.

Three guards are on by default:

    pickle  a checkpoint holds tensors, arrays and plain values; nothing in it is called
    yaml    a config holds plain values; no tag in it, or in its ``_BASE_``, builds an object
    paths   a file name in annotations stays under the image root

The environment variable ``BALMS_DET_TRUST`` switches off the guards that it lists, for example
``BALMS_DET_TRUST=pickle,yaml``. It is no config key, because a config is one of the files that are
guarded. A guard that is off warns, naming file and risk, whenever it would have refused something.
"""

from __future__ import annotations

import logging
import os

VARIABLE = "BALMS_DET_TRUST"
RISKS = {
    "pickle": "loading it can run any program as you",
    "yaml": "reading it can run any program as you",
    "paths": "any file that you can read may be taken for an image, and shown in reports",
}

logger = logging.getLogger(__name__)


class UntrustedFileError(ValueError):
    """A file asks for something that only a trusted one may do."""


def insist(guard: str, found: str) -> None:
    """Refuse what was found in a file; where the guard is off, warn instead.

    Args:
        guard: a key of ``RISKS``.
        found: the file and what is wrong with it, as the start of a sentence without its stop.

    Raises:
        UntrustedFileError: the guard is on.
        ValueError: ``BALMS_DET_TRUST`` lists a guard that does not exist.
    """
    if guard in switched_off():
        logger.warning("%s=%s: %s; %s.", VARIABLE, guard, found, RISKS[guard])
        return
    raise UntrustedFileError(
        f"{found}; {RISKS[guard]}. If you trust whoever made it, set the environment variable "
        f"{VARIABLE}={guard}."
    )


def switched_off() -> set[str]:
    """The guards that ``BALMS_DET_TRUST`` lists.

    Raises:
        ValueError: one of them does not exist.
    """
    listed = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")} - {""}
    unknown = listed - RISKS.keys()
    if unknown:
        raise ValueError(
            f"{VARIABLE} lists {', '.join(sorted(unknown))}; the guards are {', '.join(RISKS)}"
        )
    return listed


def printable(name: str) -> str:
    """A name out of a file for a terminal: characters that could steer it are written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def markdown_cell(name: str) -> str:
    """A name out of a file for a cell of a Markdown table: it cannot end the cell or be HTML."""
    return printable(name).replace("<", "&lt;").replace("|", "\\|")


def plot_label(name: str) -> str:
    """A name out of a file for matplotlib, which would read what is between dollars as TeX."""
    return name.replace("$", r"\$")
