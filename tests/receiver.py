"""A real receiver of webhooks on a port of its own."""

import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent; ``answer`` is a status, or what is done with the handler in its place.

    ``release`` is set at the end, for answers that wait so long.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer=200, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self.got = []
        self.release = threading.Event()
        self.names = []
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count=1, seconds=60.0):
        """Wait until so many requests came, and give them."""
        deadline = time.monotonic() + seconds
        while len(self.got) < count:
            assert time.monotonic() < deadline, f"{len(self.got)} of {count} came"
            time.sleep(0.01)
        return self.got

    def serve_tls(self, certificate):
        """Speak TLS, and keep the names that clients ask for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request, client_address):
        """Say nothing: clients that leave are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        if callable(self.server.answer):
            self.server.answer(self)
        else:
            self.send_response(self.server.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *arguments):
        pass


@contextmanager
def receiving(answer=200, port=0, certificate=None):
    with Receiver(answer, port) as receiver:
        if certificate:
            receiver.serve_tls(certificate)
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.release.set()
            receiver.shutdown()
            thread.join()


def verified(request, secret):
    """Give the body of a request whose signature the library accepts."""
    _, headers, body = request
    return Webhook(secret).verify(body, headers)
