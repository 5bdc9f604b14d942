"""vLLM 0.7.2's own OpenAI-compatible server, with an orderly shutdown: running requests first, then the engine.

On SIGTERM or SIGINT, vLLM's launcher cancels the server, stops the engine, and only then waits for open connections, without a limit
(vllm/entrypoints/launcher.py:43-60, openai/api_server.py:884-887): a running stream is cut off, and its client waits in vain. If uvicorn
exits by itself, the launcher shuts down in the right order; so both signals make uvicorn exit.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from typing import Any

from loadcheck.stacks.plain_vllm.gate import GRACE
from loadcheck.stacks.unsloth_vllm import isolation


def main() -> None:
    """Parse the arguments and serve, like vLLM's own module (vllm/entrypoints/openai/api_server.py:893-903)."""
    import uvloop
    from vllm.entrypoints.openai.api_server import run_server
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser(description="vLLM's server, as loadcheck starts it")).parse_args()
    validate_parsed_serve_args(args)
    shut_down_in_order()
    uvloop.run(run_server(args, timeout_graceful_shutdown=math.ceil(float(os.environ[GRACE]))))


def shut_down_in_order() -> None:
    """Make servers handle SIGTERM and SIGINT themselves once they listen, replacing the handlers of the launcher and of uvicorn.

    `startup` runs after both are installed (uvicorn/server.py: serve, _serve); uvicorn's own handler sets `should_exit`, too.
    """
    import uvicorn

    uvicorn_startup = uvicorn.Server.startup

    async def startup(server: Any, sockets: Any = None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)  # noqa: FBT003: of setattr
        await uvicorn_startup(server, sockets)

    uvicorn.Server.startup = startup


def open_no_port() -> None:
    """For the engine's process: its single-process group opens no port (`isolation`)."""
    import torch.distributed

    isolation.keep_store_in_process(torch.distributed)


if __name__ == "__mp_main__":  # multiprocessing imports the main module under this name in the spawned engine process
    open_no_port()
if __name__ == "__main__":
    main()
