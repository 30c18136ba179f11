"""A small transformer behind the backbone generates continuous chunks from noise."""

from rv_train.policies.flow.encoder import FlowEncoder as ENCODER
from rv_train.policies.flow.model import FlowPolicy as POLICY

__all__ = ["ENCODER", "POLICY"]
