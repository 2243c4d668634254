"""The process that evaluates CEL: a question per line of JSON on stdin, an answer per line on stdout.

50 ms of CPU per question and 512 MB of memory; beyond either the kernel ends the process, and its parent starts
another.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

import cel

CPU_SECONDS = 0.05
MEMORY = 512 * 1024 * 1024


def answer(source: str, claims: object) -> object:
    """True, False, None when evaluation fails, else the type's name."""
    context = cel.Context({"claims": claims})
    context.add_function(
        "bool", lambda value: value if isinstance(value, bool) else {"true": True, "false": False}[value]
    )
    # The default action of this signal ends the process: Python code cannot run while the evaluator does.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        result = cel.compile(source).execute(context)
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return result if isinstance(result, bool) else type(result).__name__


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answer(question["source"], question["claims"])), flush=True)


if __name__ == "__main__":
    main()
