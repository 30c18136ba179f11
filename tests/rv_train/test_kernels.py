import os

import pytest
import torch

from rv_train.kernels import choose_kernels

VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")


@pytest.fixture(autouse=True)
def back(monkeypatch):
    """Everything as it was, afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    filled, attention = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.cuda.enable_cudnn_sdp(attention)


def test_what_repeats_to_the_bit_is_asked_for_and_given_up_again():
    choose_kernels(True, torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled() and all(name in os.environ for name in VARIABLES)
    choose_kernels(False, torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_computes_attention_without_plans_for_every_shape():
    torch.backends.cuda.enable_cudnn_sdp(True)
    choose_kernels(False, torch.device("cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled() and not any(name in os.environ for name in VARIABLES)
    choose_kernels(False, torch.device("cuda"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
