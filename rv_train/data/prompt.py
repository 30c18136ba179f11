"""Instruction (+ action text) → token ids and labels. The one place that knows what the model reads and writes.

    <|im_start|>system\n{system}<|im_end|>\n
    <|im_start|>user\nPicture 1: <|vision_start|><|image_pad|>…<|vision_end|>{instruction}<|im_end|>\n
    <|im_start|>assistant\n474 479 460 …<|im_end|>\n

Only the action text, `<|im_end|>` and the newline are learned. Every character of an action text is one token (Qwen
splits numbers into digits), so its ids are looked up, not tokenized.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from libs.errors import BadInput
from rv_train.data.tokenizer import load_tokenizer, token_id

IGNORE = -100  # the label that cross-entropy leaves out
HIDDEN = "X"  # in an action text: a digit that whoever wrote it has hidden, see `PromptEncoder.encode`
PATCH, MERGE = 14, 2  # Qwen2.5-VL: pixels per patch side, patches per image-token side


@dataclass(frozen=True)
class DigitMask:
    """How digits of an action text are hidden in training, so that the model looks at the picture.

    A share `none` of the samples stays whole; for the others the share of hidden digits is uniform in low..high. Their
    id becomes that of `char`; their label is dropped, or with `learned` it becomes `char`, too.
    """

    low: float = 0.0
    high: float = 0.0
    none: float = 0.0
    char: str = "?"
    learned: bool = False

    @classmethod
    def from_cfg(cls, cfg):
        action = cfg.ACTION
        learned = action.MASK_STYLE == "learned"
        return cls(action.MASK_MIN, action.MASK_MAX, action.MASK_NONE, action.MASK_CHAR, learned)


class PromptEncoder:
    """Builds ids and labels.

    Args:
        tokenizer: Qwen2.5's, whole or cut.
        system: text of the system turn, "" for none.
        num_pictures: pictures per prompt.
        image_tokens: image tokens per picture.
        vision_id: write "Picture i: " before each picture.
        mask: a DigitMask; None: no digits are hidden.
    """

    def __init__(self, tokenizer, system, num_pictures, image_tokens, vision_id, mask=None):
        self.tokenizer = tokenizer
        self.system = system
        self.num_pictures, self.image_tokens, self.vision_id = num_pictures, image_tokens, vision_id
        self.mask = mask or DigitMask(none=1.0)
        self.pad_id = token_id(tokenizer, "<|endoftext|>")
        self.end_id = token_id(tokenizer, "<|im_end|>")
        self.image_id = token_id(tokenizer, "<|image_pad|>")
        self.mask_id = token_id(tokenizer, self.mask.char)
        self.digit_ids = [token_id(tokenizer, digit) for digit in "0123456789"]
        self.space_id = token_id(tokenizer, "Ġ")  # byte-level BPE writes the space so
        self._byte_ids = np.full(256, -1)  # ids of the characters that an action text may hold, -1 for all others
        self._byte_ids[list(b"0123456789 ")] = [*self.digit_ids, self.space_id]
        self._byte_ids[ord(HIDDEN)] = self.mask_id
        self._answer_end = np.array([self.end_id, token_id(tokenizer, "Ċ")])  # end of turn and its newline
        self._is_digit = np.zeros(len(tokenizer), dtype=bool)
        self._is_digit[self.digit_ids] = True
        self._prompt_ids = functools.lru_cache(maxsize=4096)(self._tokenize_prompt)

    @classmethod
    def from_cfg(cls, cfg, tokenizer=None):
        """From the config tree; the tokenizer is loaded from `MODEL.TOKENIZER` unless given."""
        rows, columns = image_grid(cfg)
        return cls(
            tokenizer or load_tokenizer(cfg.MODEL.TOKENIZER, cfg.MODEL.VOCAB_CUT),
            system=system_prompt(cfg),
            num_pictures=1 if cfg.IMAGE.TILE else len(cfg.DATA.VIEWS),
            image_tokens=rows * columns,
            vision_id=cfg.PROMPT.VISION_ID,
            mask=DigitMask.from_cfg(cfg),
        )

    def encode(self, instruction, action_text=None):
        """Ids and labels of one prompt, without digit masking.

        Args:
            instruction: the language goal.
            action_text: "474 479 …" in training; None leaves the prompt open for the model to answer. An `X` is a
                digit that is known to nobody: the model is shown the mask character, and no label.
        Returns:
            {"input_ids": (L,) int64, "labels": (L,) int64 with -100 wherever nothing is learned}.
        Raises:
            BadInput: the action text holds anything else than digits, spaces and X, the instruction a mark.
        """
        prompt = self._prompt_ids(instruction)
        answer = [] if action_text is None else [self._action_ids(action_text), self._answer_end]
        ids = np.concatenate([prompt, *answer])
        labels = np.where(ids == self.mask_id, IGNORE, ids)
        labels[: len(prompt)] = IGNORE
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def mask_digits(self, encoded, rng):
        """Hide some digits of an encoded answer, see `DigitMask`. `rng` is a numpy Generator; the input stays."""
        mask = self.mask
        if rng.random() < mask.none:
            return encoded
        ids, labels = (encoded[name].numpy().copy() for name in ("input_ids", "labels"))
        learned = self._is_digit[ids] & (labels != IGNORE)
        hidden = learned & (rng.random(len(ids)) < rng.uniform(mask.low, mask.high))
        ids[hidden], labels[hidden] = self.mask_id, self.mask_id if mask.learned else IGNORE
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def decode(self, ids):
        """Generated ids → action text, without the end of the turn."""
        return self.tokenizer.decode([i for i in ids if i not in (self.end_id, self.pad_id)])

    def _action_ids(self, text):
        # Whatever is not ASCII becomes "?", which an action text may not hold, either.
        ids = self._byte_ids[np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)]
        if (ids < 0).any():
            found = text[int(np.argmax(ids < 0))]
            raise BadInput(f"action text may hold digits and spaces only, found {found!r} in {text[:60]!r}")
        return ids

    def _tokenize_prompt(self, instruction):
        if "<|" in instruction:  # would be read as a mark: another picture, the end of the turn
            raise BadInput(f'an instruction may not hold "<|", where marks of the model begin: {instruction!r}')
        picture = "<|vision_start|>" + "<|image_pad|>" * self.image_tokens + "<|vision_end|>"
        pictures = "".join((f"Picture {i + 1}: " if self.vision_id else "") + picture for i in range(self.num_pictures))
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        text = f"{system}<|im_start|>user\n{pictures}{instruction}<|im_end|>\n<|im_start|>assistant\n"
        return np.array(self.tokenizer(text)["input_ids"])

    def __getstate__(self):
        state = dict(self.__dict__)
        del state["_prompt_ids"]  # an lru_cache cannot travel to a spawned loader process
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._prompt_ids = functools.lru_cache(maxsize=4096)(self._tokenize_prompt)


def image_grid(cfg):
    """(rows, columns) of image tokens per picture."""
    side = cfg.IMAGE.SIZE // (PATCH * MERGE)
    return side, side * len(cfg.DATA.VIEWS) if cfg.IMAGE.TILE else side


def system_prompt(cfg):
    """PROMPT.SYSTEM with its numbers filled in; BadInput where it asks for another one."""
    horizon, dim = cfg.ACTION.HORIZON, cfg.ACTION.DIM
    numbers = {"horizon": horizon, "action_dim": dim, "num_values": horizon * dim, "num_bins": cfg.ACTION.NUM_BINS}
    try:
        return cfg.PROMPT.SYSTEM.format(**numbers)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(f"PROMPT.SYSTEM: cannot fill in {error}; there are {', '.join(numbers)}") from None
