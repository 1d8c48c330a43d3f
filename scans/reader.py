"""Single slices, read by their row number in a manifest."""

from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from scans.intensity import standardise
from system.files import InputError, allow_open_files


class SliceReader:
    """Read single slices by their row number in a manifest; safe to call from several threads.

    Stacks are read memory-mapped, so that a slice costs a copy of its 57,600 bytes and the
    operating system keeps what fits in memory. `neighbours` are the slices below and above each
    that `read_channels` adds.
    """

    def __init__(self, folder, rows, neighbours=0):
        self.folder, self.neighbours = Path(folder), neighbours
        self.channels = 2 * neighbours + 1
        # Plain lists: picking one value from a DataFrame costs as much as reading the slice.
        self.image, self.mask = rows["image"].tolist(), rows["mask"].tolist()
        self.position, self.mean, self.std = (rows[c].tolist() for c in ("position", "mean", "std"))
        scan, z = rows[["dataset", "subject", "session"]].to_numpy(), rows.z.to_numpy()
        # Where one scan ends and the next begins, or a slice is missing.
        begins = np.r_[True, (scan[1:] != scan[:-1]).any(1) | (np.diff(z) != 1)]
        starts = np.flatnonzero(begins)
        lengths = np.diff(np.r_[starts, len(z)])
        self._first = np.repeat(starts, lengths).tolist()
        self._last = np.repeat(starts + lengths - 1, lengths).tolist()
        self._stacks, self._opening = {}, Lock()
        # Each stack keeps its file open, as long as it is mapped.
        allow_open_files(len({name for name in (*self.image, *self.mask) if name.endswith(".npy")}))

    def __len__(self):
        return len(self.image)

    def read(self, row):
        """Return image (uint8, 0 to 255) and mask (uint8, 0 or 1), each of shape (H, W)."""
        image = self._load(self.image[row], self.position[row])
        mask = self._load(self.mask[row], self.position[row])
        return image, np.minimum(mask, 1)

    def read_channels(self, row):
        """Return what a network sees of this row (uint8, (H, W, C)), and its mask, (H, W)."""
        image, mask = self.read(row)
        images = [
            image if i == row else self._load(self.image[i], self.position[i])
            for i in self.channel_rows(row)
        ]
        return np.stack(images, -1), mask

    def channel_rows(self, row):
        """List the rows of the slices that a network sees of this row; the last ones of a scan twice."""
        first, last, reach = self._first[row], self._last[row], self.neighbours
        return [min(max(i, first), last) for i in range(row - reach, row + reach + 1)]

    def standardise(self, row, image):
        """Bring an image of this row, as read or augmented, to the network's float32 scale."""
        return standardise(image, self.mean[row], self.std[row])

    def scale(self, row):
        """Return what `standardise` subtracts from an image of this row, and multiplies it by."""
        return self.mean[row], 1 / self.std[row]

    def _open(self, name):
        stack = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        if stack.ndim != 3 or stack.dtype != np.uint8:
            raise ValueError(f"holds {stack.dtype} {stack.shape}, not a stack of slices")
        return stack

    def _load(self, name, index):
        try:
            if name.endswith(".npy"):
                # One at a time: Python 3.11 now and then fails where several threads parse a header.
                with self._opening:
                    if name not in self._stacks:
                        self._stacks[name] = self._open(name)
                return self._stacks[name][index]
            picture = cv2.imread(str(self.folder / name), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise OSError("not a readable picture")
            return picture
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise InputError(f"{self.folder / name}: {error}; run prep.py again") from None
