"""The keys and values that the library's layers keep of a pass: transformers renamed them on the way to 5.24."""

import dataclasses

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

# The argument and the entry of the output.
CACHE = "cache" if "cache" in {f.name for f in dataclasses.fields(BaseModelOutputWithPast)} else "past_key_values"


def cache_of(output: ModelOutput) -> Cache:
    """What a pass with use_cache kept; as the argument called CACHE the next pass goes on from it."""
    return getattr(output, CACHE)
