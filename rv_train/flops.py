"""How much arithmetic a GPU could do: what Model FLOPs utilisation is a share of.

MFU is defined in PaLM (Chowdhery et al. 2022, arXiv:2204.02311), appendix B: the operations that the model's
mathematics asks for (`rv_train.backbones.cost`), divided by what the hardware could have done in the time.
"""

import torch

# Dense (without sparsity) bf16 tensor-core TFLOP/s with float32 accumulation; fp16 is as fast on all of them. Numbers
# of NVIDIA's data sheets (A100, H100, H200, B200, L40S, L4, A10, A30, A40: half of what is printed "with sparsity") and
# of its GA102, Ada and Blackwell architecture papers for the RTX cards. The first name found in the device's name
# counts, so the special form stands before the general one.
PEAK_TFLOPS = (
    ("GB200", 2500.0),
    ("B200", 2250.0),
    ("H200 NVL", 835.5),
    ("GH200", 989.4),
    ("H200", 989.4),
    ("H100 PCIe", 756.5),
    ("H100 NVL", 835.5),
    ("H100", 989.4),
    ("H800", 989.4),
    ("A100", 312.0),
    ("A800", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A40", 149.7),
    ("A30", 165.0),
    ("A10", 125.0),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 4080", 97.5),
    ("RTX 3090 Ti", 80.0),
    ("RTX 3090", 71.0),
)
OTHERS = ("Laptop", "Max", "D", "SUPER", "MIG")  # another chip, or a slice of one, under the name of this


def peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 TFLOP/s of a GPU by its name; None for one that is not in the table, and for a CPU."""
    return peak_by_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_by_name(name: str) -> float | None:
    """See `peak_tflops`. Whole words only: an A10G is no A10."""
    words = f" {name} ".replace("-", " ")
    if any(f" {part} " in words for part in OTHERS):
        return None
    return next((peak for known, peak in PEAK_TFLOPS if f" {known} " in words), None)
