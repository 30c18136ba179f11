"""What a policy that answers in text learns from: the prompt, and the actions as the answer to it."""

from libs.action_text import ActionTextCodec
from rv_train.backbones.prompt import IGNORE
from rv_train.data.stats import action_range
from rv_train.policies.encoding import ObservationEncoder


class TextEncoder(ObservationEncoder):
    """For a model that answers in text: a sample's actions become the answer that is learned.

    horizon, action_dim, num_bins: of the answer. codec: an ActionTextCodec, None where nothing is to be learned.
    """

    def __init__(self, views, transform, prompt, reference, stats, horizon, action_dim, num_bins, codec=None):
        super().__init__(views, transform, prompt, reference, stats)
        self.horizon, self.action_dim, self.num_bins, self.codec = horizon, action_dim, num_bins, codec

    @classmethod
    def from_cfg(cls, cfg, tokenizer=None, stats=None):
        """stats: of the actions, see `rv_train.data.stats`."""
        action = cfg.ACTION
        more = {"horizon": action.HORIZON, "action_dim": action.DIM, "num_bins": action.NUM_BINS}
        if stats:
            more["codec"] = ActionTextCodec(*action_range(stats, action.RANGE), action.NUM_BINS)
        return super().from_cfg(cfg, tokenizer, stats=stats, **more)

    def target(self, features, start):
        """What is learned of a sample whose prompt has `start` tokens, in words."""
        learned = int((features["labels"] != IGNORE).sum())
        return f"action text: {len(features['labels']) - start} tokens, {learned} of them learned"

    def outline(self, instruction):
        """Every number is written with the digits of the middle bin."""
        middle = str(self.num_bins // 2)
        encoded = self.prompt.encode(instruction, " ".join([middle] * self.horizon * self.action_dim))
        learned = int((encoded["labels"] != IGNORE).sum())
        numbers = f"{self.horizon} x {self.action_dim} numbers of {len(middle)} digits"
        return encoded, learned, f"{numbers} and the end: what is learned"

    def encode_training(self, sample, rng, augment=True):
        """A Sample → features with labels; `rng` draws the augmentation."""
        text = self.codec.encode(sample.actions[None])[0] if sample.action_text is None else sample.action_text
        return self.encode_sample(sample, text, rng if augment else None)
