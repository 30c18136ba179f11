"""The table of GPUs."""

import torch

from rv_train.flops import peak_by_name, peak_tflops


def test_peak_is_known_by_name_and_otherwise_none():
    for name, peak in (
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", 80.0),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
    ):
        assert peak_by_name(name) == peak, name
    for unknown in (
        "Tesla V100-SXM2-16GB",
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "",
    ):
        assert peak_by_name(unknown) is None, unknown
    assert peak_tflops(torch.device("cpu")) is None
