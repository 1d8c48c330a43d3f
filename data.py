"""Batches for training and validation: which slices, in which order, and how augmented.

A batch is a pure function of the seed and its number, so a run that was stopped goes on with the
very batches it would have had. Shape letters: B images of a batch, H, W pixels, C channels.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import keras
import numpy as np
import pandas

from augmentation import HOST_ALONE, CarveMix, augment, draw_for_device
from losses import NO_IMAGE
from scans.device_slices import DeviceSlices
from scans.manifest import load_manifest
from scans.reader import SliceReader
from scans.splits import check_folds, fingerprint, load_split, rows_of
from system.cores import CORES
from system.devices import check_last_batches, free_memory, shard_of_batch
from system.files import InputError
from training.provenance import identifiers_of_subjects

# So many batches are read ahead of the one that is asked for; more would only take memory.
AHEAD = min(2 * CORES, 16)


class Batches(keras.utils.PyDataset):
    """Batches of images and masks from one subset of a split, read ahead by threads.

    `order` gives the row numbers of an epoch, equally many in each. `steps` is the number of
    batches an epoch; the last is smaller where the rows do not divide evenly. `epoch` says which
    epoch is asked for, and `epochs` how many there will be. `error` says why a batch could not be
    read, which TensorFlow and Keras may hide.
    """

    def __init__(self, reader, order, batch_size, seed, augmentation=None, carve_mix=None):
        super().__init__()
        self.reader, self.batch_size, self.seed = reader, batch_size, seed
        # Two epochs meet where one ends; drawing an order anew for each batch grows with the data.
        self.order = lru_cache(maxsize=2)(order)
        self.augmentation, self.carve_mix = augmentation, carve_mix
        self.steps = -(-len(order(0)) // batch_size)
        self.error = None
        self.shard = shard_of_batch()
        self.epoch, self.epochs = 0, 1
        self._threads, self._begun = ThreadPoolExecutor(CORES), {}

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        """Return images and masks, float32, of one step of the present epoch."""
        step = int(step) + self.epoch * self.steps
        wanted = range(step, min(step + AHEAD, max(self.epochs * self.steps, step + 1)))
        self._begun = {
            s: self._begun.get(s) or self._threads.submit(self._standardised, s) for s in wanted
        }
        return self._begun[step].result()

    def stored(self, step):
        """Return `batch` of one step of the present epoch."""
        return self.batch(int(step) + self.epoch * self.steps)

    def stream(self, first_epoch=0, last_epoch=1):
        """Yield the batches from the first epoch up to, not including, the last."""
        self.epochs = last_epoch
        for epoch in range(first_epoch, last_epoch):
            self.epoch = epoch
            yield from (self[step] for step in range(self.steps))

    def _standardised(self, step):
        images, masks, mean, factor = self.batch(step)
        return (images - mean) * factor, masks.astype(np.float32)

    def rows(self, step):
        """Return the row numbers of batch number `step`, counted over all epochs."""
        epoch, step = divmod(int(step), self.steps)
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def batch(self, step):
        """Read this process's shard of batch `step`, counted over all epochs, augmented, in 8 bit.

        Returns
        -------
        images : ndarray, uint8, shape (B, H, W, C)
        masks : ndarray, uint8, shape (B, H, W, 1)
            `losses.NO_IMAGE` where an image only fills the shard.
        mean, factor : ndarray, float32, shape (B, 1, 1, 1)
            With which each image is standardised: ``(image - mean) * factor``.
        """
        rows = self.rows(step)
        shard = np.array(self.shard(len(rows)))
        places = shard % len(rows)
        try:
            slices = [self._read(rows[place], place, int(step)) for place in places]
        except InputError as error:
            self.error = error
            raise
        images, masks = map(np.stack, zip(*slices, strict=True))
        masks[shard >= len(rows)] = NO_IMAGE
        scales = np.array([self.reader.scale(rows[place]) for place in places], np.float32)
        mean, factor = scales.T[..., None, None, None]
        return images, masks[..., None], mean, factor

    def _read(self, row, place, step):
        """Read image, (H, W, C), and mask, (H, W), at one place of a batch; augment them if asked to."""
        image, mask = self.reader.read_channels(row)
        if self.augmentation:
            rng = self._rng(step, place)
            if self.carve_mix:
                image, mask = self.carve_mix(row, image, mask, rng)
            image, mask = augment(image, mask, rng, **self.augmentation)
        return image, mask

    def _rng(self, step, place):
        """Return the generator of one place of a batch, the same in whichever process it is read."""
        return np.random.default_rng([self.seed, step, place])


class DeviceBatches(Batches):
    """Batches of the same slices and draws, put together on the device (`scans.device_slices`)."""

    def __init__(self, slices, *arguments):
        super().__init__(slices.reader, *arguments)
        self.slices = slices

    def _standardised(self, step):
        rows = self.rows(step)
        if not self.augmentation:
            return self.slices.batch(rows)
        drawn = [
            draw_for_device(self._rng(step, place), self.slices.shape, **self.augmentation)
            for place in range(len(rows))
        ]
        matrices, powers = map(np.array, zip(*drawn, strict=True))
        return self.slices.batch(rows, matrices, powers)


@dataclass(frozen=True)
class StageData:
    """The slices of one data set, dealt out to training and validation (never augmented).

    `rows` are the manifest's, which `reader` reads by number; `identity` holds hashes of slices and
    split, `subjects` the subjects of each subset with their identifiers.
    """

    rows: pandas.DataFrame
    reader: SliceReader
    training: Batches
    validation: Batches
    identity: dict
    subjects: dict

    @property
    def has_lesion(self):
        return self.rows.lesion_pixels.to_numpy() > 0

    @property
    def intensities(self):
        """Mean and SD, over all scans but the held-back ones, of each one's mean and SD: grey levels."""
        rows = self.rows[~(self.rows.dataset + "/" + self.rows.subject).isin(self.subjects["test"])]
        of_scans = rows.drop_duplicates("content")[["mean", "std"]]
        return {
            name: {"mean": round(own.mean(), 2), "std": round(own.std(ddof=0), 2)}
            for name, own in of_scans.items()
        }

    def slice_name(self, row):
        """Return `subject session z` of a slice, as the user knows it."""
        found = self.rows.iloc[row]
        session = f" ses-{found.session}" if found.session else ""
        return f"{found.subject}{session} z {found.z}"


