"""A short form of ``make fuzz-jobs``."""

import re
import subprocess
import sys

import pytest


@pytest.mark.timeout(200)
def test_no_job_that_was_drawn_ends_with_an_error_of_the_services_own():
    command = [sys.executable, "-m", "tests.fuzz.jobs", "--jobs", "4", "--seed", "1069"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) succeeded", done.stdout)[1]) > 1
