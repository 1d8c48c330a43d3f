"""The review page on the loopback: what it shows, and each decision saved at once."""

import contextlib
import json
import secrets
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prediction.decisions import DECISIONS, decide, read_decisions
from prediction.review_page import make_page

LARGEST_REQUEST = 1 << 16
LONGEST_SILENCE = 20  # seconds until a client is hung up on
VIEWER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


class ReviewServer(ThreadingHTTPServer):
    """Serves the page of a folder to whoever knows the token, on this machine alone.

    `masks` are from `prediction.review_page.find_masks`; `make_viewer` goes from one of them to a
    page that shows its scan and mask.
    """

    daemon_threads = True

    def __init__(self, folder, masks, make_viewer, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.folder, self.masks, self.make_viewer = folder, masks, make_viewer
        self.by_name = {judged.name: judged for judged in masks}
        self.token, self.lock = secrets.token_urlsafe(16), threading.Lock()
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    @contextlib.contextmanager
    def way_in(self):
        """Give a file that leads to the page: others can read a browser's command line, not this."""
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "review.html")
            page.write_text(f'<meta http-equiv="refresh" content="0; url={self.address}">')
            yield page

    def handle_error(self, request, client_address):
        """Say in one line what broke in a request; the next one is served."""
        print(f"a request failed: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "Lacuna", ""
    timeout = LONGEST_SILENCE

    def do_GET(self):
        self.attempt(self.get)

    def do_POST(self):
        self.attempt(self.post)

    def attempt(self, answer):
        """Answer a request; whatever breaks is said, and the next one is served."""
        try:
            answer()
        except ConnectionError:
            raise
        except Exception as error:
            self.refuse(500, f"{error}" or type(error).__name__)

    def get(self):
        server, asked = self.server, self.asked()
        judged = self.judged(asked) if asked else None
        if asked == [""]:
            page = make_page(
                server.masks, server.folder, read_decisions(server.folder), served=True
            )
            self.answer(200, page.encode(), "text/html; charset=utf-8")
        elif judged and asked[0] == "picture" and judged.picture.is_file():
            self.answer(200, judged.picture.read_bytes(), "image/png")
        elif judged and asked[0] == "viewer":
            # One at a time: each holds a whole scan.
            with server.lock:
                page = server.make_viewer(judged)
            self.answer(200, page.encode(), "text/html; charset=utf-8", VIEWER_POLICY)
        else:
            self.refuse(404, "not found")

    def post(self):
        if self.asked() != ["decision"]:
            return self.refuse(404, "not found")
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()) or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            return self.refuse(413, "the request is too long")
        if self.headers.get("Content-Type") != "application/json":
            return self.refuse(415, "the request must be JSON")
        try:
            said = json.loads(self.rfile.read(int(length)))
            judged = self.server.by_name.get(said["mask"])
            known = judged and said["decision"] in ("", *DECISIONS)
        except (ValueError, TypeError, KeyError, RecursionError):
            known = False
        if not known:
            return self.refuse(400, "no decision about a mask of this folder")
        decide(self.server.folder, judged, said["decision"])
        self.answer(200, b"{}", "application/json")

    def asked(self):
        """Return the parts of the path behind the token, or None to whom it is not meant for."""
        if self.headers.get("Host") not in self.server.hosts:
            # Another site's name that leads here.
            return None
        origins = (None, *map("http://{}".format, self.server.hosts))
        _, token, *parts = [*self.path.partition("?")[0].split("/"), ""]
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return parts[:-1] if known and self.headers.get("Origin") in origins else None

    def judged(self, asked):
        """Return the mask that a path names by its number, or None."""
        number = asked[1] if len(asked) == 2 else ""
        masks = self.server.masks
        known = (
            number.isascii() and number.isdigit() and len(number) < 8 and int(number) < len(masks)
        )
        return masks[int(number)] if known else None

    def refuse(self, status, reason):
        self.answer(status, json.dumps({"error": reason}).encode(), "application/json")

    def answer(self, status, body, kind, policy=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing about requests that were answered."""
