"""The review page on the loopback: what it shows, and each decision saved at once."""

import contextlib
import html
import json
import secrets
import sys
import tempfile
import threading
from pathlib import Path

from prediction.decisions import DECISIONS, decide, read_decisions
from prediction.review_page import make_page, renew_page
from system.files import InputError, OutputError
from system.http_server import Handler, Server

VIEWER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
MESSAGE = '<body style="background: #000; color: #fff; font: 1rem system-ui; padding: 1rem">{}'
# Nothing of it stays in the browser or is told to others.
PRIVATE = {
    "Cache_Control": "no-store",
    "X_Content_Type_Options": "nosniff",
    "Referrer_Policy": "no-referrer",
}


class ReviewServer(Server):
    """Serves the page of a folder to whoever knows the token, on this machine alone.

    `masks` are from `prediction.review_page.find_masks`; `make_viewer` goes from one of them to a
    page that shows its scan and mask.
    """

    def __init__(self, folder, masks, make_viewer, port=0):
        super().__init__(("127.0.0.1", port), ReviewHandler)
        self.folder, self.masks, self.make_viewer = folder, masks, make_viewer
        self.by_name = {judged.name: judged for judged in masks}
        self.token = secrets.token_urlsafe(16)
        self.lock, self.renewing = threading.Lock(), threading.Lock()
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    @contextlib.contextmanager
    def way_in(self):
        """Give a file that leads to the page: others can read a browser's command line, not this."""
        # Not where others keep theirs: browsers of Ubuntu have a /tmp of their own.
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="review-") as folder:
            page = Path(folder, "review.html").resolve()
            page.write_text(f'<meta http-equiv="refresh" content="0; url={self.address}">')
            yield page


class ReviewHandler(Handler):
    def get(self):
        server, asked = self.server, self.asked()
        judged = self.judged(asked) if asked else None
        if asked == [""]:
            page = make_page(
                server.masks, server.folder, read_decisions(server.folder), served=True
            )
            self.send_private(page.encode(), "text/html; charset=utf-8")
        elif judged and asked[0] == "picture" and judged.picture.is_file():
            self.send_private(judged.picture.read_bytes(), "image/png")
        elif judged and asked[0] == "viewer":
            # One at a time: each holds a whole scan.
            with server.lock:
                try:
                    page = server.make_viewer(judged)
                except InputError as error:  # as where the scan is gone
                    page = MESSAGE.format(html.escape(str(error)))
            self.send_private(
                page.encode(), "text/html; charset=utf-8", Content_Security_Policy=VIEWER_POLICY
            )
        else:
            self.say(404, error="not found")

    def post(self, body):
        if self.asked() != ["decision"]:
            return self.say(404, error="not found")
        if self.headers.get("Content-Type") != "application/json":
            return self.say(415, error="the request must be JSON")
        try:
            said = json.loads(body)
            judged = self.server.by_name.get(said["mask"])
            known = judged and said["decision"] in ("", *DECISIONS)
        except (ValueError, TypeError, KeyError, RecursionError):
            known = False
        if not known:
            return self.say(400, error="no decision about a mask of this folder")
        decide(self.server.folder, judged, said["decision"])
        try:
            with self.server.renewing:
                renew_page(self.server.folder)
        except (InputError, OutputError) as error:  # the decision itself is saved
            print(
                f"warning: the last decision is saved, but report.html does not show it: {error}",
                file=sys.stderr,
            )
        self.say(200)

    def send_private(self, body, kind, **headers):
        self.send(200, body, kind, **PRIVATE, **headers)

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
