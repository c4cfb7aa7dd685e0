"""``make audit`` against a real service of the OSV protocol, and against none."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
FLAW = {
    "id": "PYSEC-2026-1",
    "summary": "A flaw",
    "details": "A flaw.",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "httpx", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@contextmanager
def osv(flawed):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": [FLAW]} if asked["package"]["name"] in flawed else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(url):
    command = [sys.executable, AUDIT, "-s", "osv", "--osv-url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_known_vulnerability_fails_the_check():
    with osv({"httpx"}) as url:
        status, said = audit(url)
    assert status == 1
    assert "PYSEC-2026-1, mended in 99.0" in said


def test_without_any_it_says_of_how_many_packages():
    with osv(()) as url:
        status, said = audit(url)
    assert status == 0
    assert said.startswith("No vulnerabilities are known of 1")


def test_where_nobody_answers_it_says_so_and_passes():
    status, said = audit("http://127.0.0.1:9/v1/query")
    assert status == 0
    assert said.startswith("NOT AUDITED")
