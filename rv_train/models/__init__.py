"""Models by name, and what encodes for them. A model has two methods: `forward(batch) -> {"loss", "count"}`, which DDP
wraps, and `predict(batch) -> Prediction`; the few others are those of `rv_train.models.vla0.VLA0`."""

from libs.errors import BadInput


def build_encoder(cfg, stats=None, tokenizer=None):
    """What turns samples and observations into batches for the model of `MODEL.NAME`.

    Args:
        cfg: the config tree.
        stats: of the data, see `rv_train.data.stats`; None where nothing is to be learned.
        tokenizer: None loads MODEL.TOKENIZER.
    """
    if cfg.MODEL.NAME == "vla0":
        from rv_train.data.features import TextEncoder

        return TextEncoder.from_cfg(cfg, tokenizer, stats)
    if cfg.MODEL.NAME == "flow_expert":
        from rv_train.data.flow_features import FlowEncoder

        return FlowEncoder.from_cfg(cfg, tokenizer, stats)
    raise BadInput(f"MODEL.NAME: unknown model {cfg.MODEL.NAME!r}")


def build_model(cfg, encoder, weights=None):
    """The model of `MODEL.NAME`.

    Args:
        cfg: the config tree.
        encoder: from `build_encoder`, with statistics.
        weights: folder to load from instead of what MODEL.INIT says (a checkpoint's model folder).
    """
    if cfg.MODEL.NAME == "vla0":
        from rv_train.models.vla0 import VLA0

        return VLA0.from_cfg(cfg, encoder, weights)
    if cfg.MODEL.NAME == "flow_expert":
        from rv_train.models.flow_expert import FlowExpert

        return FlowExpert.from_cfg(cfg, encoder, weights)
    raise BadInput(f"MODEL.NAME: unknown model {cfg.MODEL.NAME!r}")
