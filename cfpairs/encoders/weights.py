"""Reading weight files that others made, without running anything that they hold."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpairs.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

__all__ = ["read_state_dict"]

_FORMATS = "a .safetensors file, or a torch checkpoint that holds tensors alone"


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a weight file.

    Parameters
    ----------
    path : Path
        safetensors (by its suffix), or a torch checkpoint: a mapping of names to tensors, on its own or
        under the key ``state_dict``.

    Raises
    ------
    ConfigError
        If there is no such file.
    DataError
        If it is damaged, of another format, or holds anything that would have to be run to be read.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"the weight file {path} cannot be read", got=what, expected=_FORMATS)
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"the weight file {path} is refused: it is not a plain checkpoint of tensors",
            expected=_FORMATS,
            remedy="save model.state_dict() with safetensors where you trust the file",
        ) from error
    except Exception as error:  # damaged archives raise almost anything
        raise DataError(
            f"the weight file {path} is damaged or of another format",
            got=f"{type(error).__name__}: {str(error)[:120]}",
            expected=_FORMATS,
        ) from error
    return _named_tensors(content, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path, device="cpu")
    import torch

    with warnings.catch_warnings():  # about the pickle's protocol, or an archive that is refused anyway
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _named_tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    inner = content.get("state_dict", content) if isinstance(content, dict) else content
    if (
        not isinstance(inner, dict)
        or not inner
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in inner.items())
    ):
        raise DataError(
            f"the weight file {path} holds no mapping of names to tensors",
            got=type(inner).__name__,
            expected=_FORMATS,
        )
    return inner
