"""vLLM 0.7.2's own OpenAI-compatible server, which comes to its end as it should: requests that run first, then the engine.

Its launcher takes SIGTERM and SIGINT to cancel the server, ends the engine, and only then waits for the connections, without a limit
(vllm/entrypoints/launcher.py:43-60, openai/api_server.py:884-887): a stream that runs is cut, and its client waits for nothing. Where uvicorn
ends by itself, the launcher goes on in the right order: so both signals have uvicorn end.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from typing import Any

from loadcheck.stacks.plain_vllm.gate import GRACE
from loadcheck.stacks.unsloth_vllm import closed


def main() -> None:
    """Parse the arguments and serve, as vLLM's own module does (vllm/entrypoints/openai/api_server.py:893-903)."""
    import uvloop
    from vllm.entrypoints.openai.api_server import run_server
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser(description="vLLM's server, as loadcheck starts it")).parse_args()
    validate_parsed_serve_args(args)
    end_in_order()
    uvloop.run(run_server(args, timeout_graceful_shutdown=math.ceil(float(os.environ[GRACE]))))


def end_in_order() -> None:
    """Have servers take SIGTERM and SIGINT for themselves once they listen, in place of the launcher's handlers and of uvicorn's own.

    `startup` runs after both were set (uvicorn/server.py: serve, _serve); `should_exit` is what uvicorn's own handler sets.
    """
    import uvicorn

    begin = uvicorn.Server.startup

    async def startup(server: Any, sockets: Any = None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        await begin(server, sockets)

    uvicorn.Server.startup = startup


def close_engine() -> None:
    """In the engine's process: its group of one opens no port (`closed`)."""
    import torch.distributed

    closed.keep_store_in_process(torch.distributed)


if (
    __name__ == "__mp_main__"
):  # as multiprocessing has the engine's process, which it spawns, import the server's main module
    close_engine()
if __name__ == "__main__":
    main()
