"""Settings are checked before anything runs, and every mistake is named with its key."""

import importlib.util
import resource
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from conftest import refused

from config import STAGES, Geometry, Section, Settings, load_run_settings, load_settings
from system.files import InputError
from system.yaml_files import quoted, read_yaml, save_yaml

ROOT = Path(__file__).parents[1]


def sections(model=Settings):
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from sections(field.annotation)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("slices.sise=32", ["slices.sise", "did you mean size?"]),
        ("slice.size=32", ["slice ", "did you mean slices?"]),
        ("seeed=1", ["seeed", "did you mean seed?"]),
        ("train.trainable=all", ["train.trainable is not a setting", "epochs, batch_size"]),
        ("train.epochs=many", ["train.epochs = 'many'", "integer"]),
        ("train.epochs=2.5", ["train.epochs = 2.5", "integer"]),
        ("train.epochs=0", ["train.epochs = 0"]),
        ("train.augmentation=1", ["train.augmentation = 1", "boolean"]),
        ("unet.filters=true", ["unet.filters = True", "integer"]),
        ("paths.atlas=2024", ["paths.atlas = 2024", "string"]),
        ("paths.atlas=' '", ["paths.atlas = ' '", "folder"]),
        ("paths=data", ["paths = 'data'"]),
        ("split.by=scan", ["split.by = 'scan'", "'subject' or 'site'"]),
        ("split.by.site=1", ["split.by = {'site': 1}"]),
        ("slices.size=250", ["slices.size = 250", "multiple of 16"]),
        ("slices.empty_per_lesion=some", ["slices.empty_per_lesion = 'some'", "'all'"]),
        ("train.learning_rate=-0.001", ["train.learning_rate = -0.001", "greater than 0"]),
        ("train.learning_rate=.inf", ["train.learning_rate = inf", "finite"]),
        ("train.learning_rate=.nan", ["train.learning_rate = nan"]),
        ("brats17.labels=[]", ["brats17.labels", "at least 1"]),
        ("training=5", ["training = 5"]),
        ("seed=0b_", ["--set seed=0b_"]),
        ("brats17.labels=[0]", ["brats17.labels", "greater than or equal to 1"]),
        ("transfer.trainable=[]", ["transfer.trainable"]),
        ("fold=5", ["fold = 5", "split.folds is 5"]),
        ("fold=-1", ["fold = -1"]),
        ("augmentation.crop=320", ["augmentation.crop = 320", "slices.size is only 240"]),
        ("augmentation.crop=100", ["augmentation.crop = 100", "multiple of 16"]),
        ("slices.size", ["--set slices.size", "section.key=value"]),
        ("unet={levels: 2, deep_supervision: true}", ["unet.deep_supervision", "levels = 2"]),
        (
            "unet.downsampling=2",
            ["unet.levels = 4 and unet.downsampling = 2: slices.size = 240", "32"],
        ),
        ("unet.downsampling=3", ["unet.downsampling = 3"]),
        ("unet.levels=5", ["unet.levels = 5", "slices.size = 240", "multiple of 32"]),
        ("slices.size=[", ["--set slices.size", "YAML"]),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(override, parts):
    with refused(*parts):
        load_settings(overrides=[override])


def test_a_crop_must_suit_the_network_as_well():
    overrides = ["slices.size=256", "unet.downsampling=2", "augmentation.crop=112"]
    with refused("augmentation.crop = 112 is not a multiple of 32"):
        load_settings(overrides=overrides)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_configurations_that_come_along_are_valid(file):
    assert load_settings(file) != load_settings()


def test_every_wrong_setting_is_named_at_once():
    with refused("slices.size", "train.epochs", "nonsense"):
        load_settings(overrides=["slices.size=1", "train.epochs=-1", "nonsense=1"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["cannot be read"]),
        ("train: [1", ["line", "not valid YAML"]),
        ("- train\n", ["key: value"]),
        (b"\xff\xfe\xff", ["cannot be read"]),
        ("train:\n  epochs: 3\ntrain:\n  epochs: 4\n", ["line 3", "`train` stands there twice"]),
        ("train:\n  epochs: 3\n  epochs: 4\n", ["line 3", "`epochs` stands there twice"]),
        ("? [train, 1]\n: 2\n", ["not valid YAML"]),
    ],
)
def test_an_unreadable_overlay_is_refused_by_its_name(tmp_path, text, parts):
    overlay = tmp_path / "my.yaml"
    if text is not None:
        overlay.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused(overlay, *parts):
        load_settings(overlay)


