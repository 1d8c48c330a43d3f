"""Masks that a person accepted or corrected, kept beside the predicted ones as training data."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from prediction.decisions import decisions_about, signature
from prediction.outputs import sidecar
from scans.nifti import save_nifti
from scans.volumes import load_mask, load_volume, read_voxels, to_original_grid
from system.files import InputError, Problem, file_hash, load_json, save_json, whole_file

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
    stem = re.sub(r"_desc-lesion(?=_mask$)", "_desc-manual", name)
    if stem == name:
        stem = name.removesuffix("_lesion") + "_manual_mask"
    return mask.with_name(f"{stem}.nii.gz")


def draft_file(mask):
    """Name the file that a person draws in, until it is taken over."""
    file = manual_file(mask)
    return file.with_name("draft".join(file.name.rsplit("manual", 1)))


def keep_accepted(masks, decisions):
    """Keep accepted masks beside the predicted ones; return lines and problems.

    `masks` are from `prediction.review_page.find_masks`, `decisions` from `read_decisions`. Of a
    mask that is not accepted any more what was kept goes; what a person drew stays.
    """
    decided, lines, problems = decisions_about(masks, decisions), [], []
    for judged in masks:
        file = manual_file(judged.mask)
        try:
            kind = manual_kind(file)
            if kind == "accepted" and (
                decided.get(judged.name) != "accept" or file_hash(file) != judged.content
            ):
                file.unlink()
                sidecar(file).unlink()
                lines.append(f"{file.name}: deleted, as its mask is not accepted any more")
                kind = None
            if decided.get(judged.name) == "accept" and kind is None:
                if file_hash(judged.mask) != judged.content:
                    raise InputError(
                        f"{judged.mask}: is not as it was predicted; rename it to {file.name} to "
                        "train on it, or move it away and predict it anew"
                    )
                _take_over(judged, file, judged.mask.read_bytes(), "accepted")
                lines.append(f"{file.name}: accepted as it was predicted")
            elif decided.get(judged.name) == "accept" and (
                kind == "foreign" or (kind == "mended" and not _is_of(file, judged))
            ):
                raise InputError(
                    f"{file}: is there already, so it stays; move it to accept the mask"
                )
            elif decided.get(judged.name) == "reject" and kind in ("mended", "foreign"):
                lines.append(
                    f"{file.name}: stays, though its mask is rejected; delete it if it is wrong"
                )
        except (InputError, OSError) as error:
            problems.append(Problem.of(error, judged.mask))
    return lines, problems


def masks_to_mend(masks, decisions):
    """Return the masks that are to be mended and are not yet, and as problems those that cannot be."""
    decided, chosen, problems = decisions_about(masks, decisions), [], []
    for judged in masks:
        if decided.get(judged.name) != "mend":
            continue
        file = manual_file(judged.mask)
        try:
            if not file.exists():
                chosen.append(judged)
            elif not _is_of(file, judged):
                raise InputError(f"{file}: is there already, so it stays; move it to mend the mask")
        except InputError as error:
            problems.append(Problem.of(error, judged.mask))
    return chosen, problems


def mend(judged, command):
    """Open a mask in an editor by its command, keep the result, and return a line about it.

    The person draws in a file beside the mask, which stays until its content was taken over.

    Raises
    ------
    InputError
        If the scan is gone, the editor fails, or the result is no mask of the scan.
    """
    file, draft = manual_file(judged.mask), draft_file(judged.mask)
    scan = load_volume(judged.find_scan())
    if not draft.exists():
        save_json(sidecar(draft), {"PredictedContent": judged.content})
        with whole_file(draft) as temporary:
            shutil.copyfile(judged.mask, temporary)
    elif not _is_of(draft, judged):
        raise InputError(
            f"{draft}: was begun in a mask that may have been predicted anew since; move or delete it"
        )
    places = {"{scan}": str(judged.scan), "{mask}": str(draft)}
    words = [re.sub(r"\{scan\}|\{mask\}", lambda m: places[m[0]], word) for word in command]
    try:
        code = subprocess.run(words).returncode
    except OSError as error:
        raise InputError(f"{command[0]}: cannot be run ({error.strerror})") from None
    if code:
        raise InputError(f"{command[0]} ended with {code}; what was drawn is in {draft}, try again")
    try:
        mask = load_mask(draft, None, scan)
    except InputError as error:
        raise InputError(f"{error}; or delete {draft.name} to begin anew") from None
    if np.array_equal(mask, load_mask(judged.mask, None, scan)):
        _forget(draft)
        return f"{judged.mask}: not changed, so the mask is still to be mended"
    # On the grid of the predicted mask, whatever the editor made of the header.
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, file.name)
        save_nifti(to_original_grid(mask, read_voxels(judged.mask)), made, compresslevel=6)
        _take_over(judged, file, made.read_bytes(), "mended")
    _forget(draft)
    return f"{file.name}: mended"


def _forget(draft):
    draft.unlink()
    sidecar(draft).unlink(missing_ok=True)


def _is_of(file, judged):
    """Say whether a person made a mask, or began a draft, of this very prediction."""
    about = (
        load_json(sidecar(file), "move the mask beside it away") if sidecar(file).exists() else None
    )
    return isinstance(about, dict) and about.get("PredictedContent") == judged.content


def _take_over(judged, file, content, how):
    """Write a mask and, before it is there, what is known of it."""
    if sidecar(file).exists() and "PredictedMask" not in load_json(sidecar(file), "repair it"):
        raise InputError(f"{sidecar(file)}: this program did not write it, so it stays; move it")
    who, when = signature()
    of_mask = ("Sources", "SpatialReference")
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
        about = {
            "Type": "Lesion",
            "Manual": True,
            "Description": f"{how} by a person",
            **{name: judged.facts[name] for name in of_mask if name in judged.facts},
            "PredictedMask": judged.mask.name,
            "PredictedContent": judged.content,
            "By": who,
            "When": when,
            "Decision": how,
            "Content": file_hash(temporary),
        }
        save_json(sidecar(file), about)


def manual_kind(file):
    """Say what stands in the place of a manual mask: accepted or mended here, foreign, or None."""
    if not file.exists():
        return None
    if not sidecar(file).exists():
        return "foreign"
    about = load_json(sidecar(file), "repair or delete it")
    ours = isinstance(about, dict) and about.get("Content") == file_hash(file)
    return about.get("Decision") if ours else "foreign"
