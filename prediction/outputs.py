"""Which scans predict.py was given, and where the results of each belong."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from scans.find import img_pairs, list_files
from scans.names import NIFTI_ENDINGS, stem_of
from scans.nifti import check_is_file
from system.files import InputError, Problem, file_hash, first_few, load_json, refuse_foreign

LONGEST_NAME = 255  # bytes, as nearly every file system has it
NOT_AN_IMAGE = re.compile(
    r"([_-](mask|seg|dseg|labels?|lesions?|roi|probseg|probability)|_label-[^_]+.*)$", re.IGNORECASE
)

BIDS_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_[A-Za-z0-9]+")


@dataclass(frozen=True)
class Outputs:
    """A scan, and the files that are made from it; stems are names without ending."""

    scan: Path
    folder: Path
    mask_stem: str
    probability_stem: str

    @property
    def mask(self):
        return self.folder / f"{self.mask_stem}.nii.gz"

    @property
    def probability(self):
        return self.folder / f"{self.probability_stem}.nii.gz"

    @property
    def picture(self):
        return self.folder / f"{self.mask_stem}.png"

    @property
    def alignment_picture(self):
        """Only there where the alignment is doubtful."""
        return self.picture.with_name(f"{self.mask_stem}_alignment.png")

    @property
    def facts(self):
        """Written last: where it names what the others were made from, they are whole."""
        return self.folder / f"{self.mask_stem}.json"

    @property
    def results(self):
        """Every file that may be there besides `facts`."""
        return (self.mask, self.picture, self.alignment_picture, self.probability)

    def further_results(self, mask, probability, seen):
        """Return what else is made of a scan: images, and texts, each by its file.

        `mask` and `probability` lie on the grid of the scan; `seen` is a `scans.geometry.Seen`.
        """
        return {}, {}

    def about_mask(self):
        """Return what `facts` says about the mask as a file."""
        return {}

    def made_from(self, options):
        """Return what decides the results: the scan as it is now, and the options."""
        changed_ns = self.scan.stat().st_mtime_ns if self.scan.exists() else None
        return {"scan": str(self.scan.absolute()), "changed_ns": changed_ns} | options

    def are_current(self, options, with_probability):
        """Say whether all results are there and were made from this scan with these options."""
        facts = read_facts(self.facts)
        wanted = {self.mask, self.picture, *([self.probability] * with_probability)}
        wanted |= {path for path in self.results if path.name in facts.get("files", {})}
        if not all(path.exists() for path in wanted):
            return False
        return facts.get("made_from") == self.made_from(options)

    def foreign(self):
        """List the files in the places of the results that predict.py did not write as they are."""
        written = read_facts(self.facts).get("files", {})
        found = [p for p in self.results if p.exists() and written.get(p.name) != file_hash(p)]
        return found + [self.facts] * (self.facts.exists() and not written)

    def other_scan(self):
        """Return the scan of another name that the results in these places are of, or None."""
        scan = read_facts(self.facts).get("made_from", {}).get("scan", self.scan)
        return scan if Path(scan).exists() and not self.scan.samefile(scan) else None

    def check_free(self):
        """Refuse to overwrite a file of the user's, or the results of another scan."""
        if files := self.foreign():
            reason = f"{files[0]} is not as this program wrote it, so it stays; move it, or"
        elif other := self.other_scan():
            reason = f"its mask would overwrite that of {other};"
        else:
            return
        raise InputError(f"{self.scan}: {reason} choose another folder for the results")

    def clear(self):
        """Delete the results of an earlier run with other options: no stale file looks new."""
        # The record last, so that a second start knows what is left after a kill.
        for path in (*self.results, self.facts):
            path.unlink(missing_ok=True)


def sidecar(path):
    """Name the json file that describes an image."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def read_facts(path):
    """Read the json file of a scan's results; empty where it is missing or is none of ours."""
    try:
        facts = load_json(path, "start again")
    except InputError:
        return {}
    return facts if isinstance(facts, dict) and isinstance(facts.get("files"), dict) else {}


