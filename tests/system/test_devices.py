"""Several devices, precision and XLA: what they may change in a run, and what not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import history, refused

import train_model
from system import jax_devices
from system.devices import check_last_batches, resolve_jit, use_hardware
from system.files import InputError
from training.weights import read_weights

ON_DEVICES, ON_PROCESSES = (
    Path(__file__).with_name(f"on_{kind}.py") for kind in ("devices", "processes")
)
# As many CPUs as told, for JAX; compiled in a hurry.
XLA = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="
# 55 slices in batches of 4: of the last one each device gets another share.
UNEVEN = ["slices.per_epoch=55", "train.batch_size=4"]
# What a network may have beside the authors' layers.
MORE = ["unet.levels=3", "unet.deep_supervision=true"]


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


@pytest.fixture
def train_on_jax(tiny_overrides, prepared, tmp_path):
    """Return a function that trains with JAX, as under srun, and returns what each process printed."""

    def train(processes, devices, name, *changes, until=None):
        overrides = [*changes, f"paths.prepared={prepared}", f"paths.runs={tmp_path / name}"]
        words = [word for override in overrides for word in ("--set", override)]
        with socket.create_server(("", 0)) as free:
            port = str(free.getsockname()[1])
        running = [
            subprocess.Popen(
                [sys.executable, ON_PROCESSES, "train_model", *tiny_overrides, *words],
                env=os.environ
                | {
                    "KERAS_BACKEND": "jax",
                    "JAX_COORDINATOR_PORT": port,
                    "XLA_FLAGS": XLA + str(devices),
                    "SLURM_JOB_ID": "1",
                    "SLURM_STEP_NODELIST": "localhost",
                    "SLURM_NTASKS": str(processes),
                    "SLURM_STEP_NUM_TASKS": str(processes),
                    "SLURM_PROCID": str(number),
                    "SLURM_LOCALID": "0",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(processes)
        ]
        if until:
            assert any(line.startswith(until) for line in running[0].stdout)
            for process in running:
                process.kill()
        printed = [process.communicate(timeout=600) for process in running]
        codes = [process.returncode for process in running]
        assert codes == [-9 if until else 0] * processes, printed
        return [out for out, _ in printed]

    return train


def largest_difference(run, other, epochs):
    """Of the weights after so many epochs, over all arrays."""
    a, b = (read_weights(folder / f"state-{epochs}.weights.h5") for folder in (run, other))
    assert a.keys() == b.keys()
    return max(np.abs(x - y).max() for name in a for x, y in zip(a[name], b[name], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["unet.instance_normalisation=true"],
        ["unet.batch_normalisation=false", "train.dice_of=image"],
    ],
)
def test_five_devices_learn_what_one_learns_also_from_uneven_batches(train_on, options):
    # Of the last 9 slices of 15, in training as in validation, the fifth device has one. Without
    # batch normalisation, which takes each device for itself, and dropout.
    changes = ["train.epochs=1", *options, "unet.dropout=0", "unet.levels=1"]
    changes += ["train.batch_size=15", "slices.per_epoch=54"]
    one, five = (train_on(count, str(count), *changes) for count in (1, 5))
    # Four steps of Adam move a weight by up to 0.04, and round as far as 2e-5 on some processors.
    assert largest_difference(one, five, epochs=1) < 1e-4
    for a, b in zip(history(one), history(five), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.slow
def test_a_run_on_two_devices_killed_in_its_second_epoch_ends_with_the_same_weights(train_on):
    average = "train.weight_average=0.9"
    whole = train_on(2, "whole", average)
    killed = train_on(2, "killed", average, until="epoch   1/2")
    assert len(history(killed)) == 1
    assert train_on(2, "killed", average) == killed
    assert history(killed) == history(whole)
    assert largest_difference(killed, whole, epochs=2) == 0


@pytest.mark.slow
def test_two_processes_of_five_devices_killed_on_the_way_end_where_one_device_ends(
    train_on_jax, tmp_path
):
    # Of the last of 24 validation slices, 4, the second process gets none.
    changes = ["train.batch_size=20", "slices.per_epoch=40", "train.augmentation=true"]
    changes.append("train.weight_average=0.9")
    train_on_jax(1, 1, "one", *changes)
    train_on_jax(2, 5, "two", *changes, until="epoch   1/2")
    first, second = train_on_jax(2, 5, "two", *changes)
    assert "goes on after epoch 1" in first
    assert second == ""
    one, two = tmp_path / "one/train", tmp_path / "two/train"
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert largest_difference(one, two, epochs=2) < 1e-4
    for a, b in zip(history(one), history(two), strict=True):
        # The last validation batch weighs in the loss as if it were filled.
        assert a.pop("val_loss") == pytest.approx(b.pop("val_loss"), abs=0.1)
        assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "network"), [("mixed_float16", []), ("mixed_bfloat16", MORE)]
)
def test_mixed_precision_learns_and_keeps_its_weights_in_32_bits(train_on, precision, network):
    changes = [f"hardware.precision={precision}", "train.weight_average=0.5", "train.clip_norm=1"]
    changes += network
    run = train_on(1, precision, *changes)
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
    for size in (12, 6, 5, 3):
        check_last_batches(training=12, validation=size)
    # In shards of 2, 2 and nothing.
    for sizes in ((12, 4), (4, 12)):
        with refused("hardware.devices = 3", "4 slices"):
            check_last_batches(*sizes)


def pretend_mesh(patch, devices):
    """Have so many devices share each batch, as far as JAX's functions ask."""
    mesh = SimpleNamespace(devices=np.zeros(devices))
    patch.setattr("keras.distribution.distribution", lambda: SimpleNamespace(device_mesh=mesh))


