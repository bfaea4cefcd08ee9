"""Loading weights into a long-tail model: classifiers with and without a background output.

Symbols: ``K`` foreground classes; a softmax classifier has ``K + 1`` rows (background last), a
sigmoid classifier ``K``. Both give the same log-odds of a class against background:
``z_c - z_bg`` in the first, ``z_c`` in the second, and that is what a conversion keeps. A loss with
another layout (BAGS, Seesaw) takes over the rows of the classes; its other outputs start anew.

Detectron2 writes a checkpoint, and the file ``last_checkpoint`` that names it, in place: a kill
leaves half of it under its final name. Here both are written beside their place and renamed. A
checkpoint can still be cut off or rot afterwards (a full disk, a copy, a crash of the machine): it
is a zip file with a checksum for each tensor, which is looked at before it is loaded.

"""

from __future__ import annotations

import logging
import os
import re
import zipfile
import zlib
from pathlib import Path
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from balms_det.annotations.class_identity import ClassList, ClassListError, check_same_order
from balms_det.engine.identity import (
    Identity,
    check_run,
    check_scores,
    config_classes,
    identity_in,
    read_identity,
)
from balms_det.engine.partial_state import FrozenStatistics
from balms_det.engine.weights_files import IDENTITY, local_weights, read_checkpoint
from balms_det.utils.files import _PART, WholeFiles

logger = logging.getLogger(__name__)

_OF_CLASSES = re.compile(
    r"box_predictor(\.\d+)?\.(cls_score|cls_loss|bbox_pred)\.|mask_head\.predictor\."
)
_CLASSIFIER = re.compile(r"(?P<predictor>.*box_predictor(\.\d+)?)\.cls_score\.(weight|bias)$")


