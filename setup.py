from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "balms_det" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="balms_det",
    version=VERSION,
    description="Long-tailed instance segmentation for Detectron2",
    license="Apache-2.0",
    packages=find_packages(include=["balms_det", "balms_det.*"]),
    package_data={"balms_det": ["data/counts/*.json", "report/assets/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        # Evaluation, statistics and annotation files, which do without torch.
        "numpy>=1.23",
        "pycocotools>=2.0.6",
        "tabulate>=0.9",
        "msgspec>=0.18",
        "hotcoco>=1.3",
    ],
    extras_require={
        # Losses and meta learners.
        "torch": ["torch>=2.0", "torchvision>=0.15", "fvcore>=0.1.5", "safetensors>=0.4"],
        # Pages and plots.
        "report": ["Pillow>=10.1", "matplotlib>=3.7", "jinja2>=3.1"],
        # What Detectron2's wheel needs; it is installed without its own, too narrow metadata.
        "detectron2": [
            "iopath>=0.1.9,<0.2",
            "yacs>=0.1.8",
            "setuptools<81",  # it imports pkg_resources, which later versions do not have
            "omegaconf>=2.1,<2.4",
            "hydra-core>=1.1",
            "termcolor>=1.1",
            "cloudpickle",
            "tqdm>4.29.0",
            "tensorboard",
            "packaging",
        ],
        # The font whose icons the embedded dataset is drawn from, and what reads its glyph names.
        "demo": ["fonttools>=4.40", "fonticon-materialdesignicons7==7.2.96"],
        # `lvis` asks for opencv-python, which needs libGL; tools/setup_env.py installs lvis alone.
        "lvis": ["opencv-python-headless>=4.8"],
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "psutil>=5.9", "ruff>=0.9"],
        "dev": ["pre-commit>=3.5", "nox>=2024.4"],
    },
)
