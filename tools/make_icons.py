"""Write the embedded long-tail dataset icons_lt (LVIS v1 json and JPEGs).

python tools/make_icons.py --out datasets/icons_lt
python tools/make_icons.py --out datasets/icons_hard --set noise=25 --set min_px=16
"""

import argparse
import dataclasses
import sys
import time

from balms_det.icons import SceneStyle, generate_icons
from balms_det.utils.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write the dataset icons_lt.")
    parser.add_argument("--out", default="datasets/icons_lt", help="folder to write")
    parser.add_argument("--classes", type=int, default=60)
    parser.add_argument("--train", type=int, default=3000, help="training images")
    parser.add_argument("--val", type=int, default=500, help="validation images")
    parser.add_argument("--image-size", type=int, default=192, help="height and width, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: cores)")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder")
    knobs = ", ".join(field.name for field in dataclasses.fields(SceneStyle))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        help=f"change the scenes' difficulty; knobs: {knobs}",
    )
    return parser.parse_args()


def style_from(settings: list[str]) -> SceneStyle:
    """SceneStyle with `knob=value` settings applied."""
    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise ValueError(f"--set takes KNOB=VALUE, got {wrong[0]!r}")
    return SceneStyle().replace(**dict(setting.split("=", 1) for setting in settings))


def show_progress(split: str, done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        print(f"\r{split}: {done}/{total} images", end="\n" if done == total else "", flush=True)


@one_line_errors
def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    manifest = generate_icons(
        args.out,
        num_classes=args.classes,
        num_train=args.train,
        num_val=args.val,
        image_size=args.image_size,
        seed=args.seed,
        style=style_from(args.set),
        workers=args.workers,
        force=args.force,
        progress=show_progress,
    )
    groups = manifest["frequency"]
    for split in ("train", "val"):
        print(f"{split}: {manifest[split]['images']} images, {manifest[split]['instances']} masks")
    print(f"classes: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent")
    print(f"{args.out} ready in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
