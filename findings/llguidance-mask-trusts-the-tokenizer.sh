#!/bin/sh
# llguidance 1.9.1 (1.6.1 alike), seen 2026-11-28.
# What one would expect: a token that the mask allows is one that consume_token() takes; the callable of a TokenizerWrapper
# serves texts that a caller hands in.
# What happens: where the grammar forces bytes, the mask is the first token that the callable gives for them, unchecked. A
# callable that puts a space in front, as sentencepiece's encode does for every text, makes the mask allow only that space,
# and consume_token() refuses it: the matcher is in error for good.
# Below: the same, over single bytes, for a grammar whose first byte can only be "{".
# Seen: allowed: [' '], consumed: False, error: True
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check llguidance==1.9.1
cat > "$folder/try.py" <<'PY'
import json

import llguidance


class Bytes:
    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    eos_token_id, bos_token_id = 256, None

    def __call__(self, data):
        return list(b" " + bytes(data))


schema = {"type": "object", "properties": {"name": {"enum": ["Li"]}}, "required": ["name"], "additionalProperties": False}
grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
mask = matcher.compute_bitmask()
allowed = [token for token in range(257) if mask[token // 8] >> token % 8 & 1]
names = ["end" if token == 256 else chr(token) for token in allowed]
print(f"allowed: {names}, consumed: {matcher.consume_token(allowed[0])}, error: {matcher.is_error()}")
PY
seen=$("$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | grep allowed)
echo "$seen"
[ "$seen" = "allowed: [' '], consumed: False, error: True" ]
