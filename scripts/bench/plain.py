"""The load as the notebooks of unsloth write it, and nothing else: what `make bench` compares with.

plain.py WEIGHTS_DIRECTORY [KEY=VALUE...]    the keys are arguments of from_pretrained
"""

import ast
import sys

from unsloth import FastLanguageModel
from vllm import SamplingParams

settings = {key: ast.literal_eval(value) for key, _, value in (word.partition("=") for word in sys.argv[2:])}
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=sys.argv[1],
    use_exact_model_name=True,  # else it asks the network for its newest list of names: time that says nothing here
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
