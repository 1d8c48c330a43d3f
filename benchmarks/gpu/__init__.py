"""Training step and inference on a GPU: slices a second and the GPU's busy share, beside PyTorch.

Ours in mixed precision and compiled by XLA, PyTorch channels last under autocast, both in bfloat16,
at n = 32 with 64 slices a batch. Without a GPU it says so and ends.

    ./run bench gpu
"""

import shutil
import subprocess
import threading

import numpy as np

from benchmarks.bench import Contestant, arguments, brief, compare, report, spread, times_ours
from benchmarks.step import DROPOUT, RATE, STRENGTH, build_keras, make_batch, make_keras_step

FILTERS, BATCH, STEPS = 32, 64, 30


def find_gpu():
    """Return name and driver of the first NVIDIA GPU, or None."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.strip().splitlines()[0] if answer.returncode == 0 else None


class BusyShare:
    """Sample in a thread how busy the first GPU is, until the block ends."""

    def __enter__(self):
        self.samples, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self):
        query = [
            "nvidia-smi",
            "-i",
            "0",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
        ]
        while not self.ended.wait(0.1):
            answer = subprocess.run(query, capture_output=True, text=True)
            self.samples.append(float(answer.stdout) / 100)

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    @property
    def mean(self):
        return float(np.mean(self.samples)) if self.samples else float("nan")


def repeat(step, wait):
    """Return work of `STEPS` steps, the last of which is waited for."""

    def work():
        with BusyShare() as busy:
            for _ in range(STEPS):
                result = step()
            wait(result)
        return {"slices": STEPS * BATCH, "busy": busy.mean}

    return work


def _start_keras():
    import keras
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise RuntimeError('TensorFlow sees no GPU: pip install "tensorflow[and-cuda]<2.22"')
    keras.mixed_precision.set_global_policy("mixed_bfloat16")


def our_training():
    _start_keras()
    import keras
    import tensorflow as tf

    model = build_keras(FILTERS)
    make_keras_step(model, BATCH)
    model.compile(model.optimizer, model.loss, metrics=model.metrics[1:], jit_compile=True)
    batches = iter(tf.data.Dataset.from_tensors(make_batch(BATCH)).repeat().prefetch(2))
    model.make_train_function()
    return repeat(lambda: model.train_function(batches)["loss"], keras.ops.convert_to_numpy)


def our_inference():
    _start_keras()
    import tensorflow as tf

    model = build_keras(FILTERS)
    images = tf.constant(make_batch(BATCH)[0])
    predict = tf.function(lambda x: model(x, training=False), jit_compile=True)
    return repeat(lambda: predict(images), lambda probability: probability.numpy())


def _start_torch():
    import torch

    from benchmarks.torch_unet import TorchUNet

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU: install its CUDA wheel")
    torch.backends.cudnn.benchmark = True
    model = TorchUNet(FILTERS, DROPOUT).cuda().to(memory_format=torch.channels_last)
    images, mask = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in make_batch(BATCH))
    return torch, model, images.cuda().contiguous(memory_format=torch.channels_last), mask.cuda()


def torch_training():
    torch, model, images, mask = _start_torch()
    from benchmarks.torch_unet import make_step

    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-7)
    step = make_step(model, optimizer, images, mask, STRENGTH, torch.bfloat16)
    return repeat(step, lambda loss: loss.item())


def torch_inference():
    torch, model, images, _ = _start_torch()
    model.eval()

    def predict():
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            return model(images)

    return repeat(predict, lambda probability: probability.cpu())


def main():
    options = arguments(__doc__, 5)
    gpu = find_gpu()
    if not gpu:
        print("gpu: no NVIDIA GPU in this machine (nvidia-smi finds none), nothing was measured")
        return
    rows, samples = [], {}
    for what, ours, peer in (
        ("training", our_training, torch_training),
        ("inference", our_inference, torch_inference),
    ):
        turns = compare(
            [Contestant("ours", ours), Contestant("PyTorch", peer, optional=True)], options.rounds
        )
        for name, group in turns.items():
            rows.append(
                {
                    "what": what,
                    "by": name,
                    "slices/s": spread(s["slices"] / s["wall_s"] for s in group),
                    "GPU busy": brief(spread(s["busy"] for s in group).median),
                    "wall, times ours": times_ours(turns["ours"], group, "wall_s"),
                }
            )
        samples |= {f"{what}, {name}": group for name, group in turns.items()}
    report("gpu", rows, samples, gpu=gpu, filters=FILTERS, batch=BATCH)


if __name__ == "__main__":
    main()
