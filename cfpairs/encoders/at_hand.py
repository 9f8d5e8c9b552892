"""Published models whose weights are on this disk already, and so work without a network."""

from __future__ import annotations

from pathlib import Path

__all__ = ["open_clip_at_hand", "timm_at_hand"]


def open_clip_at_hand() -> list[str]:
    """``open_clip:MODEL/TAG`` for each tag whose weights are in the hub's cache."""
    cached = _cached_repositories()
    if not cached:
        return []
    try:
        import open_clip
    except (ImportError, RuntimeError, OSError):
        return []
    found = []
    for model, tag in open_clip.list_pretrained():
        repo, _, _ = str(open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "")).rpartition("/")
        if repo in cached:
            found.append(f"open_clip:{model}/{tag}")
    return found


def timm_at_hand() -> list[str]:
    """``timm:MODEL.TAG`` for each repository of timm's in the hub's cache."""
    return [
        f"timm:{repo.removeprefix('timm/')}" for repo in sorted(_cached_repositories()) if _is_timms(repo)
    ]


def _is_timms(repo: str) -> bool:
    if not repo.startswith("timm/"):
        return False
    try:
        import timm
    except (ImportError, RuntimeError, OSError):
        return False
    return bool(timm.is_model(repo.removeprefix("timm/")))


def _cached_repositories() -> set[str]:
    """Names of model repositories of which the hub's cache holds a weight file."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return set()
    suffixes = (".safetensors", ".bin", ".pt", ".pth")
    return {
        folder.name.removeprefix("models--").replace("--", "/")
        for folder in Path(HF_HUB_CACHE).glob("models--*")
        if any(file.suffix in suffixes for file in folder.glob("snapshots/*/*"))
    }
