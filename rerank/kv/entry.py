"""What is kept of a document: its keys and values, as they are or in fewer bits.

``exact`` keeps the model's dtype and gives back every bit. ``bfloat16`` halves float32. ``int8``
keeps x as round(x / s) with one s = max|x| / 127 for each layer, key head and channel over the
document's tokens, so that |x − s · q| ≤ s / 2. Keys differ in size from channel to channel much
more than from token to token, which is why the scale is the channel's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Storage = Literal["exact", "bfloat16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
_MOST = 127.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A document's tensors as they are stored.

    ``keys`` [layers − 1, key heads, tokens, D] and ``values`` alike, of the layers before the
    last that is read; ``last`` [heads of it that are read, tokens, D], keys alone. With int8
    each has its ``…_scale`` […, 1, D] in float32. ``tokens`` int32 [tokens] says which of the
    document's ``length`` tokens they are; ``mass_kept`` what share of the attention these had.
    """

    tensors: Mapping[str, torch.Tensor]
    length: int
    mass_kept: float = 1.0

    @property
    def tokens(self) -> torch.Tensor:
        """The tokens that are kept, int32, as places in the document's block."""
        return self.tensors["tokens"]

    @property
    def nbytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def get(self, name: str, layer: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return ``keys`` or ``values`` of a layer, or with layer None ``last``, in ``dtype``."""
        stored = self.tensors[name] if layer is None else self.tensors[name][layer]
        scale = self.tensors.get(f"{name}_scale")
        if scale is None:
            # Asked for by every layer and document: even a cast that does nothing would count.
            return stored if stored.dtype == dtype else stored.to(dtype)
        return (stored.float() * (scale if layer is None else scale[layer])).to(dtype)

    def only(self, kept: torch.Tensor, mass_kept: float) -> Entry:
        """Return the entry with some tokens: ``kept`` are places among those of this one."""
        tensors = {
            name: tensor if name.endswith("_scale") else tensor.index_select(-2, kept).contiguous()
            for name, tensor in self.tensors.items()
            if name != "tokens"
        }
        return Entry({**tensors, "tokens": self.tokens[kept]}, self.length, mass_kept)


def entry(keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor, storage: Storage) -> Entry:
    """Return what is kept of a document's keys, values and last keys; shapes as in Entry."""
    import torch

    tensors = {"tokens": torch.arange(last.shape[-2], dtype=torch.int32, device=last.device)}
    for name, states in (("keys", keys), ("values", values), ("last", last)):
        if storage == "int8":
            scale = states.float().abs().amax(-2, keepdim=True).clamp_min(1e-30) / _MOST
            tensors[name] = (states.float() / scale).round_().to(torch.int8)
            tensors[f"{name}_scale"] = scale
        else:
            dtype = torch.bfloat16 if storage == "bfloat16" else states.dtype
            tensors[name] = _own(states.to(dtype).contiguous())
    return Entry(tensors, last.shape[-2])


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that keeps nothing alive but itself."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
