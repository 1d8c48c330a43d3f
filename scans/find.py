"""Scans as they lie in a folder: images with their masks, and the subject of each."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from system.files import InputError, Problem

NIFTI_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """A T1-weighted image with its mask; `session` is empty where there is none."""

    dataset: str
    subject: str
    session: str
    site: str
    image: Path
    mask: Path

    @property
    def name(self):
        return scan_name(self.subject, self.session)


def scan_name(subject, session):
    """Name a scan within its data set."""
    return f"{subject}_{session}" if session else subject


def find_scans(folder, dataset, image_suffix, mask_suffix):
    """List the scans below a folder, however deep, in the order of their names.

    A scan is a file ``<name><image_suffix>.nii[.gz]``; its mask is ``<name><mask_suffix>``, in the
    same folder or, as BIDS derivatives do, elsewhere below `folder`. Hidden files (``._*``, which
    macOS leaves behind) are passed over.

    Returns
    -------
    scans : list of Scan
    problems : list of Problem
        Images without a mask and names that occur twice.

    Raises
    ------
    InputError
        If the folder holds no image of that name; says what it holds instead.
    """
    folder = Path(folder)
    everything, problems = list_files(folder)
    files = [path for path in everything if path.name.endswith(NIFTI_ENDINGS)]
    masks = {}
    for path in files:
        if stem_of(path).endswith(mask_suffix):
            masks.setdefault(stem_of(path), []).append(path)
    pairs = {stem_of(path) for path in everything if re.search(r"\.(hdr|img)(\.gz)?$", path.name)}
    problems += [
        found for found in img_pairs(everything) if stem_of(Path(found.file)).endswith(image_suffix)
    ]

    scans, seen = [], {}
    for image in files:
        if not stem_of(image).endswith(image_suffix):
            continue
        mask_name = stem_of(image).removesuffix(image_suffix) + mask_suffix
        found = masks.get(mask_name, [])
        beside = [mask for mask in found if mask.parent == image.parent]
        candidates = beside or found
        if image.is_dir():
            problems.append(Problem(str(image), "is a folder without a scan; put the file itself"))
            continue
        if len(candidates) != 1:
            what = f"found {len(candidates)} times; keep one"
            if not candidates:
                what = "missing; put it there, or take the image away"
            if mask_name in pairs:
                what = "an .hdr/.img pair; convert it to .nii.gz"
            problems.append(Problem(str(image), f"its mask {mask_name}.nii.gz is {what}"))
            continue
        subject, session, site = identify(image.relative_to(folder))
        scan = Scan(dataset, subject, session, site, image, candidates[0])
        if scan.name in seen:
            reason = f"same subject and session as {seen[scan.name]}; keep one"
            problems.append(Problem(str(image), reason))
            continue
        seen[scan.name] = image
        scans.append(scan)

    if not scans and not problems:
        found = "nothing in it"
        if everything:
            found = f"no NIfTI file, but {everything[0]} and {len(everything) - 1} more"
        if files:
            found = f"{files[0]} and {len(files) - 1} more NIfTI files"
        raise InputError(
            f"{folder}: no file ends in {image_suffix}.nii.gz; expected, at any depth, "
            f"NAME{image_suffix}.nii.gz with NAME{mask_suffix}.nii.gz, found {found}; point "
            f"paths.{dataset} at the data set, or set {dataset}.image_suffix to how its names end"
        )
    return scans, problems


def img_pairs(files):
    """List the .hdr/.img pairs among files, once each."""
    return [
        Problem(str(path), "is half of an .hdr/.img pair; convert it to .nii.gz")
        for path in files
        if path.name.endswith((".img", ".img.gz"))
    ]


def list_files(folder):
    """List what lies below a folder, hidden files left out, and as problems what may not be read.

    A folder is listed if it is named like a scan but holds none.
    """
    paths, problems = [], []

    def note(error):
        reason = f"may not be looked into ({error.strerror}); ask for the right to"
        problems.append(Problem(str(error.filename), reason))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
        if parent.endswith(NIFTI_ENDINGS) and not any(n.endswith(NIFTI_ENDINGS) for n in names):
            paths.append(Path(parent))
    return sorted(paths), problems


def identify(path):
    """Read subject, session and site from a scan's path below the data set's folder.

    ATLAS v2.0 and BIDS: ``sub-r001s001/ses-1`` gives subject ``sub-r001s001``, session ``1``; the
    site is the ``R001`` folder, or the cohort in the subject's name. BraTS17:
    ``Brats17_CBICA_AAB_1`` gives subject ``Brats17_CBICA_AAB``, session ``1`` (its time point),
    site ``CBICA``. Any other name is a subject of its own at site ``unknown``.
    """
    text = path.as_posix()
    if brats := re.match(r"(Brats\d+_([^_]+)_[^_]+)_(\d+)(?=_)", path.name):
        subject, site, session = brats.groups()
        return subject, session, site
    if bids := re.search(r"sub-[A-Za-z0-9]+", path.name) or re.search(r"sub-[A-Za-z0-9]+", text):
        subject = bids.group()
        session = re.search(r"ses-([A-Za-z0-9]+)", text)
        cohort = re.search(r"(?:^|/)(R\d+)/", text) or re.match(r"sub-(r\d+)s\d+", subject)
        return (
            subject,
            session.group(1) if session else "",
            cohort.group(1).upper() if cohort else "unknown",
        )
    return stem_of(path), "", "unknown"


def stem_of(path):
    """Return a scan's name without its ending."""
    return re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", path.name)
