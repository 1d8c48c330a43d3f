"""Read thousands of broken NIfTI files: each must be read or refused in one line, nothing else.

A file is a valid one with bits flipped, fields set to extremes, parts cut out, doubled or moved,
before or after zipping. It goes through everything that prep.py and predict.py do with a file
before and after the network. Any other exception than InputError, a warning, a hang, a crash, or
more than 2 GB of address space taken at once is printed with its number, and the exit code is 1.

    python benchmarks/fuzz.py --files 10000 --seed 0
    python benchmarks/fuzz.py --seed 0 --only 4711        # one of them again, with its traceback
"""

import argparse
import gzip
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import nibabel
import numpy as np

from scans.volumes import load_mask, load_volume, to_original_grid
from system.files import InputError

SHAPE = (12, 14, 10)
FILES_PER_CHILD = 500
SECONDS_PER_FILE = 10
MEMORY_BYTES = 2 * 2**30
EXTREMES = (
    0,
    1,
    -1,
    2,
    127,
    255,
    32767,
    -32768,
    2**31 - 1,
    2**63 - 1,
    1e-45,
    1e30,
    3e38,
    np.nan,
    np.inf,
    -np.inf,
)


@cache
def valid_files():
    """Return the bytes of one small scan in each way in which scans are stored."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(600, 100, SHAPE)
    affine = nibabel.affines.from_matvec(np.diag([-1, -1, 1.5]), (6, 7, -5))
    oblique = nibabel.eulerangles.euler2mat(0.2, 0.1, -0.1) @ affine[:3, :3]
    images = [nibabel.Nifti1Image(voxels.astype(kind), affine) for kind in ("f4", "i2", "f8")]
    images[1].header.set_slope_inter(0.5, 10)
    images.append(nibabel.Nifti1Image(images[0].dataobj, affine, images[0].header.as_byteswapped()))
    images.append(nibabel.Nifti2Image(voxels.astype("u2"), nibabel.affines.from_matvec(oblique)))
    images.append(nibabel.Nifti1Image((voxels > 700).astype("u1"), affine))
    images.append(nibabel.Nifti1Image(voxels.astype("f4")[..., None], affine))
    # Placed by its quaternion alone, and with an extension between header and voxels.
    images.append(nibabel.Nifti1Image(voxels.astype("i2"), None))
    images[-1].set_qform(nibabel.affines.from_matvec(oblique), 1)
    images[-1].header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 50))
    return [image.to_bytes() for image in images]


def flip_bits(content, rng, start, end):
    for place in rng.integers(start, max(min(end, len(content)), start + 1), rng.integers(1, 9)):
        if place < len(content):
            content[place] ^= 1 << rng.integers(8)


def flip_header(content, rng):
    flip_bits(content, rng, 0, 348)


def flip_anywhere(content, rng):
    flip_bits(content, rng, 0, len(content))


def cut(content, rng):
    del content[rng.integers(len(content) + 1) :]


def extend(content, rng):
    content += rng.bytes(rng.integers(1, 5000)) if rng.random() < 0.5 else bytes(2**21)


def overwrite(content, rng):
    place, length = rng.integers(len(content) + 1), rng.integers(1, 400)
    content[place : place + length] = rng.bytes(length)


def remove_or_double(content, rng):
    place, length = rng.integers(len(content) + 1), rng.integers(1, 400)
    content[place : place + length] = content[place : place + length] * rng.choice([0, 2])


def splice(content, rng):
    other = valid_files()[rng.integers(len(valid_files()))]
    place = rng.integers(min(len(content), len(other)) + 1)
    content[place:] = other[place:]


def set_fields(content, rng):
    """Set one to four header fields to what is rare, out of range, or no number."""
    is_2 = 540 in (int.from_bytes(content[:4], order) for order in ("little", "big"))
    kind = nibabel.Nifti2Header if is_2 else nibabel.Nifti1Header
    if len(content) < kind.sizeof_hdr:
        return
    header = kind(bytes(content[: kind.sizeof_hdr]), check=False)
    names = [name for name in header.keys() if header[name].dtype.kind in "iuf"]  # noqa: SIM118
    # What decides the size and the place of the voxels comes up as often as all the rest.
    names += ["dim", "datatype", "bitpix", "vox_offset", "pixdim", "scl_slope", "scl_inter"] * 4
    for name in rng.choice(names, rng.integers(1, 5)):
        field = header.structarr[name]
        place = (int(rng.integers(field.size)),) if field.ndim else ()
        with np.errstate(all="ignore"):
            field[place] = np.array(EXTREMES[rng.integers(len(EXTREMES))]).astype(field.dtype)
    content[: kind.sizeof_hdr] = header.binaryblock


def mutant(seed, number):
    """Make one broken file: its content, and the ending of its name."""
    rng = np.random.default_rng([seed, number])
    content = bytearray(valid_files()[rng.integers(len(valid_files()))])
    ways = [flip_header, flip_anywhere, cut, extend, overwrite, remove_or_double, splice]
    for way in rng.choice([*ways, *[set_fields] * 7], rng.integers(1, 4)):
        way(content, rng)
    if rng.random() < 0.5:
        return bytes(content), ".nii"
    zipped = bytearray(gzip.compress(content, int(rng.integers(10)), mtime=0))
    if rng.random() < 0.3:
        ways = [flip_anywhere, cut, extend, overwrite, remove_or_double]
        ways[rng.integers(len(ways))](zipped, rng)
    if rng.random() < 0.05:
        # Four members that inflate to 4 GB in all.
        zipped += gzip.compress(bytes(2**20)) * 4096 if rng.random() < 0.1 else bytes(zipped)
    return bytes(zipped), ".nii.gz"


def read_all(path, good):
    """Do with a file all that the scripts do; return whether it was good for anything."""
    accepted = False
    for labels in (None, [1, 2, 4]):
        try:
            load_mask(path, labels, good)
            accepted = True
        except InputError as error:
            check_line(error, path)
    try:
        volume = load_volume(path)
        accepted = True
        scaled, mean, std = volume.scaled
        if not np.isfinite([mean, std]).all():
            raise ValueError(f"mean {mean} and standard deviation {std}")
        written = to_original_grid(scaled, volume).to_bytes()
        if len(written) < scaled.nbytes:
            raise ValueError(f"only {len(written)} bytes were written")
    except InputError as error:
        check_line(error, path)
    return accepted


def check_line(error, path):
    line = str(error)
    if "\n" in line or not line.startswith(f"{path}: ") or "memory" in line:
        raise AssertionError(f"not one line about the file, or memory was short: {line}")


def fault(path, good):
    """Return what is wrong with the way in which a file is read, or None; and if it was accepted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return None, read_all(path, good)
    # That is what is looked for: whatever may come.
    except BaseException:
        return traceback.format_exc(), False


