"""One training iteration of shipped LVIS configs, each from what its ``MODEL.WEIGHTS`` names.

    python tests/configs/one_iteration.py [CONFIG ...]     # all of LVIS v0.5 and v1 by default

The data are four pictures in LVIS's layout of folders; the backbones are generated, of full size,
and come through ``detectron2://`` from a server on this machine; stage 2 starts from the checkpoint
that its stage 1 has left. A row a config goes to stdout.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
CONFIGS = ROOT / "configs"
SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64", "SOLVER.IMS_PER_BATCH", "2"),
    *("DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "1", "SEED", "1"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
]
CLASSES = {"v0.5": 1230, "v1": 1203}


def write_data(root):
    """LVIS v0.5 and v1, train and val, as they lie under ``DETECTRON2_DATASETS``."""
    import numpy as np
    from PIL import Image

    names = [f"{number:012d}.jpg" for number in range(1, 5)]
    for split in ("train2017", "val2017"):
        (root / "coco" / split).mkdir(parents=True)
        for number, name in enumerate(names):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(root / "coco" / split / name)
    (root / "lvis").mkdir()
    for version, count in CLASSES.items():
        for split in ("train", "val"):
            content = lvis_content(version, split, count, names)
            (root / "lvis" / f"lvis_{version}_{split}.json").write_text(json.dumps(content))


def lvis_content(version, split, count, names):
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        image = {"id": number, "width": 64, "height": 64, "neg_category_ids": []}
        image |= {"not_exhaustive_category_ids": [], "coco_url": f"http://x/{split}2017/{name}"}
        images.append(image | ({"file_name": name} if version == "v0.5" else {}))
        for corner, category in ((4, number), (20, 500), (30, count - number)):
            a, b = corner, corner + 24
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            entry |= {"bbox": [a, a, 24, 24], "area": 576, "segmentation": [[a, a, b, a, b, b]]}
            annotations.append(entry)
    categories = [
        {"id": c, "name": f"c{c}", "synonyms": [f"c{c}"], "frequency": "f", "image_count": 200}
        for c in range(1, count + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def in_order(paths):
    """Stage 1 before the stage 2 that starts from it."""
    return sorted(paths, key=lambda path: ("stage2" in path.name or "losses" in path.parts, path))


def train(path):
    """One iteration; returns what ``MODEL.WEIGHTS`` names, the loss, and how many tensors moved."""
    import torch
    from detectron2.utils.events import EventStorage

    from balms_det.engine import LongTailTrainer, load_cfg

    torch.manual_seed(0)
    cfg = load_cfg(str(path), SMALL)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.before_train()
        trainer.before_step()
        trainer.run_step()
        loss = trainer.storage.latest()["total_loss"][0]
    moved = sum(not torch.equal(before[n], value) for n, value in trainer.model.named_parameters())
    if not cfg.MODEL.DECOUPLED.ENABLED:
        trainer.checkpointer.save("model_final")
    return cfg.MODEL.WEIGHTS, loss, moved


def main(names):
    paths = [Path(name).resolve() for name in names]
    paths = paths or [p for v in ("LVISv0.5", "LVISv1") for p in (CONFIGS / v).rglob("*.yaml")]
    paths = in_order(path for path in paths if not path.name.startswith("Base"))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.environ["DETECTRON2_DATASETS"] = str(folder / "data")
        os.environ["FVCORE_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        write_data(folder / "data")
        from balms_det.engine import load_cfg
        from tests.engine.zoo import served, write_backbone, zoo_at

        for path in paths:
            cfg = load_cfg(str(path), SMALL)
            start, _, name = cfg.MODEL.WEIGHTS.partition("detectron2://")
            if not start and not (folder / "zoo" / name).exists():
                write_backbone(cfg, folder / "zoo" / name, with_statistics="FAIR" in name)
        with served(folder / "zoo") as (address, _), zoo_at(address):
            for path in paths:
                weights, loss, moved = train(path)
                name = path.relative_to(CONFIGS)
                print(f"| {name} | {weights} | {loss:.4f} | {moved} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
