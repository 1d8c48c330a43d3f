"""Prepared slices on disk: one folder a data set, and slices.csv, which says what is where.

`prep.py` writes them; the stages read nothing else. A row of the manifest is one axial slice:

dataset, subject, session, site   whose it is
z, lesion_pixels                  which slice of the scan (in RAS), and how much lesion is on it
image, mask, position              files below the prepared folder; `position` is the place in a stack
mean, std                         of the scan's intensities, for `scans.intensity.standardise`
content                           hash of the whole scan's slices: finds a scan under two names
alike                             the same for scans that are nearly identical (see `likeness`)
"""

import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pandas

from scans.intensity import standardise
from scans.near_duplicates import make_thumbnail
from scans.nifti import check_is_file
from scans.volumes import load_mask, load_volume, volume_to_slices
from system.files import InputError, OutputError, cannot_write, load_json, save_json, whole_file

COLUMNS = {
    "dataset": str, "subject": str, "session": str, "site": str, "z": int, "lesion_pixels": int,
    "image": str, "mask": str, "position": int, "mean": float, "std": float, "content": str,
    "alike": str,
}  # fmt: skip
# A file below the prepared folder, wherever someone who edits the table would like to point.
INSIDE = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[^\\\0]+\.(npy|png)")


def prepare_scan(scan, folder, labels, size, skip, format):
    """Cut one scan into slices on disk, unless that is done already.

    The scan's json file is written last: where it stands, the slices are whole.

    Parameters
    ----------
    scan : scans.Scan
    folder : path-like
        The prepared folder.
    labels : list of int or None
        See `scans.volumes.load_mask`.
    size : int
        Side of the square, in pixels.
    skip : int
        Slices left out at the bottom and at the top.
    format : {"npy", "png"}

    Returns
    -------
    dict
        `scan`'s facts: thumbnail, spacing, lesion volume in ml, and one entry a slice.

    Raises
    ------
    InputError
        If image or mask cannot be used; the message names the file and the reason.
    """
    folder = Path(folder)
    done = folder / scan.dataset / f"{scan.name}.json"
    for path in (scan.image, scan.mask):
        check_is_file(path)
    # A changed setting or source file makes the slices stale.
    made_from = {
        "image": str(scan.image.absolute()), "mask": str(scan.mask.absolute()),
        "changed_ns": [scan.image.stat().st_mtime_ns, scan.mask.stat().st_mtime_ns],
        "labels": labels, "size": size, "skip": skip, "format": format,
    }  # fmt: skip
    if done.exists():
        facts = load_json(done, "delete it and run prep.py again")
        if _are_whole(facts, folder, made_from) and "thumbnail" in facts:
            return facts
        # Until the new slices are whole, nothing may say that they are: the table least of all,
        # by which a stage would train on old and new ones mixed if this run were killed.
        try:
            (folder / "slices.csv").unlink(missing_ok=True)
            done.unlink()
        except OSError as error:
            raise OutputError(cannot_write(done, error)) from error

    volume = load_volume(scan.image)
    lesion = load_mask(scan.mask, labels, volume)
    scaled, mean, std = volume.scaled
    depth = scaled.shape[2]
    if depth <= 2 * skip:
        raise InputError(
            f"{scan.image}: {depth} axial slices, and slices.skip leaves out {2 * skip}"
        )
    kept = slice(skip, depth - skip)
    try:
        images, masks = (volume_to_slices(v[:, :, kept], size) for v in (scaled, lesion))
    except InputError as error:
        raise InputError(f"{scan.image}: {error}") from None

    files = {}
    for kind, stack in (("image", images), ("mask", masks)):
        names = _file_names(scan, kind, range(skip, depth - skip), format)
        if format == "npy":
            with whole_file(folder / names[0]) as temporary:
                np.save(temporary, stack, allow_pickle=False)
        else:
            for name, picture in zip(names, stack * (255 if kind == "mask" else 1), strict=True):
                with whole_file(folder / name) as temporary:
                    if not cv2.imwrite(str(temporary), picture):
                        raise OSError("the picture could not be written")
        files[kind] = names
    content = hashlib.sha256(images).hexdigest()[:16]
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    lesion_voxels = np.count_nonzero(lesion)
    facts = {
        "made_from": made_from,
        "thumbnail": make_thumbnail(scaled),
        "voxel_mm": [round(float(mm), 4) for mm in volume.spacing_mm],
        "lesion_ml": lesion_voxels * voxel_ml,
        "lesion_outside_ml": (lesion_voxels - np.count_nonzero(masks)) * voxel_ml,
        "slices": [
            {
                "dataset": scan.dataset, "subject": scan.subject, "session": scan.session,
                "site": scan.site, "z": skip + i, "lesion_pixels": int(np.count_nonzero(mask)),
                "image": files["image"][i], "mask": files["mask"][i],
                "position": i if format == "npy" else 0,
                "mean": round(mean, 4), "std": round(std, 4), "content": content,
            }
            for i, mask in enumerate(masks)
        ],
    }  # fmt: skip
    save_json(done, facts)
    return facts


