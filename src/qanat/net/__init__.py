"""Layers over asyncio transports. Bytes are pushed through them; nothing here awaits per frame."""
