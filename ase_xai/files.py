"""Files that are whole or not there, and safetensors files that are sealed by a hash.

The metadata of a sealed file hold one entry, `ase_xai`, a JSON text. Its field `sha256` is the hash of the whole file with
the 64 digits of that very field set to zero: every byte is covered, the header as well as the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

ENTRY = "ase_xai"
NO_HASH = "0" * 64
MAX_HEADER_BYTES = 8_000_000


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sealed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A safetensors file with `about` (JSON values) in its header, sealed; equal content gives equal bytes."""
    text = json.dumps({"sha256": NO_HASH, **about})
    content = tensors_to_bytes(dict(tensors), metadata={ENTRY: text})
    return content.replace(NO_HASH.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def unsealed(content: bytes) -> dict[str, Any]:
    """What `sealed` was told about the tensors, and `sha256`, verified before anything is allocated for tensors.

    Raises:
        ValueError: not such a file, cut off, damaged or altered.
    """
    if len(content) < 8:
        raise ValueError(f"it has {len(content)} bytes, too few for a safetensors file. Copy or download it again")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError("it is not a safetensors file, or it was cut off")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    text = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    found = json.loads(text) if isinstance(text, str) else None
    about: dict[str, Any] = found if isinstance(found, dict) else {}
    digest = about.get("sha256")
    if not isinstance(digest, str) or len(digest) != 64:
        raise ValueError("its header holds no seal of ase_xai. It may be a file of another program")
    if hashlib.sha256(content.replace(digest.encode(), NO_HASH.encode(), 1)).hexdigest() != digest:
        raise ValueError("its content does not match its SHA-256: it was damaged or altered. Copy or download it again")
    return about
