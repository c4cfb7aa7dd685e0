"""A small tus 1.0.0 server (core, creation, checksum) that cuts connections and forgets when it is told to."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = "/api/v1"


class TusServer(ThreadingHTTPServer):
    """``cuts`` are numbers of bytes, one for each PATCH to come, after which its connection breaks."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.uploads, self.made, self.requests = {}, [], []
        self.cuts, self.damage, self.offered = [], 0, True
        self.stored_sha256 = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.server.requests.append(("POST", self.path.partition("?")[0], dict(self.headers)))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == f"{API}/uploads":
            if not self.server.offered:
                self._answer(404)
                return
            assert self.headers["Tus-Resumable"] == "1.0.0"
            name = f"upl_{len(self.server.uploads)}"
            self.server.uploads[name] = (int(self.headers["Upload-Length"]), bytearray())
            self._answer(201, {"Location": f"{API}/uploads/{name}"})
            return
        self._make(body)

    def _make(self, body):
        """Answer as POST /models does, of what came by tus or in this request."""
        if self.headers["Content-Type"] == "application/json":
            asked = json.loads(body)
            size, content = self.server.uploads[asked["upload_id"]]
            assert len(content) == size
        else:
            asked, content = {"name": "raw"}, body
        sha256 = self.server.stored_sha256 or hashlib.sha256(content).hexdigest()
        made = {"id": "mdl_1", "name": asked["name"], "format": "pt2", "state": "ready", "problem": None}
        made |= {"size_bytes": len(content), "sha256": sha256, "created_at": "2026-01-01T00:00:00Z"}
        self.server.made.append(made)
        self._answer(201, {"Content-Type": "application/json"}, json.dumps(made).encode())

    def do_HEAD(self):
        self.server.requests.append(("HEAD", self.path, dict(self.headers)))
        found = self.server.uploads.get(self.path.rpartition("/")[2])
        if found is None:
            self._answer(404)
        else:
            self._answer(200, {"Upload-Offset": str(len(found[1])), "Upload-Length": str(found[0])})

    def do_PATCH(self):
        self.server.requests.append(("PATCH", self.path, dict(self.headers)))
        size, content = self.server.uploads[self.path.rpartition("/")[2]]
        length = int(self.headers["Content-Length"])
        if int(self.headers["Upload-Offset"]) != len(content):
            self.rfile.read(length)
            self._answer(409)
            return
        if self.server.cuts:
            content += self.rfile.read(self.server.cuts.pop(0))
            self.close_connection = True
            self.connection.close()
            return
        chunk = self.rfile.read(length)
        if self.server.damage:
            self.server.damage -= 1
            chunk = chunk[:-1] + b"\0"
        algorithm, digest = self.headers["Upload-Checksum"].split()
        if hashlib.new(algorithm, chunk).digest() != base64.b64decode(digest):
            self._answer(460)
            return
        content += chunk
        assert len(content) <= size
        self._answer(204, {"Upload-Offset": str(len(content))})

    def _answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in {"Tus-Resumable": "1.0.0", **(headers or {})}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
