"""The review page on the loopback: what it shows, and each decision saved at once."""

import json
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prediction.decisions import WORDS, decide, read_decisions, words_of
from prediction.review_page import make_page
from system.files import InputError

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
        self.token, self.lock = secrets.token_urlsafe(16), threading.Lock()
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request, client_address):
        """Say in one line what broke in a request; the next one is served."""
        print(f"a request failed: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "Lacuna", ""
    timeout = LONGEST_SILENCE

    def do_GET(self):
        asked = self.asked()
        if asked == [""]:
            with self.server.lock:
                decisions = words_of(read_decisions(self.server.folder))
            page = make_page(self.server.masks, self.server.folder, decisions, served=True)
            self.answer(200, page.encode(), "text/html; charset=utf-8")
        elif asked and asked[0] == "picture" and (judged := self.judged(asked)):
            if judged.picture.is_file():
                self.answer(200, judged.picture.read_bytes(), "image/png")
            else:
                self.refuse(404, f"{judged.picture}: not found")
        elif asked and asked[0] == "viewer" and (judged := self.judged(asked)):
            try:
                page = self.server.make_viewer(judged)
            except InputError as error:
                return self.refuse(422, str(error))
            self.answer(200, page.encode(), "text/html; charset=utf-8", VIEWER_POLICY)
        else:
            self.refuse(404, "not found")

    def do_POST(self):
        if self.asked() != ["decision"]:
            return self.refuse(404, "not found")
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            return self.refuse(413, "the request is too long")
        if self.headers.get("Content-Type") != "application/json":
            return self.refuse(415, "the request must be JSON")
        try:
            said = json.loads(self.rfile.read(int(length)))
            mask, word = said["mask"], said["decision"]
            known = word in ("", *WORDS) and mask in {judged.name for judged in self.server.masks}
        except (ValueError, TypeError, KeyError, RecursionError):
            known = False
        if not known:
            return self.refuse(400, "no decision about a mask of this folder")
        try:
            with self.server.lock:
                decide(self.server.folder, mask, word)
        except Exception as error:
            return self.refuse(500, str(error))
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
