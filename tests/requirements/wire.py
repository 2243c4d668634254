"""Promises of the wire: codecs and the tunnel connection."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "wire:token:round-trip": "a token that we write is read as it was",
    "wire:token:strict": "URL-safe, unpadded, truncated or otherwise broken tokens are refused in cloudflared's words",
    "wire:token:lenient": "unknown keys and surrounding white space do not matter",
    "wire:token:secret": "neither the token's repr nor its errors show the secret",
    "wire:round-trip": "every codec reads what it writes",
    "wire:chunks": "every codec reports the same events however its bytes are cut",
    "wire:garbage": "arbitrary bytes raise nothing but ProtocolError",
    "wire:capnp:evolution": "Cap'n Proto structs may be shorter or longer than we know them",
    "wire:capnp:far": "messages of many segments are read through far pointers",
    "wire:capnp:one": "a message can be cut off the front of a stream of other bytes",
    "wire:capnp:limits": "size, segments, depth and reading of a Cap'n Proto message are limited",
    "wire:capnp:witness": "pycapnp and our codec agree on the same bytes",
    "wire:rpc:golden": "bootstrap and its answer are the bytes of the real cloudflared",
    "wire:rpc:pipelined": "a call pipelined on the bootstrap is answered, and every question finished",
    "wire:rpc:ids": "question ids are reused, and later calls name the imported object",
    "wire:rpc:exceptions": "unknown objects, methods and result targets are answered by an exception",
    "wire:rpc:abort": "abort ends the session quietly",
    "wire:rpc:unimplemented": "unknown messages are echoed as unimplemented",
    "wire:rpc:limits": "questions are limited, and answers to no question end the session",
    "wire:registration:golden": "a refused registration is the bytes that the real cloudflared read",
    "wire:registration:life": "register, report the configuration, unregister: one control stream",
    "wire:registration:ids": "ids of any size but 16 bytes are refused",
    "wire:registration:secret": "the secret of a registration has no repr",
}

GAPS: dict[str, str] = {}
