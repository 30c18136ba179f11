"""A policy to show how one is added: the last hidden state becomes a chunk of actions, by one matrix."""

from tests.rv_train.policies.regression.encoder import RegressionEncoder as ENCODER
from tests.rv_train.policies.regression.model import RegressionPolicy as POLICY

__all__ = ["ENCODER", "POLICY"]
