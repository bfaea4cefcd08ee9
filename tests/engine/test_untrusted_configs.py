"""YAML of strangers: a config holds values, and builds no objects."""

import contextlib
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from balms_det import add_balms_config
from balms_det.engine import load_cfg
from balms_det.engine.config import merge_config_file
from balms_det.utils.trust import UntrustedFileError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def loot(tmp_path):
    """The folder that a successful attack makes."""
    return tmp_path / "loot"


def attack(loot):
    return f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{loot}"]\n'


def write(path, text):
    path.write_text(text)
    return str(path)


def in_the_file(folder, loot):
    return write(folder / "bad.yaml", attack(loot))


def in_the_base(folder, loot):
    write(folder / "bad.yaml", attack(loot))
    return write(folder / "child.yaml", "_BASE_: bad.yaml\nSEED: 1\n")


def in_one_of_two_bases(folder, loot):
    write(folder / "bad.yaml", attack(loot))
    write(folder / "good.yaml", "SEED: 2\n")
    return write(folder / "child.yaml", '_BASE_: ["good.yaml", "bad.yaml"]\n')


def in_the_bases_base(folder, loot):
    in_the_base(folder, loot)
    return write(folder / "grandchild.yaml", "_BASE_: child.yaml\n")


PLACES = [in_the_file, in_the_base, in_one_of_two_bases, in_the_bases_base]


@pytest.mark.parametrize("place", PLACES)
def test_a_tag_builds_nothing(tmp_path, loot, place):
    with pytest.raises(UntrustedFileError, match=r"python/object/apply.*TRUST=yaml") as error:
        load_cfg(place(tmp_path, loot))
    assert f"{tmp_path / 'bad.yaml'}, line 1" in str(error.value)
    assert not loot.exists()


@pytest.mark.parametrize("place", PLACES)
def test_the_attack_is_real(tmp_path, loot, place):
    """Detectron2's own default does what the tag says."""
    cfg = get_cfg()
    with contextlib.suppress(ValueError, AssertionError):  # what it returned is no OUTPUT_DIR
        cfg.merge_from_file(place(tmp_path, loot))
    assert loot.exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object:collections.OrderedDict {}",
        "!!python/object/new:os.system [exit]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!unknown x",
    ],
)
def test_no_tag_at_all_is_followed(tmp_path, tag):
    with pytest.raises(UntrustedFileError, match=r"bad\.yaml, line 2"):
        load_cfg(write(tmp_path / "bad.yaml", f"SEED: 1\nOUTPUT_DIR: {tag}\n"))


def test_the_guard_can_be_switched_off_and_says_so(tmp_path, loot, monkeypatch, caplog):
    monkeypatch.setenv("BALMS_DET_TRUST", "pickle, yaml")
    path = write(tmp_path / "a.yaml", "SEED: !!python/object/apply:len [[1, 2, 3]]\n")
    cfg = get_cfg()
    merge_config_file(cfg, path)
    assert cfg.SEED == 3
    assert "can run any program as you" in caplog.text and path in caplog.text


def test_every_config_of_the_project_is_plain():
    for path in (ROOT / "configs").rglob("*.yaml"):
        cfg = get_cfg()
        add_balms_config(cfg)
        merge_config_file(cfg, str(path))


def test_the_command_line_is_not_evaluated(tmp_path, loot):
    call = f"__import__('os').mkdir('{loot}')"
    cfg = load_cfg("", ["OUTPUT_DIR", call, "MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.TAU", call])
    assert call == cfg.OUTPUT_DIR and call == cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.TAU
    assert not loot.exists()


def test_every_config_is_read_this_way():
    """No other file of ours reads a config or YAML."""
    files = [p for f in ("balms_det", "tools", "benchmarks") for p in (ROOT / f).rglob("*.py")]
    for word in (
        ".merge_from_file(",
        "yaml.load",
        "unsafe_load",
        "load_yaml_with_base",
        "LazyConfig",
    ):
        homes = {str(path.relative_to(ROOT)) for path in files if word in path.read_text()}
        assert homes <= {"balms_det/engine/config.py"}, word
