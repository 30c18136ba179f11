"""A disk that is full."""

import contextlib
import resource


@contextlib.contextmanager
def small_files(limit):
    """No file of this process grows beyond `limit` bytes: what is written beyond them fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
