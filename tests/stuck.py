"""A child process that waits for a driver which never answers: not even SIGKILL ends it."""

import subprocess


def never_ends(timeout=None):
    """Its `Popen.wait`."""
    assert timeout, "it would be waited for for ever"
    raise subprocess.TimeoutExpired("child", timeout)
