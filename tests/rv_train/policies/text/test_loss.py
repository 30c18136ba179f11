"""The loss over a large vocabulary, beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from rv_train.policies.text.loss import TokenLoss


def made(dtype, rows=7, words=1_000_000):  # four rows at once, then three
    generator = torch.Generator().manual_seed(3)
    logits = (20 * torch.randn(rows, words, generator=generator)).to(dtype).requires_grad_()
    return logits, torch.randint(0, words, (rows,), generator=generator)


@pytest.mark.parametrize("scale", [1.0, 65536.0], ids=["", "scaled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_pytorchs(dtype, scale):
    logits, labels = made(dtype)
    expected = F.cross_entropy(logits.float(), labels)
    (theirs,) = torch.autograd.grad(expected * scale, logits)
    loss = TokenLoss.apply(logits, labels)
    (mine,) = torch.autograd.grad(loss * scale, logits)
    assert loss.dtype == torch.float32 and loss > 1 and mine.dtype == dtype
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(mine, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6 * scale)


def test_logits_far_from_zero():
    logits, labels = made(torch.float32)
    with torch.no_grad():
        expected = F.cross_entropy(logits + 1e4, labels)
        torch.testing.assert_close(TokenLoss.apply(logits + 1e4, labels), expected)
        logits[0, labels[0]] = -torch.inf
        assert TokenLoss.apply(logits.clone(), labels) == torch.inf
        logits[0] = torch.nan
        assert TokenLoss.apply(logits, labels).isnan()


def test_it_keeps_one_tensor_of_the_logits_size():
    logits, labels = made(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        TokenLoss.apply(logits * 1, labels)
    assert sum(tensor.numel() >= logits.numel() for tensor in kept) == 1


def test_a_second_backward_pass_is_refused():
    logits, labels = made(torch.float32)
    loss = TokenLoss.apply(logits * 1, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
