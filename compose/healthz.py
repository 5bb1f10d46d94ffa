#!/usr/bin/env python3
"""`healthz PORT|SOCKET [PATH]`: succeeds when GET /healthz, or PATH, answers 200 there, and prints the answer.

The health check of the containers. It runs every few seconds in each of them, so it imports little: an HTTP client
takes longer to load than to use.
"""

import socket
import sys

PATIENCE_S = 3.0


def main(where: str, path: str = "/healthz") -> int:
    """Ask the port of this host, or the Unix socket. Returns the exit code."""
    family, address = (socket.AF_INET, ("127.0.0.1", int(where))) if where.isdigit() else (socket.AF_UNIX, where)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(address)
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except OSError as error:
        sys.stdout.write(f"{where}: {error}\n")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    sys.stdout.write(body.decode(errors="replace"))
    return 0 if head.split(b" ", 2)[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
