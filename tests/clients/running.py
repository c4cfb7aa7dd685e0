"""Servers of the tests' own, for the length of a test."""

import threading
from contextlib import contextmanager


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