def test_a_missing_setting_is_named(tmp_path, monkeypatch):
    base = tmp_path / "config.yaml"
    text = (ROOT / "config.yaml").read_text("utf-8")
    base.write_text(text.replace("  dropout: 0.2\n", ""), "utf-8")
    monkeypatch.setattr("config.BASE_FILE", base)
    with refused("unet.dropout is missing"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("2E-3", 2e-3), ("1e+1", 10.0), ("1.5e-4", 1.5e-4), ("1", 1)],
)
def test_a_rate_may_be_written_as_people_write_it(text, number):
    assert load_settings(overrides=[f"train.learning_rate={text}"]).train.learning_rate == number


def test_an_overlay_wins_over_the_base_and_set_over_both(tmp_path):
    base = load_settings()
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("train: {epochs: 7, batch_size: 3}\n", "utf-8")
    settings = load_settings(overlay, ["train.epochs=9", "train.epochs=11"])
    assert (settings.train.epochs, settings.train.batch_size) == (11, 3)
    changed = base.model_dump()
    changed["train"] |= {"epochs": 11, "batch_size": 3}
    assert settings.model_dump() == changed


def test_an_empty_overlay_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n", "utf-8")
    assert load_settings(tmp_path / "empty.yaml") == load_settings()


@pytest.mark.parametrize(
    "folder", ["out", "1e5", "2024", "yes", "null", "å b: c #d", "- x", "a\\n"]
)
def test_saved_settings_load_again_identically(tmp_path, folder):
    base = load_settings()
    paths = base.paths.model_copy(update={"prepared": folder})
    train = base.train.model_copy(update={"learning_rate": 1 / 3e7})
    settings = base.model_copy(update={"paths": paths, "train": train})
    settings.save(tmp_path / "settings.yaml")
    assert load_settings(tmp_path / "settings.yaml") == settings


def test_a_merge_of_yaml_may_repeat_keys(tmp_path):
    text = "train: &shared {epochs: 3, batch_size: 2}\ntransfer: {<<: *shared, epochs: 4}\n"
    (tmp_path / "my.yaml").write_text(text)
    transfer = load_settings(tmp_path / "my.yaml").transfer
    assert (transfer.epochs, transfer.batch_size) == (4, 2)


