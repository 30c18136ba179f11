import pytest

from tests.ranks import Forking


@pytest.fixture(scope="module")
def forked_ranks():
    """Ranks that `rv_train.distributed.launch` starts in this module are forked, see tests/ranks.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rv_train.distributed.mp", Forking())
        yield
