#!/usr/bin/env python3
"""Write the weights of a checkpoint in another format; the suffixes say which.

python tools/convert_checkpoint.py model_final.pth model_final.safetensors
python tools/convert_checkpoint.py R-50.pkl R-50.safetensors
python tools/convert_checkpoint.py model.safetensors model.pth

MODEL.WEIGHTS takes .pth, .pkl, .pyth and .safetensors; .pth, .pkl and .safetensors are written.
A checkpoint of a training run loses all but its weights: to resume, keep the original.
"""

import argparse
import sys

from balms_det.engine.weights_files import read_checkpoint, write_weights
from balms_det.utils.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="checkpoint to read")
    parser.add_argument("target", help="file to write")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    checkpoint = read_checkpoint(args.source)
    left_out = write_weights(args.target, checkpoint)
    print(f"{args.target}: {len(checkpoint['model'])} tensors")
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
