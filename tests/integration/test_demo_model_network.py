"""The training network computes what the package's ChatGLM-6B computes."""

from __future__ import annotations

import pytest
import torch

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.models.base import Feed, build_model
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.weights import DenseWeights
from tests.small_models import read_prompt
from tools.demo_model.network import Network, Size, fake_int4
from tools.demo_model.warm import dense_state

pytestmark = pytest.mark.model

_CONFIG = {
    "model_type": "chatglm",
    "bos_token_id": 7,
    "eos_token_id": 8,
    "mask_token_id": 4,
    "gmask_token_id": 5,
    "vocab_size": 64,
    "hidden_size": 64,
    "inner_hidden_size": 256,
    "num_layers": 3,
    "num_attention_heads": 2,
    "layernorm_epsilon": 1e-5,
    "max_sequence_length": 64,
    "position_encoding_2d": True,
}


@torch.no_grad()
def test_training_logits_equal_inference_logits() -> None:
    """Padded and batched, the network gives the logits of prefill and of every decode step."""
    torch.manual_seed(3)
    network = Network(Size(vocabulary=64, hidden=64, layers=3, heads=2))
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    tensors = dict(network.state_dict())
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"]
    model = build_model(ModelConfig.from_json(_CONFIG, family="chatglm"), DenseWeights(tensors), kv_dtype=torch.float32)
    prompts = [[20, 21, 22, 23, 24, 5, 7], [30, 31, 5, 7]]
    answers = [[40, 41, 42, 43], [50, 51]]
    ids = torch.zeros(2, 12, dtype=torch.long)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    starts = torch.tensor([6, 3])
    lengths = torch.tensor([11, 6])
    wanted = torch.ones(2, 12, dtype=torch.bool)
    batched = network(ids, starts, lengths, wanted).view(2, 12, -1)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        cache = model.new_cache(32)
        expected = [read_prompt(model, prompt, cache)[0]]
        expected += [model.decode([Feed((token,), cache)])[0].clone() for token in answer]
        found = batched[row, len(prompt) - 1 : len(prompt) + len(answer)]
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_warm_start_quantises_to_the_bundled_blocks() -> None:
    """The parameters read back from the bundled INT4 blocks lie on its grid: rounding them again changes nothing."""
    state, _ = dense_state(open_low_bit(bundled_folder()))
    layer = state["transformer.layers.0.mlp.dense_4h_to_h.weight"]
    assert layer.abs().max() > 0
    torch.testing.assert_close(fake_int4(layer), layer, rtol=1e-3, atol=1e-6)
