"""The demo's driver: what it repeats, what it does not, and how it fails."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest

from balms_det.workflows import quickstart
from balms_det.workflows import quickstart as quickstart_steps
from tests.evaluation.report_cases import make_case

STEP = quickstart.Step("stage2_softmax", "Softmax", start="stage1")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    (tmp_path / "configs" / "quickstart" / "stage2_softmax.yaml").write_text("A: 1")
    (tmp_path / "configs" / "Base-LongTail-RCNN-FPN.yaml").write_text("B: 1")
    (tmp_path / quickstart.DATASET).mkdir(parents=True)
    (tmp_path / quickstart.DATASET / "manifest.json").write_text("{}")
    return tmp_path


@pytest.fixture
def commands(monkeypatch, root):
    done = []

    def pretend(_, command, **options):
        done.append(command)
        (root / "run" / STEP.name).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(quickstart_steps, "run", pretend)
    return done


def test_a_finished_step_is_not_repeated(root, commands):
    quickstart.train(root, root / "run", STEP, seed=0)
    quickstart.train(root, root / "run", STEP, seed=0)
    assert len(commands) == 1
    assert json.loads((root / "run" / STEP.name / "step.json").read_text())["seconds"] >= 0


def test_a_changed_config_or_seed_repeats_it(root, commands):
    quickstart.train(root, root / "run", STEP, seed=0)
    quickstart.train(root, root / "run", STEP, seed=1)
    (root / "configs" / "quickstart" / "stage2_softmax.yaml").write_text("A: 2")
    quickstart.train(root, root / "run", STEP, seed=1)
    assert len(commands) == 3


def test_what_other_inputs_left_is_not_resumed(root, commands):
    quickstart.train(root, root / "run", STEP, seed=0)
    checkpoint = root / "run" / STEP.name / "last_checkpoint"
    checkpoint.touch()
    quickstart.train(root, root / "run", STEP, seed=1)
    assert not checkpoint.exists()


def test_an_interrupted_step_is_resumed(root, commands, monkeypatch):
    def interrupted(_, command, **options):
        (root / "run" / STEP.name / "last_checkpoint").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart_steps, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quickstart.train(root, root / "run", STEP, seed=0)
    monkeypatch.setattr(
        quickstart_steps, "run", lambda _, command, **options: commands.append(command)
    )
    quickstart.train(root, root / "run", STEP, seed=0)
    assert (root / "run" / STEP.name / "last_checkpoint").exists()
    assert len(commands) == 1


def test_stage_2_starts_from_the_stage_1_of_its_seed(root, commands):
    quickstart.train(root, root / "run", STEP, seed=0)
    command = commands[0]
    weights = command[command.index("MODEL.WEIGHTS") + 1]
    assert weights == str(root / "run" / "stage1" / "model_final.pth")
    assert "--resume" in command


def test_a_failing_step_shows_what_it_said(root, capfd):
    code = "print('first words'); raise SystemExit('the reason')"
    with pytest.raises(RuntimeError, match="the reason"):
        quickstart.run(root, [sys.executable, "-c", code])


def test_an_error_of_a_step_beside_others_is_not_lost(root, monkeypatch):
    def fail(_, command, **options):
        raise RuntimeError(f"this step failed: {command}")

    monkeypatch.setattr(quickstart_steps, "run", fail)
    with pytest.raises(RuntimeError, match="stage2_softmax"):
        quickstart.train_side_by_side(root, root / "run", [STEP], seed=0)


def test_what_is_compared_from_caches_are_configs_of_this_repository(root, monkeypatch):
    commands = []
    monkeypatch.setattr(quickstart, "run", lambda _, command, **options: commands.append(command))
    quickstart.cache_features(root, root / "run")
    quickstart.compare_from_cache(root, root / "run", root / "sweep")
    *made, sweep = commands
    folders = {command[command.index("--out") + 1] for command in made}
    assert folders == {sweep[sweep.index(name) + 1] for name in ("--cache", "--eval-cache")}
    methods = sweep[sweep.index("--methods") + 1 :]
    assert methods and all((Path(__file__).parents[2] / path).exists() for path in methods)


def test_the_page_shows_the_first_seed_of_every_method(root):
    names = ["owl", "cat", "bee"]
    case = make_case(root / quickstart.DATASET, names, num_images=12)
    case.gt.rename(root / quickstart.DATASET / "icons_lt_val.json")
    make_case(root / "train", names, num_images=12)
    (root / "train" / "gt.json").rename(root / quickstart.DATASET / "icons_lt_train.json")
    results = itertools.cycle(case.runs.values())
    for path, content in zip(quickstart.first_results(root / "run").values(), results):
        path.parent.mkdir(parents=True)
        shutil.copy(content, path)
    quickstart.write_page(root, root / "run")
    page = (root / "run" / "report.html").read_text(encoding="utf-8")
    assert '"name":"Softmax"' in page and '"name":"Balanced Softmax"' in page


def test_a_relative_folder_is_the_callers(root, tmp_path, monkeypatch):
    folders = []

    class StopError(Exception):
        pass

    def stop(_, folder, *others):
        folders.append(folder)
        raise StopError

    monkeypatch.setattr(quickstart, "run", lambda *_, **options: None)
    monkeypatch.setattr(quickstart, "train", stop)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(StopError):
        quickstart.run_quickstart(root, Path("demo"))
    assert folders == [tmp_path / "elsewhere" / "demo" / "seed0"]


def test_a_checkout_that_was_moved_has_the_same_inputs(root):
    inside, outside = (
        quickstart_steps.fingerprint(root, ["python", f"{folder}/output"])
        for folder in (root, "/elsewhere")
    )
    assert inside == quickstart_steps.fingerprint(root, ["python", "output"]) != outside
