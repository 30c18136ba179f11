"""Sizes of MODEL.TEXT and MODEL.VISION that attention can divide; what families with such keys have in common."""

from libs.errors import BadInput


def check_heads(cfg, text, vision):
    """BadInput where heads do not divide a tower's width, in pieces that positions can turn; or share their keys.

    text, vision: numbers of a head that a position turns together, in each tower.
    """
    for name, unit in (("TEXT", text), ("VISION", vision)):
        tower = cfg.MODEL[name]
        if tower.HIDDEN % (unit * tower.HEADS):
            raise BadInput(
                f"MODEL.{name}.HIDDEN must be a multiple of {unit} x HEADS, got {tower.HIDDEN} and {tower.HEADS} heads"
            )
    heads, shared = cfg.MODEL.TEXT.HEADS, cfg.MODEL.TEXT.KV_HEADS
    if heads % shared:
        raise BadInput(f"MODEL.TEXT.HEADS must be a multiple of KV_HEADS, got {heads}, {shared}")
