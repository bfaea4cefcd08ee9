"""Backbones as Detectron2's model zoo keeps them, served over http on this machine."""

import contextlib
import functools
import http.server
import pickle
import re
import threading

from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import Detectron2Handler

_BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
# Caffe2's networks have their statistics folded into scale and shift, unless they keep them.
_NORM = {"weight": "s", "bias": "b"}
_STATISTICS = {"running_mean": "rm", "running_var": "riv"}


def caffe2_name(name, with_statistics):
    """Name in Caffe2 of a parameter of a ResNet's; None for statistics that it does not keep."""
    parts = re.sub(r"^(bottom_up|backbone\.bottom_up)\.", "", name).split(".")
    if parts[0] == "stem":
        start = "res_conv1_bn" if "norm" in parts else "conv1"
    else:
        start = f"{parts[0]}_{parts[1]}_{_BRANCHES[parts[2]]}" + ("_bn" if "norm" in parts else "")
    if "norm" not in parts:
        return f"{start}_w"
    kinds = _NORM | (_STATISTICS if with_statistics else {})
    return f"{start}_{kinds[parts[-1]]}" if parts[-1] in kinds else None


def write_backbone(cfg, path, with_statistics=False):
    """Write the ResNet of a config's FPN with random weights; return what was written."""
    state = build_backbone(cfg).bottom_up.state_dict()
    named = {caffe2_name(name, with_statistics): value.numpy() for name, value in state.items()}
    named.pop(None, None)
    for name in named:
        if name.endswith("branch2c_bn_s"):  # a hundred random layers would overflow otherwise
            named[name] = named[name] * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        pickle.dump({"blobs": named}, file)
    return named


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder; yields the server's address, and what was asked for is in ``asked``."""
    asked = []

    class Handler(_Quiet):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def zoo_at(address):
    """Let ``detectron2://`` and ``catalog://`` lead to another server than Detectron2's own."""
    before = Detectron2Handler.S3_DETECTRON2_PREFIX, ModelCatalog.S3_C2_DETECTRON_PREFIX
    Detectron2Handler.S3_DETECTRON2_PREFIX = f"{address}/"
    ModelCatalog.S3_C2_DETECTRON_PREFIX = address
    try:
        yield
    finally:
        Detectron2Handler.S3_DETECTRON2_PREFIX, ModelCatalog.S3_C2_DETECTRON_PREFIX = before
