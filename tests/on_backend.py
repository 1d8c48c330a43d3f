"""Run scripts with only some of the frameworks within reach, then compute with the network.

on_backend.py MISSING,MISSING RESULTS.npz WEIGHTS JSON, where JSON has the ``scripts`` as pairs of name
and arguments, the weights ``trained`` by them, the ``scan`` and the ``settings``. The backend is that of KERAS_BACKEND.
"""

import importlib
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

STEPS = 10


def take_away(names):
    """Have Python find packages of these names no more."""

    class Others(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name.partition(".")[0] in names:
                return None
            return super().find_spec(name, path, target)

    sys.meta_path[:] = [Others if finder is PathFinder else finder for finder in sys.meta_path]


def probability_of(weights, scan):
    """Return the probability of lesion, float32 (X, Y, Z), in a scan, by Keras on this backend."""
    from keras.ops import convert_to_numpy

    from config import load_run_settings
    from prediction.inference import predict_probability
    from prediction.network import Network
    from scans.volumes import load_volume
    from training.weights import load_weights
    from unet import build_unet

    settings = load_run_settings(weights)
    model = build_unet(**settings.unet.model_dump())
    load_weights(model, weights)

    def run(images):
        answer = model(images.transpose(0, 2, 3, 1), training=False)
        return convert_to_numpy(answer)[..., 0]

    return predict_probability([Network(run, settings, weights)], load_volume(scan), flip=True)


def losses_of(weights, settings):
    """Return the losses of ten steps, without dropout, that start from these weights."""
    import keras

    from config import load_settings
    from data import load_stage_data
    from stage import compile_model
    from training.weights import load_weights
    from unet import build_unet

    settings = load_settings(None, [*settings, "unet.dropout=0"])
    data = load_stage_data("atlas", settings, 4, augmented=True)
    model = build_unet(**settings.unet.model_dump())
    load_weights(model, weights)
    compile_model(model, settings.train, data.training.steps, "auto")
    losses = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs))
    model.fit(data.training, steps_per_epoch=STEPS, shuffle=False, callbacks=[keep], verbose=0)
    return np.array([logs["loss"] for logs in losses])


def batches_of(settings, place):
    """Return images and masks of two training batches and one for validation, kept in a place."""
    from keras.ops import convert_to_numpy

    from config import load_settings
    from data import load_stage_data

    changes = (f"hardware.data={place}", "augmentation.gamma=0.3", "unet.neighbours=1")
    data = load_stage_data("atlas", load_settings(None, [*settings, *changes]), 4, augmented=True)
    found = [data.training[0], data.training[1], data.validation[0]]
    images, masks = zip(*found, strict=True)
    arrays = {"images": images, "masks": masks}
    return {
        f"{place}_{kind}_{number}": convert_to_numpy(array)
        for kind, own in arrays.items()
        for number, array in enumerate(own)
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    missing, results, weights, task = sys.argv[1:]
    take_away(missing.split(","))
    task = json.loads(task)
    for name, words in task["scripts"]:
        assert importlib.import_module(name).main(words) in (None, 0), name
    np.savez(
        results,
        probability=probability_of(weights, task["scan"]),
        trained=probability_of(task["trained"], task["scan"]),
        losses=losses_of(weights, task["settings"]),
        **batches_of(task["settings"], "host"),
        **batches_of(task["settings"], "device"),
    )
    assert not {name.partition(".")[0] for name in sys.modules} & set(missing.split(","))
