"""E-mail addresses and domains in the one form that the database, the API and the relay compare."""

from __future__ import annotations

import re
from typing import Final

import idna

API_ADDRESS: Final = re.compile(
    r"(?!\.)(?!.*\.\.)[A-Za-z0-9_'+\-.]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}"
)
"""What the API's schema takes for an e-mail address (zod's rule)."""

MAX_ADDRESS: Final = 254
"""Longest address, in characters (RFC 5321 section 4.5.3.1.3, less the angle brackets)."""


def fold_domain(domain: str) -> str:
    """``domain`` in lower-case A-labels. Raises ``ValueError`` when it is no domain name."""
    domain = domain.strip().rstrip(".").lower()
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError("not a domain name") from error


def split_address(address: str) -> tuple[str, str]:
    """Local part and folded domain of an address. Raises ``ValueError`` when it has not both."""
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain or len(address) > MAX_ADDRESS:
        raise ValueError("not an address")
    return local, fold_domain(domain)


def api_address(address: str) -> str:
    """``address`` with its domain in A-labels, as the API takes it. Raises ``ValueError`` when the API would not."""
    return join_address(*split_address(address))


def join_address(local: str, domain: str) -> str:
    """The address of a local part and a folded domain. Raises ``ValueError`` when the API would not take it."""
    folded = f"{local}@{domain}"
    if not API_ADDRESS.fullmatch(folded):
        raise ValueError("not an address that the API takes")
    return folded
