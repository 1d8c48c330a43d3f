"""The ISLES'26 service on the loopback: good, broken and hostile requests."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import OBLIQUE, draw_head, refused, write_nifti

import predict
from containers import isles26_service as service

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
SHAPE = (28, 32, 6)


@pytest.fixture(scope="module")
def served(weights, tmp_path_factory):
    """The service with a network of its own: `.ask(method, path, body)`, and its two folders."""
    folder = tmp_path_factory.mktemp("service")
    source, output = folder / "input", folder / "output"
    (source / "images" / "t1-brain-mri").mkdir(parents=True)
    predictor = service.Predictor([weights], source, output)
    with service.Service(("127.0.0.1", 0), predictor) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]

        def ask(method, path, body=None, headers=None):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            content = reply.read()
            connection.close()
            return reply.status, json.loads(content) if content[:1] == b"{" else content

        yield SimpleNamespace(ask=ask, port=port, input=source, output=output, predictor=predictor)
        server.shutdown()
        thread.join()


@pytest.fixture
def scan(served):
    """Put an image in the input folder, in any format; the folder is emptied afterwards."""
    folder = served.input / "images" / "t1-brain-mri"

    def put(name, seed=0):
        voxels = draw_head(np.random.default_rng(seed), SHAPE, 0.4, background=5)[0]
        file = write_nifti(folder.parent / "image.nii.gz", voxels, OBLIQUE)
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)), str(folder / name))
        return folder / name, file

    yield put
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.rmtree(served.output, ignore_errors=True)


def results(served):
    return {
        kind: SimpleITK.ReadImage(str(served.output / "images" / folder / "output.mha"))
        for kind, folder in service.IMAGES.items()
    }


def test_health_is_answered(served):
    assert served.ask("GET", "/health") == (200, {"status": "ready"})


@pytest.mark.parametrize("name", ["5f1c.mha", "scan.nii.gz"])
def test_a_scan_becomes_the_mask_that_predict_makes(served, scan, weights, tmp_path, name, capfd):
    image, as_nifti = scan(name)
    capfd.readouterr()
    status, said = served.ask("POST", "/invoke")
    assert (status, said["scan"]) == (201, name)
    assert "WARNING" not in capfd.readouterr().err
    words = [as_nifti, "--output", tmp_path, "--weights", weights, "--probability"]
    assert predict.main([str(word) for word in words]) == 0
    given = SimpleITK.ReadImage(str(image))
    for kind, ending, dtype in (
        ("mask", "lesion", np.uint8),
        ("probability", "probability", np.float32),
    ):
        found = results(served)[kind]
        voxels = SimpleITK.GetArrayFromImage(found)
        assert voxels.dtype == dtype
        for place in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(found, place)() == getattr(given, place)()
        expected = np.asarray(nibabel.load(tmp_path / f"image_{ending}.nii.gz").dataobj)
        np.testing.assert_allclose(voxels.T, expected, atol=1e-5)
    assert said["lesions"] >= 0 and "volume_ml" in said


def test_requests_at_once_are_served_one_after_another(served, scan, monkeypatch):
    scan("one.mha")
    running, most, answers = [], [], []
    predict_scan = service.predict_scan

    def counted(*arguments):
        running.append(1)
        most.append(len(running))
        try:
            return predict_scan(*arguments)
        finally:
            running.pop()

    monkeypatch.setattr(service, "predict_scan", counted)
    threads = [
        threading.Thread(target=lambda: answers.append(served.ask("POST", "/invoke")[0]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert served.ask("GET", "/health")[0] == 200
    for thread in threads:
        thread.join()
    assert answers == [201] * 4
    assert max(most) == 1


def test_what_is_no_scan_is_said_and_the_next_one_is_served(served, scan):
    folder = served.input / "images" / "t1-brain-mri"
    status, said = served.ask("POST", "/invoke")
    assert status == 422 and "holds 0 files" in said["error"]
    (folder / "broken.mha").write_bytes(b"ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\n")
    status, said = served.ask("POST", "/invoke")
    assert status == 422 and "broken.mha" in said["error"] and "\n" not in said["error"]
    (folder / "broken.mha").unlink()
    flat = SimpleITK.Image([9, 9], SimpleITK.sitkFloat32)
    SimpleITK.WriteImage(flat, str(folder / "flat.mha"))
    status, said = served.ask("POST", "/invoke")
    assert status == 422 and "3D" in said["error"]
    SimpleITK.WriteImage(
        SimpleITK.Image([9, 9, 9], SimpleITK.sitkFloat32), str(folder / "flat.mha")
    )
    status, said = served.ask("POST", "/invoke")
    assert status == 422 and "there is no image in it" in said["error"]
    assert said["error"].startswith(f"{folder / 'flat.mha'}: ")
    scan("second.mha")
    status, said = served.ask("POST", "/invoke")
    assert status == 422 and "holds 2 files" in said["error"]
    assert not served.output.exists() or not list(served.output.rglob("*.mha"))
    (folder / "flat.mha").unlink()
    assert served.ask("POST", "/invoke")[0] == 201


def test_nothing_of_the_scan_before_is_left_after_a_broken_one(served, scan):
    image, _ = scan("good.mha")
    assert served.ask("POST", "/invoke")[0] == 201
    assert len(list(served.output.rglob("*.mha"))) == 2
    image.write_bytes(b"broken")
    assert served.ask("POST", "/invoke")[0] == 422
    assert not list(served.output.rglob("*.mha"))


def test_what_breaks_inside_is_answered_and_the_next_one_is_served(served, scan, monkeypatch):
    scan("one.mha")
    with monkeypatch.context() as patch:
        patch.setattr(service, "predict_scan", lambda *_: 1 / 0)
        status, said = served.ask("POST", "/invoke")
    assert status == 500 and said["error"].startswith("ZeroDivisionError")
    assert served.ask("POST", "/invoke")[0] == 201


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", None, {}, 404),
        ("GET", "/../../etc/passwd", None, {}, 404),
        ("GET", "/invoke", None, {}, 404),
        ("POST", "/health", None, {}, 404),
        ("DELETE", "/invoke", None, {}, 501),
        ("POST", "/invoke", None, {"Content-Length": "99999999999"}, 413),
        ("POST", "/invoke", None, {"Content-Length": "-1"}, 413),
        ("POST", "/invoke", None, {"Content-Length": "ten"}, 413),
    ],
)
def test_other_requests_are_refused(served, method, path, body, headers, status):
    assert served.ask(method, path, body, headers)[0] == status
    assert served.ask("GET", "/health")[0] == 200


def test_a_request_may_say_something(served, scan):
    scan("one.mha")
    assert served.ask("POST", "/invoke", b'{"anything": 1}')[0] == 201


def test_a_client_that_says_nothing_holds_nobody_up(served, monkeypatch):
    monkeypatch.setattr(service.ServiceHandler, "timeout", 0.5)
    silent = socket.create_connection(("127.0.0.1", served.port))
    silent.sendall(b"POST /invoke HTTP/1.1\r\nContent-Length: 50\r\n")
    assert served.ask("GET", "/health")[0] == 200
    silent.settimeout(10)
    assert silent.recv(100) == b""  # hung up on
    silent.close()


def test_noise_instead_of_http_is_answered_or_dropped(served):
    for noise in (
        b"\x16\x03\x01\x00\xff" * 40 + b"\r\n\r\n",
        b"GET " + b"a" * 70_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(noise)
            client.settimeout(10)
            assert client.recv(4000)
    assert served.ask("GET", "/health")[0] == 200


def test_a_taken_port_is_said_in_one_line(served, weights, tmp_path):
    words = ["--input", tmp_path, "--output", tmp_path, "--port", served.port]
    with refused(str(served.port), "choose another --port"):
        service.main([str(word) for word in [*words, "--weights", weights]])


def test_it_ends_when_the_container_is_stopped(weights, tmp_path):
    words = ["--input", tmp_path, "--output", tmp_path, "--weights", weights, "--port", 0]
    process = subprocess.Popen(
        [sys.executable, "-m", "containers.isles26_service", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background is deaf to SIGINT, these tests perhaps among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline().startswith("serves on 127.0.0.1:")
    process.send_signal(getattr(signal, re.search(r"^STOPSIGNAL (\w+)$", DOCKERFILE, re.M)[1]))
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.strip() == "stopped, what is finished is kept; the same command goes on"
