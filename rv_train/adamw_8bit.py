"""AdamW with states in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), as bitsandbytes has it, without its waits."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.optim import AdamW8bit as Library


class AdamW8bit(Library):
    """The library's kernels and states; small tensors keep float32 states, quantizing them saves nothing.

    The library waits for the GPU behind every parameter, 800 times a step, though each kernel follows the last on the
    same stream; and loads a state by way of a copy on the host, 7 GiB for 3.75 billion parameters on every rank.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nobody here has a closure to give
        if not self.initialized:
            self.check_overrides()
            self.initialized = True
        for number, group in enumerate(self.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    if not self.state[parameter]:
                        self.init_state(group, parameter, number, place)
                    self.update_step(group, parameter, number, place)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:  # type: ignore[override]  # no choice of place
        """saved: of `state_dict`; its tensors may lie in a file, each goes straight to its parameter's device."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        state = defaultdict(dict)
        for number, parameter in zip(numbers, parameters, strict=True):
            entry = saved["state"].get(number, {})
            wrapped = [value for value in entry.values() if isinstance(value, dict)]  # for FSDP, by `state_dict`
            entry = {name: value for part in (entry, *wrapped) for name, value in part.items()}
            for name, value in entry.items():
                if isinstance(value, dict):
                    continue
                tensor = isinstance(value, torch.Tensor)
                state[parameter][name] = value.to(parameter.device, copy=True) if tensor else value
        groups = [
            {**theirs, "params": mine["params"]}
            for theirs, mine in zip(saved["param_groups"], self.param_groups, strict=True)
        ]
        self.__setstate__({"state": state, "param_groups": groups})
