#!/usr/bin/env python3
"""`healthz PORT|SOCKET`: succeeds when GET /healthz answers 200 there. The health check of every container.

It runs every few seconds in each of them, so it imports little: an HTTP client takes longer to load than to use.
"""

import socket
import sys

PATIENCE_S = 3.0


def main(where: str) -> int:
    """Ask the port of this host, or the Unix socket. Returns the exit code; says on stdout what was wrong."""
    family, address = (socket.AF_INET, ("127.0.0.1", int(where))) if where.isdigit() else (socket.AF_UNIX, where)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(address)
            connection.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except OSError as error:
        sys.stdout.write(f"{where}: {error}\n")
        return 1
    if answer.split(b" ", 2)[1:2] == [b"200"]:
        return 0
    sys.stdout.write(answer.decode(errors="replace"))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
