"""The load as unsloth's notebooks write it, and nothing else: the baseline of `make bench`.

plain.py WEIGHTS_DIRECTORY [KEY=VALUE...]    the keys are arguments of from_pretrained
"""

import ast
import json
import os
import sys
from hashlib import sha256

from unsloth import FastLanguageModel
from vllm import SamplingParams

settings = {key: ast.literal_eval(value) for key, _, value in (word.partition("=") for word in sys.argv[2:])}
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=sys.argv[1],
    use_exact_model_name=True,  # otherwise it fetches its newest list of names from the network, which is not what is measured
    **{
        "max_seq_length": 512,
        "load_in_4bit": True,
        "fast_inference": True,
        "max_lora_rank": 32,
        "gpu_memory_utilization": 0.6,
        **settings,
    },
)
model = FastLanguageModel.get_peft_model(
    model,
    r=32,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    lora_alpha=32,
    use_gradient_checkpointing="unsloth",
    random_state=3407,
)
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
)
output = model.fast_generate([text], sampling_params=SamplingParams(temperature=0, max_tokens=32), lora_request=None)[0]
print("\nfirst token at", output.metrics.first_token_time)


def print_compared_hashes() -> None:
    """Print the hashes that are compared; this is not timed. The prompt has one beginning-of-text token, not two, as in `loadcheck load`."""
    from loadcheck.stacks.engine_common import digest, trainable

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    sampling = SamplingParams(temperature=0, max_tokens=32)
    answer = model.fast_generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False, lora_request=None)[0]
    tokens = json.dumps(list(answer.outputs[0].token_ids)).encode()
    print(f"adapter_sha256={digest(trainable(model))}\ntoken_ids_sha256={sha256(tokens).hexdigest()}", flush=True)


print_compared_hashes()
os._exit(0)  # its exit is not timed either
