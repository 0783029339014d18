"""What `transformers` computes for small models whose weights follow from a formula, for a test that needs neither.

    python tests/parity/known_answers.py > crates/model/tests/known_answers.json

`tests/parity/README.md` says in which environment. crates/model/tests/known_answers.rs fills its models by the same formula.
"""

import json
import math

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [27, 18, 28, 18, 28, 45, 9, 4, 52, 35, 36, 2]]
DECODER = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
SIZES = dict(layers=2, heads=4, hidden_size=32, context_length=64, vocab_size=60)
LLAMA = dict(SIZES, family="llama", mlp_size=48)
# What Muster has no parameters for: the answers asked for do not depend on it.
LEFT_OUT = ("cls.seq_relationship.",)


def rope(**scaling):
    return dict(rope_parameters=dict(rope_theta=10000.0, **scaling))


CASES = {
    "gpt2": (
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
        dict(SIZES, family="gpt2"),
    ),
    "llama": (
        LlamaForCausalLM(LlamaConfig(**DECODER, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True)),
        dict(LLAMA, kv_heads=2, norm_epsilon=1e-6),
    ),
    "llama, untied, with biases, head of another width": (
        LlamaForCausalLM(LlamaConfig(**DECODER, head_dim=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5)),
        dict(LLAMA, head_size=12, attention_bias="all", mlp_bias=True, tie_embeddings=False),
    ),
    "llama, linear": (
        LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=True, rms_norm_eps=1e-5, **rope(rope_type="linear", factor=4.0))),
        dict(LLAMA, rope_scaling="linear", rope_factor=4.0),
    ),
    "llama, llama3": (
        LlamaForCausalLM(
            LlamaConfig(
                **DECODER,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                num_key_value_heads=1,
                **rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
            )
        ),
        dict(LLAMA, kv_heads=1, rope_scaling="llama3", rope_factor=8.0, rope_original_context=16),
    ),
    "llama, yarn": (
        LlamaForCausalLM(
            LlamaConfig(
                **DECODER,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
            )
        ),
        dict(LLAMA, rope_scaling="yarn", rope_factor=4.0, rope_original_context=16),
    ),
    "qwen2": (
        Qwen2ForCausalLM(Qwen2Config(**DECODER, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6)),
        dict(LLAMA, kv_heads=2, norm_epsilon=1e-6, attention_bias="qkv"),
    ),
    "qwen3": (
        Qwen3ForCausalLM(Qwen3Config(**DECODER, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-6)),
        dict(LLAMA, kv_heads=2, head_size=16, norm_epsilon=1e-6, qk_norm=True),
    ),
    "bert": (
        BertForPreTraining(
            BertConfig(
                vocab_size=60,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=64,
                layer_norm_eps=1e-12,
            )
        ),
        dict(SIZES, family="bert", mlp_size=48, norm_epsilon=1e-12, pooler=True),
    ),
}


def fill(model):
    """Parameter p of those in the order of their names, element i: sin(i · 0.37 + p) / 5, around 1 for norms' gains."""
    named = {name: tensor for name, tensor in model.named_parameters() if not name.startswith(LEFT_OUT)}
    for index, name in enumerate(sorted(named)):
        tensor = named[name]
        gain = 1.0 if tensor.dim() == 1 and name.endswith(".weight") else 0.0
        values = [gain + math.sin(i * 0.37 + index) / 5 for i in range(tensor.numel())]
        tensor.data.copy_(torch.tensor(values, dtype=torch.float64).reshape(tensor.shape))


def main():
    ids, answers = torch.tensor(IDS), []
    for name, (model, config) in CASES.items():
        model.eval()
        fill(model)
        with torch.no_grad():
            answer = model(ids)
            pooled = model.bert(ids).pooler_output if config["family"] == "bert" else None
        logits = answer.prediction_logits if config["family"] == "bert" else answer.logits
        # The first and the last place of each row, a few words each.
        few = lambda row: [round(x, 6) for x in row[:8].tolist()]
        answers.append(
            dict(
                name=name,
                config=config,
                logits=[[few(row[0]), few(row[-1])] for row in logits],
                pooled=[few(row) for row in pooled] if pooled is not None else [],
            )
        )
    print(json.dumps(dict(ids=IDS, cases=answers), indent=1))


main()
