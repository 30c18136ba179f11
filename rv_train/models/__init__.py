"""Models by name. A model has two methods: `forward(batch) -> {"loss": ...}`, which DDP wraps, and `predict(batch)`."""


def build_model(cfg, prompt, codec, weights=None):
    """The model of `MODEL.NAME`.

    Args:
        cfg: the config tree.
        prompt: a PromptEncoder.
        codec: an ActionTextCodec.
        weights: folder to load from instead of what MODEL.INIT says (a checkpoint's model folder).
    """
    if cfg.MODEL.NAME == "vla0":
        from rv_train.models.vla0 import VLA0

        return VLA0.from_cfg(cfg, prompt, codec, weights)
    raise ValueError(f"MODEL.NAME: unknown model {cfg.MODEL.NAME!r}")
