"""A server that answers what it is told to, in order, and remembers what it was asked."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = "cut"


class Flaky(ThreadingHTTPServer):
    """``answers`` are statuses with headers and bodies, or CUT; the last is given from then on.

    ``content`` is served with ranges, and cut after each number of bytes in ``cuts``.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers, self.requests = [(200, {}, {"items": [], "next_cursor": None})], []
        self.content, self.cuts, self.digest = b"", [], None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/content"):
            self._content()
            return
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == CUT:
            self.close_connection = True
            self.connection.close()
            return
        status, headers, body = answer
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._send(status, {"Content-Type": "application/json", "Content-Length": len(text), **headers}, text)

    def do_POST(self):
        self.do_GET()

    def do_DELETE(self):
        self.do_GET()

    def _content(self):
        whole, start = self.server.content, 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
            if start >= len(whole):
                self._send(416, {"Content-Length": 0}, b"")
                return
        part = whole[start:]
        digest = self.server.digest or hashlib.sha256(whole).digest()
        headers = {"Content-Length": len(part), "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:"}
        if self.server.cuts:
            self.close_connection = True
            part = part[: self.server.cuts.pop(0)]
        self._send(206 if given else 200, headers, part)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
