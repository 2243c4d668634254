"""Token counts over the iterations of one response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass
class Usage:
    """One entry per sampling iteration; the last one is still growing."""

    iterations: list[dict[str, int]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the upstream said of the last iteration: service tier and the like."""

    def begin(self) -> None:
        """A new iteration starts."""
        self.iterations.append(dict.fromkeys(COUNTS, 0))

    def update(self, usage: Mapping[str, Any] | None) -> None:
        """Take over what the upstream reports; later values replace earlier ones."""
        for name, value in (usage or {}).items():
            if name in COUNTS:
                if isinstance(value, int):
                    self.iterations[-1][name] = value
            elif name not in ("iterations", "server_tool_use") and value is not None:
                self.extra[name] = value

    def total(self, name: str) -> int:
        return sum(iteration[name] for iteration in self.iterations)

    def at_start(self) -> dict[str, Any]:
        """For `message_start`: the first iteration as far as it is known."""
        return {"server_tool_use": None, **self.extra, **(self.iterations[0] if self.iterations else self.totals())}

    def totals(self) -> dict[str, int]:
        return {name: self.total(name) for name in COUNTS}

    def at_end(self) -> dict[str, Any]:
        """For `message_delta` and the whole message: sums, and each iteration where there was more than one."""
        usage: dict[str, Any] = {"server_tool_use": None, **self.extra, **self.totals()}
        if len(self.iterations) > 1:
            usage["iterations"] = [{"type": "message", **iteration} for iteration in self.iterations]
        return usage
