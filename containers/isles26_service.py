"""The ISLES'26 service: lesions of one scan a request, over HTTP; the network is loaded once.

GET  /health   200 as soon as the network is loaded
POST /invoke   reads   INPUT/images/t1-brain-mri/*  (.mha, .nii.gz and what else SimpleITK reads)
                       INPUT/stroke-metadata.json   (not needed)
               writes  OUTPUT/images/stroke-lesion-segmentation/output.mha   0 or 1
                       OUTPUT/images/lesion-probability-map/output.mha       float32, 0 to 1
               201, or 422 with a line that says what is wrong with the scan

    python -m containers.isles26_service --input /input --output /output
"""

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
import SimpleITK

from prediction.box import IN_THE_BOX, add_weights_argument
from prediction.masks import choose_options, predict_scan
from prediction.network import load_networks
from prediction.outputs import Outputs
from prediction.quality import read_intensities
from system.console import run_script
from system.files import InputError, Problem, make_folder, whole_file
from system.http_server import Handler, Server

PORT = 4743
IMAGES = {"mask": "stroke-lesion-segmentation", "probability": "lesion-probability-map"}


class Predictor:
    """The network of some weights, and the two folders; a scan at a time."""

    def __init__(self, weights, input, output):
        self.input, self.output, self.lock = input, output, threading.Lock()
        self.options = choose_options(weights)
        self.networks = load_networks(weights)
        self.intensities = read_intensities(weights[0])

    def predict(self):
        """Predict the scan that lies in the input folder; return what was found in it."""
        with self.lock, tempfile.TemporaryDirectory() as folder:
            # Whatever comes, no reader finds the results of the scan before.
            for kind in IMAGES.values():
                (self.output / "images" / kind / "output.mha").unlink(missing_ok=True)
            file = find_image(self.input / "images" / "t1-brain-mri")
            image = read_image(file)
            scan = Path(folder, "scan.nii.gz")
            SimpleITK.WriteImage(image, str(scan))
            outputs = Outputs(scan, Path(folder), "mask", "probability")
            try:
                found = predict_scan(outputs, self.networks, self.options, self.intensities, True)
            except InputError as error:  # of the copy, which nobody knows
                raise InputError(f"{file}: {Problem.of(error, scan).reason}") from None
            for path, nifti in found.images.items():
                voxels = np.asarray(nifti.dataobj).T  # SimpleITK counts axes from the last
                result = SimpleITK.GetImageFromArray(voxels)
                result.CopyInformation(image)
                kind = IMAGES[path.name.removesuffix(".nii.gz")]
                with whole_file(self.output / "images" / kind / "output.mha") as temporary:
                    SimpleITK.WriteImage(result, str(temporary), useCompression=True)
            return {
                "scan": file.name,
                **{k: found.row[k] for k in ("lesions", "volume_ml", "warnings")},
            }


def find_image(folder):
    """Return the one image of a folder."""
    files = [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]
    if len(files) != 1:
        raise InputError(f"{folder}: holds {len(files)} files; it must be one image")
    return files[0]


def read_image(file):
    """Read an image as SimpleITK has it: one value a voxel, three dimensions."""
    try:
        image = SimpleITK.ReadImage(str(file))
    except RuntimeError:
        raise InputError(
            f"{file}: cannot be read as an image; repair or leave out the scan"
        ) from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{file}: is not one 3D image; leave out the scan")
    return image


class ServiceHandler(Handler):
    """Answers requests; `server.predictor` does what they ask for."""

    def get(self):
        if self.path == "/health":
            self.say(200, status="ready")
        else:
            self.say(404, error="GET /health, POST /invoke")

    def post(self, body):
        if self.path != "/invoke":
            return self.say(404, error="GET /health, POST /invoke")
        try:
            self.say(201, **self.server.predictor.predict())
        except InputError as error:
            self.say(422, error=str(error))


class Service(Server):
    def __init__(self, address, predictor):
        self.predictor = predictor
        super().__init__(address, ServiceHandler)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, default=Path("/input"), metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("/output"), metavar="FOLDER")
    add_weights_argument(parser, default=[IN_THE_BOX])
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=PORT)
    arguments = parser.parse_args(argv)
    for kind in IMAGES.values():
        make_folder(arguments.output / "images" / kind)
    predictor = Predictor(arguments.weights, arguments.input, arguments.output)
    try:
        server = Service((arguments.host, arguments.port), predictor)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{arguments.host}:{arguments.port}: {error}; choose another --port"
        ) from None
    with server:
        print(f"serves on {arguments.host}:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run_script(main)
