"""An engine without a model for vLLM's server: it prints the log of a real engine on an H200, and answers token by token.

Everything around it is vLLM 0.7.2's own: parser, routes, streams, named adapters, launcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SERVED = Path(__file__).resolve().parents[2] / "served"
FIRST, LAST = "Started engine process", "init engine (profile"
"""The first and last of the lines in a kept log that the engine printed, not the server."""
TOKEN_S = 0.002
NUM_KNOWN = 400
"""Answers use the token ids below this number."""


@asynccontextmanager
async def client(args: Any) -> AsyncIterator[Any]:
    """Replaces vllm.entrypoints.openai.api_server.build_async_engine_client."""
    log = (SERVED / ("adapters.log" if args.enable_lora else "merged.log")).read_text()
    lines = log.splitlines()
    begin, end = (next(at for at, line in enumerate(lines) if words in line) for words in (FIRST, LAST))
    print(*lines[begin : end + 1], sep="\n", flush=True)
    yield _client(args)
    print("the engine ends", flush=True)


def _changes_anything(adapter: Path) -> bool:
    """Whether any byte of the adapter's weights is not 0."""
    stored = (adapter / "adapter_model.safetensors").read_bytes()
    return any(stored[8 + int.from_bytes(stored[:8], "little") :])


def _client(args: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind
    from vllm.transformers_utils.tokenizer import get_tokenizer

    model_config = AsyncEngineArgs.from_cli_args(args).create_model_config()
    tokenizer = get_tokenizer(args.model)

    async def generate(
        _self: Any, prompt: Any, sampling_params: Any, request_id: str, lora_request: Any = None, **_: Any
    ) -> AsyncIterator[Any]:
        prompt_ids, answer_ids = list(prompt["prompt_token_ids"]), list[int]()
        shift = int(lora_request is not None and _changes_anything(Path(lora_request.lora_path)))
        delta = sampling_params.output_kind == RequestOutputKind.DELTA
        for number in range(sampling_params.max_tokens):
            await asyncio.sleep(TOKEN_S)
            answer_ids.append((sum(prompt_ids) + number + shift) % NUM_KNOWN)
            finished = len(answer_ids) == sampling_params.max_tokens
            if not delta and not finished:
                continue
            new = answer_ids[-1:] if delta else answer_ids
            output = CompletionOutput(0, tokenizer.decode(new), new, None, None, "length" if finished else None)
            yield RequestOutput(request_id, None, prompt_ids, None, [output], finished)

    async def return_config(_self: Any) -> Any:
        return model_config

    async def return_tokenizer(_self: Any, _request: Any = None) -> Any:
        return tokenizer

    async def nothing(_self: Any, *_: Any) -> None:
        pass

    methods: dict[str, Any] = {name: nothing for name in EngineClient.__abstractmethods__}
    methods |= {"generate": generate, "get_model_config": return_config, "get_tokenizer": return_tokenizer}
    methods |= {name: property(lambda _self: False) for name in ("is_running", "is_stopped", "errored", "dead_error")}
    return type("Client", (EngineClient,), methods)()
