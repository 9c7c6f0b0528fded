"""The relay's certificate: found in Traefik's acme.json or as PEM files, and followed when it is renewed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography import x509

from shared.log import get_logger
from shared.settings import Settings

WATCH_SECONDS: Final = 5.0
"""Seconds between two looks at the files. Polling sees what watchers miss: symlinks swapped, bind mounts, NFS."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!eNULL:!MD5:!DSS"
"""For TLS 1.2; TLS 1.3 has no weak ones."""

log = get_logger(__name__)


class CertificateError(Exception):
    """The certificate files cannot be used; the text is one line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate chain with its key, as PEM."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    source: Path
    """The file it was read from."""

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain)

    @property
    def names(self) -> tuple[str, ...]:
        """DNS names it covers, lower case; wildcards as ``*.example.com``."""
        try:
            extension = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return ()
        return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))

    @property
    def not_after(self) -> datetime:
        return self.leaf.not_valid_after_utc

    def days_left(self) -> float:
        return (self.not_after - datetime.now(UTC)).total_seconds() / 86_400


def covers(pattern: str, domain: str) -> bool:
    """Whether a certificate's name covers ``domain``; a wildcard stands for exactly one label (RFC 6125)."""
    pattern, domain = pattern.lower().rstrip("."), domain.lower().rstrip(".")
    if pattern.startswith("*."):
        return domain.partition(".")[2] == pattern[2:] and "." in pattern[2:]
    return pattern == domain


def choose_from_acme(document: Any, domain: str, *, source: Path) -> Certificate | None:
    """The certificate for ``domain`` among all resolvers of a parsed acme.json; with no domain, the only one there is.

    None when there is none at all. Raises ``CertificateError`` when ``domain`` is not covered, or is needed to choose.
    """
    found: list[tuple[list[str], Any]] = []
    for resolver in document.values() if isinstance(document, dict) else ():
        for entry in (resolver or {}).get("Certificates") or ():
            names = [entry["domain"]["main"], *(entry["domain"].get("sans") or ())]
            found.append((names, entry))
    if not found:
        return None
    if domain:
        exact = [entry for names, entry in found if domain.lower() in (name.lower() for name in names)]
        matching = exact or [entry for names, entry in found if any(covers(name, domain) for name in names)]
        if not matching:
            raise CertificateError(f"{source} holds no certificate for SMTP_DOMAIN {domain}")
        entry = matching[0]
    elif len(found) == 1:
        entry = found[0][1]
    else:
        raise CertificateError(f"{source} holds {len(found)} certificates: set SMTP_DOMAIN to choose one")
    return Certificate(chain=base64.b64decode(entry["certificate"]), key=base64.b64decode(entry["key"]), source=source)


def find_certificate(settings: Settings) -> Certificate | None:
    """The certificate that the settings lead to: acme.json first, then PEM files, else None.

    Raises ``CertificateError``.
    """
    try:
        if settings.acme_json.is_file() and (content := settings.acme_json.read_bytes()).strip():
            chosen = choose_from_acme(orjson.loads(content), settings.smtp_domain, source=settings.acme_json)
            if chosen:
                return chosen
        key, chain = settings.cert_path / "privkey.pem", settings.cert_path / "fullchain.pem"
        if key.is_file() and chain.is_file():
            return Certificate(chain=chain.read_bytes(), key=key.read_bytes(), source=chain)
        if key.is_file() or chain.is_file():
            raise CertificateError(f"{settings.cert_path} must hold both privkey.pem and fullchain.pem")
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise CertificateError(f"{settings.acme_json} is not an acme.json: {type(error).__name__}") from error
    return None


def make_context(certificate: Certificate) -> ssl.SSLContext:
    """The server's TLS context. Raises ``CertificateError`` when key and chain do not fit or cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        # ssl reads files only; this one is ours alone (0600) and gone at once.
        with tempfile.NamedTemporaryFile(prefix="plunk-smtp-") as pem:
            pem.write(certificate.key + b"\n" + certificate.chain)
            pem.flush()
            context.load_cert_chain(pem.name)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(f"{certificate.source}: key and certificate cannot be used together") from error
    return context


class CertificateStore:
    """The certificate in service. ``context`` is what new connections get; None while there is no certificate."""

    def __init__(self, settings: Settings) -> None:
        """Raises ``CertificateError`` when there are files that cannot be used."""
        self._settings = settings
        self.certificate = find_certificate(settings)
        self.context = make_context(self.certificate) if self.certificate else None

    def listener_context(self) -> ssl.SSLContext:
        """The context of a port with implicit TLS: it lives as long as the port, each handshake gets ``context``."""
        if self.certificate is None:
            raise CertificateError("implicit TLS needs a certificate")
        context = make_context(self.certificate)

        def take_current(tls: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
            if self.context is not None:
                tls.context = self.context

        # OpenSSL asks with every ClientHello, whether it names a server or not.
        context.sni_callback = take_current
        return context

    async def watch(self, every: float = WATCH_SECONDS) -> None:
        """Follow the files until cancelled: a good new certificate goes into service, a broken one does not."""
        refused = ""
        while True:
            await asyncio.sleep(every)
            try:
                found = await asyncio.to_thread(find_certificate, self._settings)
                if found is None or (self.certificate and found == self.certificate):
                    continue
                self.context = await asyncio.to_thread(make_context, found)
                self.certificate = found
                refused = ""
                log.info(f"Certificate renewed: {', '.join(found.names)}", until=found.not_after.isoformat())
            except CertificateError as error:
                if str(error) != refused:
                    refused = str(error)
                    log.error(f"New certificate is not usable, the old one stays in service: {error}")
