"""NIfTI files as they come from anywhere: never read further than their header promises.

No memory is taken for voxels that cannot be there, and each way in which a file can be broken is
one line that names it.
"""

import contextlib
import gzip
import io
import math
import warnings

import nibabel
import numpy as np
from isal import igzip, igzip_lib
from nibabel.arrayproxy import ArrayProxy

from system.files import NOT_PRINTABLE, InputError, whole_file

# A whole head at 0.25 mm; 2 GB as float32.
MOST_VOXELS = 500_000_000
_MOST_BEFORE_VOXELS = 2**28
# So much of a file is read at once.
_CHUNK_BYTES = 2**24
# Deflate, the method in a .gz file, packs nothing more tightly than this (zlib's documentation).
_MOST_DEFLATED = 1032
_MOST_PADDING = 2**20
_MAY_READ = "ask for permission to read it (ls -l shows who has it)"
_BROKEN = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    nibabel.wrapstruct.WrapStructError,
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    igzip_lib.IsalError,
)
# What nibabel repairs in a header it tells the terminal, without the file's name.
nibabel.imageglobals.logger.setLevel("CRITICAL")


def check_is_file(path):
    """Refuse what is not a readable file, and say what it is instead."""
    if NOT_PRINTABLE.search(str(path)):
        # Neither a table nor a picture could hold it.
        raise InputError(f"{path}: its name is not printable; rename it")
    try:
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path}: is a link to {path.readlink()}, which is not there; put the file itself"
            )
        if path.is_dir():
            raise InputError(f"{path}: is a folder; put the file itself")
        if not path.is_file():
            raise InputError(f"{path}: is not a file; look where it went, or leave out the scan")
    except OSError as error:
        raise InputError(f"{path}: is out of reach ({error.strerror}); {_MAY_READ}") from error


@contextlib.contextmanager
def reading(path):
    """Turn whatever goes wrong in this block with a file into an `InputError` that names it."""
    check_is_file(path)
    try:
        # What is too large for float32 becomes infinite, which the callers look for.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # Nothing between header and voxels is used.
            warnings.filterwarnings("ignore", "Extension size")
            yield
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}); {_MAY_READ}") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; resample it, or use more") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable NIfTI file ({reason}); copy it anew") from error


@contextlib.contextmanager
def open_nifti(path):
    """Open a NIfTI file: its header, and a generator of its voxels, some whole planes at a time.

    The generator gives arrays (X, Y, planes), read no further than the header promises, a zipped
    file to its checksum: unscaled as stored, scaled in float32.
    """
    with igzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
        kind = _header_class(start)
        header = kind(start[: kind.sizeof_hdr], check=False)
        size = _promised_size(path, header)
        packing = _MOST_DEFLATED if path.suffix == ".gz" else 1
        if size > path.stat().st_size * packing:
            raise EOFError(
                f"its header promises {size} bytes, more than {path.stat().st_size} bytes of file hold"
            )
        file.seek(0)
        start = file.read(header.get_data_offset())
        # With the extensions, which the results get, too.
        header = kind.from_fileobj(io.BytesIO(start))
        yield header, _read_planes(file, path, header, size)


def _read_planes(file, path, header, size):
    shape, dtype = header.get_data_shape()[:3], header.get_data_dtype()
    plane = shape[0] * shape[1]
    at_once = max(1, _CHUNK_BYTES // (plane * dtype.itemsize))
    read = header.get_data_offset()
    for first in range(0, shape[2], at_once):
        chunk = (*shape[:2], min(at_once, shape[2] - first))
        wanted = math.prod(chunk) * dtype.itemsize
        content = file.read(wanted)
        read += len(content)
        if len(content) < wanted:
            raise EOFError(f"its header promises {size} bytes, it holds {read}")
        if is_scaled(header):
            about = (chunk, dtype, 0, *header.get_slope_inter())
            yield np.asarray(ArrayProxy(io.BytesIO(content), about, order="F"), np.float32)
        else:
            yield np.ndarray(chunk, dtype, content, order="F")
    # The checksum stands behind the last byte. Some programs fill up the end of a file.
    if path.suffix == ".gz" and len(file.read(_MOST_PADDING)) == _MOST_PADDING:
        raise ValueError(f"it goes on after the {size} bytes that its header promises")


def is_scaled(header):
    """Say whether a header gives its voxels another slope and intercept than 1 and 0."""
    return header.get_slope_inter() not in ((1, 0), (None, None))


def _header_class(start):
    """Tell NIfTI-1 from NIfTI-2 by the size of the header, its first number, in either order."""
    if not start:
        raise EOFError("it is empty")
    header_size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    return nibabel.Nifti2Header if 540 in header_size else nibabel.Nifti1Header


def _promised_size(path, header):
    """Return the smallest size, in bytes, of a file with this header; refuse all but 3D."""
    voxel_mm = header["pixdim"][1:4].copy()
    header.check_fix()
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset = header.get_data_offset()
    if header["magic"].item().startswith(b"ni"):
        raise InputError(f"{path}: its voxels are in an .img file beside it; convert it to .nii.gz")
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)):
        raise InputError(f"{path}: has {len(shape)} dimensions {shape}; one 3D volume is needed")
    if min(shape) < 1:
        raise ValueError(f"its header gives {_by(shape)} voxels")
    if dtype.kind not in "iuf":
        name = nibabel.nifti1.data_type_codes.niistring[dtype]
        raise InputError(f"{path}: a voxel is {name}; convert it to one real number a voxel")
    if header["sform_code"] == 0 and not voxel_mm.all():
        # nibabel would take 1 mm for it.
        raise ValueError("its header gives no voxel size")
    if offset < header.sizeof_hdr:
        raise ValueError(f"by its header the voxels begin at byte {offset}, inside the header")
    if offset > _MOST_BEFORE_VOXELS:
        raise ValueError(f"by its header the voxels begin only at byte {offset}")
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(
            f"{path}: its header promises {_by(shape)} voxels, and {MOST_VOXELS / 1e6:g} million are "
            "read at most; copy it anew, or resample it"
        )
    return offset + math.prod(shape) * dtype.itemsize


def _by(shape):
    return "×".join(map(str, shape))


def save_nifti(image, path, compresslevel):
    """Write a .nii.gz whole or not at all: same bytes for same content."""
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel, mtime=0))
