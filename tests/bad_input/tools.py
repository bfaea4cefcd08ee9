"""Command lines. ``{}`` is a folder with the files of ``documents.fill``."""

from __future__ import annotations

from tests.bad_input.case import Command

BAD_JSON = {  # a bad annotation file and what is said of it
    "no.json": ("does not exist",),
    "folder": ("is a folder",),
    "empty.json": ("the file is empty",),
    "junk.json": ("not a UTF-8 text file",),
    "cut.json": ("not valid json", "cut off"),
    "object.json": ("`images`",),
}
BAD_RESULTS = {
    "no.json": ("does not exist",),
    "folder": ("is a folder",),
    "empty.json": ("not valid json",),
    "junk.json": ("not a UTF-8 text file",),
    "cut.json": ("not valid json",),
    "object.json": ("a list of entries",),
}
# Tools that take an annotation file: `@` stands for it.
WITH_JSON = {
    "evaluate": "@ {}/results.json",
    "make_submission": "@ {}/results.json",
    "report": "--gt @ --run a={}/results.json --out {}/r.html",
    "imprint_class": "--config-file {}/a.yaml --exemplars @ --images {}/images --category owl"
    " --out {}/out",
}
WITH_RESULTS = {
    "evaluate": "{}/gt.json @",
    "make_submission": "{}/gt.json @",
    "report": "--gt {}/gt.json --run a=@ --out {}/r.html",
}
# Tools that take a config: `@` stands for it.
WITH_CONFIG = {
    "train_net": "--config-file @",
    "calibrate": "--config-file @ --out {}/out",
    "demo": "--config-file @ --input {}/images/part --output {}/out",
    "imprint_class": "--config-file @ --exemplars {}/gt.json --images {}/images --category owl"
    " --out {}/out",
    "class_stats": "{}/gt.json --config-file @",
}
BAD_CONFIGS = {
    "no.yaml": ("no.yaml' does not exist",),
    "folder": ("is a folder",),
    "empty.json": ("is empty",),
    "junk.json": ("is no YAML file",),
    "unknown.yaml": ("unknown.yaml", "MODEL.DEVISE"),
}


def _each(tools: dict[str, str], bad: dict[str, tuple[str, ...]]) -> list[Command]:
    return [
        Command(tool, words.replace("@", f"{{}}/{name}"), 1, (name, *says))
        for tool, words in tools.items()
        for name, says in bad.items()
    ]


