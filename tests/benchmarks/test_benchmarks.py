"""The benchmarks import, take turns, divide the right way round, and count the network's work."""

import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from benchmarks import bench, gpu, growth, inference, soak, step
from benchmarks.gpu import pack
from config import parse_arguments

NAMES = ("step", "loader", "prep", "inference", "growth", "metrics", "gpu")


def spin(seconds):
    """Return work that keeps a core busy for so long."""

    def work():
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
        return {"spun": seconds}

    return work


def break_down():
    raise ValueError("no such engine")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_imports_without_its_peers(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_the_run_script_knows_every_benchmark():
    assert f"set -- {' '.join(NAMES)}" in (bench.ROOT / "run").read_text("utf-8")


def test_the_soak_starts_its_stages_with_settings_that_exist(tmp_path):
    for stage in soak.STAGES:
        _, _, *words = soak.command(stage, tmp_path, tmp_path)
        assert parse_arguments("", words)[0].slices.size == 32


@pytest.mark.slow
def test_every_engine_gives_the_probabilities_of_ours(tiny_trees, weights, tmp_path):
    inference.save_inputs(next(tiny_trees.atlas.rglob("sub-*_T1w.nii.gz")), weights, tmp_path)
    found = {"ours 4": inference.ours(weights, tmp_path, 4)}
    found["keras 4"] = inference.keras_model(weights, tmp_path, 4)
    if find_spec("onnxruntime"):  # with requirements/bench.txt alone
        found["onnx 4"] = inference.onnxruntime(tmp_path, 4)
    assert (tmp_path / "network.onnx").stat().st_size > 1000
    for work in found.values():
        work()
    ours, *others = (np.load(tmp_path / f"{name}.npy") for name in found)
    assert np.ptp(ours) > 0.01
    for other in others:
        np.testing.assert_allclose(other, ours, atol=1e-5)


@pytest.mark.slow
def test_the_scans_of_growth_are_prepared_and_trained_on(tmp_path):
    for number in range(6):
        growth.make_scan(number, tmp_path / "scans")
    growth.run_prep(tmp_path / "scans", tmp_path / "small")()
    growth.make_stacks(tmp_path / "small", tmp_path / "stacks")
    measured = growth.load_epoch(tmp_path / "stacks")()
    assert measured["slices"] > 0 and measured["epoch_s"] > 0
    assert growth.train_some(tmp_path / "stacks")()["own_mb"] > 10


@pytest.mark.slow
def test_what_travels_to_a_gpu_imports_there(tmp_path):
    for name in pack.MODULES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(bench.ROOT / name, tmp_path / name)
    names = [name.removesuffix(".py").replace("/", ".") for name in pack.MODULES]
    names = [name for name in names if name not in ("system.jax_devices",)]
    program = "; ".join(
        ["import sys", f"sys.path[0] = {str(tmp_path)!r}", f"import {', '.join(names)}"]
    )
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)


