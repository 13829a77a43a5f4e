#!/bin/sh
# llguidance 1.9.1 (1.6.1 alike), seen 2026-11-28.
# What one would expect: when a matcher fails inside (here its tokenizer's callable raises), the next mask raises, or
# allows nothing.
# What happens: the mask allows exactly the end-of-text token, and consume_token() of it returns True, though
# is_error() is True and is_accepting() False. A loop that masks, chooses and consumes ends the answer in the middle of the
# JSON, as if it were whole. is_error() must be asked after every mask.
# Below: a grammar for {"name":"Li"} over single bytes, and what the first mask allows after the callable raised.
# Seen: allowed: ['end'], consumed: True, error: True, accepting: False
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
        if data == b"test":  # asked once, to see whether bytes are taken
            return list(data)
        raise ValueError("no such character here")


schema = {"type": "object", "properties": {"name": {"enum": ["Li"]}}, "required": ["name"], "additionalProperties": False}
grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
mask = matcher.compute_bitmask()
allowed = [token for token in range(257) if mask[token // 8] >> token % 8 & 1]
names = ["end" if token == 256 else chr(token) for token in allowed]
print(
    f"allowed: {names}, consumed: {matcher.consume_token(allowed[0])}, "
    f"error: {matcher.is_error()}, accepting: {matcher.is_accepting()}"
)
PY
seen=$("$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | grep allowed)
echo "$seen"
[ "$seen" = "allowed: ['end'], consumed: True, error: True, accepting: False" ]