class LongTailCheckpointer(DetectionCheckpointer):
    """A ``DetectionCheckpointer`` that converts a box classifier of K or K + 1 rows to the model's,
    and loads nothing but tensors, arrays and plain values (see :mod:`balms_det.utils.trust`).

    Args:
        model: the model to load into.
        save_dir: as in Detectron2.
        require_all_but: names as in ``MODEL.DECOUPLED.TRAIN_ONLY``; when given, every parameter
            except those must be in the file (a frozen part that is missing would stay random for
            good); an empty list is for a model that is not to be trained.
        classes: of the model. A file that names other ones, or in another order, is refused where
            ``require_all_but`` is given; where all is trained, its classifier is left out.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        require_all_but=None,
        classes: ClassList | None = None,
        **objects,
    ):
        super().__init__(model, save_dir, **objects)
        self._require_all_but = require_all_but
        self._classes = classes
        self._source = "the checkpoint"

    def _load_file(self, filename: str) -> dict:
        self._source = filename
        # Not through super(), which unpickles whatever the file holds.
        checkpoint = read_checkpoint(filename)
        url = getattr(self, "_parsed_url_during_load", None)  # older versions of Detectron2 lack it
        query = parse_qs(url.query) if url else {}
        if query.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if query:
            raise ValueError(f"{filename}: only ?matching_heuristics=True may follow, not {query}")
        return checkpoint

    def _load_model(self, checkpoint):
        weights = checkpoint["model"]
        self._check_identity(weights, identity_in(checkpoint, self._source))
        for key in [key for key in weights if _CLASSIFIER.match(key)]:
            self._convert(weights, key)
        statistics = FrozenStatistics(self.model)
        statistics.declare_versions(weights)
        incompatible = super()._load_model(checkpoint)
        statistics.keep_unnamed(incompatible.missing_keys)
        if self._require_all_but is not None:
            self._check_frozen_parts(incompatible)
        return incompatible

    def _check_identity(self, weights: dict, identity: Identity | None) -> None:
        if identity is None:
            return
        if self._classes is not None:
            try:
                check_same_order(self._classes, identity.classes(self._source))
            except ClassListError as error:
                if self._require_all_but is not None:
                    raise
                logger.warning("%s The classifier starts anew.", error)
                leave_classes_out(weights)
        if self._require_all_but == []:
            check_scores(identity, self.model, self._source)

    def _convert(self, weights: dict, key: str) -> None:
        target = self._model_tensor(key)
        if target is None or len(target) == len(weights[key]):
            return
        rows, wanted = len(weights[key]), len(target)
        loss = self._loss_of(key)
        classes = min(rows, wanted) if loss is None else loss.num_classes
        if rows - classes not in (0, 1) or not self._same_classes(weights, key, classes):
            return
        tensor = torch.as_tensor(weights[key])
        if wanted - classes in (0, 1):
            weights[key] = drop_background(tensor) if rows > wanted else add_background(tensor)
        elif loss is not None:
            weights[key] = place_classes(tensor, target, loss.class_columns)
        else:
            return
        logger.info("%s: converted from %d to %d outputs", key, rows, wanted)

    def _loss_of(self, key: str) -> nn.Module | None:
        """The loss that says what the rows of the classifier are; None for other predictors."""
        predictor = self.model.get_submodule(_CLASSIFIER.match(key)["predictor"])
        return getattr(predictor, "cls_loss", None)

    def _model_tensor(self, key: str):
        state = self.model.state_dict()
        return state.get(key)

    def _same_classes(self, weights: dict, key: str, classes: int) -> bool:
        """Whether file and model have the same K: rows that differ by one may be another class."""
        box_key = f"{_CLASSIFIER.match(key)['predictor']}.bbox_pred.weight"
        in_model, in_file = self._model_tensor(box_key), weights.get(box_key)
        if in_model is None or in_file is None:
            return False
        masks = [key for key in weights if key.endswith("mask_head.predictor.weight")]
        for of_model, of_file in ((self._model_tensor(key), weights[key]) for key in masks):
            if of_model is not None and len(of_model) != len(of_file):
                return False
        agnostic = len(in_model) < 4 * classes
        return len(in_file) == len(in_model) and (agnostic or len(in_model) // 4 == classes)

    def _check_frozen_parts(self, incompatible) -> None:
        names = set(self._require_all_but)
        lost = list(incompatible.missing_keys) + [key for key, *_ in incompatible.incorrect_shapes]
        parameters = dict(self.model.named_parameters())
        lost = [key for key in lost if key in parameters and not names & set(key.split("."))]
        if not lost:
            return
        of, whose = ("that stage 2 freezes", " stage 1") if names else ("of this model", "")
        raise ValueError(
            f"MODEL.WEIGHTS does not hold {len(lost)} parameters {of}, among them {lost[0]!r}"
            f"{_other_shape(incompatible)}: they would stay random. Give it a{whose} checkpoint of "
            "this architecture and these classes (an ImageNet backbone is not enough)."
        )


def _other_shape(incompatible) -> str:
    for key, in_file, in_model in incompatible.incorrect_shapes[:1]:
        return f" ({key!r} has the shape {tuple(in_file)} there, and {tuple(in_model)} here)"
    return ""


def leave_classes_out(weights: dict) -> None:
    """Take all that belongs to single classes out of a state dict, in place."""
    for key in list(weights):
        agnostic = ".bbox_pred." in key and len(weights[key]) == 4
        agnostic |= ".mask_head.predictor." in key and len(weights[key]) == 1
        if _OF_CLASSES.search(key) and not agnostic:
            del weights[key]


def drop_background(rows: torch.Tensor) -> torch.Tensor:
    """(K + 1, ...) softmax rows to (K, ...) sigmoid rows: subtract the background's, drop it."""
    return rows[:-1] - rows[-1:]


def add_background(rows: torch.Tensor) -> torch.Tensor:
    """(K, ...) sigmoid rows to (K + 1, ...) softmax rows: the background's logit is zero."""
    return torch.cat([rows, torch.zeros_like(rows[:1])])


