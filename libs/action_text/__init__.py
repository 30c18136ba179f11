"""Actions <-> integers <-> text: the whole of VLA-0's action representation."""

from libs.action_text.codec import ActionTextCodec, DecodedChunks, is_constant

__all__ = ["ActionTextCodec", "DecodedChunks", "is_constant"]