def are_whole(facts):
    """Say whether facts are of a scan that is done: a kill leaves but the names of its files."""
    return all(isinstance(facts.get(part), dict) for part in ("made_from", "prediction"))


def raw_of(facts):
    """Return the path of a mask's scan below its BIDS data set; empty if it is in none."""
    source = next(iter(facts.get("Sources", ())), "")
    return source.removeprefix("bids:raw:") if source.startswith("bids:raw:sub-") else ""


def leave_out_foreign(planned):
    """Return the `Outputs` that overwrite no file of the user's or of another scan's, and problems."""
    free, problems = [], []
    for outputs in planned:
        try:
            outputs.check_free()
            free.append(outputs)
        except InputError as error:
            problems.append(Problem.of(error, outputs.scan))
    return free, problems


def check_table(path):
    """Refuse to replace another table of the name of predictions.csv."""
    ours = path.is_file() and path.read_text("utf-8", "replace").startswith("scan,mask,lesions,")
    refuse_foreign(path.parent, [path.name], ours, "predict.py")


def plan_outputs(paths, layout, output):
    """List the scans among files and folders, each with its `Outputs`, and the problems.

    `layout` says how names of images and masks end. Without any scan the first problem is raised.
    """
    planned, problems, taken = [], [], {}
    for path in paths:
        files, found = find_images(path, layout) if path.is_dir() else ([path], [])
        problems += found
        for file in files:
            outputs = name_outputs(file, path, output)
            try:
                check_is_file(file)
                # The longest name there will be, as `whole_file` writes it.
                if len(os.fsencode(f".partial-{outputs.alignment_picture.name}")) > LONGEST_NAME:
                    raise InputError("its name is too long for those of its results; rename it")
            except InputError as error:
                problems.append(Problem.of(error, file))
                continue
            if not file.name.endswith(NIFTI_ENDINGS):
                problems.append(Problem(str(file), "not a NIfTI file (.nii, .nii.gz)"))
            elif outputs.mask in taken and taken[outputs.mask].absolute() != file.absolute():
                reason = f"its mask would overwrite that of {taken[outputs.mask]}"
                problems.append(Problem(str(file), reason))
            elif outputs.mask not in taken:
                taken[outputs.mask] = file
                planned.append(outputs)
    if not planned:
        raise InputError(str(problems[0]))
    return planned, problems


def find_images(folder, layout):
    """List a folder's images and the problems.

    Images have the ending of the data set; where none has, they are all files but masks.
    """
    everything, problems = list_files(folder)
    files = [path for path in everything if path.name.endswith(NIFTI_ENDINGS)]
    named = [path for path in files if stem_of(path).endswith(layout.image_suffix)]
    others = [
        path
        for path in files
        if not stem_of(path).endswith((layout.image_suffix, *layout.mask_suffixes))
        and not NOT_AN_IMAGE.search(stem_of(path))
    ]
    images = named or others
    if named and others:
        names = first_few([path.name for path in others])
        print(f"passed over, as they do not end in {layout.image_suffix}: {names}")
    problems += img_pairs(everything)
    if not images and not problems:
        problems = [Problem(str(folder), "no NIfTI image (.nii, .nii.gz) below this folder")]
    return images, problems


def name_outputs(file, given, output):
    """Name the results of a scan: as BIDS derivatives if it is named so, in the same sub-tree."""
    stem = stem_of(file)
    below = file.parent.relative_to(given) if given.is_dir() else Path()
    if not (named := BIDS_NAME.fullmatch(stem)):
        return Outputs(file, output / below, f"{stem}_lesion", f"{stem}_probability")
    subject, *entities = named[1].split("_")
    parents = file.parent.absolute().parts
    if subject not in below.parts and subject in parents:
        below = Path(*parents[parents.index(subject) :])
    # The mask has a label and a description of its own.
    kept = [entity for entity in entities if not entity.startswith(("label-", "desc-"))]
    name = "_".join([subject, *kept, "label-L_desc-lesion"])
    return Outputs(file, output / below, f"{name}_mask", f"{name}_probseg")
