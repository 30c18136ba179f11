"""Which operations of a training step would make a host wait for its GPU: seen on a CPU by their names."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rv_train.distributed import Told
from rv_train.optim import Ema, Precision, build_optimizer

# Each needs a value or a size that only the device knows, or calls one that does (in inference mode only that is seen).
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "masked_scatter_backward"}
WAITING |= {"unique", "_unique2"}


class Operations(TorchDispatchMode):
    """names: of the operations that reach PyTorch's kernels in here."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def assert_nobody_waits(cfg, model, batch, mode="off"):
    """Two steps as `rv_train/train.py` makes them, of one rank, up to where it reads what they told."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    precision = Precision(mode, torch.device("cpu"))
    optimizer, ema = build_optimizer(cfg.TRAIN, parameters), Ema(parameters, 0.9)
    for _ in range(2):  # the first computes what is kept: the layout of the windows, the optimizer's states
        with Operations() as done:
            with precision.autocast():
                loss = model(batch)["loss"]
            precision.backward(loss)
            norm = precision.clip(optimizer, parameters, 1.0)
            told = Told(torch.stack([loss.detach(), torch.ones(()), torch.zeros(())]), norm, world_size=1)
            precision.step(optimizer, told.bad)
            optimizer.zero_grad(set_to_none=True)
            ema.update(told.bad)
        loss, norm, bad, _ = told.read()
        assert loss > 0 and norm > 0 and not bad
    assert len(done.names) > 30 and not done.names & WAITING, done.names & WAITING
