"""All slices in the memory of the device that trains: batches are put together and distorted there."""

from threading import Lock

import numpy as np
from keras import ops

from system.devices import compiled


class DeviceSlices:
    """The slices of some rows of a manifest, kept in 8 bit on the device.

    `reader` is a `scans.reader.SliceReader`, `rows` are row numbers.

    Raises
    ------
    InputError
        If the backend cannot do it.
    """

    def __init__(self, reader, rows):
        self._gather, self._distorted = compiled(_gather), compiled(_distorted)
        self.reader, self.rows = reader, rows
        self.place_of = np.full(len(reader), -1)
        self.place_of[rows] = np.arange(len(rows))
        self.shape = reader.read(rows[0])[0].shape
        self._kept, self._loading = None, Lock()

    def _load(self):
        """Bring the slices to the device, before the first batch: a finished run asks for none."""
        with self._loading:
            if self._kept is None:
                images, masks = np.empty((2, len(self.rows), *self.shape), np.uint8)
                for place, row in enumerate(self.rows):
                    images[place], masks[place] = self.reader.read(row)
                scales = np.array([self.reader.scale(row) for row in self.rows], np.float32)
                arrays = (images, masks, *scales.T[..., None, None, None])
                self._kept = [ops.convert_to_tensor(array) for array in arrays]
        return self._kept

    def batch(self, rows, matrices=None, powers=None):
        """Put together a batch on the device, standardised, float32: images (B, H, W, C), masks (B, H, W, 1).

        `matrices`, (B, 2, 3), are from `augmentation.draw_distortions`; `powers`, (B,), are what
        grey levels are raised to. Without them nothing is distorted.
        """
        channels = np.array([self.reader.channel_rows(row) for row in rows])
        places, kept = self.place_of[channels].astype(np.int32), self._load()
        if (places < 0).any():
            raise IndexError("a row is asked for that is not kept")
        if matrices is None:
            return self._gather(*kept, places)
        # The transform of Keras is projective; these two are 0 in an affine one.
        flat = np.pad(matrices.reshape(len(rows), 6), ((0, 0), (0, 2))).astype(np.float32)
        return self._distorted(*kept, places, flat, powers.astype(np.float32))


def _gather(images, masks, mean, factor, places):
    return _standardised(*_picked(images, masks, places), mean, factor, places)


def _distorted(images, masks, mean, factor, places, matrices, powers):
    """Distort as `augmentation.distort` and `augmentation.alter` do: a mask stays binary."""
    images, masks = _picked(images, masks, places)
    images, masks = (
        ops.image.affine_transform(pixels, matrices, way, "constant", 0, "channels_last")
        for pixels, way in ((images, "bilinear"), (masks, "nearest"))
    )
    levels = ops.round(images)
    altered = ops.round(255 * ops.power(levels / 255, ops.reshape(powers, (-1, 1, 1, 1))))
    return _standardised(altered, masks, mean, factor, places)


def _picked(images, masks, places):
    """Pick images, (B, H, W, C), and the masks of their middle channel, (B, H, W, 1), as float32."""
    middle = places[:, places.shape[1] // 2]
    picked = ops.transpose(ops.take(images, places, axis=0), (0, 2, 3, 1))
    return ops.cast(picked, "float32"), ops.cast(ops.take(masks, middle, axis=0), "float32")[
        ..., None
    ]


def _standardised(images, masks, mean, factor, places):
    middle = places[:, places.shape[1] // 2]
    mean, factor = (ops.take(values, middle, axis=0) for values in (mean, factor))
    return (images - mean) * factor, masks
