"""Greedy decoding of action text: preallocated keys and values, a lean step, only the rows of the head that may win.

The library's `generate` rebuilds masks and caches at every token and scores 151,936 words to choose among twelve.
Here one step is a few matrix products per layer on fixed buffers. Rows of a batch may have prompts of different
lengths and finish at different times; each row's result is that of decoding it alone.
"""

import torch
import torch.nn.functional as F


class GreedyDecoder:
    """Decodes with the text tower of a Qwen2.5-VL model, restricted to a set of ids.

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration; its layers are used in place, whatever wraps their projections.
        allowed_ids: ids that may be written, the end included.
        end_id: id that ends a row.
    """

    def __init__(self, backbone, allowed_ids, end_id):
        self.text, self.head = backbone.model.language_model, backbone.lm_head
        self.allowed = torch.tensor(sorted(allowed_ids))
        self.end_id = end_id
        self.step = self._step

    def compile(self):
        """Compile the step; the first call afterwards takes minutes on a GPU."""
        self.step = torch.compile(self._step, dynamic=True)

    @torch.no_grad()
    def generate(self, embeds, position_ids, lengths, max_new_tokens):
        """Write until every row has ended.

        Args:
            embeds: (B, L, D) embedded prompts, padded on the right.
            position_ids: (3, B, L) int64.
            lengths: (B,) int64 tokens per prompt.
            max_new_tokens: rows that have not ended by then are cut.
        Returns:
            list of B lists of ids, without the end.
        """
        device, batch = embeds.device, embeds.shape[0]
        self.allowed = self.allowed.to(device)
        hidden, cache = self._prefill(embeds, position_ids, max_new_tokens)
        rows = torch.arange(batch, device=device)
        head = self.head.weight[self.allowed]  # (K, D)
        last = hidden[rows, lengths - 1]  # (B, D)
        # Text goes on one position after the largest of the prompt; the slot in the cache is the prompt's length.
        position = position_ids[:, rows, lengths - 1].amax(0) + 1
        slot = lengths.clone()
        ended = torch.zeros(batch, dtype=torch.bool, device=device)
        written = torch.full((batch, max_new_tokens), self.end_id, device=device)
        reach = int(lengths.max())
        for count in range(max_new_tokens):
            token = self.allowed[(last @ head.T).argmax(-1)]
            token = torch.where(ended, self.end_id, token)
            written[:, count] = token
            ended |= token == self.end_id
            if bool(ended.all()) or count + 1 == max_new_tokens:
                break
            reach += 1
            last = self.step(token, position, slot, rows, [(k[:, :, :reach], v[:, :, :reach]) for k, v in cache])
            position, slot = position + 1, slot + 1
        ids = written.tolist()
        return [row[: row.index(self.end_id)] if self.end_id in row else row for row in ids]

    def _prefill(self, embeds, position_ids, room):
        """The prompt through the library's own layers; its keys and values copied into buffers with `room` to go on."""
        output = self.text(inputs_embeds=embeds, position_ids=position_ids, use_cache=True)
        cache = []
        for layer in output.past_key_values.layers:
            keys, values = layer.keys, layer.values  # (B, kv_heads, L, head_dim)
            shape = (*keys.shape[:2], keys.shape[2] + room, keys.shape[3])
            buffers = keys.new_zeros(shape), values.new_zeros(shape)
            for buffer, filled in zip(buffers, (keys, values), strict=True):
                buffer[:, :, : filled.shape[2]] = filled
            cache.append(buffers)
        return output.last_hidden_state, cache

    def _step(self, token, position, slot, rows, cache):
        """One token per row: (B,) ids at (B,) positions, stored at (B,) slots → (B, D) final hidden states."""
        x = self.text.embed_tokens(token)  # (B, D)
        cos, sin = self.text.rotary_emb(x, position.view(1, -1, 1).expand(3, -1, 1))
        cos, sin = cos.transpose(0, 1), sin.transpose(0, 1)  # (1, B, head_dim) against (heads, B, head_dim)
        reach = cache[0][0].shape[2]
        visible = (torch.arange(reach, device=x.device) <= slot[:, None])[:, None, None, :]  # (B, 1, 1, reach)
        for layer, (keys, values) in zip(self.text.layers, cache, strict=True):
            attention = layer.self_attn
            h = _rms_norm(x, layer.input_layernorm)
            q = _heads(attention.q_proj(h), attention.head_dim)
            k = _heads(attention.k_proj(h), attention.head_dim)
            v = _heads(attention.v_proj(h), attention.head_dim)
            keys[rows, :, slot] = _rotate(k, cos, sin).transpose(0, 1)
            values[rows, :, slot] = v.transpose(0, 1)
            q = _rotate(q, cos, sin).transpose(0, 1).unsqueeze(2)  # (B, heads, 1, head_dim)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible, enable_gqa=True)
            x = x + attention.o_proj(y.flatten(1))
            x = x + layer.mlp(_rms_norm(x, layer.post_attention_layernorm))
        return _rms_norm(x, self.text.norm)


def _rms_norm(x, norm):
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _heads(x, head_dim):
    """(B, heads * head_dim) → (heads, B, head_dim)"""
    return x.view(x.shape[0], -1, head_dim).transpose(0, 1)


def _rotate(x, cos, sin):
    """Rotary position embedding, RoFormer eq. 34, in the half-split layout the weights were trained with."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