@pytest.mark.parametrize("key", ["paths.prepared", "split.table", "transfer.initial_weights"])
def test_home_and_variables_are_expanded_in_every_path(key, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    section, name = key.split(".")
    for written, meant in (("~/x", str(Path.home() / "x")), ("${SCRATCH}/x", "/scratch/me/x")):
        settings = load_settings(overrides=[f"{key}={written}"])
        assert getattr(getattr(settings, section), name) == meant
    with refused(key, "the environment variable $NOWHERE is not set"):
        load_settings(overrides=[f"{key}=$NOWHERE/x"])
    with refused(key, "~nobody-knows has no known home folder"):
        load_settings(overrides=[f"{key}=~nobody-knows/x"])


def test_settings_do_not_change():
    with pytest.raises(pydantic.ValidationError):
        load_settings().train.epochs = 1


def test_each_default_stands_in_config_yaml_or_in_the_schema_and_never_in_both():
    in_file = read_yaml(ROOT / "config.yaml")
    shared = in_file["training"]
    fields = 0
    for section, field in Settings.model_fields.items():
        if section not in in_file:
            assert not field.is_required(), section
            continue
        own = in_file[section]
        if not isinstance(own, dict):
            assert field.is_required(), section
            continue
        own = shared | own if section in STAGES else own
        for name, setting in field.annotation.model_fields.items():
            assert setting.is_required() == (name in own), f"{section}.{name}"
            fields += 1
    assert fields > 50


def test_what_all_stages_share_is_set_once_and_each_may_differ():
    settings = load_settings(overrides=["training.schedule=cosine", "train.schedule=constant"])
    stages = (settings.pre_train, settings.train, settings.transfer)
    assert [stage.schedule for stage in stages] == ["cosine", "constant", "cosine"]


def test_what_is_set_for_all_stages_goes_before_their_own_value_in_an_earlier_source(tmp_path):
    # config.yaml gives the transfer stage a rate of its own; a run folder keeps all values.
    run = tmp_path / "config.yaml"
    load_settings().save(run)
    for overlay in (None, run):
        overrides = ["transfer.epochs=7", "training.learning_rate=0.5", "train.learning_rate=0.1"]
        settings = load_settings(overlay, overrides)
        stages = (settings.pre_train, settings.train, settings.transfer)
        assert [stage.learning_rate for stage in stages] == [0.5, 0.1, 0.5]
        assert [stage.epochs for stage in stages] == [100, 150, 7]
    with refused("training.epochs = 'x'"):
        load_settings(overrides=["training.epochs=x"])


def test_a_mistake_in_what_all_stages_share_is_named_once():
    with pytest.raises(InputError) as caught:
        load_settings(overrides=["training.batch_size=0"])
    assert str(caught.value).startswith("settings: training.batch_size = 0")
    assert str(caught.value).count("batch_size") == 1
    with refused("training.bacth_size is not a setting; did you mean batch_size?"):
        load_settings(overrides=["training.bacth_size=4"])


def test_every_setting_says_what_it_means_and_the_page_of_all_settings_is_current():
    for section in sections():
        for name, field in section.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(
                field.annotation, Section
            )
            assert is_section or len(field.description) > 8, name
    path = ROOT / "docs" / "make_settings.py"
    spec = importlib.util.spec_from_file_location("make_settings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.make_page() == module.PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    "script", ["prep.py", "pre_train_model.py", "train_model.py", "transfer_learning.py"]
)
@pytest.mark.parametrize(("argument", "code"), [("--set=slices.size=250", 2), ("--help", 0)])
def test_help_and_mistakes_answer_at_once(script, argument, code):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", ROOT / script, argument]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report, shown = [], []
    for line in answer.stderr.splitlines():
        (report if line.startswith("import time:") else shown).append(line)
    imported = {line.rsplit("|", 1)[1].strip() for line in report}

    assert answer.returncode == code
    if code:
        assert len(shown) == 1
        assert shown[0].startswith("error: settings: slices.size = 250")
    else:
        assert shown == []
        assert "--set SECTION.KEY=VALUE" in answer.stdout
    assert "pydantic" in imported
    assert imported.isdisjoint({"tensorflow", "keras", "pandas", "sklearn", "cv2", "nibabel"})
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 1.5


def test_a_run_of_an_earlier_version_loads_if_it_used_nothing_that_is_gone(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("unet: {residual: false, mirror: false}\ntrain: {focal_power: 1}\n")
    assert load_settings(path) == load_settings()
    with refused("unet.residual = True", "this one cannot"):
        load_settings(path, ["unet.residual=true"])


def test_the_brain_alone_is_known_only_on_the_template():
    with refused("geometry.align = none leaves no brain to find", "geometry.brain to keep"):
        load_settings(None, ["geometry.align=none"])


def test_runs_from_before_the_section_geometry_kept_each_scan_s_own_grid(tmp_path):
    weights = tmp_path / "best.weights.h5"
    weights.touch()
    load_settings().save(tmp_path / "config.yaml")
    assert load_run_settings(weights).geometry == Geometry(align="template", brain="template")
    older = read_yaml(tmp_path / "config.yaml")
    del older["geometry"]
    save_yaml(tmp_path / "config.yaml", older)
    settings = load_run_settings(weights)
    assert settings.geometry == Geometry(align="none", brain="keep")
    # So such a run goes on, and is not taken for one of other settings.
    assert "geometry" not in settings.identity("train")
    assert load_settings().identity("train")["geometry"]["align"] == "template"


@pytest.mark.parametrize(
    "name", ["my #1: runs", "\N{BRAIN}", "\udcff", "1e3", "a\tb", "null", 'it\'s "so"', "a, [b]"]
)
def test_a_path_on_the_command_line_may_hold_any_character(name):
    path = f"runs/{name}"
    assert load_settings(overrides=[f"paths.runs={quoted(path)}"]).paths.runs == path


def test_only_what_decides_the_result_of_a_stage_is_in_its_identity(tmp_path):
    weights = tmp_path / "best.weights.h5"
    weights.touch()
    for change, stages in (
        ("augmentation.shift=0.2", ["transfer"]),
        (f"transfer.initial_weights={weights}", []),
        ("hardware.devices=2", []),
        ("unet.dropout=0.3", ["pre_train", "train", "transfer"]),
    ):
        ours, theirs = load_settings(), load_settings(None, [change])
        assert [s for s in STAGES if ours.identity(s) != theirs.identity(s)] == stages, change
