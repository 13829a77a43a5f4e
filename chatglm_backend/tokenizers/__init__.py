"""Text to ids and back for all families: sentencepiece, and from GLM-4 on the ``tokenizers`` package.

Knows prompt formats and special ids; knows nothing of tensors, engines or pages.
"""

from __future__ import annotations
