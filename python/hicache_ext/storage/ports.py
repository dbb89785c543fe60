"""Ports that nothing listens on."""

import socket


def free_port(host: str) -> int:
    """A port of `host` that was free a moment ago; OSError if the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
