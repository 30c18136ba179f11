"""Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923): 3B, 7B, or any size from scratch."""

from rv_train.backbones.qwen2_5_vl.family import FAMILY

__all__ = ["FAMILY"]
