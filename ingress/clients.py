"""Who a client is: its address in one form, the network it counts for, and lists of networks from settings."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_PREFIX: Final = 64
"""One IPv6 client may use any address of a network this large, so that a limit by address must count the network."""


@functools.lru_cache(maxsize=1024)
def client_address(address: str) -> str:
    """``address`` in its one form: an IPv4 client of an IPv6 socket is IPv4, a link-local scope is left out.

    "" where it is no IP address (a Unix socket).
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def counted_as(address: str) -> str:
    """What limits count ``address`` as: an IPv4 address itself, an IPv6 address as its /64."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address, IPV6_PREFIX), strict=False))


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether one of ``networks`` holds ``address``."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
