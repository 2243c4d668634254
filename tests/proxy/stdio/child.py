"""A small MCP server on standard input and output, with manners good and bad, for the tests of stdio routes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def call_tool(request: dict[str, Any]) -> None:
    params = request["params"]
    name, arguments = params["name"], params.get("arguments", {})
    if name == "die":
        os._exit(3)
    if name == "hang":
        send({"method": "notifications/message", "params": {"data": "hanging"}})
        return
    if name == "progress":
        token = params["_meta"]["progressToken"]
        send({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    if name == "deaf":
        send({"method": "notifications/message", "params": {"data": f"pid {os.getpid()}."}})
        time.sleep(600)
    if name == "log":
        send({"method": "notifications/message", "params": {"level": "info", "data": "hello"}})
    if name == "wait":
        while not Path(arguments["file"]).exists():
            time.sleep(0.005)
    if name == "ask":
        send({"id": "q1", "method": "sampling/createMessage", "params": {}})
        return
    if name == "grandchild":
        arguments = {"pid": subprocess.Popen(["/bin/sleep", "600"]).pid}
    text = {"pid": os.getpid(), "env": dict(os.environ), "argv": sys.argv[1:], **arguments}
    send({"id": request["id"], "result": {"content": [{"type": "text", "text": json.dumps(text)}]}})


def main() -> None:
    print("child starts", file=sys.stderr)
    seen: list[dict[str, Any]] = []
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        seen.append(message)
        if method == "initialize" and "refuse" in message.get("params", {}):
            send({"id": message["id"], "error": {"code": -32602, "message": "Invalid params"}})
        elif method == "initialize":
            send({"id": message["id"], "result": {"protocolVersion": "2025-11-25", "pid": os.getpid()}})
        elif method == "tools/call":
            call_tool(message)
        elif method == "seen":
            send({"id": message["id"], "result": {"seen": seen}})
        elif "id" in message and method is not None:
            send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        elif message.get("id") == "q1":
            send({"method": "notifications/message", "params": {"data": message}})


if "--stubborn" in sys.argv:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        main()
    finally:
        time.sleep(600)
main()
