#!/bin/sh
# transformers 5.24.0, seen 2026-11-28.
# What one would expect: GlmConfig(), whose documentation calls it "a Glm glm-4-9b-chat style configuration", has the rotary
# base of that model. The authors' config.json has rope_ratio 500, a base of 10000 * 500, for its 131072 positions.
# What happens: the defaults are 131072 positions and rope_theta 10000, the base of the model for 8192. A config.json of
# type "glm" that leaves rope_theta out, or has the default in it, loads without a word, and gives other logits than the
# authors' code: on small random weights by 2 % behind 3 tokens, 9 % behind 9, 25 % behind 35, and nothing looks broken.
# Glm4Config() has the same pair. Not a fault for GLM-4-9B-0414, whose 32768 positions do go with 10000.
# Seen: 131072 10000.0 131072 10000.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0
cat > "$folder/try.py" <<'PY'
from transformers import Glm4Config, GlmConfig

for config in (GlmConfig(), Glm4Config()):
    print(config.max_position_embeddings, config.rope_parameters["rope_theta"], end=" ")
PY
seen=$("$folder/venv/bin/python" "$folder/try.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "131072 10000.0 131072 10000.0 " ] || [ "$seen" = "131072 10000.0 131072 10000.0" ]
