"""Instruction (+ action text) → token ids and labels. The one place that knows what the model reads and writes.

How a conversation is written is the family's (`rv_train.backbones.base.Chat`); here pictures, instruction and action
text come together. Only the action text and the tokens that end it are learned. Every character of an action text is
one token, so its ids are looked up, not tokenized; a tokenizer that does otherwise is refused.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from yacs.config import CfgNode

from libs.action_form import written_dim
from libs.errors import BadInput
from rv_train.backbones.tokenizer import character_ids, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rv_train.backbones.base import Chat, Pictures


IGNORE = -100  # the label that cross-entropy leaves out
STATE = "\nState: "  # between an instruction and the robot's state as integers
HIDDEN = "X"  # in an action text: a digit that whoever wrote it has hidden, see `PromptEncoder.encode`


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
    def from_cfg(cls, cfg: CfgNode) -> "DigitMask":
        action = cfg.ACTION
        learned = action.MASK_STYLE == "learned"
        return cls(action.MASK_MIN, action.MASK_MAX, action.MASK_NONE, action.MASK_CHAR, learned)


class PromptEncoder:
    """Builds ids and labels.

    Args:
        tokenizer: whole or cut, of the family.
        chat: the family's Chat.
        pictures: the Pictures of a prompt.
        system: text of the system turn, "" for none.
        numbered: name the pictures, as the chat does.
        mask: a DigitMask; None: no digits are hidden.

    Raises:
        BadInput: a token is missing, or the tokenizer does not write an action text character by character.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        chat: "Chat",
        pictures: "Pictures",
        system: str = "",
        numbered: bool = False,
        mask: DigitMask | None = None,
    ) -> None:
        self.tokenizer, self.chat, self.pictures = tokenizer, chat, pictures
        self.system, self.numbered = system, numbered
        self.mask = mask or DigitMask(none=1.0)
        self.pad_id = token_id(tokenizer, chat.pad)
        self.end_id = token_id(tokenizer, chat.end)
        self.image_id = token_id(tokenizer, chat.image)
        self.mask_id = token_id(tokenizer, self.mask.char)
        *self.digit_ids, self.space_id = character_ids(tokenizer)
        self._byte_ids = np.full(256, -1)  # ids of the characters that an action text may hold, -1 for all others
        self._byte_ids[list(b"0123456789 ")] = [*self.digit_ids, self.space_id]
        self._byte_ids[ord(HIDDEN)] = self.mask_id
        self._answer_end = np.array([self.end_id, *(token_id(tokenizer, name) for name in chat.tail)])
        self._is_digit = np.zeros(len(tokenizer), dtype=bool)
        self._is_digit[self.digit_ids] = True
        self._prompt_ids = functools.lru_cache(maxsize=4096)(self._tokenize_prompt)

    def encode(self, instruction: str, action_text: str | None = None, state_text: str = "") -> dict[str, torch.Tensor]:
        """Ids and labels of one prompt, without digit masking.

        Args:
            instruction: the language goal.
            state_text: the robot's state as integers, which goes into the user's turn behind it; "": none.
            action_text: "474 479 …" in training; None leaves the prompt open for the model to answer. An `X` is a
                digit that is known to nobody: the model is shown the mask character, and no label.

        Returns:
            {"input_ids": (L,) int64, "labels": (L,) int64 with -100 wherever nothing is learned}.

        Raises:
            BadInput: the action text holds anything else than digits, spaces and X, the instruction a mark; the prompt
                has not as many image tokens as the pictures.
        """
        prompt = self._prompt_ids(instruction + STATE + "0") if state_text else self._prompt_ids(instruction)
        if state_text:  # every character is a token: the last digit of the prompt gives way to it
            place = np.flatnonzero(prompt == self.digit_ids[0])[-1]
            prompt = np.concatenate([prompt[:place], self._action_ids(state_text), prompt[place + 1 :]])
        answer = [] if action_text is None else [self._action_ids(action_text), self._answer_end]
        ids = np.concatenate([prompt, *answer])
        labels = np.where(ids == self.mask_id, IGNORE, ids)
        labels[: len(prompt)] = IGNORE
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def mask_digits(self, encoded: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Hide some digits of an encoded answer, see `DigitMask`. `rng` is a numpy Generator; the input stays."""
        mask = self.mask
        if rng.random() < mask.none:
            return encoded
        ids, labels = (encoded[name].numpy().copy() for name in ("input_ids", "labels"))
        learned = self._is_digit[ids] & (labels != IGNORE)
        hidden = learned & (rng.random(len(ids)) < rng.uniform(mask.low, mask.high))
        ids[hidden], labels[hidden] = self.mask_id, self.mask_id if mask.learned else IGNORE
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def decode(self, ids: Iterable[int]) -> str:
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
        reserved = self.chat.reserved
        if reserved in instruction:  # would be read as a mark: another picture, the end of the turn
            raise BadInput(f'an instruction may not hold "{reserved}", where marks of the model begin: {instruction!r}')
        text = self.chat.prompt(self.system, self.pictures, instruction, self.numbered)
        ids = np.array(self.tokenizer(text)["input_ids"])
        written, wanted = int((ids == self.image_id).sum()), self.pictures.number * self.pictures.tokens
        if written != wanted:  # pictures would be put into other places, those of other rows, too
            raise BadInput(
                f"the prompt has {written} tokens {self.chat.image!r} for pictures of {wanted}: the backbone's chat "
                "must write as many as its `grid` counts, and the tokenizer read each as one"
            )
        return ids

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_prompt_ids"]  # an lru_cache cannot travel to a spawned loader process
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prompt_ids = functools.lru_cache(maxsize=4096)(self._tokenize_prompt)


def system_prompt(cfg: CfgNode) -> str:
    """PROMPT.SYSTEM with its numbers filled in; BadInput where it asks for another one."""
    horizon, turns = cfg.ACTION.HORIZON, cfg.ACTION.ROTATION
    dim = written_dim(cfg.ACTION.DIM, len(turns.DIMS), turns.RECORDED, turns.WRITTEN)
    numbers = {"horizon": horizon, "action_dim": dim, "num_values": horizon * dim, "num_bins": cfg.ACTION.NUM_BINS}
    try:
        return cfg.PROMPT.SYSTEM.format(**numbers)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(f"PROMPT.SYSTEM: cannot fill in {error}; there are {', '.join(numbers)}") from None