def test_jax_refuses_unequal_shards_of_a_training_batch_and_fills_those_of_validation(monkeypatch):
    jax_devices.check_last_batches(training=5, validation=4)
    pretend_mesh(monkeypatch, 3)
    jax_devices.check_last_batches(training=6, validation=4)
    with refused("hardware.devices = 3", "5 slices", "a multiple of 3"):
        jax_devices.check_last_batches(training=5, validation=6)


@pytest.mark.parametrize(
    ("size", "shards"), [(4, [(0, 5), (5, 10)]), (10, [(0, 5), (5, 10)]), (11, [(0, 10), (10, 20)])]
)
def test_each_process_of_jax_reads_as_many_images_as_the_others(size, shards, monkeypatch):
    pretend_mesh(monkeypatch, 10)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    for number, shard in enumerate(shards):
        monkeypatch.setattr("jax.process_index", lambda number=number: number)
        assert jax_devices.shard_of_batch()(size) == range(*shard)


def test_one_device_of_jax_reads_the_whole_batch():
    assert jax_devices.shard_of_batch()(7) == range(7)


def test_devices_that_cannot_share_a_batch_are_refused_before_there_is_a_run_folder(
    tiny_overrides, prepared, tmp_path, monkeypatch
):
    def refuse(training, validation):
        raise InputError("cannot share")

    monkeypatch.setattr("data.check_last_batches", refuse)
    changes = [f"paths.prepared={prepared}", f"paths.runs={tmp_path / 'runs'}"]
    with refused("cannot share"):
        train_model.main([*tiny_overrides, *(w for c in changes for w in ("--set", c))])
    assert not (tmp_path / "runs").exists()


def test_xla_is_off_on_a_cpu_unless_asked_for():
    assert [resolve_jit(jit) for jit in ("auto", False, True)] == [False, False, True]


def test_a_run_goes_on_on_other_devices_but_not_in_another_precision(
    tiny_overrides, prepared, tmp_path, capsys
):
    arguments = [*tiny_overrides, "--set", "train.epochs=1", "--set", f"paths.runs={tmp_path}"]
    arguments += ["--set", f"paths.prepared={prepared}"]
    train_model.main(arguments)
    # As runs of earlier versions have it.
    facts = json.loads((tmp_path / "train" / "run.json").read_text())
    facts["identity"]["unet"] |= {"residual": False, "mirror": False}
    facts["identity"]["train"]["focal_power"] = 1
    del facts["identity"]["train"]["dice_of"], facts["identity"]["train"]["dice_smooth"]
    del facts["identity"]["unet"]["downsampling"]
    (tmp_path / "train" / "run.json").write_text(json.dumps(facts))
    train_model.main([*arguments, "--set", "hardware.devices=1", "--set", "hardware.jit=false"])
    assert "finished already" in capsys.readouterr().out
    with refused("another precision", "--restart"):
        train_model.main([*arguments, "--set", "hardware.precision=mixed_float16"])
    with refused("another unet.foreground_prior", "--restart"):
        train_model.main([*arguments, "--set", "unet.foreground_prior=0.1"])


@pytest.mark.parametrize(
    ("backend", "advice"),
    [("openvino", "choose tensorflow, jax, torch"), ("jax", "requirements/jax.txt")],
)
def test_a_backend_that_is_unknown_or_not_installed_is_refused(
    arguments, monkeypatch, backend, advice
):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("system.console.find_spec", lambda name: None)
    with refused(f"KERAS_BACKEND = {backend}", advice):
        train_model.main(arguments)


@pytest.fixture
def shared(monkeypatch):
    """Pretend two processes of two devices each, and list those that share each batch."""
    names = []
    monkeypatch.setattr(
        "system.devices.backend.devices_of_processes", lambda: [["a", "b"], ["c", "d"]]
    )
    monkeypatch.setattr("system.devices.backend.share_batches", names.extend)
    return names


@pytest.mark.parametrize(("devices", "size", "names"), [("all", 12, "abcd"), ("all", 2, "ac")])
def test_processes_share_a_batch_by_equally_many_devices_each(shared, devices, size, names):
    use_hardware(devices, "float32", size)
    assert shared == list(names)


@pytest.mark.parametrize(
    ("devices", "size", "reason"),
    [("all", 3, "batch of 3"), (3, 12, "2 processes"), (6, 12, "2 processes have 4")],
)
def test_devices_that_processes_cannot_share_by_are_refused(shared, devices, size, reason):
    with refused("hardware.devices", reason):
        use_hardware(devices, "float32", size)
    assert not shared
