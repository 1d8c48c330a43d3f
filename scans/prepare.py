"""One scan prepared: cut into slices on disk, with the facts that the manifest is made of."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from scans.near_duplicates import make_thumbnail
from scans.nifti import check_is_file
from scans.volumes import load_lesion, load_volume, volume_to_slices
from system.files import InputError, OutputError, cannot_write, load_json, save_json, whole_file

# Larger than what a stroke leaves of one hemisphere.
LARGE_ML = 600


def prepare_scan(scan, folder, labels, size, skip, format):
    """Cut one scan into slices on disk, unless that is done already; return its facts.

    `skip` is the height in mm that is left out at the bottom and at the top. The facts (thumbnail,
    voxel size, lesion volume in ml, warnings, one entry a slice) are saved last, as json: where that
    file stands, the slices are whole.
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
    warnings = [*volume.warnings, *_check_lesion(lesion, scan, volume)]
    scaled, mean, std = volume.scaled
    depth, left_out = scaled.shape[2], round(skip / volume.spacing_mm[2])
    if depth <= 2 * left_out:
        raise InputError(
            f"{scan.image}: {depth} axial slices, and slices.skip leaves out {2 * left_out}"
        )
    kept = slice(left_out, depth - left_out)
    try:
        images, masks = (volume_to_slices(v[:, :, kept], size) for v in (scaled, lesion))
    except InputError as error:
        raise InputError(f"{scan.image}: {error}") from None
    image_files = _save_slices(
        images, folder, f"{scan.dataset}/images/{scan.name}", left_out, format
    )
    mask_pixels = masks * 255 if format == "png" else masks
    mask_files = _save_slices(
        mask_pixels, folder, f"{scan.dataset}/masks/{scan.name}", left_out, format
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
            "z": left_out + i,
            "lesion_pixels": int(np.count_nonzero(mask)),
            "image": image_files[i],
            "mask": mask_files[i],
            "position": i if format == "npy" else 0,
            "skip_mm": skip,
        }
        slices.append(of_the_scan | place | intensities)
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    lesion_voxels = np.count_nonzero(lesion)
    facts = {
        "made_from": made_from,
        "warnings": warnings,
        "left_out": left_out,
        "thumbnail": make_thumbnail(scaled),
        "voxel_mm": [round(float(mm), 4) for mm in volume.spacing_mm],
        "lesion_ml": lesion_voxels * voxel_ml,
        "lesion_outside_ml": (lesion_voxels - np.count_nonzero(masks)) * voxel_ml,
        "slices": slices,
    }
    save_json(facts_file, facts)
    return facts


def _check_lesion(lesion, scan, volume):
    """Refuse a mask that cannot be that of a lesion, as its inverse; return warnings."""
    names = " and ".join(map(str, scan.masks))
    scaled, mean, _ = volume.scaled
    marked, head = lesion > 0, scaled > mean / 2
    if np.count_nonzero(marked & head) > np.count_nonzero(head) / 2:
        raise InputError(f"{names}: covers more than half of the head; invert or redraw the mask")
    if np.count_nonzero(marked & (scaled == 0)) > np.count_nonzero(marked) / 2:
        raise InputError(f"{names}: lies mostly where the image is 0; redraw the mask")
    lesion_ml = np.count_nonzero(marked) * np.prod(volume.spacing_mm) / 1000
    return [f"a lesion of more than {LARGE_ML} ml"] if lesion_ml > LARGE_ML else []


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


def _save_slices(stack, folder, stem, left_out, format):
    """Save slices, (Z, H, W), as one stack or as a picture each; return the file of each slice."""
    if format == "npy":
        with whole_file(folder / f"{stem}.npy") as temporary:
            np.save(temporary, stack, allow_pickle=False)
        return [f"{stem}.npy"] * len(stack)
    names = [f"{stem}/z{left_out + i:03d}.png" for i in range(len(stack))]
    for name, picture in zip(names, stack, strict=True):
        with whole_file(folder / name) as temporary:
            if not cv2.imwrite(str(temporary), picture):
                raise OSError("the picture could not be written")
    return names
