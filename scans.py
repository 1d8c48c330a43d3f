"""Scans as they lie in a folder: images with their masks, and whose they are."""

import re
from dataclasses import dataclass
from pathlib import Path

from files import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """A T1-weighted image with its mask, and whose it is.

    Attributes
    ----------
    dataset : str
        ``"atlas"`` or ``"brats17"``.
    subject, session, site : str
        As the names on disk say; `session` is empty where there is none.
    image, mask : pathlib.Path
    """

    dataset: str
    subject: str
    session: str
    site: str
    image: Path
    mask: Path

    @property
    def name(self):
        return f"{self.subject}_{self.session}" if self.session else self.subject


def find_scans(folder, dataset, image_suffix, mask_suffix):
    """List the scans below a folder, however deep, in the order of their names.

    A scan is a file ``<name><image_suffix>.nii[.gz]``; its mask is ``<name><mask_suffix>``, in the
    same folder or, as BIDS derivatives do, elsewhere below `folder`. Hidden files (``._*``, which
    macOS leaves behind) are passed over.

    Parameters
    ----------
    folder : path-like
    dataset : str
        Stored with each scan.
    image_suffix, mask_suffix : str
        How the names end, without ``.nii.gz``.

    Returns
    -------
    scans : list of Scan
    problems : list of (str, str)
        File and reason, for images without a mask and for names that occur twice.

    Raises
    ------
    InputError
        If the folder holds no image of that name; says what it holds instead.
    """
    folder = Path(folder)
    files = sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name.endswith(NIFTI_ENDINGS)
        and not path.is_dir()
    )
    masks = {}
    for path in files:
        if _stem(path).endswith(mask_suffix):
            masks.setdefault(_stem(path), []).append(path)

    scans, problems, seen = [], [], {}
    for image in files:
        if not _stem(image).endswith(image_suffix):
            continue
        mask_name = _stem(image).removesuffix(image_suffix) + mask_suffix
        found = masks.get(mask_name, [])
        beside = [mask for mask in found if mask.parent == image.parent]
        candidates = beside or found
        if len(candidates) != 1:
            what = "missing" if not candidates else f"found {len(candidates)} times"
            problems.append((str(image), f"its mask {mask_name}.nii.gz is {what}"))
            continue
        subject, session, site = identify(image.relative_to(folder))
        scan = Scan(dataset, subject, session, site, image, candidates[0])
        if scan.name in seen:
            problems.append((str(image), f"same subject and session as {seen[scan.name]}"))
            continue
        seen[scan.name] = image
        scans.append(scan)

    if not scans and not problems:
        example = f"{files[0]} and {len(files) - 1} more NIfTI files" if files else "no NIfTI file"
        raise InputError(
            f"{folder}: no file ends in {image_suffix}.nii.gz (found {example}); point "
            f"paths.{dataset} at the data set, or set {dataset}.image_suffix to how its names end"
        )
    return scans, problems


def identify(path):
    """Read subject, session and site from a scan's path below the data set's folder.

    ATLAS v2.0 and BIDS: ``sub-r001s001/ses-1`` gives subject ``sub-r001s001``, session ``1``; the
    site is the ``R001`` folder, or the cohort in the subject's name. BraTS17: ``Brats17_CBICA_AAB_1``
    gives subject ``Brats17_CBICA_AAB``, session ``1`` (its time point), site ``CBICA``. Any other
    name is a subject of its own at site ``unknown``.
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
    return _stem(path), "", "unknown"


def _stem(path):
    name = path.name
    for ending in NIFTI_ENDINGS:
        name = name.removesuffix(ending)
    return name
