"""Batches for training and validation: who is in them, in which order, and how distorted.

A batch is a pure function of the seed and its number, so a run that was stopped goes on with the
very batches it would have had. Shape letters: B images of a batch, H, W pixels, C channels.
"""

from functools import lru_cache

import numpy as np
import tensorflow as tf

from augmentation import augment
from carvemix import CarveMix
from losses import NO_IMAGE
from sampling import training_order, validation_order
from scans.slices import SliceReader, load_manifest
from scans.splits import fingerprint, load_split, rows_of
from system.devices import check_parts, part_of_batches
from system.files import InputError
from system.parallel import CORES
from training import leakage


class Batches:
    """Image and mask batches of one part of a split.

    Parameters
    ----------
    reader : slices.SliceReader
    order : callable
        Epoch (from 0) to the row numbers of that epoch, always equally many.
    batch_size : int
    augmentation : dict or None
        Arguments of `augmentation.augment`; None leaves the images as they are.
    seed : int
    mix : carvemix.CarveMix, optional
        Sets lesions into slices before they are augmented, if they are.

    Attributes
    ----------
    steps : int
        Batches an epoch. The last is smaller where the rows do not divide evenly.
    error : files.InputError or None
        Why a batch could not be read, since TensorFlow hides the reason.
    """

    def __init__(self, reader, order, batch_size, augmentation, seed, mix=None):
        self.reader, self.batch_size = reader, batch_size
        # Two epochs meet where one ends; drawing an order anew for each batch grows with the data.
        self.order = lru_cache(maxsize=2)(order)
        self.augmentation, self.seed, self.mix = augmentation, seed, mix
        self.steps = -(-len(order(0)) // batch_size)
        self.error = None
        self.part = part_of_batches()

    def rows(self, step):
        """Return the row numbers of batch number `step`, counted over all epochs."""
        epoch, step = divmod(int(step), self.steps)
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def batch(self, step):
        """Read this process's part of batch `step`, counted over all epochs, augmented, in 8 bit.

        Returns
        -------
        images : ndarray, uint8, shape (B, H, W, C)
        masks : ndarray, uint8, shape (B, H, W, 1)
            `losses.NO_IMAGE` where an image only fills the part.
        mean, factor : ndarray, float32, shape (B, 1, 1, 1)
            Of the scan of each image, to standardise it (see `scans.intensity.standardise`).
        """
        whole = self.rows(step)
        part = np.array(self.part(len(whole)))
        place = part % len(whole)
        rows = whole[place]
        try:
            slices_ = [self.read(*pair, int(step)) for pair in zip(rows, place, strict=True)]
        except InputError as error:
            self.error = error
            raise
        images, masks = map(np.stack, zip(*slices_, strict=True))
        masks[part >= len(whole)] = NO_IMAGE
        scales = np.array([self.reader.scale(row) for row in rows], np.float32)
        mean, factor = scales.T[..., None, None, None]
        return images, masks[..., None], mean, factor

    def read(self, row, place, step):
        """Read image, (H, W, C), and mask, (H, W), that stand at one place of a batch."""
        image, mask = self.reader.read_channels(row)
        if self.augmentation:
            # Each place has draws of its own, whoever reads it.
            rng = np.random.default_rng([self.seed, step, place])
            if self.mix:
                image, mask = self.mix(row, image, mask, rng)
            image, mask = augment(image, mask, rng, **self.augmentation)
        return image, mask

    def dataset(self, first_epoch=0, last_epoch=1):
        """Stream the batches of some epochs one after the other.

        Parameters
        ----------
        first_epoch, last_epoch : int
            From the first up to, not including, the last.

        Returns
        -------
        tf.data.Dataset of (images, masks)
        """
        options = tf.data.Options()
        # The autotuner can hold up the end of an epoch by seconds.
        options.autotune.enabled = False

        def read(step):
            types = (tf.uint8, tf.uint8, tf.float32, tf.float32)
            images, masks, mean, factor = tf.numpy_function(self.batch, [step], types)
            images = tf.ensure_shape(images, (None, None, None, self.reader.channels))
            masks = tf.ensure_shape(masks, (None, None, None, 1))
            mean, factor = (tf.ensure_shape(v, (None, 1, 1, 1)) for v in (mean, factor))
            # Here and not in numpy: a quarter of the bytes to hand over, and no lock of Python's.
            return (tf.cast(images, tf.float32) - mean) * factor, tf.cast(masks, tf.float32)

        return (
            tf.data.Dataset.range(first_epoch * self.steps, last_epoch * self.steps)
            .map(read, num_parallel_calls=CORES, deterministic=True)
            .prefetch(2)
            .with_options(options)
        )


class Parts:
    """The training and validation slices of one data set, ready to be fed to a network.

    Parameters
    ----------
    dataset : {"atlas", "brats17"}
    settings : config.Settings
    stage : config.Stage
        Its batch size, and whether training slices are augmented. Validation never is.

    Attributes
    ----------
    rows : pandas.DataFrame
        The manifest's rows of this data set.
    reader : slices.SliceReader
        Reads any of them by row number.
    training, validation : Batches
    identity : dict of str
        Hashes of the slices and of the split.
    subjects : dict of dict
        For ``"training"``, ``"validation"`` and ``"test"`` the subjects, as `training.leakage.marks`
        lists them.

    Raises
    ------
    files.InputError
        If slices or split are missing or made with another `scans.slices.size` or `scans.slices.skip`, the split
        leaks (see `scans.splits.rows_of`), or the devices cannot share a batch.
    """

    def __init__(self, dataset, settings, stage):
        folder, seed = settings.paths.prepared, settings.seed
        self.rows = load_manifest(folder, dataset)
        split = load_split(folder, dataset, settings.fold)
        part = rows_of(self.rows, split)
        self.reader = SliceReader(folder, self.rows, settings.unet.neighbours)
        for name, prepared in (("skip", self.rows.z.min()), ("size", len(self.reader.read(0)[0]))):
            if prepared != (wanted := getattr(settings.slices, name)):
                raise InputError(
                    f"{folder}: was prepared with slices.{name} = {prepared}, not {wanted}; run "
                    "prep.py with these settings, or name another paths.prepared"
                )
        self.has_lesion = self.rows.lesion_pixels.to_numpy() > 0
        lesion = self.has_lesion[part["training"]]
        order = training_order(
            part["training"][lesion], part["training"][~lesion],
            settings.slices.empty_per_lesion, settings.slices.per_epoch, seed,
            self.rows.subject.to_numpy()[part["training"][lesion]] if settings.slices.balanced else None,
        )  # fmt: skip
        augmentation = settings.augmentation.model_dump(exclude={"carve_mix"})
        probability = settings.augmentation.carve_mix if stage.augmentation else 0
        mix = CarveMix(
            self.reader, part["training"][lesion], self.rows.subject.to_numpy(),
            self.rows.z.to_numpy(), probability,
        ) if probability else None  # fmt: skip
        self.training = Batches(
            self.reader, order, stage.batch_size, augmentation if stage.augmentation else None,
            seed, mix,
        )  # fmt: skip
        order = validation_order(part["validation"], seed)
        self.validation = Batches(self.reader, order, stage.batch_size, None, seed)
        check_parts(*(len(p.rows(p.steps - 1)) for p in (self.training, self.validation)))
        self.identity = {
            "slices": fingerprint(self.rows[["subject", "z", "content", "lesion_pixels"]].to_csv()),
            "split": fingerprint(split),
        }
        self.subjects = {name: leakage.marks(self.rows.iloc[part[name]]) for name in part}
        training, validation, test = (len(self.subjects[name]) for name in part)
        print(
            f"{dataset}: {len(self.training.order(0))} training slices of {training} subjects, "
            f"{len(part['validation'])} validation slices of {validation}\n"
            f"checked: {training} training, {validation} validation subjects, {test} held back; "
            "no subject and no (nearly) identical scan in two parts, validation not augmented"
        )

    def name(self, row):
        """Return `subject session z` of a slice, as the user knows it."""
        slice_ = self.rows.iloc[row]
        session = f" ses-{slice_.session}" if slice_.session else ""
        return f"{slice_.subject}{session} z {slice_.z}"
