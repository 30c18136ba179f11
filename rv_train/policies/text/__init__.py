"""VLA-0's way: actions are written as text."""

from rv_train.policies.text.encoder import TextEncoder as ENCODER
from rv_train.policies.text.model import TextPolicy as POLICY

__all__ = ["ENCODER", "POLICY"]
