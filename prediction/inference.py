"""From weights and a scan to the probability of lesion in each of its voxels.

TensorFlow is imported when a network is loaded, not before.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_from_to

from prediction.lesions import remove_small
from scans.intensity import standardise
from scans.volumes import Volume, slices_to_volume, volume_to_slices
from system.console import read_settings
from system.files import InputError

BATCH = 16
# Both data sets are 1 mm; closer than this the head is as large as one in training.
TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Network:
    """A trained network, and what it was trained with.

    Attributes
    ----------
    model : keras.Model
    settings : config.Settings
        Of the run that made the weights.
    weights : pathlib.Path
    """

    model: object
    settings: object
    weights: Path

    @cached_property
    def compiled(self):
        """The model as one graph whose weights are constants.

        No Python runs between its layers, and TensorFlow folds each batch normalisation into the
        convolution before it: a quarter less time than with variables.
        """
        import tensorflow as tf
        from tensorflow.python.framework import convert_to_constants

        graph = tf.function(lambda images: self.model(images, training=False))
        images = tf.TensorSpec(
            (BATCH, None, None, 2 * self.settings.unet.neighbours + 1), tf.float32
        )
        return convert_to_constants.convert_variables_to_constants_v2(
            graph.get_concrete_function(images)
        )


def load_network(weights):
    """Build the network of a run and give it its weights.

    Parameters
    ----------
    weights : path-like
        A ``.weights.h5`` file in its run folder, beside the run's ``config.yaml``.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If weights or settings are missing, or do not fit each other; names the file and the layer.
    """
    weights = Path(weights)
    # Settings first: a mistake in a path answers before TensorFlow has started.
    settings = read_run_settings(weights)
    from training.weights import load_weights
    from unet import build_unet

    model = build_unet(**settings.unet.model_dump())
    load_weights(model, weights)
    return Network(model, settings, weights)


def read_run_settings(weights):
    """Read the settings that weights were trained with, from ``config.yaml`` in their folder."""
    weights = Path(weights)
    if not weights.is_file():
        raise InputError(
            f"{weights}: not found; run transfer_learning.py first, or name weights by --weights"
        )
    path = weights.with_name("config.yaml")
    if not path.is_file():
        raise InputError(
            f"{path}: not found; it says what network the weights belong to: copy it from the run"
        )
    try:
        return read_settings("", ["--config", str(path)])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def predict_probability(networks, volume, flip=False):
    """Give each voxel of a scan its probability of lesion.

    Every axial slice goes through the network, also those that training leaves out. A scan that is
    not about 1 mm is brought to 1 mm along its own axes, and the probability back; both linearly.

    Parameters
    ----------
    networks : list of Network
        Their probabilities are averaged.
    volume : volumes.Volume
    flip : bool
        Average with the prediction of the mirrored head, mirrored back.

    Returns
    -------
    ndarray, float32, shape (X, Y, Z)
        On the grid of `volume.voxels`, 0 to 1.

    Raises
    ------
    InputError
        If by its header the scan is far smaller or larger than a head.
    """
    if not 10 <= extent_mm(volume).max() <= 1000:
        raise InputError(
            f"by its header the scan is {times(extent_mm(volume))} mm; repair its voxel size"
        )
    at_1_mm = _to_1_mm(volume)
    scaled, mean, std = at_1_mm.scaled
    total = np.zeros_like(scaled, np.float32)
    for network in networks:
        images = volume_to_slices(scaled, square_size(scaled.shape, network.settings.slices.size))
        probability = _predict_slices(network, images, mean, std)
        if flip:
            mirrored = _predict_slices(network, images[:, :, ::-1], mean, std)
            probability = (probability + mirrored[:, :, ::-1]) / 2
        total += slices_to_volume(probability, scaled.shape)
    total /= len(networks)
    if at_1_mm is volume:
        return total
    return _resample(total, at_1_mm.affine, volume.voxels.shape, volume.affine)


def segment(probability, threshold, smallest_voxels):
    """Turn probabilities into a mask.

    Parameters
    ----------
    probability : ndarray, float32, shape (X, Y, Z)
    threshold : float
        Lesion is what is more probable than this.
    smallest_voxels : float
        Lesions (voxels that touch by a face) of fewer voxels are left out.

    Returns
    -------
    ndarray, uint8, shape (X, Y, Z)
    """
    return remove_small((probability > threshold).astype(np.uint8), smallest_voxels)


def square_size(shape, size):
    """Return the side of the square for slices of a volume: `size`, or the next 32 that fits."""
    # 32 suits a network of any depth; what fits is scored as it was trained.
    return size if max(shape[:2]) <= size else -(-max(shape[:2]) // 32) * 32


def is_about_1_mm(volume):
    return bool(np.all(np.abs(volume.spacing_mm - 1) <= TOLERANCE_MM))


def extent_mm(volume):
    """Return how far a volume reaches to the right, to the front and upwards."""
    return np.array(volume.voxels.shape) * volume.spacing_mm


def times(numbers):
    """Write sizes along three axes, as 0.8×0.8×3."""
    return "×".join(f"{number:g}" for number in np.round(numbers, 3))


def _to_1_mm(volume):
    if is_about_1_mm(volume):
        return volume
    shape = np.maximum(np.ceil(extent_mm(volume) - 1e-3), 1).astype(int)
    axes = volume.affine[:3, :3] / volume.spacing_mm
    # One middle for both grids, so that left and right are treated alike.
    middle = nibabel.affines.apply_affine(volume.affine, (np.array(volume.voxels.shape) - 1) / 2)
    affine = nibabel.affines.from_matvec(axes, middle - axes @ ((shape - 1) / 2))
    return Volume(_resample(volume.voxels, volume.affine, shape, affine), affine, volume.original)


def _resample(voxels, affine, new_shape, new_affine):
    """Interpolate linearly onto another grid; past its edge the outermost voxel goes on."""
    image = nibabel.Nifti1Image(voxels.astype(np.float32, copy=False), affine)
    grid = tuple(new_shape), new_affine
    return np.asarray(resample_from_to(image, grid, order=1, mode="nearest").dataobj, np.float32)


def _predict_slices(network, images, mean, std):
    """Probability of 8-bit slices, (Z, H, W), in batches that all have one shape."""
    import tensorflow as tf

    neighbours = network.settings.unet.neighbours
    around = np.arange(-neighbours, neighbours + 1)
    probability = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH):
        # The last batch is filled up with the last slice: a shape of its own would make TensorFlow
        # trace the network again.
        near = np.clip(np.arange(start, start + BATCH)[:, None] + around, 0, len(images) - 1)
        batch = np.stack([np.stack(images[rows], -1) for rows in near])
        found = network.compiled(tf.constant(standardise(batch, mean, std)))[0].numpy()[..., 0]
        probability[start : start + BATCH] = found[: len(images) - start]
    return probability
