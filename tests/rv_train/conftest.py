import pytest
import torch.distributed as dist


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process alone."""
    path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
