"""A pass as a CUDA graph, on a CPU: PyTorch's calls replaced by some that do on replay what was recorded."""

import contextlib

import pytest
import torch

from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text import decoder as decoding
from rv_train.policies.text.decoder import _Answer, _GraphAnswer
from tests.rv_train.policies.text.test_decoder import LENGTH, lively_model
from tests.rv_train.policies.text.test_text_policy import observation
from tests.tiny import tiny_cfg
from tests.waiting import WAITING, Operations


class Cuda:
    """What `_GraphAnswer` calls of torch.cuda. calls: in order; spoil: what a replay does wrong, called behind it."""

    def __init__(self, monkeypatch):
        self.calls, self.answer, self.spoil = [], None, lambda: None
        for name in ("device", "stream"):
            monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, self._stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self._record)

    def _stream(self):
        self.wait_stream = lambda other: None
        return self

    @contextlib.contextmanager
    def _record(self, graph, capture_error_mode="global"):
        assert capture_error_mode == "thread_local", "a loader's thread that pins memory would end the recording"
        with Operations() as done:
            yield
        assert not done.names & WAITING
        self.calls.append("record")

    def replay(self):
        self.calls.append("replay")
        _Answer.one_pass(self.answer)
        self.spoil()


@pytest.fixture(scope="module")
def encoder():
    return ObservationEncoder.from_cfg(tiny_cfg())


@pytest.fixture
def model():
    return lively_model()


@pytest.fixture
def cuda(model, monkeypatch):
    return Cuda(monkeypatch)


@pytest.fixture
def decoder(model, cuda, monkeypatch):
    """Of a tiny model; answers on it are written as on a GPU."""
    decoder, plain = model.decoder, model.decoder._answer

    def answer(embeds, noisy, drafted):
        if not decoder.record:
            return plain(embeds, noisy, drafted)
        key = tuple(embeds.shape)
        cuda.answer = decoder._graphs.setdefault(key, None) or _GraphAnswer(decoder, embeds, decoding.GPU_WIDTH, noisy)
        decoder._graphs[key] = cuda.answer
        return cuda.answer

    monkeypatch.setattr(decoder, "_answer", answer)
    decoder.model = model
    return decoder


def ask(decoder, encoder, *seeds):
    batch = encoder.collate([encoder.encode(observation(seed)) for seed in seeds], LENGTH)
    with torch.inference_mode():
        return decoder.generate(decoder.model._embed(batch), batch["lengths"])


def test_a_graph_is_proven_once_and_used_from_then_on(decoder, cuda, encoder, capsys):
    first, second = ask(decoder, encoder, 0, 1), ask(decoder, encoder, 2, 3)
    assert cuda.calls.count("record") == 1 and cuda.calls.index("record") == 0
    assert cuda.calls.count("replay") > 2 * max(second[1]) - 8
    assert capsys.readouterr().err == ""
    decoder.record = False
    assert (ask(decoder, encoder, 0, 1), ask(decoder, encoder, 2, 3)) == (first, second) and first != second


@pytest.mark.parametrize("wrong", ["answer", "error"])
def test_a_graph_that_errs_is_never_used_again(decoder, cuda, encoder, capsys, wrong):
    def spoil():
        if wrong == "error":
            raise RuntimeError("CUDA error: operation not permitted\nmore")
        cuda.answer.column.add_(1).remainder_(len(cuda.answer.grammar.ids))

    cuda.spoil = spoil
    first = ask(decoder, encoder, 0, 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("warning: no CUDA graph of a pass, answers take longer: ")
    assert ("operation not permitted" if wrong == "error" else "its first answer differs") in said
    count = len(cuda.calls)
    second = ask(decoder, encoder, 2, 3)
    assert len(cuda.calls) == count and not decoder._graphs and capsys.readouterr().err == ""
    monkey = decoder.model
    assert (ask(monkey.decoder, encoder, 0, 1), second) == (first, ask(decoder, encoder, 2, 3))


def test_who_trains_has_the_memory_back(decoder, encoder):
    ask(decoder, encoder, 0, 1)
    assert decoder._graphs
    decoder.model.eval()
    assert decoder._graphs
    decoder.model.train()
    assert not decoder._graphs


def test_what_a_graph_reads_stays_where_it_is(decoder, cuda, encoder):
    """Joined weights are copies: an answer after the weights have changed takes them anew, to the same place."""
    before = ask(decoder, encoder, 0, 1)
    places = [(layer._weight.data_ptr(), layer._bias.data_ptr()) for layer in cuda.answer.layers]
    with torch.no_grad():
        for layer in decoder.text.layers:
            layer.self_attn.q_proj.weight.mul_(-1)
    after = ask(decoder, encoder, 0, 1)
    assert [(layer._weight.data_ptr(), layer._bias.data_ptr()) for layer in cuda.answer.layers] == places
    decoder.record = False
    assert after == ask(decoder, encoder, 0, 1) and after != before
