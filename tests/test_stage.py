"""A stage loads and learns as its own settings say."""

import importlib

import pytest
from conftest import refused

from system.files import InputError

SCRIPTS = {"pre_train": "pre_train_model", "train": "train_model", "transfer": "transfer_learning"}


@pytest.mark.parametrize("augmented", ["true", "false"])
@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_stage_loads_its_data_set_as_its_own_settings_say(
    stage, augmented, tiny_overrides, prepared, runs, tmp_path, monkeypatch
):
    def stop(dataset, settings, batch_size, augmentation):
        assert dataset == ("brats17" if stage == "pre_train" else "atlas")
        assert (batch_size, augmentation) == (3, augmented == "true")
        raise InputError("as they say")

    monkeypatch.setattr("stage.load_stage_data", stop)
    changes = [f"{stage}.batch_size=3", f"{stage}.augmentation={augmented}"]
    other = "false" if augmented == "true" else "true"
    changes += [f"{name}.augmentation={other}" for name in SCRIPTS if name != stage]
    changes += [f"paths.runs={tmp_path}", f"paths.prepared={prepared}"]
    changes.append(f"transfer.initial_weights={runs.folder / 'train' / 'best.weights.h5'}")
    words = [word for change in changes for word in ("--set", change)]
    with refused("as they say"):
        importlib.import_module(SCRIPTS[stage]).main([*tiny_overrides, *words])
    assert not list(tmp_path.iterdir())
