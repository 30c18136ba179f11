"""Qwen3.5, the dense ones: 0.8B and larger, or any size from scratch."""

from rv_train.backbones.qwen3_5.family import FAMILY

__all__ = ["FAMILY"]
