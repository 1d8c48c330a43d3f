"""What small servers share: short requests, one answer to each, one line for what breaks."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGEST_REQUEST = 1 << 16  # bytes
LONGEST_SILENCE = 20  # seconds until a client is hung up on


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say in one line what broke in a request; the next one is served."""
        print(f"a request failed: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    """Answers requests by `get` and `post`, which a server of its own defines."""

    server_version, sys_version = "Lacuna", ""
    timeout = LONGEST_SILENCE

    def do_GET(self):
        self._attempt(self.get)

    def do_POST(self):
        length = self.headers.get("Content-Length") or "0"
        if not (length.isascii() and length.isdigit()) or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            return self.say(413, error="the request must be empty or short")
        body = self.rfile.read(int(length))
        self._attempt(lambda: self.post(body))

    def _attempt(self, answer):
        try:
            answer()
        except ConnectionError:
            raise
        except Exception as error:
            # Whatever it is, the client gets an answer and the next request is served.
            reason = f"{type(error).__name__}: {error}"
            print(f"a request failed: {reason}", file=sys.stderr, flush=True)
            self.say(500, error=reason)

    def say(self, code, /, **content):
        """Answer by JSON."""
        self.send(code, json.dumps(content).encode(), "application/json")

    def send(self, code, body, kind, **headers):
        """Answer by the bytes of a body, of a kind as `image/png`."""
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing about requests that were answered."""
