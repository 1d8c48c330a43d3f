"""Run a stage as on a machine with so many devices: on_devices.py COUNT STAGE ARGUMENTS."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))
from training import pictures

# A third of a tiny run, and the same on any device.
pictures.save_figure = lambda figure, path, dpi: path.touch()
count, stage, *arguments = sys.argv[1:]
# As many CPUs as told, for TensorFlow: they compute one after the other.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(count)
)
importlib.import_module(stage).main(arguments)