def _are_whole(facts, folder, made_from):
    """Tell whether facts were made from the same, and the slices they speak of are there."""
    if not isinstance(facts, dict) or facts.get("made_from") != made_from:
        return False
    names = {row[kind] for row in facts.get("slices", ()) for kind in ("image", "mask")}
    return bool(names) and all((folder / name).is_file() for name in names)


def _file_names(scan, kind, heights, format):
    stem = f"{scan.dataset}/{kind}s/{scan.name}"
    if format == "npy":
        return [f"{stem}.npy"] * len(heights)
    return [f"{stem}/z{z:03d}.png" for z in heights]


def load_manifest(folder, dataset):
    """Read the rows of one data set from slices.csv.

    Parameters
    ----------
    folder : path-like
        The prepared folder.
    dataset : {"atlas", "brats17"}

    Returns
    -------
    pandas.DataFrame
        With the columns named at the top of this module.

    Raises
    ------
    InputError
        If the file is missing, not such a table, has no slice of `dataset`, or says what no slice
        can be; names the line.
    """
    path = Path(folder) / "slices.csv"
    try:
        table = pandas.read_csv(path, dtype=COLUMNS, keep_default_na=False)[list(COLUMNS)]
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run prep.py first") from None
    except (ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a table of slices ({reason}); run prep.py again") from None
    for reason, wrong in _nonsense(table).items():
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0]) + 2
            raise InputError(f"{path}, line {line}: {reason}; run prep.py again")
    rows = table[table.dataset == dataset].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{path}: no slices of {dataset}; set paths.{dataset} and run prep.py")
    return rows


def _nonsense(table):
    """Find the rows of slices.csv that prep.py cannot have written: reason to boolean rows."""
    scan, stacked = ["dataset", "subject", "session"], table.image.str.endswith(".npy")
    offset = (table.z - table.position).where(stacked, 0)
    reasons = {
        f"{name} is negative": table[name] < 0 for name in ("z", "lesion_pixels", "position")
    }
    reasons |= {
        f"{name} is no file below this folder": ~_by_value(table[name], INSIDE.fullmatch)
        for name in ("image", "mask")
    }
    reasons |= {
        f"{name} is no name": _by_value(table[name], re.compile(r"[/\\]|^\.").search)
        for name in scan
    }
    reasons["mean and std are no finite intensities"] = ~(
        np.isfinite(table["mean"]) & np.isfinite(table["std"]) & (table["std"] > 0)
    )
    reasons["the same slice stands there twice"] = table.duplicated([*scan, "z"])
    # The place in a stack is z less the slices left out below, the same for all of a scan.
    first = offset.groupby([table[name] for name in scan]).transform("first")
    reasons["z and position do not fit the other slices of the scan"] = offset != first
    return reasons


def _by_value(column, holds):
    """Ask of each value, once though it stands in hundreds of rows, whether something holds."""
    return column.map({value: bool(holds(value)) for value in column.unique()}).astype(bool)


class SliceReader:
    """Read single slices by their row number in a manifest; safe to call from several threads.

    Stacks are read memory-mapped, so that a slice costs a copy of its 57,600 bytes and the
    operating system keeps what fits in memory.

    Parameters
    ----------
    folder : path-like
        The prepared folder.
    rows : pandas.DataFrame
        From `load_manifest`.
    neighbours : int
        Slices below and above each that `read_channels` adds.

    Attributes
    ----------
    channels : int
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
        self._stacks = {}

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
        first, last, reach = self._first[row], self._last[row], self.neighbours
        images = [
            image if i == row else self._load(self.image[i], self.position[i])
            for i in (min(max(i, first), last) for i in range(row - reach, row + reach + 1))
        ]
        return np.stack(images, -1), mask

    def standardise(self, row, image):
        """Bring an image of this row, as read or augmented, to the network's float32 scale."""
        return standardise(image, self.mean[row], self.std[row])

    def scale(self, row):
        """Return what `standardise` subtracts from an image of this row, and multiplies it by."""
        return self.mean[row], 1 / self.std[row]

    def _load(self, name, index):
        try:
            if name.endswith(".npy"):
                if name not in self._stacks:
                    stack = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
                    if stack.ndim != 3 or stack.dtype != np.uint8:
                        raise ValueError(f"holds {stack.dtype} {stack.shape}, no stack of slices")
                    self._stacks[name] = stack
                return self._stacks[name][index]
            picture = cv2.imread(str(self.folder / name), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise OSError("not a readable picture")
            return picture
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise InputError(f"{self.folder / name}: {error}; run prep.py again") from None
