"""Requests that no HTTP library would send, byte by byte. Knows no provider."""

import socket
from urllib.parse import urlsplit


def exchange(gateway: str, sent: bytes, *, timeout_s: float = 15.0) -> bytes:
    """Send these bytes and return all that comes back, until the answer has the length it states
    or the other side closes.
    """
    where = urlsplit(gateway)
    assert where.hostname
    assert where.port
    received = bytearray()
    with socket.create_connection((where.hostname, where.port), timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(sent)
        try:
            while data := connection.recv(65_536):
                received += data
                if _is_whole(received):
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return bytes(received)


def post(path: str, key: str, body: bytes, *headers: bytes) -> bytes:
    """A request that asks for the connection to be closed after it."""
    head = [
        f"POST {path} HTTP/1.1".encode(),
        b"host: gateway",
        b"connection: close",
        b"content-type: application/json",
        b"authorization: Bearer " + key.encode(),
        b"content-length: " + str(len(body)).encode(),
        *headers,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split(b" ", 2)[1])


def header_of(answer: bytes, name: str) -> str:
    """A header of an answer; empty where it has none."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    for line in head.split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.strip().lower() == name:
            return value.strip()
    return ""


def _is_whole(received: bytearray) -> bool:
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    if header_of(head, "transfer-encoding") == "chunked":
        return body.endswith(b"0\r\n\r\n")
    length = header_of(head, "content-length")
    return length.isdigit() and len(body) >= int(length)
