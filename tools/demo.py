#!/usr/bin/env python3
"""Draw what a model finds in images, folders or a video, in the colours of frequency groups.

python tools/demo.py --config-file CONFIG --input a.jpg folder/ --output out MODEL.WEIGHTS model.pth
python tools/demo.py --config-file CONFIG --video-input a.mp4 --output out.mp4 MODEL.WEIGHTS ...
"""

import argparse
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from balms_det.engine import LongTailPredictor, load_prediction_cfg
from balms_det.utils.command_line import one_line_errors, positive
from balms_det.workflows.predict import draw_images, draw_video, image_files, training_metadata


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", nargs="+", metavar="PATH", help="images and folders of images")
    what.add_argument("--video-input", metavar="VIDEO")
    parser.add_argument("--output", required=True, type=Path, help="a folder; for a video, an mp4")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, metavar="SCORE")
    parser.add_argument("--scale", type=positive, default=1.0, help="size of the pictures")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    setup_logger(name="balms_det")
    threshold = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(args.confidence_threshold)]
    files = image_files(args.input or [])
    cfg = load_prediction_cfg(args.config_file, [*threshold, *args.opts])
    predictor, metadata = LongTailPredictor(cfg), training_metadata(cfg)
    if args.video_input:
        for number, found in enumerate(
            draw_video(args.video_input, args.output, predictor, metadata)
        ):
            print(f"frame {number}: {len(found)} detections", flush=True)
        print(args.output)
    for target, found in draw_images(files, args.output, predictor, metadata, args.scale):
        print(f"{target}: {len(found)} detections", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
