"""What predict.py is to do: the scans it was given, and where the results of each belong."""

import re
from dataclasses import dataclass
from pathlib import Path

from scans.find import NIFTI_ENDINGS, halves, list_files, stem_of
from system.files import InputError, load_json

NO_IMAGE = r"([_-](mask|seg|dseg|labels?|lesions?|roi|probseg|probability)|_label-[^_]+.*)$"


@dataclass(frozen=True)
class Job:
    """A scan, and where its results belong.

    Attributes
    ----------
    scan, folder : pathlib.Path
    stem, soft_stem : str
        Names of mask and probability, without ending.
    """

    scan: Path
    folder: Path
    stem: str
    soft_stem: str

    @property
    def mask(self):
        return self.folder / f"{self.stem}.nii.gz"

    @property
    def probability(self):
        return self.folder / f"{self.soft_stem}.nii.gz"

    @property
    def picture(self):
        return self.folder / f"{self.stem}.png"

    @property
    def facts(self):
        """Written last: where it stands, the others are whole."""
        return self.folder / f"{self.stem}.json"

    def made_from(self, options):
        changed_ns = self.scan.stat().st_mtime_ns if self.scan.exists() else None
        return {"scan": str(self.scan), "changed_ns": changed_ns} | options

    def is_done(self, options, with_probability):
        wanted = [self.facts, self.mask, self.picture] + [self.probability] * with_probability
        if not all(path.exists() for path in wanted):
            return False
        facts = load_json(self.facts, "delete it and start again")
        return facts.get("made_from") == self.made_from(options)

    def clear(self):
        """Delete what an earlier run with other options left: nothing may be taken for new."""
        for path in (self.facts, self.mask, self.picture, self.probability):
            path.unlink(missing_ok=True)


def find_jobs(paths, layout, output):
    """List the scans of all arguments, and the problems: (file, reason)."""
    jobs, problems, taken = [], [], {}
    for path in paths:
        files, found = find_images(path, layout) if path.is_dir() else ([path], [])
        problems += found
        for file in files:
            job = plan(file, path, layout, output)
            if not file.name.endswith(NIFTI_ENDINGS):
                problems.append((file, "not a NIfTI file (.nii, .nii.gz)"))
            elif job.mask in taken and taken[job.mask].absolute() != file.absolute():
                problems.append((file, f"its mask would overwrite that of {taken[job.mask]}"))
            elif job.mask not in taken:
                taken[job.mask] = file
                jobs.append(job)
    if not jobs:
        raise InputError(": ".join(map(str, problems[0])))
    return jobs, problems


def find_images(folder, layout):
    """List a folder's images: those with the ending of the data set, or all that are no masks.

    Returns
    -------
    images : list of pathlib.Path
    problems : list of (path, str)
    """
    everything, problems = list_files(folder)
    files = [path for path in everything if path.name.endswith(NIFTI_ENDINGS)]
    named = [path for path in files if stem_of(path).endswith(layout.image_suffix)]
    images = named or [
        path
        for path in files
        if not re.search(NO_IMAGE, stem_of(path), re.IGNORECASE)
        and not stem_of(path).endswith(layout.mask_suffix)
    ]
    problems += halves(everything)
    if not images and not problems:
        problems = [(folder, "no NIfTI image (.nii, .nii.gz) below this folder")]
    return images, problems


def plan(file, given, layout, output):
    """Name the results of a scan: as BIDS derivatives if it is named so, in the same sub-tree."""
    stem = stem_of(file)
    below = file.parent.relative_to(given) if given.is_dir() else Path()
    parts = file.parent.absolute().parts
    subject = stem.split("_")[0]
    if not stem.startswith("sub-"):
        return Job(file, output / below, f"{stem}_lesion", f"{stem}_probability")
    if subject not in below.parts and subject in parts:
        below = Path(*parts[parts.index(subject) :])
    name = stem.removesuffix(layout.image_suffix).removesuffix("_T1w") + "_label-L_desc-lesion"
    return Job(file, output / below, f"{name}_mask", f"{name}_probseg")
