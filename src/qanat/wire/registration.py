"""The messages of the control channel: registering a connection, ending it, and configuration.

Each is a frozen dataclass that encodes itself as a Cap'n Proto struct and is decoded from one. Interface and method
numbers are those of cloudflared's `tunnelrpc` schema. Secrets have no repr.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

from qanat.wire.capnp import CapnpInvalid, Struct, StructReader

REGISTRATION_SERVER = 0xF71695EC7FE85497
"""Served by the edge."""
REGISTER_CONNECTION, UNREGISTER_CONNECTION, UPDATE_LOCAL_CONFIGURATION = 0, 1, 2
CONFIGURATION_MANAGER = 0xB48EDFBDAA25DB04
"""Served by the connector, on RPC streams that the edge opens over QUIC."""
UPDATE_CONFIGURATION = 0
SESSION_MANAGER = 0x839445A59FB01686
"""UDP sessions, which we refuse."""

DUPLICATE_CONNECTION = "EDUPCONN"
"""The cause by which an edge says: you are connected to me already, try another address."""
_MAX_RETRY_AFTER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RegisterConnection:
    """Parameters of `registerConnection`."""

    account_tag: str
    secret: bytes = field(repr=False)
    tunnel_uuid: UUID
    conn_index: int
    connector_id: UUID
    features: tuple[str, ...] = ()
    version: str = ""
    arch: str = ""
    local_address: bytes = b""
    """16 bytes, IPv4 mapped into IPv6; empty when unknown."""
    replace_existing: bool = False
    previous_attempts: int = 0

    def encode(self) -> Struct:
        client = Struct(b"", (self.connector_id.bytes, self.features, self.version, self.arch))
        flags = struct.pack("<BBB", self.replace_existing, 0, min(self.previous_attempts, 255))
        options = Struct(flags.ljust(8, b"\0"), (client, self.local_address))
        auth = Struct(b"", (self.account_tag, self.secret))
        return Struct(struct.pack("<B7x", self.conn_index), (auth, self.tunnel_uuid.bytes, options))

    @classmethod
    def decode(cls, params: StructReader) -> RegisterConnection:
        """Raises `CapnpInvalid`."""
        auth, options = params.struct(0), params.struct(2)
        client = options.struct(0)
        return cls(
            account_tag=auth.text(0),
            secret=auth.data(1),
            tunnel_uuid=_uuid(params.data(1)),
            conn_index=params.unsigned(0, 1),
            connector_id=_uuid(client.data(0)),
            features=client.texts(1),
            version=client.text(2),
            arch=client.text(3),
            local_address=options.data(1),
            replace_existing=options.bit(0),
            previous_attempts=options.unsigned(2, 1),
        )


@dataclass(frozen=True, slots=True)
class ConnectionDetails:
    """`registerConnection` succeeded."""

    connection_id: UUID
    location: str
    remotely_managed: bool

    def encode(self) -> Struct:
        details = Struct(struct.pack("<B7x", self.remotely_managed), (self.connection_id.bytes, self.location))
        return Struct(b"", (Struct(struct.pack("<H6x", 1), (details,)),))


@dataclass(frozen=True, slots=True)
class ConnectionError:
    """`registerConnection` was refused."""

    cause: str
    retry_after: float = 0.0
    """Seconds."""
    should_retry: bool = False

    def encode(self) -> Struct:
        nanoseconds = min(int(self.retry_after * 1e9), _MAX_RETRY_AFTER)
        failure = Struct(struct.pack("<qB7x", nanoseconds, self.should_retry), (self.cause,))
        return Struct(b"", (Struct(struct.pack("<H6x", 0), (failure,)),))


def decode_registration_result(results: StructReader) -> ConnectionDetails | ConnectionError:
    """What `registerConnection` returned. Raises `CapnpInvalid`."""
    response = results.struct(0)
    body = response.struct(0)
    match response.unsigned(0, 2):
        case 0:
            return ConnectionError(body.text(0), body.signed(0, 8) / 1e9, body.bit(64))
        case 1:
            return ConnectionDetails(_uuid(body.data(0)), body.text(1), body.bit(0))
        case other:
            raise CapnpInvalid(f"unknown kind of registration result ({other})")


def encode_local_configuration(config: bytes) -> Struct:
    """Parameters of `updateLocalConfiguration`: JSON, informational."""
    return Struct(b"", (config,))


def decode_local_configuration(params: StructReader) -> bytes:
    """Raises `CapnpInvalid`."""
    return params.data(0)


@dataclass(frozen=True, slots=True)
class UpdateConfiguration:
    """Parameters of `updateConfiguration`; `config` is JSON."""

    version: int
    config: bytes

    def encode(self) -> Struct:
        return Struct(struct.pack("<i4x", self.version), (self.config,))

    @classmethod
    def decode(cls, params: StructReader) -> UpdateConfiguration:
        """Raises `CapnpInvalid`."""
        return cls(params.signed(0, 4), params.data(0))


@dataclass(frozen=True, slots=True)
class ConfigurationResult:
    """What `updateConfiguration` returns: the version now in force, and why not the new one."""

    latest_applied_version: int
    error: str = ""

    def encode(self) -> Struct:
        return Struct(b"", (Struct(struct.pack("<i4x", self.latest_applied_version), (self.error,)),))

    @classmethod
    def decode(cls, results: StructReader) -> ConfigurationResult:
        """Raises `CapnpInvalid`."""
        response = results.struct(0)
        return cls(response.signed(0, 4), response.text(0))


def _uuid(raw: bytes) -> UUID:
    if len(raw) != 16:
        raise CapnpInvalid("an id is not 16 bytes long")
    return UUID(bytes=raw)
