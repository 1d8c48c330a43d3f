"""PyTorch's device: one GPU of NVIDIA, or the CPU."""

import os

import torch

from system.cores import CORES
from system.single_device import check_last_batches as check_last_batches
from system.single_device import device_number as device_number
from system.single_device import devices_of_processes as devices_of_processes
from system.single_device import feed as feed
from system.single_device import in_turns as in_turns
from system.single_device import moments_over_devices as moments_over_devices
from system.single_device import shard_of_batch as shard_of_batch
from system.single_device import share_batches as share_batches
from system.single_device import sum_over_devices as sum_over_devices


def start():
    """Choose the device that Keras takes at its import; name it."""
    # Apple's GPUs have no float64, in which pixels are counted.
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = os.environ.setdefault("KERAS_TORCH_DEVICE", found)
    name = f"{CORES} CPU cores" if device == "cpu" else "1 GPU"
    return f"{name}, PyTorch {torch.__version__}"


def free_memory():
    """Return how many bytes the GPU has left; 0 without one."""
    on_gpu = os.environ["KERAS_TORCH_DEVICE"].startswith("cuda")
    return torch.cuda.mem_get_info()[0] if on_gpu else 0


def compiled(function):
    """Let a function of tensors run on the device as it is; nothing is learnt from it."""
    return torch.no_grad()(function)


def resolve_jit(jit):
    """Say whether `torch.compile` compiles the training step: only if told to."""
    return jit is True