GT, RUN = "{}/gt.json", "{}/results.json"
REPORT = f"--gt {GT} --run a={RUN} --out {{}}/r.html"
DEMO = "--config-file {}/a.yaml --output {}/out --input"
OTHERS = [
    Command("evaluate", "", 2, ("required", "gt")),
    Command("evaluate", GT, 2, ("give results files or --compare",)),
    Command("evaluate", f"{GT} {RUN} --compare {RUN} {RUN}", 2, ("--compare",)),
    Command("evaluate", f"{GT} --compare {RUN} {RUN} --boundary", 2, ("--boundary",)),
    Command("evaluate", f"{GT} --compare {RUN} {RUN} --draws 0", 2, ("--draws", "1 or more")),
    Command("evaluate", f"{GT} --compare {RUN} {RUN} --seed -1", 2, ("--seed", "0 or more")),
    Command("evaluate", f"{GT} {RUN} --frequency-limits a b", 2, ("--frequency-limits", "'a'")),
    Command("evaluate", f"{GT} {RUN} --frequency-limits 9 1", 2, ("rare comes first",)),
    Command("evaluate", f"{GT} {RUN} --iou-type mask", 2, ("--iou-type", "'mask'")),
    Command("evaluate", f"{GT} {RUN} --train-json {{}}/no.json", 1, ("no.json", "not exist")),
    Command("evaluate", f"{GT} {RUN} --out {GT}", 1, ("gt.json",)),
    Command("make_submission", f"{GT} {RUN} --out {{}}/s.txt", 1, ("s.txt", ".json or a .zip")),
    Command("make_submission", f"{GT} {RUN} --out {GT}/s.json", 1, ("gt.json",)),
    Command("report", f"--gt {GT} --run no-name", 2, ("'no-name'", "NAME=RESULTS.json")),
    Command("report", f"--gt {GT} --run a={RUN} --run a={RUN}", 2, ("same name",)),
    Command("report", f"{REPORT} --pictures -1", 2, ("--pictures", "0 or more")),
    Command("report", f"{REPORT} --max-mb nan", 2, ("--max-mb", "above 0")),
    Command("report", f"{REPORT} --images {{}}/no", 1, ("no/part/a.jpg", "image root")),
    Command("report", f"{REPORT} --counts no", 1, ("'no'", "not registered")),
    Command("class_stats", "no_such_data", 1, ("'no_such_data'", "DATASETS.FILES")),
    Command("class_stats", "{}/no.json", 1, ("no.json", "does not exist")),
    Command("class_stats", "{}/cut.json", 1, ("cut.json", "cut off")),
    Command("class_stats", f"{GT} --sampler-threshold -1", 1, ("threshold", "-1.0")),
    Command("class_stats", f"{GT} --sampler-threshold nan", 1, ("threshold", "nan")),
    Command("class_stats", f"{GT} --plot {{}}/tail.txt", 1, ("txt", "supported")),
    Command("convert_checkpoint", "{}/no.pth {}/b.pth", 1, ("no.pth",)),
    Command("convert_checkpoint", "{}/junk.json {}/b.pth", 1, ("junk.json is no checkpoint",)),
    Command("make_icons", "--out {}/i --classes 0", 1, ("num_classes", "at least 1")),
    Command("make_icons", "--out {}/i --set noise", 1, ("--set", "KNOB=VALUE")),
    Command("make_icons", "--out {}/i --set sound=1", 1, ("'sound'", "knobs")),
    Command("make_icons", "--out {}/i --set noise=loud", 1, ("noise", "'loud'")),
    Command("make_icons", "--out {}/i --set noise=nan", 1, ("noise", "finite")),
    Command("make_icons", "--out {}/images --train 2", 1, ("images", "--force")),
    Command("make_icons", "--image-size big", 2, ("--image-size", "'big'")),
    Command("quickstart", "--seeds 0", 2, ("--seeds", "1 or more")),
    Command("train_net", "--config-file {}/a.yaml NO 1", 1, ("'NO'",)),
    Command("train_net", "--config-file {}/a.yaml --eval-only", 1, ("MODEL.WEIGHTS is empty",)),
    Command("train_net", "--num-gpus many", 2, ("--num-gpus", "'many'")),
    Command("calibrate", "--config-file {}/a.yaml --out {}/o", 1, ("MODEL.WEIGHTS is empty",)),
    Command("calibrate", "--config-file {}/a.yaml --out {}/o --strengths x", 1, ("'x'", "0.2")),
    Command("calibrate", "--config-file {}/a.yaml --out {}/o --calibration No", 1, ("NorCal",)),
    Command("calibrate", "--config-file {}/a.yaml --out {}/o --images -1", 2, ("--images",)),
    Command(
        "imprint_class",
        WITH_CONFIG["imprint_class"].replace("@", "{}/a.yaml").replace("owl", "emu"),
        1,
        ("gt.json", "'emu'", "owl, bee"),
    ),
    Command("demo", f"{DEMO} {{}}/no.jpg", 1, ("no.jpg",)),
    Command("demo", f"{DEMO} {{}}/folder", 1, ("no image", "folder")),
    Command("demo", f"{DEMO} {{}}/images/part --scale 0", 2, ("--scale", "above 0")),
    Command("demo", f"{DEMO} {{}}/images/part --confidence-threshold much", 2, ("'much'",)),
]
CACHES = "--cache {}/folder --eval-cache {}/folder --out {}/out"
FROM_CACHES = [
    Command("cache_features", "", 2, ("--out",)),
    Command("cache_features", "--out {}/c --config-file {}/no.yaml", 1, ("no.yaml",)),
    Command(
        "cache_features", "--out {}/c --config-file {}/a.yaml", 1, ("DATASETS.TRAIN is empty",)
    ),
    Command("cache_features", "--out {}/c --images -1", 2, ("--images", "0 or more")),
    Command("train_classifier", CACHES, 1, ("folder", "no feature cache")),
    Command("train_classifier", f"{CACHES} --seeds 0", 2, ("--seeds", "1 or more")),
    Command("train_classifier", f"{CACHES} --lr fast", 2, ("--lr", "'fast'")),
    Command("sweep", CACHES, 1, ("folder", "no feature cache")),
    Command("sweep", f"{CACHES} --metric mAP", 2, ("--metric", "'mAP'")),
]
COMMANDS = [
    *_each(WITH_JSON, BAD_JSON),
    *_each(WITH_RESULTS, BAD_RESULTS),
    *_each(WITH_CONFIG, BAD_CONFIGS),
    *OTHERS,
    *FROM_CACHES,
]
