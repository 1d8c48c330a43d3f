"""A scan of 189 slices by one set of weights: ours (OpenVINO), ONNX Runtime, Keras; and from end to end.

./run bench inference
.venv/bin/python -m benchmarks.inference --weights runs/transfer/best.weights.h5
"""

import shutil
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.bench import (
    SCANS,
    Contestant,
    arguments,
    compare,
    find_or_make_scans,
    prepare,
    quickest,
    report,
    scratch,
    spread,
    times_ours,
)

TRAINING_STEPS, RATE = 40, 0.003
BATCHES = (1, 4, 16)
SCANS_END_TO_END = 8


def train_briefly(prepared, folder, filters):
    """Write weights that know something of lesions, so that masks can be compared."""
    from benchmarks.loader import BATCH, open_slices
    from benchmarks.step import build_keras
    from config import load_settings
    from data import Batches
    from losses import WeightedDiceLoss
    from training.weights import save_weights

    settings = load_settings(overrides=[f"unet.filters={filters}"])
    model = build_keras(filters)
    import keras

    model.compile(
        keras.optimizers.Adam(RATE),
        WeightedDiceLoss(weight_strength=1.0, cross_entropy=0.0),
    )
    reader, count, _ = open_slices(prepared)
    rows = [row for row in range(count) if reader.read(row)[1].any()]

    def order(epoch):
        return np.random.default_rng(epoch).permutation(rows)

    batches = Batches(reader, order, BATCH, seed=0)
    for images, masks in islice(batches.stream(0, 100), TRAINING_STEPS):
        model.train_on_batch(images, masks)
    folder.mkdir()
    save_weights(model, folder / "best.weights.h5")
    settings.save(folder / "config.yaml")
    return lambda: None


def save_inputs(scan, weights, folder):
    """Write the 8-bit slices of a scan, and the exported network."""
    from config import load_run_settings
    from prediction.inference import square_size
    from prediction.onnx_export import export_network
    from scans.volumes import load_volume, volume_to_slices
    from training.stored_weights import read_weights

    scaled, mean, std = load_volume(scan).scaled
    images = volume_to_slices(scaled, square_size(scaled.shape, 240))
    np.savez(folder / "slices.npz", images=images, mean=mean, std=std)
    network = export_network(read_weights(weights), load_run_settings(weights).unet, weights)
    (folder / "network.onnx").write_bytes(network)
    return lambda: None


def load_inputs(folder):
    with np.load(folder / "slices.npz") as file:
        return file["images"], float(file["mean"]), float(file["std"])


def keeping(predict, folder, name):
    """Return work that predicts, and keeps the first probability for comparison."""

    def work():
        probability, path = predict(), folder / f"{name}.npy"
        if not path.exists():
            np.save(path, probability)

    return work


def ours(weights, folder, batch=None):
    """`prediction.network.Network.predict` of 8-bit slices."""
    from prediction import network

    network.BATCH = batch or network.BATCH
    loaded, inputs = network.load_network(weights), load_inputs(folder)
    return keeping(lambda: loaded.predict(*inputs), folder, f"ours {network.BATCH}")


def engine(run, folder, batch, name):
    """Return work that feeds slices to `run`, which maps (batch, 1, H, W) to probabilities."""
    from scans.intensity import standardise

    images, mean, std = load_inputs(folder)

    def predict():
        probability = np.empty(images.shape, np.float32)
        for start in range(0, len(images), batch):
            given = standardise(images[start : start + batch], mean, std)[:, None]
            whole = np.zeros((batch, *given.shape[1:]), np.float32)
            whole[: len(given)] = given
            probability[start : start + len(given)] = run(whole)[: len(given), 0]
        return probability

    return keeping(predict, folder, name)


def onnxruntime(folder, batch):
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Threads that wait in a loop would count as work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(folder / "network.onnx", options, ["CPUExecutionProvider"])
    return engine(
        lambda images: session.run(None, {"image": images})[0], folder, batch, f"onnx {batch}"
    )


