"""Text to ids and back for the three families, on sentencepiece alone.

Knows prompt formats and special ids; knows nothing of tensors, engines or pages.
"""

from __future__ import annotations
