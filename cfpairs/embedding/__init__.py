"""Images to keyed embeddings on disk: read -> encode -> write, in parts that can be resumed."""

from cfpairs.embedding.engine import EmbedReport, ImageEncoder, embed_items, open_items
from cfpairs.embedding.images import UnusableImageError, content_hash, decode_rgb
from cfpairs.embedding.parts import failures_file

__all__ = [
    "EmbedReport",
    "ImageEncoder",
    "UnusableImageError",
    "content_hash",
    "decode_rgb",
    "embed_items",
    "failures_file",
    "open_items",
]
