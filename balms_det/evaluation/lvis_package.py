"""The official ``lvis`` package on current numpy, with nothing changed on disk or in numpy."""

import numpy


class _NumpyWithFloat:
    """numpy as ``lvis`` 0.5.3 knew it: ``np.float`` was an alias of ``float`` until numpy 1.24."""

    float = float

    def __getattr__(self, name):
        return getattr(numpy, name)


def import_lvis():
    """Import ``lvis`` so that its evaluation runs on numpy 1.24 and newer.

    Only the name ``np`` inside the module ``lvis.eval`` is replaced.

    Raises:
        ModuleNotFoundError: the package, or the OpenCV that it imports, is missing.
    """
    try:
        import lvis
        import lvis.eval
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LVIS evaluation needs the module {error.name!r}. Install the official package without"
            " its GUI build of OpenCV:\n"
            "    pip install --no-deps lvis==0.5.3 && pip install opencv-python-headless",
            name=error.name,
        ) from error
    if not hasattr(numpy, "float"):
        lvis.eval.np = _NumpyWithFloat()
    return lvis
