"""Bytes into events and back. No socket, no clock, no task: nothing in here ever waits."""