def keras_model(weights, folder, batch):
    """The model that was trained, by Keras' own `predict_on_batch`."""
    from config import load_run_settings
    from training.weights import load_weights
    from unet import build_unet

    model = build_unet(**load_run_settings(weights).unet.model_dump())
    load_weights(model, weights)

    def run(images):
        return model.predict_on_batch(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    return engine(run, folder, batch, f"keras {batch}")


def end_to_end(scans, weights, folder, overlapped):
    """What predict.py does with scans, from their files to masks, pictures and facts."""
    from prediction import masks
    from prediction.network import load_network
    from prediction.operating_point import PLAIN
    from prediction.outputs import plan_outputs
    from prediction.saving import save_prediction

    networks = [load_network(weights)]
    # Loaded once, before it is measured.
    masks.load_networks = lambda files: networks
    masks.read_intensities = lambda weights: None
    output = folder / f"masks, {overlapped}"
    layout = SimpleNamespace(
        image_suffix="_T1w", mask_suffix="_label-L_desc-T1lesion_mask", labels=None
    )
    planned, _ = plan_outputs(scans, layout, output)
    options = {"weights": ["0"]} | PLAIN

    def work():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        if overlapped:
            problems = masks.predict_scans(planned, [weights], options, with_probability=False)
            if problems:
                raise ValueError(str(problems[0]))
        else:
            for outputs in planned:
                save_prediction(
                    masks.predict_scan(outputs, networks, options, None, with_probability=False)
                )
        return {"scans": len(planned)}

    return work


def reading(scan):
    from scans.volumes import load_volume

    return lambda: {"voxels": load_volume(scan).voxels.size}


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1)


def main():
    options = arguments(
        __doc__,
        5,
        scans=SCANS,
        weights={"type": Path, "metavar": "FILE", "help": "default: a brief training"},
        filters={"type": int, "default": 8, "help": "of the brief training; default: 8"},
    )
    with scratch() as folder:
        scans = find_or_make_scans(options.scans, folder, SCANS_END_TO_END)
        weights = options.weights and options.weights.resolve()
        if not weights:
            prepared = folder / "prepared"
            prepare(scans, prepared)
            weights = folder / "run" / "best.weights.h5"
            _once(train_briefly, prepared, folder / "run", options.filters)
        from benchmarks.prep import list_scans

        files = [scan.image for scan in list_scans(scans)[:SCANS_END_TO_END]]
        _once(save_inputs, files[0], weights, folder)
        from prediction.network import BATCH

        batches = sorted({*BATCHES, BATCH})
        samples = compare(
            [
                *(Contestant(f"ours, batch {b}", ours, (weights, folder, b)) for b in batches),
                *(
                    Contestant(f"ONNX Runtime, batch {b}", onnxruntime, (folder, b))
                    for b in BATCHES
                ),
                *(
                    Contestant(f"Keras, batch {b}", keras_model, (weights, folder, b))
                    for b in BATCHES
                ),
                *(
                    Contestant(
                        f"predict.py, {how}", end_to_end, (files, weights, folder, overlapped)
                    )
                    for how, overlapped in (("one after the other", False), ("overlapped", True))
                ),
                Contestant("reading alone", reading, (files[0],)),
            ],
            options.rounds,
        )
        for sample in chain(*samples.values()):
            for quantity in ("cpu_s", "wall_s"):
                sample[quantity] /= sample.get("scans", 1)
        mask = np.load(folder / f"ours {BATCH}.npy") > 0.5
        agreement = {
            path.stem: dice(mask, np.load(path) > 0.5) for path in sorted(folder.glob("* *.npy"))
        }
    this = samples[f"ours, batch {BATCH}"]
    rows = [
        {
            "what": name,
            "CPU s a scan": spread(s["cpu_s"] for s in turns),
            "wall s a scan": spread(s["wall_s"] for s in turns),
            "CPU, times ours": times_ours(this, turns),
            "wall, times ours": times_ours(this, turns, "wall_s"),
            "peak MB": f"{max(s['peak_mb'] for s in turns):,.0f}",
        }
        for name, turns in samples.items()
    ]
    options = vars(options) | {"agreement": agreement, "batch": BATCH, "lesion": int(mask.sum())}
    report("inference", rows, samples, **{key: _plain(value) for key, value in options.items()})
    for peer in ("ONNX Runtime", "Keras"):
        best = quickest(samples, [f"{peer}, batch {b}" for b in BATCHES])
        print(f"ours takes {times_ours(samples[best], this)} times the CPU time of {best}")
    print(
        f"masks of {mask.sum():,} voxels: Dice with ours at least {min(agreement.values()):.5f}, "
        f"over {', '.join(agreement)}"
    )


def _once(build, *arguments):
    """Do something once in a process of its own, whose memory and threads go with it."""
    compare([Contestant(build.__name__, build, arguments)], 0)


def _plain(value):
    return value if isinstance(value, int | float | dict | type(None)) else str(value)


if __name__ == "__main__":
    main()
