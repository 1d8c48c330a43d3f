"""What the path of a scan says: subject, session and site."""

import re
from pathlib import Path

NIFTI_ENDINGS = (".nii.gz", ".nii")
UNKNOWN_SITE = "unknown"


def scan_name(subject, session):
    """Name a scan within its data set."""
    return f"{subject}_{session}" if session else subject


def identify(path):
    """Read subject, session and site from a scan's path below the data set's folder.

    ATLAS v2.0 and BIDS: ``sub-r001s001/ses-1`` gives subject ``sub-r001s001``, session ``1``; of
    several scans of a session ``acq-mprage_run-2`` tells one apart and joins its name:
    ``1_acq-mprage_run-2``. So does ``space-orig`` of ATLAS R3.0, beside which v2.0 may stand. The
    site is the ``R001`` folder, or the cohort in the subject's name.
    BraTS17: ``Brats17_CBICA_AAB_1`` gives subject ``Brats17_CBICA_AAB``, session ``1`` (its time
    point), site ``CBICA``. Any other name is a subject of its own at site ``unknown``.
    """
    text = path.as_posix()
    if brats := re.match(r"(Brats\d+_([^_]+)_[^_]+)_(\d+)(?=_)", path.name):
        subject, site, session = brats.groups()
        return subject, session, site
    if bids := re.search(r"sub-[A-Za-z0-9]+", path.name) or re.search(r"sub-[A-Za-z0-9]+", text):
        subject = bids.group()
        entities = re.findall(
            r"(?<=_)(?:(?:acq|ce|echo|inv|rec|run)-[A-Za-z0-9]+|space-orig(?=_))", path.name
        )
        cohort = re.search(r"(?:^|/)(R\d+)/", text) or re.match(r"sub-(r\d+)s\d+", subject)
        return (
            subject,
            "_".join([*session_label(path), *entities]),
            cohort.group(1).upper() if cohort else UNKNOWN_SITE,
        )
    return stem_of(path), "", UNKNOWN_SITE


def session_label(path):
    """List the session in the path of a scan, of its name first: one label, or none."""
    path = Path(path)
    for text in (path.name, path.as_posix()):
        if found := re.findall(r"(?:^|[/_])ses-([A-Za-z0-9]+)", text):
            return found[-1:]
    return []


def stem_of(path):
    """Return a scan's name without its ending."""
    return re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", path.name)


def shared_names(image, image_suffix):
    """List what the names of an image and of its masks may begin with: without its description, too."""
    start = stem_of(image).removesuffix(image_suffix)
    return list(dict.fromkeys([start, re.sub(r"_desc-[A-Za-z0-9]+$", "", start)]))
