"""Models by name, hub id or folder: found on this disk, or pulled once."""

from ranklens.data.models.listing import InstalledModel, installed
from ranklens.data.models.registry import REGISTRY, RegistryModel
from ranklens.data.models.resolve import (
    ResolvedModel,
    adapter_folder,
    check_whole,
    pull,
    resolve,
    weights_of,
)

__all__ = [
    "REGISTRY",
    "InstalledModel",
    "RegistryModel",
    "ResolvedModel",
    "adapter_folder",
    "check_whole",
    "installed",
    "pull",
    "resolve",
    "weights_of",
]
