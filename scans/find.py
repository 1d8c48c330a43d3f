"""Scans as they lie in a folder: images with their masks, and the subject of each."""

import errno
import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scans.names import NIFTI_ENDINGS, identify, scan_name, session_label, shared_names, stem_of
from system.files import InputError, Problem, first_few

LOOKS_LIKE_A_MASK = re.compile(r"lesion|mask|seg|roi|label", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """A T1-weighted image with its masks, whose union is the lesion.

    `session` is empty where the name gives none; see `identify`. `metadata` is what else is known of
    it, by column; see `scans.metadata`.
    """

    dataset: str
    subject: str
    session: str
    site: str
    image: Path
    masks: tuple[Path, ...]
    metadata: dict = field(default_factory=dict)

    @property
    def name(self):
        return scan_name(self.subject, self.session)


class Found(NamedTuple):
    """The scans of a data set, the files that are left out, and what else is worth a line."""

    scans: list[Scan]
    problems: list[Problem]
    notes: list[str]


def find_scans(folder, dataset, image_suffix, mask_suffixes):
    """List the scans below a folder, however deep, in the order of their names.

    A scan is a file ``<name><image_suffix>.nii[.gz]``; its masks are ``<name><mask_suffix>``, in the
    same folder or, as BIDS derivatives do, elsewhere below `folder`. An image may have a description
    (``_desc-brain``) that its masks do not share, as in ATLAS R3.0. Hidden files (``._*``, which
    macOS leaves behind) are passed over, and so are folders in which no image has a mask, as
    ``Testing`` of ATLAS v2.0, which get a note.

    Raises
    ------
    InputError
        If the folder holds no image of that name; says what it holds instead.
    """
    folder = Path(folder)
    everything, problems = list_files(folder)
    files = [path for path in everything if path.name.endswith(NIFTI_ENDINGS)]
    images = _images_among(files, image_suffix, mask_suffixes)
    pairs = img_pairs(everything)
    problems += [found for found in pairs if stem_of(Path(found.file)).endswith(image_suffix)]
    pairs = {stem_of(Path(found.file)) for found in pairs}

    masks_of = _match_masks(images, files, image_suffix, mask_suffixes)
    common = Path(os.path.commonpath([image.parent for image in images] or [folder]))
    masked = {
        _share(image, common)
        for image in images
        if masks_of[image] or _mask_names(image, image_suffix, mask_suffixes) & pairs
    }
    scans, seen, without = [], {}, {}
    if images and not masked and (others := _mask_like(images, files, image_suffix)):
        endings = " or ".join(f"{suffix}.nii.gz" for suffix in mask_suffixes)
        problems.append(
            Problem(
                str(folder),
                f"no name of a mask ends in {endings}; set {dataset}.mask_suffix to how they end: beside "
                f"the images lie {first_few([path.name for path in others], 2)}",
            )
        )
        images = []
    for image in images:
        if image.is_dir():
            problems.append(Problem(str(image), "is a folder without a scan; put the file itself"))
            continue
        share = _share(image, common)
        if masked and share not in masked:
            without.setdefault(share, []).append(image)
            continue
        if reason := _wrong_with(masks_of[image], image, image_suffix, mask_suffixes, pairs):
            problems.append(Problem(str(image), reason))
            continue
        subject, session, site = identify(image.relative_to(folder))
        masks = tuple(path for paths in masks_of[image].values() for path in paths)
        scan = Scan(dataset, subject, session, site, image, masks)
        earlier = seen.setdefault(scan.name, image)
        if earlier is image:
            scans.append(scan)
        elif os.path.realpath(image) != os.path.realpath(earlier):
            reason = f"same subject and session as {earlier}; keep one"
            problems.append(Problem(str(image), reason))

    if not scans and not problems:
        found = "nothing in it"
        if everything:
            found = f"no NIfTI file, but {everything[0]} and {len(everything) - 1} more"
        if files:
            found = f"{files[0]} and {len(files) - 1} more NIfTI files"
        raise InputError(
            f"{folder}: no file ends in {image_suffix}.nii.gz; expected, at any depth, "
            f"NAME{image_suffix}.nii.gz with NAME{mask_suffixes[0]}.nii.gz, found {found}; point "
            f"paths.{dataset} at the data set, or set {dataset}.image_suffix to how its names end"
        )
    notes = [
        f"scans without a mask, not used: {len(own)} below {share}: for predict.py"
        for share, own in without.items()
    ]
    if scans and len(mask_suffixes) > 1:
        notes.append(_used_suffixes(scans, mask_suffixes))
    return Found(scans, problems, notes + _unused_masks(scans, files, image_suffix, dataset))


def _mask_names(image, image_suffix, mask_suffixes):
    starts = shared_names(image, image_suffix)
    return {start + suffix for start in starts for suffix in mask_suffixes}


def _images_among(files, image_suffix, mask_suffixes):
    """Pick the images; a mask's name may end as an image's does."""
    images = [path for path in files if stem_of(path).endswith(image_suffix)]
    masks = set()
    for image in images:
        masks |= _mask_names(image, image_suffix, mask_suffixes) - {stem_of(image)}
    return [image for image in images if stem_of(image) not in masks]


def _used_suffixes(scans, mask_suffixes):
    """Note how many masks have which of several endings."""
    stems = [stem_of(mask) for scan in scans for mask in scan.masks]
    counts = {suffix: sum(stem.endswith(suffix) for stem in stems) for suffix in mask_suffixes}
    return "masks end in " + " and ".join(
        f"{suffix} ({count})" for suffix, count in counts.items() if count
    )


def _match_masks(images, files, image_suffix, mask_suffixes):
    """Find the masks of each image, by suffix; those beside it are preferred to those elsewhere.

    Where images in several folders have one name, a mask elsewhere belongs to the one of its session.
    """
    by_name, folders = {}, {}
    for path in files:
        if stem_of(path).endswith(tuple(mask_suffixes)):
            by_name.setdefault(stem_of(path), []).append(path)
    for image in images:
        for start in shared_names(image, image_suffix):
            folders.setdefault(start, set()).add(image.parent)
    masks_of = {}
    for image in images:
        masks_of[image] = {}
        for start, suffix in itertools.product(shared_names(image, image_suffix), mask_suffixes):
            if suffix in masks_of[image]:
                continue
            found = by_name.get(start + suffix, [])
            beside = [mask for mask in found if mask.parent == image.parent]
            elsewhere = [
                mask
                for mask in found
                if mask.parent not in folders[start]
                and _same_session(mask, image, alone=len(folders[start]) == 1)
            ]
            if own := beside or elsewhere:
                masks_of[image][suffix] = own
    return masks_of


def _same_session(mask, image, alone):
    """Say whether two paths are of one session; where one does not tell, whether `image` is alone."""
    sessions = [session_label(path) for path in (mask, image)]
    return sessions[0] == sessions[1] if all(sessions) else alone


def _wrong_with(masks, image, image_suffix, mask_suffixes, pairs):
    """Say what is wrong with the masks of an image, or return None."""
    start = shared_names(image, image_suffix)[-1]
    if named := sorted(_mask_names(image, image_suffix, mask_suffixes) & pairs):
        return f"its mask {named[0]}.nii.gz is an .hdr/.img pair; convert it to .nii.gz"
    for suffix, found in masks.items():
        if len(found) > 1:
            return f"its mask {start}{suffix}.nii.gz is found {len(found)} times; keep one"
    if not masks:
        names = " or ".join(f"{start}{suffix}.nii.gz" for suffix in mask_suffixes)
        return f"its mask {names} is missing; put it there, or take the image away"
    return None


def _share(image, common):
    """Return the folder just below `common` that an image is in, if it is not its subject's own."""
    below = image.relative_to(common).parts
    subject, _, _ = identify(image.relative_to(common))
    own = len(below) < 3 or subject in below[0]
    return common if own else common / below[0]


def _mask_like(images, files, image_suffix):
    """List the files beside images that look like masks of them."""
    by_folder, found = {}, []
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    for image in images:
        start = shared_names(image, image_suffix)[-1]
        for path in by_folder[image.parent]:
            own = stem_of(path).startswith(f"{start}_") and path != image
            rest = stem_of(path).removeprefix(start)
            if own and LOOKS_LIKE_A_MASK.search(rest) and "prob" not in rest:
                found.append(path)
    return found


def _unused_masks(scans, files, image_suffix, dataset):
    """Note, in one line, files beside images that look like further masks of them."""
    used = {mask for scan in scans for mask in scan.masks}
    alike = _mask_like([scan.image for scan in scans], files, image_suffix)
    unused = [path.name for path in alike if path not in used]
    if not unused:
        return []
    return [
        f"{len(unused)} further mask{'s' * (len(unused) > 1)} not used: {first_few(unused)}; "
        f"make {dataset}.mask_suffix a list to join them"
    ]


def img_pairs(files):
    """List the .hdr/.img pairs among files, once each."""
    return [
        Problem(str(path), "is half of an .hdr/.img pair; convert it to .nii.gz")
        for path in files
        if path.name.endswith((".img", ".img.gz"))
    ]


def list_files(folder):
    """List what lies below a folder, hidden files left out, and as problems what may not be read.

    Links to folders are followed, after all else, each folder once. A folder is listed if it is
    named like a scan but holds none.
    """
    paths, problems, seen, roots = [], [], set(), [Path(folder)]

    def note(error):
        reason = f"cannot be opened ({error.strerror}); ask for permission"
        problems.append(Problem(str(error.filename), reason))

    # Grows by the links that are found on the way.
    for root in roots:
        for parent, folders, names in os.walk(root, onerror=note):
            if not os.access(parent, os.X_OK):  # it may be listed, but nothing in it read
                note(PermissionError(errno.EACCES, os.strerror(errno.EACCES), parent))
                folders.clear()
                continue
            shown = sorted(name for name in folders if not name.startswith("."))
            links = [Path(parent, name) for name in shown if Path(parent, name).is_symlink()]
            roots += links
            folders[:] = [name for name in shown if Path(parent, name) not in links]
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            paths += [Path(parent, name) for name in names if not name.startswith(".")]
            if parent.endswith(NIFTI_ENDINGS) and not any(n.endswith(NIFTI_ENDINGS) for n in names):
                paths.append(Path(parent))
    return sorted(paths), problems
