"""Tensor files named by the SHA-256 of their content: what they hold cannot change unnoticed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spaces.wholefile import write_whole

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"


def save(folder: Path, state: "Mapping[str, Tensor]") -> str:
    """Write tensors into `folder` and return the name to load them by, a hash; equal tensors give one file.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    # Imported here, as below: reading a study's table must not cost the start of torch.
    import torch
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory or are laid out channels-last.
    plain = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in state.items()}
    content = save(plain)
    name = hashlib.sha256(content).hexdigest()
    write_whole(folder / f"{name}{SUFFIX}", content)
    return name


def load(file: Path) -> "dict[str, Tensor]":
    """The tensors of a file, on the CPU.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: its content is not the one it is named by.
    """
    from safetensors.torch import load

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.stem:
        raise ValueError(f"{file} changed on disk")
    tensors: dict[str, Tensor] = load(content)
    return tensors
