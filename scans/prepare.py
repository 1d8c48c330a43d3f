"""One scan prepared: cut into slices on disk, with the facts that the manifest is made of."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from scans.near_duplicates import make_thumbnail
from scans.nifti import check_is_file
from scans.volumes import load_lesion, load_volume, volume_to_slices
from system.files import InputError, OutputError, cannot_write, load_json, save_json, whole_file


def prepare_scan(scan, folder, labels, size, skip, format):
    """Cut one scan into slices on disk, unless that is done already; return its facts.

    The facts (thumbnail, voxel size, lesion volume in ml, one entry a slice) are saved last, as
    json: where that file stands, the slices are whole.
    """
    folder = Path(folder)
    facts_file = folder / scan.dataset / f"{scan.name}.json"
    for path in (scan.image, *scan.masks):
        check_is_file(path)
    # A changed setting or source file makes the slices stale.
    made_from = {
        "image": str(scan.image.absolute()),
        "masks": [str(mask.absolute()) for mask in scan.masks],
        "changed_ns": [path.stat().st_mtime_ns for path in (scan.image, *scan.masks)],
        "labels": labels,
        "size": size,
        "skip": skip,
        "format": format,
    }
    if facts_file.exists():
        facts = load_json(facts_file, "delete it and run prep.py again")
        if _are_current(facts, folder, made_from):
            return facts
        _declare_stale(facts_file, folder)

    volume = load_volume(scan.image)
    lesion = load_lesion(scan.masks, labels, volume)
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
    image_files = _save_slices(images, folder, f"{scan.dataset}/images/{scan.name}", skip, format)
    mask_pixels = masks * 255 if format == "png" else masks
    mask_files = _save_slices(
        mask_pixels, folder, f"{scan.dataset}/masks/{scan.name}", skip, format
    )

    of_the_scan = {
        "dataset": scan.dataset,
        "subject": scan.subject,
        "session": scan.session,
        "site": scan.site,
    }
    intensities = {
        "mean": round(mean, 4),
        "std": round(std, 4),
        "content": hashlib.sha256(images).hexdigest()[:16],
    }
    slices = []
    for i, mask in enumerate(masks):
        place = {
            "z": skip + i,
            "lesion_pixels": int(np.count_nonzero(mask)),
            "image": image_files[i],
            "mask": mask_files[i],
            "position": i if format == "npy" else 0,
        }
        slices.append(of_the_scan | place | intensities)
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    lesion_voxels = np.count_nonzero(lesion)
    facts = {
        "made_from": made_from,
        "thumbnail": make_thumbnail(scaled),
        "voxel_mm": [round(float(mm), 4) for mm in volume.spacing_mm],
        "lesion_ml": lesion_voxels * voxel_ml,
        "lesion_outside_ml": (lesion_voxels - np.count_nonzero(masks)) * voxel_ml,
        "slices": slices,
    }
    save_json(facts_file, facts)
    return facts


def _are_current(facts, folder, made_from):
    """Say whether facts were made from the same files and settings, and their slices are there."""
    if not isinstance(facts, dict) or facts.get("made_from") != made_from:
        return False
    names = {row[kind] for row in facts.get("slices", ()) for kind in ("image", "mask")}
    return bool(names) and all((folder / name).is_file() for name in names)


def _declare_stale(facts_file, folder):
    """Delete what says that the slices are whole: a kill must not leave old and new ones mixed."""
    try:
        (folder / "slices.csv").unlink(missing_ok=True)
        facts_file.unlink()
    except OSError as error:
        raise OutputError(cannot_write(facts_file, error)) from error


def _save_slices(stack, folder, stem, skip, format):
    """Save slices, (Z, H, W), as one stack or as a picture each; return the file of each slice."""
    if format == "npy":
        with whole_file(folder / f"{stem}.npy") as temporary:
            np.save(temporary, stack, allow_pickle=False)
        return [f"{stem}.npy"] * len(stack)
    names = [f"{stem}/z{skip + i:03d}.png" for i in range(len(stack))]
    for name, picture in zip(names, stack, strict=True):
        with whole_file(folder / name) as temporary:
            if not cv2.imwrite(str(temporary), picture):
                raise OSError("the picture could not be written")
    return names
