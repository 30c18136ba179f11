"""SmolVLM2 (Marafioti et al. 2025, arXiv:2504.05299): 256M, 500M, 2.2B, or any size from scratch."""

from rv_train.backbones.smolvlm.family import FAMILY

__all__ = ["FAMILY"]
