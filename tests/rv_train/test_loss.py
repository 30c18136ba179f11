"""The loss over a large vocabulary, beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from rv_train.models.loss import TokenLoss


def made(dtype, rows=7, words=1000):
    generator = torch.Generator().manual_seed(3)
    logits = (20 * torch.randn(rows, words, generator=generator)).to(dtype).requires_grad_()
    return logits, torch.randint(0, words, (rows,), generator=generator)


@pytest.mark.parametrize("scale", [1.0, 65536.0], ids=["", "scaled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_pytorchs(dtype, scale):
    logits, labels = made(dtype)
    loss = TokenLoss.apply(logits, labels)
    (mine,) = torch.autograd.grad(loss * scale, logits)
    expected = F.cross_entropy(logits.float(), labels)
    (theirs,) = torch.autograd.grad(expected * scale, logits)
    assert loss.dtype == torch.float32 and loss > 1 and mine.dtype == dtype
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(mine, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6 * scale)


def test_nothing_is_written_over_that_others_see():
    logits, labels = made(torch.float32)
    before = logits.detach().clone()
    TokenLoss.apply(logits, labels).backward()
    assert torch.equal(logits.detach(), before)


def test_a_second_backward_pass_is_refused():
    logits, labels = made(torch.float32)
    loss = TokenLoss.apply(logits, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_loss_without_a_gradient():
    logits, labels = made(torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(TokenLoss.apply(logits, labels), F.cross_entropy(logits, labels))
