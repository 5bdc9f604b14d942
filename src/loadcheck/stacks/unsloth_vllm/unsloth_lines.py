"""The lines that unsloth prints during a load: its banner, its plan, its retry, and what it patched.

`vllm_utils.py` is that of unsloth_zoo 2025.2.4, `llama.py` is unsloth/models/llama.py at 2025.2.5; lines of later releases name them.
"""

from __future__ import annotations

import re

from loadcheck.logs.formats import (
    DIGITS,
    NUMBER,
    LineFormat,
    Stage,
    exact,
    line,
    memory,
    number,
    part,
    repeated,
    text,
)

_END = r"\.(?=\s|$)"
"""The full stop after a version."""

FORMATS: tuple[LineFormat, ...] = (
    line("banner", "llama.py:1661", Stage.BANNER, " patching",
          r"Unsloth (\d[\w.+]*): Fast (\w+) patching", text("unsloth"), text("family")),
    part("banner transformers", "llama.py:1661", Stage.BANNER, " patching",
          rf"patching\. Transformers(?:: | = )([\w.]+?){_END}", text("transformers")),
    part("banner vllm", "unsloth 2025.3.8", Stage.BANNER, " patching",
          rf"patching\. Transformers: [\w.]+\. vLLM: ([\w.]+?){_END}", text("vllm")),
    part("banner gpu", "llama.py:1662; without `GPU:` from 2025.3.8", Stage.BANNER, "Max memory",
          rf"/\|\s+(?:GPU: )?([^|\\]{{1,200}}?)\. (?:Num GPUs = \d+\. )?Max memory: {NUMBER} GB\.",
          text("gpu_name"), memory("gpu_total_bytes")),
    part("banner torch", "llama.py:1663", Stage.BANNER, "CUDA Toolkit",
          rf"(?:Torch|Pytorch): ([\w.+]+)\. CUDA(?:: | = )(\d{{1,2}}\.\d)\. CUDA Toolkit(?:: | = )([\w.]+?){_END}",
          text("torch"), text("compute_capability"), text("cuda")),
    part("banner triton", "llama.py:1663", Stage.BANNER, "Triton: ", r"Triton: ([\w.+]+)", text("triton")),
    part("banner xformers", "llama.py:1664", Stage.BANNER, "FA [Xformers", r"FA \[Xformers = ([\w.+]+)\. ",
          text("xformers")),
    part("banner bfloat16", "llama.py:1664", Stage.BANNER, "Bfloat16 = ", r"Bfloat16 = (TRUE|FALSE)\.", text("bfloat16")),
    part("banner FA2", "llama.py:1664", Stage.BANNER, "FA2 = ", r" FA2 = (True|False)\]", text("flash_attention_2")),
    line("plan utilization", "vllm_utils.py:942", Stage.PLAN, "actual GPU utilization",
          rf"vLLM loading (\S+) with actual GPU utilization = {NUMBER}%",
          text("model"), number("gpu_memory_utilization_pct")),
    part("plan capability", "vllm_utils.py:943", Stage.PLAN, "with VRAM = ",
          rf"compute capability (\d{{1,2}}\.\d) with VRAM = {NUMBER} GB",
          text("compute_capability"), memory("gpu_total_bytes")),
    part("plan sequences", "vllm_utils.py:944-945", Stage.PLAN, "conservativeness = ",
          rf"conservativeness = {NUMBER}\. Chunked prefill tokens = {DIGITS}\. Num Sequences = {DIGITS}",
          number("conservativeness"), exact("chunked_prefill_tokens"), exact("max_num_seqs")),
    part("plan kv", "vllm_utils.py:946-947", Stage.PLAN, "KV Cache can use up to",
          rf"KV Cache can use up to {NUMBER} GB\. Also swap space = {NUMBER} GB",
          memory("kv_estimate_bytes"), memory("swap_bytes")),
    part("plan kv without swap", "2026.10.9 vllm_utils.py:5230, with vLLM 0.18 and newer", Stage.PLAN, "KV Cache can use up to",
         rf"KV Cache can use up to {NUMBER} GB\. Swap space is left to vLLM", memory("kv_estimate_bytes")),
    *(repeated(f"plan {key}", "vllm_utils.py:157-169, printed whenever vLLM makes its bitsandbytes settings", Stage.PLAN,
                 "Bitsandbytes config using kwargs", rf"config using kwargs = \{{.{{0,400}}?'{key}': '?(\w+)'?[,}}]", text(attribute))
      for key, attribute in (("load_in_8bit", "load_in_8bit"), ("load_in_4bit", "load_in_4bit"),
                             ("bnb_4bit_compute_dtype", "compute_dtype"), ("bnb_4bit_quant_storage", "quant_storage"),
                             ("bnb_4bit_quant_type", "quant_type"), ("bnb_4bit_use_double_quant", "double_quant"))),
    repeated("plan skip_modules", "vllm_utils.py:167", Stage.PLAN, "Bitsandbytes config using kwargs",
               r"config using kwargs = \{.{0,600}?'llm_int8_skip_modules': \[([^\]]{0,65536})\]", text("skip_modules", longest=65536)),
    part("cut length", "vllm_utils.py:847-850", Stage.PLAN, "cannot handle sequence lengths of",
          rf"cannot handle sequence lengths of {DIGITS} due to limited GPU memory", exact("cut_length")),
    # why unsloth patches a group of linears in no layer
    *(repeated(f"unpatched {group}", "llama.py:2541-2597", Stage.ADAPTERS, "Unsloth cannot patch",
                 rf"Unsloth cannot patch ({words})", text(f"unpatched_{group}"))
      for group, words in (("qkv", "Attention"), ("o", "O projection"), ("mlp", "MLP"))),
    repeated("not patched at all", "llama.py:2154-2161", Stage.ADAPTERS, "is supported for fast patching",
               r"(Dropout = 0|bias = `none`) is supported for fast patching", text("unpatched_all")),
    line("patched", "llama.py:2600-2603", Stage.ADAPTERS, "QKV layers",
          rf"Unsloth (\d[\w.+]*) patched {DIGITS} layers with {DIGITS} QKV layers, {DIGITS} O layers and {DIGITS} MLP layers",
          text("unsloth"), exact("patched_layers"), exact("patched_qkv"), exact("patched_o"),
          exact("patched_mlp")),
    repeated("trainer", "unsloth/models/llama.py and its trainer's banner: `Num GPUs = 1 | Num examples = 7,473`; transformers' own has a line for each",
               Stage.TRAINING, "Num examples = ", r"Num examples = [\d,]+(?: \| Num Epochs = |\s*$)"),
    repeated("trainer step", "transformers/trainer_callback.py: ProgressCallback.on_log", Stage.TRAINING, "{'loss': ",
               r"\{'loss': '?-?\d[^{}\n]{0,4000}'epoch': "),
    # The tokens in this line are those of its KV estimate; vLLM gets the same length as before (vllm_utils.py:1007-1009).
    LineFormat("retry", "vllm_utils.py:1010-1013", Stage.PLAN, "Retrying vLLM",
               re.compile(rf"Retrying vLLM to process {DIGITS} sequences and \d+ tokens in tandem", re.ASCII),
               (exact("max_num_seqs"),), retries=True),
)  # fmt: skip

LEADS = ("Unsloth", "O^O")
HEADS = (r"(?:🦥 ?)?Unsloth", r"==\(\(", r"\\", r"\"-")
"""The banner's ASCII art."""
