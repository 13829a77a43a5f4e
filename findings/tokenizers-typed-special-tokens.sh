#!/bin/sh
# tokenizers 0.23.3, seen 2026-11-28.
# What one would expect: encode(text, add_special_tokens=False) treats the text as text, so that a typed "<|user|>" is never
# the control id of a chat model; and encode_special_tokens = True, which is there for that, holds for all added tokens.
# What happens: add_special_tokens only leaves out what the post-processor puts around a text. The names of added tokens in
# the text become their ids all the same. encode_special_tokens = True stops that for tokens marked special, not for others
# (such as "<think>"), and is lost when the tokenizer is saved. What is sure: a tokenizer without the added tokens.
# Below: is the typed name its one id, for a special and for another added token; the same with the switch; the switch after
# saving and loading.
# Seen: plain True True, switched False True, after saving False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tokenizers==0.23.3
cat > "$folder/try.py" <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.add_special_tokens(["<|user|>"])
tokenizer.add_tokens(["<think>"])


def typed(name):
    return tokenizer.encode(name, add_special_tokens=False).ids == [tokenizer.token_to_id(name)]


plain = typed("<|user|>"), typed("<think>")
tokenizer.encode_special_tokens = True
switched = typed("<|user|>"), typed("<think>")
kept = Tokenizer.from_str(tokenizer.to_str()).encode_special_tokens
print("plain", *plain, end=", ")
print("switched", *switched, end=", ")
print("after saving", kept)
PY
seen=$("$folder/venv/bin/python" "$folder/try.py")
echo "$seen"
[ "$seen" = "plain True True, switched False True, after saving False" ]
