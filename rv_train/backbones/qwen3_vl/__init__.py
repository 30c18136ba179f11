"""Qwen3-VL (Bai et al. 2025, arXiv:2511.21631): 2B, 4B, 8B, or any size from scratch."""

from rv_train.backbones.qwen3_vl.family import FAMILY

__all__ = ["FAMILY"]
