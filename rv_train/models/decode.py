"""Decoding of action text: preallocated keys and values, a lean step, only the rows of the head that may win.

The library's `generate` rebuilds masks and caches at every token and scores 151,936 words to choose among twelve.
Here one step is a few matrix products per layer on fixed buffers. Rows of a batch may have prompts of different
lengths and finish at different times; what a row writes is what it writes alone.

To the bit it is so between batches of the same shape (B, L). Every size in here follows from that shape and the number
of the token, never from what stands in the rows; a row that has ended is computed on with the others. What is left is
whether the kernels treat every place in a batch alike. On a CPU (AMD EPYC, PyTorch 2.13 with MKL and oneDNN) they do:
for up to 16 rows in float32 and 8 in bfloat16, eager and compiled, with 1 and 2 threads, every hidden state of prompt
and answer was the same in every place and beside any neighbours (tests/rv_train/test_decode.py does that for a tiny
model). Between shapes roundings differ. On a GPU it was not measured.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 8  # tokens between two looks at who has ended (on a GPU each look waits for it), and between sizes of attention


class Decoder:
    """Decodes with the text tower of a Qwen2.5-VL model, restricted to a set of ids.

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration; its layers are used in place, whatever wraps their projections.
        allowed_ids: ids that may be written, the end included.
        end_id: id that ends a row.
    """

    def __init__(self, backbone, allowed_ids, end_id):
        self.text, self.head = backbone.model.language_model, backbone.lm_head
        self.allowed = torch.tensor(sorted(allowed_ids))  # (K,)
        self.end_id = end_id
        self.step, self.compiled = self._step, False

    def compile(self):
        """Compile the step: once for each shape (B, L) that comes, at its first token."""
        self.step, self.compiled = torch.compile(self._step, dynamic=False), True

    @torch.inference_mode()
    def generate(self, embeds, position_ids, lengths, max_new_tokens, noise=None, real=None):
        """Write until every row has ended: each time the id with the largest logit, or logit plus noise.

        Args:
            embeds: (B, L, D) embedded prompts, padded on the right.
            position_ids: (3, B, L) int64.
            lengths: (B,) int64 tokens per prompt.
            max_new_tokens: rows that have not ended by then are cut.
            noise: (B, max_new_tokens, K) float32, added to the logits of the allowed ids in ascending order; or None.
            real: (B,) bool, the rows that count; the others only fill the batch and are not waited for. None: all.
        Returns:
            list of B lists of ids, without the end.
        """
        device, (batch, width) = embeds.device, embeds.shape[:2]
        self.allowed = self.allowed.to(device)
        head = self.head.weight[self.allowed]  # (K, D)
        room = -(-max_new_tokens // BLOCK) * BLOCK
        hidden, cache = self._prefill(embeds, position_ids, room)
        rows = torch.arange(batch, device=device)
        last = hidden[rows, lengths - 1]  # (B, D)
        # Text goes on one position after the largest of the prompt, and in the cache behind the padding of all rows.
        cos, sin = self._rotations(position_ids[:, rows, lengths - 1].amax(0) + 1, room, embeds)
        slots = torch.arange(width, width + room, device=device).unsqueeze(1)
        visible = torch.arange(width + room, device=device) < lengths[:, None]
        mask = torch.zeros_like(visible, dtype=embeds.dtype).masked_fill_(~visible, -torch.inf)[:, None, None]
        ended = torch.zeros(batch, dtype=torch.bool, device=device) if real is None else ~real
        written = torch.full((batch, max_new_tokens), self.end_id, device=device)
        layers = [_Layer(layer) for layer in self.text.layers]
        for count in range(max_new_tokens):
            if count % BLOCK == 0:
                if ended.all():
                    break
                # Slots that nothing has reached yet are left out; compiled, they stay in, masked: one shape, one graph.
                reach = width + (room if self.compiled else count + BLOCK)
                seen = [(keys[:, :, :reach], values[:, :, :reach]) for keys, values in cache]
            scores = (last @ head.T).float()
            if noise is not None:
                scores = scores + noise[:, count]
            token = self.allowed[scores.argmax(-1)]
            written[:, count] = token
            ended = ended | (token == self.end_id)
            if count + 1 == max_new_tokens:
                break
            mask[..., width + count] = 0
            last = self.step(layers, token, cos[count], sin[count], slots[count], mask[..., :reach], seen)
        ids = written.tolist()
        return [row[: row.index(self.end_id)] if self.end_id in row else row for row in ids]

    def _prefill(self, embeds, position_ids, room):
        """The prompt through the library's own layers; its keys and values copied into buffers with `room` to go on."""
        output = self.text(inputs_embeds=embeds, position_ids=position_ids, use_cache=True)
        cache = []
        for layer in output.past_key_values.layers:
            # (B, kv_heads, L, head_dim) → (B, kv_heads, L + room, head_dim); what is masked must be a number, too
            cache.append([F.pad(filled, (0, 0, 0, room)) for filled in (layer.keys, layer.values)])
        return output.last_hidden_state, cache

    def _rotations(self, start, room, like):
        """cos and sin (room, B, 1, head_dim) for the positions from `start` (B,) on, in the dtype of `like`."""
        positions = start[:, None] + torch.arange(room, device=start.device)
        cos, sin = (x.transpose(0, 1).unsqueeze(2) for x in self.text.rotary_emb(like, positions.expand(3, -1, -1)))
        first, second = sin.chunk(2, dim=-1)
        return cos.contiguous(), torch.cat((-first, second), dim=-1)  # the sign that `_rotate` needs

    def _step(self, layers, token, cos, sin, slot, mask, cache):
        """One token per row → (B, D) final hidden states; its keys and values are written to the cache.

        Args:
            layers: list of _Layer.
            token: (B,) ids.
            cos, sin: (B, 1, head_dim), see `_rotations`.
            slot: (1,) int64, place in the cache.
            mask: (B, 1, 1, reach), 0 or -inf, added to the attention's logits.
            cache: per layer keys and values, (B, kv_heads, reach, head_dim).
        """
        x = self.text.embed_tokens(token)  # (B, D)
        for layer, (keys, values) in zip(layers, cache, strict=True):
            kv_heads, head_dim = keys.shape[1], keys.shape[3]
            qkv = layer.qkv(_rms_norm(x, layer.norm1)).unflatten(-1, (-1, head_dim))
            qk, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
            qk = _rotate(qk, cos, sin)
            q, k = qk[:, :-kv_heads], qk[:, -kv_heads:]
            keys.index_copy_(2, slot, k.unsqueeze(2))
            values.index_copy_(2, slot, v.unsqueeze(2))
            # The heads that share keys and values look at them as if they were so many tokens of one head.
            q = q.unflatten(1, (kv_heads, -1))
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)  # (B, kv_heads, group, head_dim)
            x = x + layer.o(y.flatten(1))
            h = _rms_norm(x, layer.norm2)
            x = x + layer.down(layer.act(layer.gate(h)) * layer.up(h))
        return _rms_norm(x, self.text.norm)


class _Layer:
    """What the step calls of a decoder layer. Looked up anew for each answer: weights may have changed since the last.

    Module calls and attributes cost as much as the products of a tiny model, so plain linear layers are called without.
    """

    def __init__(self, layer):
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1, self.norm2, self.act = layer.input_layernorm, layer.post_attention_layernorm, mlp.act_fn
        self.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = _plain(attention.o_proj)
        self.gate, self.up, self.down = map(_plain, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))


def _plain(module):
    """A linear layer as a function, or the module itself where it is anything else: LoRA, quantized weights."""
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module


def _joined(modules):
    """x → outputs of the modules, side by side: one product where all are plain linear layers with a bias."""
    if all(type(module) is nn.Linear for module in modules):
        weight = torch.cat([module.weight for module in modules])
        return partial(F.linear, weight=weight, bias=torch.cat([module.bias for module in modules]))
    return lambda x: torch.cat([module(x) for module in modules], dim=-1)


def _rms_norm(x, norm):
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x, cos, sin):
    """Rotary position embedding, RoFormer eq. 34, in the half-split layout the weights were trained with."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
