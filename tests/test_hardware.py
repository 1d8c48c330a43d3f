"""Several devices, precision and XLA: what they may change in a run, and what not."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from test_stages import history

import train_model
from hardware import check_parts, resolve_jit, use_hardware
from weights import read_weights

ON_DEVICES = Path(__file__).with_name("on_devices.py")
# 55 slices in batches of 4: of the last one each device gets another share.
UNEVEN = ["slices.per_epoch=55", "train.batch_size=4"]


@pytest.fixture
def train_on(tiny_overrides, prepared, tmp_path):
    """Return a function that trains on so many devices and returns the run folder."""

    def train(count, name, *changes, until=None):
        overrides = [*UNEVEN, *changes, f"paths.prepared={prepared}"]
        overrides.append(f"paths.runs={tmp_path / name}")
        words = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, ON_DEVICES, str(count), "train_model", *tiny_overrides, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if until and line.startswith(until):
                process.kill()
                break
        assert process.wait(timeout=600) == (-9 if until else 0)
        return tmp_path / name / "train"

    return train


def largest_difference(run, other, epochs):
    """Of the weights after so many epochs, over all arrays."""
    a, b = (read_weights(folder / f"state-{epochs}.weights.h5") for folder in (run, other))
    assert a.keys() == b.keys()
    return max(np.abs(x - y).max() for name in a for x, y in zip(a[name], b[name], strict=True))


def test_two_devices_learn_what_one_learns(train_on):
    # Without batch normalisation, which takes each device for itself, and dropout.
    plain = ["train.epochs=1", "unet.batch_normalisation=false", "unet.dropout=0"]
    one, two = (train_on(count, str(count), *plain) for count in (1, 2))
    assert largest_difference(one, two, epochs=1) < 1e-5
    for a, b in zip(history(one), history(two), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_run_on_two_devices_killed_in_its_second_epoch_ends_with_the_same_weights(train_on):
    whole, killed = train_on(2, "whole"), train_on(2, "killed", until="epoch   1/2")
    assert len(history(killed)) == 1
    assert train_on(2, "killed") == killed
    assert history(killed) == history(whole)
    assert largest_difference(killed, whole, epochs=2) == 0
    # Each device normalises by its own images, so one device learns much the same, not the same.
    one = train_on(1, "one")
    for a, b in zip(history(one), history(whole), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.03)
    assert largest_difference(one, whole, epochs=2) > 0


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_and_keeps_its_weights_in_32_bits(train_on, precision):
    run = train_on(1, precision, f"hardware.precision={precision}")
    epochs = history(run)
    assert epochs[-1]["loss"] < epochs[0]["loss"] < 1
    weights = read_weights(run / "best.weights.h5")
    assert {array.dtype for arrays in weights.values() for array in arrays} == {np.dtype("f4")}


def test_more_devices_than_there_are_are_refused():
    with refused("hardware.devices = 9"):
        use_hardware(9, "float32", batch_size=9)


def test_a_batch_of_which_a_device_gets_nothing_is_refused(monkeypatch):
    import tensorflow as tf

    three = type("Strategy", (), {"num_replicas_in_sync": 3})
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: three)
    check_parts([12, 6, 5, 3])
    # In parts of 2, 2 and nothing.
    with refused("hardware.devices = 3", "4 slices"):
        check_parts([12, 4])


def test_xla_is_off_on_a_cpu_unless_asked_for():
    assert [resolve_jit(jit) for jit in ("auto", False, True)] == [False, False, True]


def test_a_run_goes_on_on_other_devices_but_not_in_another_precision(
    tiny_overrides, prepared, tmp_path, capsys
):
    arguments = [*tiny_overrides, "--set", "train.epochs=1", "--set", f"paths.runs={tmp_path}"]
    arguments += ["--set", f"paths.prepared={prepared}"]
    train_model.main(arguments)
    facts = json.loads((tmp_path / "train" / "run.json").read_text())
    # As in runs from before there was a choice.
    del facts["identity"]["precision"]
    (tmp_path / "train" / "run.json").write_text(json.dumps(facts))
    train_model.main([*arguments, "--set", "hardware.devices=1", "--set", "hardware.jit=false"])
    assert "finished already" in capsys.readouterr().out
    with refused("another precision", "--restart"):
        train_model.main([*arguments, "--set", "hardware.precision=mixed_float16"])


def test_another_backend_is_refused_before_it_counts_wrong(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with refused("KERAS_BACKEND = jax", "tensorflow"):
        use_hardware(1, "float32", 8)
