"""Masks that a person accepted or corrected, kept beside the predicted ones as training data."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from prediction.decisions import signature, words_of
from prediction.outputs import BIDS_NAME, read_facts
from scans.nifti import save_nifti
from scans.volumes import load_mask, load_volume, read_voxels, to_original_grid
from system.files import InputError, OutputError, Problem, file_hash, load_json, save_json

# What people draw masks with, and how each is given a scan and its mask.
EDITORS = {
    "itksnap": ["itksnap", "-g", "{scan}", "-s", "{mask}"],
    "fsleyes": ["fsleyes", "{scan}", "{mask}", "--cmap", "red", "--alpha", "50"],
}


def find_editor():
    """Return the command of the editor, with ``{scan}`` and ``{mask}`` in it.

    `$MASK_EDITOR` comes first, to which scan and mask are appended where it does not name them.

    Raises
    ------
    InputError
        If there is none.
    """
    if own := os.environ.get("MASK_EDITOR"):
        try:
            command = shlex.split(own)
        except ValueError as error:
            raise InputError(f"MASK_EDITOR={own}: {error}; write it as in a shell") from None
        if not command or not shutil.which(command[0]):
            raise InputError(f"MASK_EDITOR={own}: there is no such program; give another one")
        named = any("{mask}" in word for word in command)
        return command if named else [*command, "{scan}", "{mask}"]
    for name, command in EDITORS.items():
        if shutil.which(name):
            return command
    raise InputError(
        "no editor for masks: install ITK-SNAP or FSLeyes, or name one by MASK_EDITOR='program "
        "{scan} {mask}'"
    )


def manual_file(mask):
    """Name what a person made of a predicted mask: ``desc-manual`` in BIDS, else ``NAME_manual_mask``."""
    name = mask.name.removesuffix(".nii.gz")
    if BIDS_NAME.fullmatch(name):
        stem = re.sub(r"_desc-lesion(?=_)", "_desc-manual", name)
    else:
        stem = name.removesuffix("_lesion") + "_manual_mask"
    return mask.with_name(f"{stem}.nii.gz")


def keep_judged(masks, decisions, command=None):
    """Keep accepted masks, and with an editor's `command` those that a person mends now.

    `masks` are from `prediction.review_page.find_masks`, `decisions` from `read_decisions`. Of a
    mask that is no longer accepted what was kept of it goes, unless a person changed it. Returns
    lines about what was done, and the problems.
    """
    words, lines, problems = words_of(decisions), [], []
    for judged in masks:
        word, file = words.get(judged.name), manual_file(judged.mask)
        try:
            if word == "accept":
                if _take_over(judged, file):
                    lines.append(f"{file.name}: accepted as it was predicted")
            elif word == "mend":
                if file.exists() and not _is_copy(file):
                    continue
                if command and _mend(judged, file, command):
                    lines.append(f"{file.name}: mended")
                elif command:
                    lines.append(f"{judged.name}: not changed, so it is still to be mended")
            elif _is_copy(file):
                for path in (file, _sidecar(file)):
                    path.unlink()
                lines.append(f"{file.name}: deleted, as it is no longer accepted")
        except (InputError, OutputError) as error:
            problems.append(Problem.of(error, judged.mask))
    return lines, problems


def waiting(masks, decisions):
    """Return the masks that are to be mended and are not yet."""
    words = words_of(decisions)
    return [
        judged
        for judged in masks
        if words.get(judged.name) == "mend"
        and (not manual_file(judged.mask).exists() or _is_copy(manual_file(judged.mask)))
    ]


def _sidecar(file):
    return file.with_name(file.name.removesuffix(".nii.gz") + ".json")


def _is_copy(file):
    """Say whether a file is an accepted mask as `_take_over` wrote it."""
    if not (file.exists() and _sidecar(file).exists()):
        return False
    about = load_json(_sidecar(file), "repair or delete it")
    return isinstance(about, dict) and about.get("Copy") == file_hash(file)


def _about(judged, file, how):
    who, when = signature()
    about = {
        "Type": "Lesion",
        "Manual": True,
        "Description": f"{how} by a person",
        "Sources": [*read_facts(_sidecar(judged.mask)).get("Sources", [])],
        "PredictedMask": judged.mask.name,
        "By": who,
        "When": when,
    }
    save_json(_sidecar(file), about | ({"Copy": file_hash(file)} if how == "accepted" else {}))


def _take_over(judged, file):
    """Copy an accepted mask; False where that was done already."""
    if _is_copy(file):
        return False
    if file.exists():
        raise InputError(
            f"{file}: is there already, so it stays; move it to accept the predicted mask"
        )
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as folder:
        copy = Path(folder, file.name)
        shutil.copyfile(judged.mask, copy)
        copy.replace(file)
    _about(judged, file, "accepted")
    return True


def _mend(judged, file, command):
    """Open a mask in the editor and keep the result; False where nothing was changed."""
    if not judged.scan.is_file():
        raise InputError(f"{judged.scan}: not found, so its mask cannot be mended; bring it back")
    scan = load_volume(judged.scan)
    before = load_mask(judged.mask, None, scan)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        shutil.copyfile(judged.mask, copy)
        words = [
            word.replace("{scan}", str(judged.scan)).replace("{mask}", str(copy))
            for word in command
        ]
        try:
            code = subprocess.run(words).returncode
        except OSError as error:
            raise InputError(f"{command[0]}: cannot be run ({error.strerror})") from None
        if code:
            raise InputError(
                f"{command[0]} ended with {code}, so its result was not kept; try again"
            )
        mask = load_mask(copy, None, scan)
        # Refused before, were it of another grid: so only its own header may differ.
        if np.array_equal(mask, before):
            return False
        save_nifti(to_original_grid(mask, read_voxels(judged.mask)), file, compresslevel=6)
    _about(judged, file, "mended")
    return True