def test_contestants_take_turns():
    order = []

    def contestant(name):
        return lambda: order.append(name) or {"round": len(order)}

    samples = bench.take_turns({name: contestant(name) for name in "ab"}, rounds=3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [sample["round"] for sample in samples["b"]] == [2, 4, 6]


def test_a_ratio_is_taken_within_a_round():
    ours, peer = ([{"cpu_s": seconds} for seconds in turns] for turns in ((1, 2, 4), (2, 8, 12)))
    assert bench.times_ours(ours, peer) == bench.Spread(median=3, low=2, high=4)
    assert bench.quickest({"ours": ours, "peer": peer}, ["peer", "ours", "left out"]) == "ours"


def test_work_is_measured_with_what_it_returns():
    sample = bench.measure(spin(0.2))
    assert sample["spun"] == 0.2
    assert sample["wall_s"] >= 0.2
    assert 0.2 <= sample["cpu_s"] < 0.4
    assert sample["peak_mb"] > 10


@pytest.mark.slow
def test_the_work_of_child_processes_counts_alive_or_ended():
    context = multiprocessing.get_context("spawn")
    before = bench.cpu_seconds()
    child = context.Process(target=_spin_and_wait, args=(0.5,), daemon=True)
    child.start()
    deadline = time.monotonic() + 60
    while bench.cpu_seconds() - before < 0.5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.is_alive()
    child.kill()
    child.join()
    assert bench.cpu_seconds() - before >= 0.45


def _spin_and_wait(seconds):
    spin(seconds)()
    time.sleep(60)


@pytest.mark.slow
def test_contestants_live_in_processes_of_their_own(capsys):
    contestants = [
        bench.Contestant("ours", spin, (0.05,)),
        bench.Contestant("peer", spin, (0.2,)),
        bench.Contestant("engine", break_down, optional=True),
    ]
    samples = bench.compare(contestants, rounds=2)
    assert "engine: left out, ValueError: no such engine" in capsys.readouterr().out
    assert [len(turns) for turns in samples.values()] == [2, 2]
    assert bench.times_ours(samples["ours"], samples["peer"]).median > 2
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_contestant_that_breaks_stops_the_comparison():
    with pytest.raises(RuntimeError, match="no such engine"):
        bench.compare([bench.Contestant("ours", break_down)], rounds=1)


def test_a_report_is_a_table_and_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    row = {"what": "ours", "ms": bench.spread([1, 2, 3])}
    bench.report("some", [row], {"ours": [{"others": 0.5}]}, rounds=1)
    saved = json.loads((tmp_path / "some.json").read_text("utf-8"))
    assert saved["table"] == [{"what": "ours", "ms": "2.00 (1.00–3.00)"}]
    assert {"cpu", "cores", "date", "versions", "load_average"} <= saved["machine"].keys()
    assert "| ours | 2.00 (1.00–3.00) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("filters", "gflop"),
    [(8, 1.33), (32, 21.2)],
)
def test_the_work_of_a_forward_pass_is_what_the_design_says(filters, gflop):
    assert step.forward_flop(step.build_keras(filters)) / 1e9 == pytest.approx(gflop, rel=0.01)


def test_the_work_of_the_smallest_network_is_counted_by_hand():
    # One filter on 16 × 16 pixels. Blocks at 16, 8, 4, 2 and 1 pixels a side; ways up; the head.
    down = 256 * (9 + 9) + 64 * (18 + 36) + 16 * (72 + 144) + 4 * (288 + 576) + 1 * (1152 + 2304)
    up = sum(side**2 * width * 2 * width * 4 for side, width in ((1, 8), (2, 4), (4, 2), (8, 1)))
    back = sum(side**2 * 9 * 3 * width**2 for side, width in ((2, 8), (4, 4), (8, 2), (16, 1)))
    model = step.build_keras(1, 0.0)
    assert step.forward_flop(model, size=16) == 2 * (down + up + back + 256)


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(gpu, "find_gpu", lambda: None)
    gpu.main()
    assert capsys.readouterr().out.count("\n") == 1


def test_a_driver_without_a_gpu_counts_as_none(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name)
    answer = subprocess.CompletedProcess([], returncode=9, stdout="No devices were found")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: answer)
    assert gpu.find_gpu() is None


def test_pytorch_has_the_same_network():
    from benchmarks.torch_unet import TorchUNet, weighted_dice_loss
    from losses import WeightedDiceLoss

    keras.utils.set_random_seed(0)
    model = step.build_keras(2)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 32, 32, 1)).astype(np.float32)
    for layer in model.layers:
        if "norm" in layer.name:  # scale, offset, running mean, running variance
            layer.set_weights([rng.uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    twin = TorchUNet(2, 0.2).eval()
    twin.carry_over({layer.name: layer.get_weights() for layer in model.layers})
    expected = np.asarray(model(images, training=False))
    found = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).detach()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found.numpy()[:, 0], expected[..., 0], atol=1e-5)
    mask = np.zeros_like(images)
    mask[:, 8:20, 10:18] = 1
    loss = weighted_dice_loss(torch.from_numpy(mask.transpose(0, 3, 1, 2)), found, 0.8)
    assert float(loss) == pytest.approx(
        float(WeightedDiceLoss(0.8, cross_entropy=0.0)(mask, expected)), abs=1e-6
    )


def test_results_on_disk_say_what_they_were_measured_on():
    for path in Path(bench.RESULTS).glob("*.json"):
        saved = json.loads(path.read_text("utf-8"))
        assert saved["benchmark"] == path.stem
        assert saved["table"] and saved["samples"] and saved["machine"]["cpu"]
