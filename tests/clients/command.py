"""The client's command, as a process that Ctrl-C reaches whatever the tests were started from."""

import sys

# A shell that starts something in the background has it ignore interrupts, and all that it starts inherits that.
_RUN = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("winnow", run_name="__main__", alter_sys=True)
"""
COMMAND = [sys.executable, "-c", _RUN]
