"""The error family.

An error carries fields, not strings; the sentence built from them is what an operator will search for. A bug is
never a `QanatError`: it ends its task, with a traceback in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(eq=False)
class QanatError(Exception):
    """Something that can go wrong in normal operation.

    `code` is stable across releases, `status` is the HTTP answer, `retryable` says whether the same attempt may
    succeed later without anybody changing anything.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.args = (str(self),)  # tracebacks of others look here; a dataclass would leave it empty

    def __str__(self) -> str:
        return self.code.replace("_", " ")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would call the class with args, which are not our fields.
        return _rebuild, (type(self), {field.name: getattr(self, field.name) for field in fields(self) if field.init})


def _rebuild(kind: type[QanatError], values: dict[str, Any]) -> QanatError:
    return kind(**values)


@dataclass(eq=False)
class ProtocolError(QanatError):
    """A peer sent bytes that its protocol does not allow. The only thing that untrusted bytes may raise."""

    code = "protocol_error"
    status = 502
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class UnexpectedEnd(ProtocolError):
    """A peer ended in the middle of something; `reason` says in the middle of what."""

    code = "unexpected_end"

    def __str__(self) -> str:
        return f"unexpected end of {self.reason}"


@dataclass(eq=False)
class ConfigInvalid(QanatError):
    """A file, flag or variable holds something we cannot work with. One problem per entry, each naming its key."""

    code = "config_invalid"
    problems: list[str]

    def __str__(self) -> str:
        return "\n".join(self.problems)
