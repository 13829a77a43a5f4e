"""Takes the port before anything is loaded, so that a taken one is said at once. Standard library only."""

from __future__ import annotations

import socket
import sys

from chatglm_backend.errors import ConfigError, PortInUse
from chatglm_backend.sentences import Sentence


def take_port(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port``, ready to listen.

    Raises:
        PortInUse: names a free one instead.
        ConfigError: if this machine does not have that address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(name="host", value=host, reason=Sentence("access.no_address")) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        free = _free_port(family, host)
        if free is None:
            raise ConfigError(name="host", value=host, reason=Sentence("access.no_address")) from error
        raise PortInUse(port=port, host=host, free_port=free) from error
    return listener


def _free_port(family: socket.AddressFamily, host: str) -> int | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return None
        return int(probe.getsockname()[1])