def load_stage_data(dataset, settings, batch_size, augmented):
    """Read what a stage trains and validates on, from a data set of `paths.prepared`.

    Raises
    ------
    InputError
        If slices or split are missing or made with another size, skip or geometry, the
        split leaks (see `scans.splits.rows_of`), or the devices cannot share a batch.
    """
    folder, seed = settings.paths.prepared, settings.seed
    rows = load_manifest(folder, dataset)
    split = load_split(folder, dataset, settings.fold, settings.split.by_of(dataset))
    subsets = rows_of(rows, split)
    reader = SliceReader(folder, rows, settings.unet.neighbours)
    _check_prepared(folder, rows, reader, subsets["training"][0], settings)
    check_folds(folder, dataset, settings.split.folds)
    ranges = settings.augmentation.model_dump()
    probability = ranges.pop("carve_mix")
    orders = {
        "training": _training_order(rows, subsets["training"], settings.slices, seed),
        "validation": validation_order(subsets["validation"], seed),
    }
    used = np.concatenate([subsets[name] for name in orders])
    ranges = ranges if augmented else None
    size = 2 * used.size * settings.slices.size**2
    if _fits_device(settings, augmented, size):
        slices = DeviceSlices(reader, used)
        print(f"all slices ({size / 1e9:.1f} GB) are kept and augmented on the device")
        training = DeviceBatches(slices, orders["training"], batch_size, seed, ranges)
        validation = DeviceBatches(slices, orders["validation"], batch_size, seed)
    else:
        carve_mix = None
        if augmented and probability:
            donors = _with_lesion(rows, subsets["training"])
            carve_mix = CarveMix(reader, rows, donors, probability)
        training = Batches(reader, orders["training"], batch_size, seed, ranges, carve_mix)
        validation = Batches(reader, orders["validation"], batch_size, seed)
    check_last_batches(*(len(b.rows(b.steps - 1)) for b in (training, validation)))
    identity = {
        "slices": fingerprint(rows[["subject", "z", "content", "lesion_pixels"]].to_csv()),
        "masks": fingerprint(rows[["subject", "session", "mask_content"]].to_csv()),
        "split": fingerprint(split),
    }
    subjects = {
        name: identifiers_of_subjects(rows.iloc[numbers]) for name, numbers in subsets.items()
    }
    counts = {name: len(own) for name, own in subjects.items()}
    print(
        f"{dataset}: {len(training.order(0))} training slices of {counts['training']} subjects, "
        f"{len(subsets['validation'])} validation slices of {counts['validation']}\n"
        f"checked: {counts['training']} training, {counts['validation']} validation subjects, "
        f"{counts['test']} held back; no subject and no (nearly) identical scan in two subsets, "
        "validation not augmented"
    )
    return StageData(rows, reader, training, validation, identity, subjects)