def make_good(folder):
    path = Path(folder, "good.nii")
    path.write_bytes(valid_files()[0])
    return load_volume(path)


def child(seed, numbers):
    """Read some files within the limits; print a JSON line before and after each."""

    def too_long(*_):
        raise TimeoutError(f"more than {SECONDS_PER_FILE} s")

    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as folder:
        good = make_good(folder)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resident_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            print(json.dumps({"begins": number}), flush=True)
            content, ending = mutant(seed, number)
            path = Path(folder, f"scan{ending}")
            path.write_bytes(content)
            signal.alarm(SECONDS_PER_FILE)
            started = time.perf_counter()
            wrong, accepted = fault(path, good)
            seconds = time.perf_counter() - started
            signal.alarm(0)
            peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident_kb
            print(
                json.dumps(
                    {"ended": number, "fault": wrong, "accepted": accepted}
                    | {"seconds": seconds, "peak_mb": peak_kb / 1024}
                ),
                flush=True,
            )


def read_in_child(seed, numbers):
    """Read files in a process of its own; return its findings, one an entry, dead or alive."""
    words = [sys.executable, __file__, "--seed", str(seed), "--child"]
    words += [str(numbers[0]), str(numbers[-1] + 1)]
    try:
        seconds = 60 + len(numbers) * SECONDS_PER_FILE
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        output, end = done.stdout, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired as error:
        output, end = (error.stdout or b"").decode(), "hangs"
    lines = [json.loads(line) for line in output.splitlines()]
    found = [line for line in lines if "ended" in line]
    if len(found) < len(numbers):
        died_at = lines[-1].get("begins", numbers[0]) if lines else numbers[0]
        found.append(
            {"ended": died_at, "fault": end, "accepted": False, "seconds": 0, "peak_mb": 0}
        )
        if rest := [number for number in numbers if number > died_at]:
            found += read_in_child(seed, rest)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="read this one, here")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(arguments.seed, range(*arguments.child))
        return 0
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            content, ending = mutant(arguments.seed, arguments.only)
            path = Path(folder, f"scan{ending}")
            path.write_bytes(content)
            wrong, accepted = fault(path, make_good(folder))
        print(wrong or ("accepted" if accepted else "refused"))
        return 1 if wrong else 0

    found = []
    for first in range(0, arguments.files, FILES_PER_CHILD):
        numbers = range(first, min(first + FILES_PER_CHILD, arguments.files))
        for entry in read_in_child(arguments.seed, numbers):
            found.append(entry)
            if entry["fault"]:
                print(f"--seed {arguments.seed} --only {entry['ended']}\n{entry['fault']}")
    faults = sum(bool(entry["fault"]) for entry in found)
    accepted = sum(entry["accepted"] for entry in found)
    slowest = max(found, key=lambda entry: entry["seconds"])
    print(
        f"{len(found)} files: {accepted} accepted, {len(found) - accepted - faults} refused, "
        f"{faults} faults; at worst {slowest['seconds']:.2f} s (number {slowest['ended']}) and "
        f"{max(e['peak_mb'] for e in found):.0f} MB above what the imports take"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
