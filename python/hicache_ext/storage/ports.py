"""Ports that nothing listens on."""

import errno
import random
import socket

# Below those that Linux gives to outgoing connections, one of which could take it meanwhile.
_PORTS = range(20_000, 32_000)


def free_port(host: str) -> int:
    """A port of `host` that was free a moment ago; OSError if the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no port of {host} is free")
