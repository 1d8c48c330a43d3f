"""One page for a folder of masks: each scan with its outline, the most doubtful first, to be judged."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from prediction.decisions import decisions_about, read_decisions
from prediction.mending import manual_file, manual_kind
from prediction.outputs import are_whole, raw_of, read_facts
from system.files import InputError, refuse_foreign, save_text

PAGE = "report.html"
TEMPLATE = Path(__file__).with_name("templates") / "review.html"
GENERATOR = '<meta name="generator" content="Lacuna">'


@dataclass(frozen=True)
class Judged:
    """A mask that is to be judged; `name` is its path below the folder, `facts` what is known of it.

    `raw` is its scan's path below a BIDS data set; empty if it is in none.
    """

    name: str
    mask: Path
    picture: Path
    scan: Path
    facts: dict
    raw: str = ""

    def find_scan(self):
        """Return the scan; where it is gone, say how to get at it."""
        if not self.scan.is_file():
            advice = "predict it anew from where it lies now"
            if self.raw:
                advice = "say by --scans where the data set is now"
            raise InputError(f"{self.scan}: not found; {advice}")
        return self.scan

    @property
    def content(self):
        """The hash of the mask as it was predicted: a decision is about this one alone."""
        return self.facts["files"].get(self.mask.name)


def find_masks(folder, scans=None):
    """List the masks that were predicted into a folder, the most doubtful first.

    That is the one with the most warnings; among equals the one that the network is least sure of.
    `scans` is the BIDS data set that they were made from, where it lies elsewhere now.
    """
    found = []
    for file in sorted(Path(folder).rglob("[!.]*.json")):
        facts = read_facts(file)
        mask = file.with_name(f"{file.stem}.nii.gz")
        if not are_whole(facts) or not mask.is_file():
            continue
        pictures = (file.with_suffix(".png"), file.parent.parent / "figures" / f"{file.stem}.png")
        picture = next((path for path in pictures if path.is_file()), pictures[0])
        scan = Path(facts["made_from"]["scan"])
        raw = raw_of(facts)
        if scans and raw:
            scan = Path(scans, raw)
        name = mask.relative_to(folder).as_posix()
        found.append(Judged(name, mask, picture, scan, facts, raw))
    return sorted(found, key=_doubt)


def _doubt(judged):
    certainty = judged.facts["prediction"].get("certainty") or 0
    return -len(judged.facts.get("warnings", ())), certainty, judged.name


def make_page(masks, folder, decisions, served):
    """Return the page as text; `served` by review.py it saves decisions, of `read_decisions`, at once."""
    scans = [
        {
            "number": number,
            "mask": judged.name,
            "name": judged.scan.name,
            "picture": quote(os.fsencode(os.path.relpath(judged.picture, folder))),
            "lesions": judged.facts["prediction"]["lesions"],
            "volume": judged.facts["prediction"]["volume_ml"],
            "certainty": judged.facts["prediction"].get("certainty"),
            "warnings": judged.facts.get("warnings", []),
            "content": judged.content,
            "kept": _kept(judged),
        }
        for number, judged in enumerate(masks)
    ]
    valid = decisions_about(masks, decisions)
    table = [] if served else list(decisions.values())
    data = json.dumps({"scans": scans, "decisions": valid, "table": table, "served": served})
    # So that no name of a file can end the script that holds it.
    return TEMPLATE.read_text("utf-8").replace("DATA", data.replace("<", "\\u003c"), 1)


def _kept(judged):
    """Say what a person made of a mask; a page does not fail for one sidecar that is broken."""
    try:
        return manual_kind(manual_file(judged.mask))
    except InputError:
        return "foreign"


def check_page(folder):
    """Refuse to replace another page of that name."""
    refuse_foreign(folder, [PAGE], _is_ours(folder), "this program")


def renew_page(folder):
    """Save the page, if there is one, so that opened as a file it knows all decisions."""
    if _is_ours(folder):
        save_page(folder)


def _is_ours(folder):
    path = Path(folder, PAGE)
    return path.is_file() and GENERATOR in path.read_text("utf-8", "replace")


def save_page(folder):
    """Write the page of a folder, to be opened as a file; return its path, None without any mask."""
    masks, decisions = find_masks(folder), read_decisions(folder)
    if not masks:
        return None
    path = Path(folder, PAGE)
    save_text(path, make_page(masks, folder, decisions, served=False))
    return path
