"""Decoding of action text: preallocated keys and values, a lean pass, few rows of the head, a grammar, drafts.

The library's `generate` rebuilds masks and caches at every token and scores 151,936 words to choose among twelve.
Here a pass is a few matrix products per layer on fixed buffers, and the grammar (`grammar.py`) leaves only what makes
an answer: none can fail to be one. A pass takes the last token of every row and W - 1 more that are expected to follow
(`drafts.py`); of what it writes behind them, all is kept up to the first that was not expected. So the text is the one
that token after token gives, sooner. Rows of a batch may have prompts of different lengths, keep different numbers of
tokens and end at different times; what a row writes is what it writes alone.

To the bit it is so if the kernels treat every place alike: a row's place in the batch, and a token's in the pass. Every
size in here follows from the shape of the batch (B, L), the grammar and W, never from what stands in the rows; a row
that has ended is computed on with the others. On a CPU (AMD EPYC, PyTorch 2.13 with MKL and oneDNN) they do: for up to
16 rows in float32 and 8 in bfloat16, eager and compiled, with 1 and 2 threads, every hidden state of prompt and answer
was the same in every place and beside any neighbours. They do even for different W where a pass has a multiple of FEW
tokens, and attention of so many queries: MKL takes the rows of a product by fours, on 1 to 16 threads, and sums what is
left over in another order. So W is a multiple of what that needs, and as small as it allows where nothing is drafted,
and drafts change no bit of what is kept (test_decoder.py and test_drafts.py in tests/rv_train/policies/text do all that
for tiny models; docs/equal_bits.md tells on which kernels). On a GPU, where a pass of few tokens costs what reading the
weights costs, every pass has as many tokens, drafts or not; places were not compared there. Between shapes (B, L)
roundings differ.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from libs.errors import first_line
from rv_train.policies.text.cache import cache_of
from rv_train.policies.text.drafts import Drafts
from rv_train.policies.text.fast_layer import FastLayer, rms_norm, rotate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Embedded, Family
    from rv_train.policies.text.grammar import Grammar


GPU_WIDTH = 8  # tokens per row and pass
# On a CPU every token costs; measured best for the shipped policy and 1 row: 16 of its tokens, 4 rows: 4 to 8.
WIDEST, NARROWEST, TOKENS = 16, 4, 32  # tokens per row and pass, with drafts; and per pass, of all rows
FEW = 4  # of such multiples of tokens per pass, and queries per row that share keys and values, all are treated alike
MAX_GRAPHS = 4  # shapes for which buffers and a graph are kept on a GPU


class Decoder:
    """Decodes with the text tower of a model whose layers are exactly `LayerParts`.

    Args:
        backbone: the library's model; its layers are used in place, whatever wraps their projections.
        family: of the model.
        grammar: the Grammar of an answer.
    """

    def __init__(self, backbone: "PreTrainedModel", family: "Family", grammar: "Grammar") -> None:
        self.backbone, self.family = backbone, family
        self.text, self.head = family.text(backbone), backbone.get_output_embeddings()
        self.grammar = grammar
        self.one_pass = _Answer.one_pass
        self.record = True  # passes as CUDA graphs, until one has failed to do what a pass does
        self._graphs = {}  # of CUDA: shapes → _Answer, the latest last

    def compile(self) -> None:
        """Compile a pass, grammar and drafts included: once for each shape (B, L, W) that comes, when it first does."""
        # On a CPU a small model's kernels are as short as the calls to them, so those are C++, too; a graph needs none.
        options: dict[str, Any] | None = None if self.head.weight.is_cuda else {"cpp_wrapper": True}
        self.one_pass = torch.compile(_Answer.one_pass, dynamic=False, options=options)
        self.release()

    def release(self) -> None:
        """Let go of the buffers and graphs that are kept for the next answer of the same shapes: up to 1.5 GiB."""
        self._graphs.clear()

    @torch.inference_mode()
    def generate(
        self,
        prompt: "Embedded",
        lengths: torch.Tensor,
        noise: torch.Tensor | None = None,
        real: torch.Tensor | None = None,
        drafts: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
    ) -> tuple[list[list[int]], list[int]]:
        """Write until every row has ended: each time the id with the largest logit of those that the grammar allows,
        or the largest logit plus noise.

        Args:
            prompt: Embedded prompts, padded on the right.
            lengths: (B,) int64 tokens per prompt.
            noise: (B, grammar.longest, K) float32, added to the logits of the ids in ascending order; or None.
            real: (B,) bool, the rows that count; the others only fill the batch and are not waited for. None: all.
            drafts: (B, N) int64, the numbers that are expected, -1 where nothing is; None: no drafts.
            forced: (B, N) int64, numbers that are written whatever the model would write, -1 where it is free; None:
                everywhere. Expected, too, they cost a pass per W tokens, as every right draft.

        Returns:
            list of B lists of ids, without the end; and list of B passes that they took, the prompt's apart.
        """
        self.grammar = self.grammar.to(prompt.embeds.device)
        hidden, filled = self.prefill(prompt)
        answer = self._answer(prompt.embeds, noise is not None, drafts is not None)
        return answer.write(hidden, filled, prompt.position_ids, lengths, noise, real, drafts, forced)

    def _pass_width(self, embeds, drafted):
        """Tokens per row and pass on a CPU, see the module's docstring."""
        if drafted:
            return min(WIDEST, max(NARROWEST, TOKENS // len(embeds) // FEW * FEW))
        config = self.text.config
        group = config.num_attention_heads // config.num_key_value_heads
        return max(2, *(FEW // math.gcd(FEW, number) for number in (len(embeds), group)))

    def _answer(self, embeds, noisy, drafted):
        """Buffers for an answer. On a GPU those of the last answer of the same shapes, with its graph of a pass."""
        on_gpu = embeds.device.type == "cuda"
        if not (on_gpu and self.record):
            return _Answer(self, embeds, GPU_WIDTH if on_gpu else self._pass_width(embeds, drafted), noisy)
        weights = tuple(parameter.data_ptr() for parameter in self.text.parameters())
        key = (tuple(embeds.shape), embeds.dtype, noisy, drafted, weights)
        answer = self._graphs.pop(key, None) or _GraphAnswer(self, embeds, GPU_WIDTH, noisy)
        self._graphs[key] = answer
        while len(self._graphs) > MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return answer

    def prefill(self, prompt: "Embedded") -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """The prompt through the library's own layers: hidden states (B, L, D), and per layer its keys and values."""
        output = self.text(**prompt.inputs, use_cache=True)
        return output.last_hidden_state, [(layer.keys, layer.values) for layer in cache_of(output).layers]

    def step(
        self,
        layers: Sequence[FastLayer],
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        slots: torch.Tensor,
        mask: torch.Tensor,
        cache: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        """Some tokens of every row → (B * W, D) final hidden states; their keys and values are written to the cache.

        Args:
            layers: list of FastLayer.
            x: (B * W, D) embedded tokens.
            cos, sin: (B * W, 1, head_dim), see `_Answer._rotations`.
            slots: (B * W,) int64, places in the cache, counted over all rows.
            mask: (B, 1, W * group, S), 0 or -inf, added to the attention's logits.
            cache: per layer keys and values, (B, S, kv_heads, head_dim).
        """
        batch = len(mask)
        for layer, (keys, values) in zip(layers, cache, strict=True):
            kv_heads, head_dim = keys.shape[2:]
            qkv = layer.qkv(rms_norm(x, layer.norm1)).unflatten(-1, (-1, head_dim))
            qk, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
            qk = rotate(qk if layer.head_norm is None else layer.head_norm(qk), cos, sin)
            q, k = qk[:, :-kv_heads], qk[:, -kv_heads:]
            keys.view(-1, kv_heads, head_dim).index_copy_(0, slots, k)
            values.view(-1, kv_heads, head_dim).index_copy_(0, slots, v)
            # The heads that share keys and values look at them as if they were so many tokens of one head.
            q = q.unflatten(1, (kv_heads, -1)).unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
            y = F.scaled_dot_product_attention(q, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
            y = y.unflatten(2, (len(x) // batch, -1)).transpose(1, 2)  # (B, W, kv_heads, group, head_dim)
            x = x + layer.o(y.reshape(len(x), -1))
            h = rms_norm(x, layer.norm2)
            x = x + layer.down(layer.act(layer.gate(h)) * layer.up(h))
        return rms_norm(x, self.text.norm)


class _Answer:
    """All that the answers of a batch are written with: a pass changes these tensors in place and nothing else.

    Slot L + t of the cache holds the token t of a row's answer, whenever it comes. Tokens of a draft that were wrong
    leave keys and values behind their row's last token, where nothing looks before the right ones have replaced them.
    """

    look = 1  # passes between two looks at who has ended

    def __init__(self, decoder, embeds, width, noisy):
        self.decoder, self.grammar, self.width = decoder, decoder.grammar, width
        (batch, self.prompt, _), device, dtype = embeds.shape, embeds.device, embeds.dtype
        config, longest = decoder.text.config, self.grammar.longest
        self.room = -(-(longest + WIDEST) // 16) * 16
        self.slots = self.prompt + self.room
        self.heads = heads = config.num_key_value_heads
        self.group = config.num_attention_heads // heads
        head_dim = decoder.text.layers[0].self_attn.head_dim
        zeros = partial(torch.zeros, device=device)
        shape = batch, self.slots, heads, head_dim
        self.cache = [(zeros(shape, dtype=dtype), zeros(shape, dtype=dtype)) for _ in decoder.text.layers]
        self.cos = zeros(batch * self.room, 1, head_dim, dtype=dtype)
        self.sin = torch.zeros_like(self.cos)
        self.padding = zeros(batch, 1, self.slots, dtype=dtype)  # -inf where a slot is padding
        seen = torch.ones(self.room, self.slots, dtype=torch.bool, device=device).tril(self.prompt)
        self.causal = zeros(self.room, self.slots, dtype=dtype).masked_fill_(~seen, -torch.inf)
        self.noise = zeros(batch * self.room, len(self.grammar.ids)) if noisy else None
        self.penalty = zeros(batch * len(self.grammar.place), len(self.grammar.ids))  # of every row's states
        self.drafts = Drafts(self.grammar, batch)
        self.rows, self.places = (torch.arange(n, device=device) for n in (batch, width))
        self.rows = self.rows[:, None]
        self.first = self.rows * len(self.grammar.place)  # of a row's states in the penalty
        # Of every row: what was written, its last token (a column and how many are in front) and the state behind it.
        self.written = zeros(batch, self.room, dtype=torch.long)
        self.column, self.count, self.state, self.passes = zeros(4, batch, 1, dtype=torch.long)
        self.ended = zeros(batch, 1, dtype=torch.bool)
        self.words = zeros(len(self.grammar.ids), embeds.shape[2], dtype=dtype)
        self.head = torch.zeros_like(self.words)
        self.layers = None

    def write(self, *prompt):
        """A whole answer to what `begin` takes: see `Decoder.generate`."""
        self.begin(*prompt)
        for count in range(self.grammar.longest):
            if count % self.look == 0 and self.ended.all():
                break
            self.advance()
        end = self.grammar.end_id
        ids = [row[: row.index(end)] for row in self.grammar.ids[self.written].tolist()]
        return ids, self.passes[:, 0].tolist()

    def begin(self, hidden, filled, position_ids, lengths, noise, real, drafts, forced=None):
        """Take over a prompt and write the first token."""
        decoder, grammar, rows = self.decoder, self.grammar, self.rows[:, 0]
        for (keys, values), (k, v) in zip(self.cache, filled, strict=True):
            keys[:, : self.prompt] = k.transpose(1, 2)
            values[:, : self.prompt] = v.transpose(1, 2)
        unused = torch.arange(self.prompt, device=lengths.device) >= lengths[:, None]
        self.padding.zero_()[:, 0, : self.prompt].masked_fill_(unused, -torch.inf)
        self._rotations(position_ids, lengths, hidden)
        if self.noise is not None:
            self.noise.view(len(rows), self.room, -1)[:, : grammar.longest] = noise
        self.words.copy_(decoder.text.embed_tokens(grammar.ids))
        self.head.copy_(decoder.head.weight[grammar.ids])
        self.penalty.copy_(grammar.penalties(len(rows), forced))
        self.drafts.begin(drafts)
        parts = decoder.family.layer_parts(decoder.backbone)
        assert parts is not None, "a layer is no longer what it was when this policy was built"
        self.layers = self.layers or [FastLayer(self.group * self.heads) for _ in parts]
        for layer, part in zip(self.layers, parts, strict=True):
            layer.take(part)
        state = torch.full_like(self.state, grammar.start)
        scores = self._scores(hidden[rows, lengths - 1], self.rows * self.room, state)
        self.column.copy_(scores.argmax(-1))
        self.written.fill_(grammar.end)[:, :1] = self.column
        self.state.copy_(grammar.next[state, self.column])
        self.drafts.learn(state, self.column, torch.ones_like(self.count))
        self.count.zero_()
        self.passes.zero_()
        self.ended.copy_(self.state == grammar.ended)
        if real is not None:
            self.ended |= ~real[:, None]

    def advance(self):
        """Write at least one more token of every row."""
        self.decoder.one_pass(self)

    def one_pass(self):
        """The last token of every row and a draft of those behind it, through all layers."""
        grammar, drafts = self.grammar, self.drafts
        expected, states = drafts.propose(self.state[:, 0], self.width - 1)
        columns = torch.cat([self.column, expected], dim=1)  # (B, W)
        place = self.count + self.places
        flat = (self.rows * self.room + place).flatten()
        mask = self.causal.index_select(0, place.flatten()).unflatten(0, place.shape) + self.padding
        hidden = self.decoder.step(
            self.layers,
            self.words.index_select(0, columns.flatten()),
            self.cos.index_select(0, flat),
            self.sin.index_select(0, flat),
            (self.rows * self.slots + self.prompt + place).flatten(),
            mask.repeat_interleave(self.group, 1)[:, None],
            self.cache,
        )
        chosen = self._scores(hidden, flat + 1, states).argmax(-1)  # (B, W)
        # What follows an expected token is worth something if the token was right, and all before it.
        more = (chosen[:, :-1] == expected).cumprod(1).sum(1, keepdim=True)  # (B, 1)
        self.written.scatter_(1, place + 1, chosen)  # behind the right ones the next pass writes again
        drafts.learn(states, chosen, more + 1)
        self.column.copy_(chosen.gather(1, more))
        self.state.copy_(grammar.next[states.gather(1, more), self.column])
        self.passes += ~self.ended
        self.ended |= self.state == grammar.ended
        self.count.add_(more + 1).clamp_(max=grammar.longest - 1)

    def _scores(self, hidden, flat, states):
        """(B, W, K) logits of the tokens behind `states` (B, W), with noise, -inf where the grammar forbids them."""
        scores = (hidden @ self.head.T).float()
        if self.noise is not None:
            scores = scores + self.noise.index_select(0, flat.flatten())
        return scores.view(*states.shape, -1) + self.penalty[states + self.first]

    def _rotations(self, position_ids, lengths, like):
        """cos and sin for the positions behind each prompt: text goes on one after the largest of its last token, on
        every axis that positions have."""
        axes = position_ids.shape[:-2]
        last = position_ids[..., self.rows[:, 0], lengths - 1]
        positions = (last.amax(0) if axes else last)[:, None] + 1 + torch.arange(self.room, device=last.device)
        cos, sin = self.decoder.text.rotary_emb(like, positions.expand(*axes, -1, -1))  # (B, room, head_dim)
        first, second = sin.chunk(2, dim=-1)
        self.cos.copy_(cos.reshape(self.cos.shape))
        self.sin.copy_(torch.cat((-first, second), dim=-1).view(self.sin.shape))  # the sign that `rotate` needs


class _GraphAnswer(_Answer):
    """The same on a GPU, where a pass is recorded as a CUDA graph and replayed: hundreds of kernels, one launch.

    No machine with a GPU has run this yet, so it does not trust itself: the first answer is written twice, without a
    graph and with one, and if that fails or writes anything else, this process goes on without graphs and says so. What
    it relies on is tested on a CPU: that a pass changes its tensors in place, that they can be used for another answer,
    and that it asks for no value on the host and reads none.
    """

    look = 8  # each look waits for the GPU

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.device, self.graph, self.proven = self.written.device, None, False

    def write(self, *prompt):
        with torch.cuda.device(self.device):
            return super().write(*prompt) if self.proven else self._prove(prompt)

    def advance(self):
        if self.graph is None:
            super().advance()
        else:
            self.graph.replay()

    def _prove(self, prompt):
        """The first answer, as it is written without a graph."""
        stream = torch.cuda.Stream()  # where PyTorch wants passes before a recording, which allows no setting up
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            answer = super().write(*prompt)
        torch.cuda.current_stream().wait_stream(stream)
        try:
            graph = torch.cuda.CUDAGraph()
            # "thread_local": loader threads may pin the memory of their next batch meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # records, runs nothing
                super().advance()
            self.graph = graph
            again = super().write(*prompt)
            problem = "" if again == answer else "its first answer differs from the one without"
        except RuntimeError as error:  # of CUDA
            problem = first_line(error)
        self.proven = True
        if problem:
            self.graph, self.decoder.record = None, False
            self.decoder.release()
            print(f"warning: no CUDA graph of a pass, answers take longer: {problem}", file=sys.stderr)
        return answer