def _fits_device(settings, augmented, size):
    """Say whether slices of so many bytes are to be kept on the device, and augmented there."""
    wish = settings.hardware.data
    if wish == "host":
        return False
    host_alone = [name for name in HOST_ALONE if augmented and getattr(settings.augmentation, name)]
    unable = [f"augmentation.{name}" for name in host_alone]
    if shard_of_batch() is not range:
        unable.append("hardware.devices above 1")
    room = free_memory()
    if wish == "device" and unable:
        raise InputError(
            f"hardware.data = device: cannot do {', '.join(unable)}; set hardware.data to host"
        )
    if wish == "device" and 0 < room < size:
        raise InputError(
            f"hardware.data = device: the slices need {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB are "
            "free; set hardware.data to host"
        )
    # Half of the memory is for the network.
    return wish == "device" or (not unable and size <= room / 2)


def _check_prepared(folder, rows, reader, row, wanted):
    """Refuse slices that were prepared with another size, skip or geometry, by one of them."""
    first = rows.iloc[row]
    found = {
        "slices.skip": (first.skip_mm, wanted.slices.skip),
        "slices.size": (len(reader.read(row)[0]), wanted.slices.size),
        "geometry.align": (first["align"], wanted.geometry.align),
        "geometry.brain": (first.brain, wanted.geometry.brain),
    }
    for name, (value, wish) in found.items():
        if value != wish:
            raise InputError(
                f"{folder}: was prepared with {name} = {value}, not {wish}; run prep.py with these "
                "settings, or name another paths.prepared"
            )


def _with_lesion(rows, numbers):
    return numbers[rows.lesion_pixels.to_numpy()[numbers] > 0]


def _training_order(rows, training, options, seed):
    """Make the order of the training rows by the `slices` settings."""
    lesion = _with_lesion(rows, training)
    return training_order(
        lesion,
        np.setdiff1d(training, lesion),
        options.empty_per_lesion,
        options.per_epoch,
        seed,
        rows.subject.to_numpy()[lesion] if options.balanced else None,
    )


def training_order(lesion, empty, empty_per_lesion, per_epoch, seed, subjects=None):
    """Make the order of training: every lesion slice, and a fresh draw of empty ones, shuffled.

    `lesion` and `empty` are row numbers; the options are those of section ``slices``. With the
    `subjects` of the lesion slices equally many are drawn of each subject, and as many as there are
    in all. The result takes an epoch (from 0) to row numbers.
    """
    share = None
    if subjects is not None:
        _, subject, counts = np.unique(subjects, return_inverse=True, return_counts=True)
        share = 1 / counts[subject] / len(counts)
    count = len(empty)
    if empty_per_lesion != "all":
        count = min(count, round(empty_per_lesion * len(lesion)))
    rounds = 1 if per_epoch is None else math.ceil(per_epoch / max(1, len(lesion) + count))

    def draw(rng):
        drawn = lesion if share is None else rng.choice(lesion, len(lesion), p=share)
        rows = np.concatenate([drawn, rng.choice(empty, count, replace=False)])
        return rng.permutation(rows)

    def order(epoch):
        rng = np.random.default_rng([seed, epoch])
        return np.concatenate([draw(rng) for _ in range(rounds)])[:per_epoch]

    return order


def validation_order(rows, seed):
    """Make the order of validation: all slices, mixed once, the same in every epoch.

    Mixed, because the loss is one number a batch, and eight slices in a row are often all empty.
    """
    mixed = np.random.default_rng(seed).permutation(rows)
    return lambda epoch: mixed
