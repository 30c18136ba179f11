"""The library's vision tower over pictures that all have one size: the same numbers, with less around them.

The library looks for empty pictures and masked patches in every pass, for which a GPU is waited for; here there are
none, and what follows from the sizes is computed once and kept. Patches are embedded by a matrix product, which is what
a convolution with the patch as its kernel is.
"""

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def picture_features(model: "PreTrainedModel", patches: torch.Tensor, side: int) -> torch.Tensor:
    """What the tower and the connector make of pictures of one size: (image tokens, D).

    Args:
        model: SmolVLMModel.
        patches: (P * side**2, 3 * patch**2) of P pictures, see `pictures.image_patches`.
        side: patches per side of a picture.
    """
    tower = model.vision_model
    embedding = tower.embeddings.patch_embedding
    embedded = F.linear(patches, embedding.weight.flatten(1), embedding.bias).unflatten(0, (-1, side**2))
    places = _places(side, tower.embeddings.num_patches_per_side, patches.device)
    hidden = tower.encoder(embedded + tower.embeddings.position_embedding(places)).last_hidden_state
    return model.connector(tower.post_layernorm(hidden)).flatten(0, 1)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept may be met by a training step next
def _places(side, learned, device):
    """(side**2,) int64: which of `learned` x `learned` positions each patch has. A smaller picture's are spread over
    all of them.

    In float32 whatever the weights have: so the published models were trained, and so the library finds them from 5.21
    on. A few versions before, the locked one among them, round to bfloat16 on the way: two neighbours of 27 share one.
    """
    share = (torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))).clamp(max=1.0 - 1e-6)
    ends = torch.arange(1 / learned, 1.0, 1 / learned)
    along = torch.bucketize(share, ends, right=True)
    return (along[:, None] * learned + along).flatten().to(device)
