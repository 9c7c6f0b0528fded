"""The PROXY protocol, versions 1 and 2: whom a proxy speaks for (haproxy.org, proxy-protocol.txt).

A proxy sends one header before the client's first byte, also before a TLS handshake. ``missing`` tells how many bytes
surely belong to the header, so that a reader never takes a byte of the client's; ``parse`` reads the whole header.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""How a header of version 2 begins."""

V1_BEGIN: Final = b"PROXY "
V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
V1_LONGEST: Final = 107
"""Bytes, CRLF included (section 2.1)."""

V2_FIXED: Final = 16
"""Bytes of signature, version, command, family and length."""

V2_LONGEST: Final = 2048
"""Most bytes after the fixed part that are read: addresses and the proxy's extra fields (TLVs)."""

_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_V1_FAMILIES: Final = {b"TCP4": 4, b"TCP6": 6}

_LOCAL, _PROXY = 0x20, 0x21
_V2_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
"""TCP over IPv4 and IPv6: bytes of one address."""
_V2_NO_ADDRESS: Final = frozenset({0x00, 0x31, 0x32})
"""Unspecified and Unix sockets: a sender without an IP address."""


class ProxyHeaderError(Exception):
    """What came is no PROXY header; the connection is to be closed. The text is one line for the log."""


def missing(header: bytes | bytearray) -> int:
    """Bytes that must still come before ``header`` can be complete; 0 when it is. Raises ``ProxyHeaderError``.

    The header is at least that much longer: to read as many never touches what follows it.
    """
    length = len(header)
    if not length:
        return V1_SHORTEST
    if SIGNATURE.startswith(header[: len(SIGNATURE)]):
        if length < V2_FIXED:
            return V2_FIXED - length
        rest = int.from_bytes(header[14:16], "big")
        if rest > V2_LONGEST:
            raise ProxyHeaderError(f"header announces {rest} bytes, at most {V2_LONGEST}")
        return V2_FIXED + rest - length
    if not V1_BEGIN.startswith(header[: len(V1_BEGIN)]):
        raise ProxyHeaderError("not a PROXY header")
    end = header.find(b"\r\n")
    if end >= 0:
        if end + 2 < length:
            raise ProxyHeaderError("line ends too early")
        return 0
    if length >= V1_LONGEST:
        raise ProxyHeaderError(f"line is longer than {V1_LONGEST} bytes")
    if length < V1_SHORTEST:
        return V1_SHORTEST - length
    return 1 if header.endswith(b"\r") or length == V1_LONGEST - 1 else 2


def parse(header: bytes) -> str | None:
    """The client's IP address; None where the proxy speaks for itself (LOCAL, a health check) or knows none (UNKNOWN).

    Raises ``ProxyHeaderError``.
    """
    if header.startswith(SIGNATURE):
        return _parse_v2(header)
    return _parse_v1(header)


def _parse_v1(header: bytes) -> str | None:
    words = header.removesuffix(b"\r\n").split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return None
    if len(words) != 6 or words[1] not in _V1_FAMILIES:
        raise ProxyHeaderError("line must be PROXY TCP4|TCP6 source destination source-port destination-port")
    if not all(_PORT.fullmatch(port) and int(port) <= 65_535 for port in words[4:]):
        raise ProxyHeaderError("port is not valid")
    try:
        source, destination = (ipaddress.ip_address(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise ProxyHeaderError("address is not valid") from None
    if not source.version == destination.version == _V1_FAMILIES[words[1]]:
        raise ProxyHeaderError("address is not of the family named")
    return str(source)


def _parse_v2(header: bytes) -> str | None:
    command, family, rest = header[12], header[13], header[V2_FIXED:]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ProxyHeaderError("version or command is not known")
    if family in _V2_NO_ADDRESS:
        return None
    size = _V2_ADDRESS_BYTES.get(family)
    if size is None:
        raise ProxyHeaderError("address family or transport is not TCP")
    if len(rest) < 2 * size + 4:
        raise ProxyHeaderError("addresses are cut off")
    return str(ipaddress.ip_address(rest[:size]))
