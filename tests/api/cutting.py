"""A proxy that cuts connections, as networks do."""

import socket
import threading
from contextlib import contextmanager, suppress


class Cutting:
    """Passes bytes on to a port, and cuts each of the first connections after so many of them."""

    def __init__(self, target, after):
        self._target = target
        self._after = list(after)
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client):
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            passed = 0
            with suppress(OSError):
                while data := client.recv(16384):
                    # A request that carries little is let through: a connection is cut while a piece is on its way.
                    if passed + len(data) > 16384 and self._after and passed + len(data) > self._after[0]:
                        server.sendall(data[: max(0, self._after.pop(0) - passed)])
                        self.cuts += 1
                        break
                    passed += len(data)
                    server.sendall(data)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


@contextmanager
def cutting(target, after):
    """Give a proxy to a port that cuts one connection after each of these numbers of bytes, in turn."""
    proxy = Cutting(target, after)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