def place_classes(rows: torch.Tensor, fresh: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """``fresh`` with the first K of ``rows``, the classes, where its layout has them.

    Args:
        rows: (K or K + 1, ...) softmax or sigmoid rows.
        fresh: (L, ...) rows of the model; not edited.
        columns: (K,) which of them are the classes, in their order.
    """
    columns = columns.to(fresh.device)
    return fresh.index_copy(0, columns, rows[: len(columns)].to(fresh))


_NUMBERED = re.compile(r"model_(\d+)\.pth")


class RunCheckpointer(LongTailCheckpointer):
    """Saves and resumes a run.

    Args:
        model, save_dir, objects: as in Detectron2.
        identity: what the checkpoints say of the model and its run; None for nothing.

    Attributes:
        resumed_from: name of the file that :meth:`get_checkpoint_file` has chosen; empty before.
    """

    def __init__(self, model, save_dir: str = "", *, identity: Identity | None = None, **objects):
        super().__init__(model, save_dir, **objects)
        self._identity = identity
        self.path_manager = WholeFiles(self.path_manager)
        self.resumed_from = ""

    def save(self, name: str, **extra) -> None:
        if self.save_dir and self.save_to_disk:
            _remove_parts(Path(self.save_dir))
        if self._identity is not None:
            extra[IDENTITY] = self._identity.plain()
        super().save(name, **extra)

    def forget_last(self) -> None:
        """Let a run that starts from its beginning leave nothing of an earlier one in its folder to
        resume from, should it be stopped before its first checkpoint. The files stay."""
        last = Path(self.save_dir, "last_checkpoint")
        if last.is_file():
            logger.warning(
                "%s holds checkpoints of an earlier run; a new one starts, and --resume will go on "
                "with that",
                self.save_dir,
            )
            last.unlink()

    def get_checkpoint_file(self) -> str:
        """The checkpoint to resume from: the last one or, with a warning, the newest whole one
        before it. All ranks get the choice of rank 0.

        Raises:
            ValueError: no checkpoint is whole, or it is of another run.
        """
        last = super().get_checkpoint_file()
        choice = self._choose(last) if comm.is_main_process() else None
        if comm.get_world_size() > 1:
            choice = comm.all_gather(choice)[0]
        path, error = choice
        if error:
            raise ValueError(error)
        self.resumed_from = os.path.basename(path)
        return path

    def _choose(self, last: str) -> tuple[str, str]:
        """The checkpoint and the error, of which one is empty."""
        path, error = _newest_whole(Path(self.save_dir), last)
        own = None if self._identity is None else self._identity.run
        if error or own is None:
            return path, error
        try:
            found = read_identity(path)
            if found is None or found.run is None:
                logger.warning("%s does not say of which run it is: resumed all the same", path)
            else:
                check_run(found.run, own, path)
        except ValueError as error:
            return "", str(error)
        return path, ""


def _remove_parts(folder: Path) -> None:
    """Remove what killed runs left of checkpoints that they were writing."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in few words; None if it is whole. It unpickles nothing."""
    if not path.is_file():
        return "is not there"
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return f"is cut off or no checkpoint ({error})"
    return f"has changed since it was written (checksum of {broken})" if broken else None


def _newest_whole(folder: Path, last: str) -> tuple[str, str]:
    """The checkpoint to resume from, and the error if there is none (one of the two is empty)."""
    named = Path(last) if last and Path(last) != folder else None
    fault = fault_of(named) if named else "names no checkpoint"
    if fault is None:
        return str(named), ""
    broken = str(named or folder / "last_checkpoint")
    for path in _earlier(folder, named):
        if fault_of(path) is None:
            logger.warning("%s %s: resuming from the one before it, %s", broken, fault, path)
            return str(path), ""
    return "", (
        f"{broken} {fault}, and no checkpoint before it in {folder} is whole. Put a copy of it "
        "back, or start over: remove last_checkpoint there, or choose another OUTPUT_DIR"
    )


def _earlier(folder: Path, named: Path | None) -> list[Path]:
    """Numbered checkpoints before ``named``, newest first; all, where its name has no number."""
    numbers = {}
    for path in folder.glob("model_*.pth"):
        match = _NUMBERED.fullmatch(path.name)
        if match:
            numbers[path] = int(match[1])
    limit = _NUMBERED.fullmatch(named.name) if named else None
    found = [path for path, number in numbers.items() if not limit or number < int(limit[1])]
    return sorted(found, key=numbers.get, reverse=True)


def load_weights(cfg, model: torch.nn.Module, *, whole: bool = False) -> None:
    """Load ``MODEL.WEIGHTS`` into a model, converting the box classifier where it has to be.

    Raises:
        ValueError: stage 2 without stage 1 weights; weights of other classes where they are needed.
        FileNotFoundError: ``MODEL.WEIGHTS`` names a file that does not exist or cannot be fetched.
    """
    stage2 = cfg.MODEL.DECOUPLED
    if stage2.ENABLED and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.DECOUPLED.ENABLED freezes all but the classifier, and MODEL.WEIGHTS is empty: "
            "the frozen parts would stay random. Set MODEL.WEIGHTS to a stage 1 checkpoint."
        )
    trained = [] if whole else stage2.TRAIN_ONLY if stage2.ENABLED else None
    checkpointer = LongTailCheckpointer(model, require_all_but=trained, classes=config_classes(cfg))
    if cfg.MODEL.WEIGHTS:
        local_weights(cfg.MODEL.WEIGHTS)  # its errors say more than those of loading it
    checkpointer.load(cfg.MODEL.WEIGHTS)


def load_trained_weights(cfg, model: torch.nn.Module) -> None:
    """:func:`load_weights` of a model that is not to be trained.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty, or does not hold every parameter.
        FileNotFoundError: it names a file that does not exist or cannot be fetched.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint of the trained model.")
    load_weights(cfg, model, whole=True)
