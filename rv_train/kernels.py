"""Which of PyTorch's kernels a rank computes with."""

import os

import torch


def choose_kernels(deterministic: bool, device: torch.device) -> None:
    """For this process, before it computes anything on its device.

    Without cuDNN's attention, which a Hopper GPU would be given first: it plans for every new shape of a batch, half a
    second each, forward and backward, and again in the threads that recompute layers; and its sums have no fixed order.

    Args:
        deterministic: TRAIN.deterministic: an operation that has no kernel whose sums have a fixed order is refused by
            PyTorch, which names it.
        device: torch.device of the rank.
    """
    torch.use_deterministic_algorithms(deterministic)
    # It finds bugs, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")  # the library reads it for flash-attn
