"""The relay's certificate: found in Traefik's acme.json or as PEM files, and followed when it is renewed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.log import get_logger
from shared.settings import Settings
from shared.supervisor import python_module

if TYPE_CHECKING:
    from cryptography import x509

WATCH_SECONDS: Final = 5.0
"""Seconds between two looks at the files. Polling sees what watchers miss: symlinks swapped, bind mounts, NFS."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP"
"""For TLS 1.2: forward secrecy and AEAD only; TLS 1.3 has no weak ones."""

TICKET_KEY_SECONDS: Final = 12 * 3600.0
"""Seconds that the keys of session tickets are used. They lie in one process's memory alone."""

DESCRIBE_SECONDS: Final = 30.0
"""Seconds that reading a certificate's names for the log may take."""

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
    claimed: tuple[str, ...] = ()
    """Names for which acme.json holds it, lower case."""

    @property
    def leaf(self) -> x509.Certificate:
        from cryptography import x509  # 8 MB that a relay without a certificate does without

        return x509.load_pem_x509_certificate(self.chain)

    @property
    def names(self) -> tuple[str, ...]:
        """DNS names it covers, lower case; wildcards as ``*.example.com``."""
        from cryptography import x509

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


def read_acme(document: Any, *, source: Path) -> list[Certificate]:
    """Every certificate of all resolvers of a parsed acme.json, in order."""
    return [
        Certificate(
            chain=base64.b64decode(entry["certificate"]),
            key=base64.b64decode(entry["key"]),
            source=source,
            claimed=tuple(name.lower() for name in (entry["domain"]["main"], *(entry["domain"].get("sans") or ()))),
        )
        for resolver in (document.values() if isinstance(document, dict) else ())
        for entry in (resolver or {}).get("Certificates") or ()
    ]


def choose(certificates: Sequence[Certificate], domain: str) -> Certificate | None:
    """The certificate for ``domain``: one that names it before one whose wildcard covers it, else None."""
    domain = domain.lower().rstrip(".")
    exact = (c for c in certificates if domain in c.claimed)
    return next(exact, None) or next((c for c in certificates if any(covers(n, domain) for n in c.claimed)), None)


def choose_from_acme(document: Any, domain: str, *, source: Path) -> Certificate | None:
    """The certificate for ``domain`` among all resolvers of a parsed acme.json; with no domain, the only one there is.

    None when there is none at all. Raises ``CertificateError`` when ``domain`` is not covered, or is needed to choose.
    """
    found = read_acme(document, source=source)
    if not found:
        return None
    if domain:
        chosen = choose(found, domain)
        if chosen is None:
            raise CertificateError(f"{source} holds no certificate for SMTP_DOMAIN {domain}")
        return chosen
    if len(found) > 1:
        raise CertificateError(f"{source} holds {len(found)} certificates: set SMTP_DOMAIN to choose one")
    return found[0]


def find_certificates(settings: Settings) -> tuple[Certificate, ...]:
    """The certificates that the settings lead to, the relay's own first: acme.json's, else the PEM files', else none.

    The others of acme.json are for clients that ask for their names. Raises ``CertificateError``.
    """
    try:
        if settings.acme_json.is_file() and (content := settings.acme_json.read_bytes()).strip():
            document = orjson.loads(content)
            chosen = choose_from_acme(document, settings.smtp_domain, source=settings.acme_json)
            if chosen:
                others = (c for c in read_acme(document, source=settings.acme_json) if c != chosen)
                return (chosen, *others)
        key, chain = settings.cert_path / "privkey.pem", settings.cert_path / "fullchain.pem"
        if key.is_file() and chain.is_file():
            return (Certificate(chain=chain.read_bytes(), key=key.read_bytes(), source=chain),)
        if key.is_file() or chain.is_file():
            raise CertificateError(f"{settings.cert_path} must hold both privkey.pem and fullchain.pem")
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise CertificateError(f"{settings.acme_json} is not an acme.json: {type(error).__name__}") from error
    return ()


def find_certificate(settings: Settings) -> Certificate | None:
    """The relay's own certificate, None where there is none. Raises ``CertificateError``."""
    return next(iter(find_certificates(settings)), None)


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
            # A key under a passphrase is refused; without this, OpenSSL would ask for it on the terminal.
            context.load_cert_chain(pem.name, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(f"{certificate.source}: key and certificate cannot be used together") from error
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the log tells of certificates in service."""

    names: tuple[str, ...] = ()
    """DNS names of all of them."""
    until: str = ""
    """When the first of them expires, ISO 8601."""


def describe(chains: Sequence[bytes]) -> Description:
    """Raises ``ValueError`` for what is no chain."""
    found = [Certificate(chain=chain, key=b"", source=Path()) for chain in chains]
    return Description(
        names=tuple(name for certificate in found for name in certificate.names),
        until=found[0].not_after.isoformat(),
    )


def described_elsewhere(chains: Sequence[bytes]) -> Description:
    """``describe`` in a process of its own; empty where that fails.

    Once loaded, the library that reads certificates would hold its 8 MB for good, for one line at each renewal.
    """
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            python_module("ingress.certificates"),
            input=orjson.dumps([chain.decode("ascii") for chain in chains]),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DESCRIBE_SECONDS,
            check=True,
        )
        return Description(**orjson.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        log.debug("A certificate's names could not be read", error=type(error).__name__)
        return Description()


@dataclass(frozen=True, slots=True, kw_only=True)
class InService:
    """Certificates in service with their contexts, the relay's own first."""

    certificates: tuple[Certificate, ...]
    contexts: tuple[ssl.SSLContext, ...]
    made_at: float
    """By ``time.monotonic``."""


class CertificateStore:
    """The certificates in service. ``context`` is what new connections get; None while there is no certificate."""

    def __init__(self, settings: Settings) -> None:
        """Raises ``CertificateError`` when there are files that cannot be used."""
        self._settings = settings
        self._found = find_certificates(settings)
        self._service = self._prepare(self._found)

    @property
    def certificate(self) -> Certificate | None:
        """The relay's own certificate."""
        return self._service.certificates[0] if self._service.certificates else None

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context for a new connection: with the relay's own certificate, or another that its client asks for."""
        return self._service.contexts[0] if self._service.contexts else None

    def context_for(self, name: str) -> ssl.SSLContext | None:
        """The context whose certificate covers ``name``; None when none does."""
        service = self._service
        chosen = choose(service.certificates, name)
        return service.contexts[service.certificates.index(chosen)] if chosen else None

    def renew_keys(self) -> None:
        """New contexts of the same certificates: the keys of their session tickets are new with them."""
        self._service = self._prepare(self._service.certificates)

    def _prepare(self, found: Sequence[Certificate]) -> InService:
        """Raises ``CertificateError`` when the relay's own, the first of ``found``, cannot be used."""
        usable: list[Certificate] = []
        contexts: list[ssl.SSLContext] = []
        for number, certificate in enumerate(found):
            try:
                context = make_context(certificate)
            except CertificateError as error:
                if number == 0:
                    raise
                log.warning(f"A certificate of another name cannot be used: {error}", names=certificate.claimed)
                continue
            context.sni_callback = self._answer_server_name
            usable.append(certificate)
            contexts.append(context)
        return InService(certificates=tuple(usable), contexts=tuple(contexts), made_at=time.monotonic())

    def _answer_server_name(self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name and len(self._service.contexts) > 1 and (wanted := self.context_for(name)) is not None:
            tls.context = wanted

    async def watch(self, every: float = WATCH_SECONDS) -> None:
        """Follow the files until cancelled: a good new certificate goes into service, a broken one does not."""
        refused = ""
        while True:
            await asyncio.sleep(every)
            try:
                found = await asyncio.to_thread(find_certificates, self._settings)
                if not found or found == self._found:
                    if self.context is not None and time.monotonic() - self._service.made_at > TICKET_KEY_SECONDS:
                        await asyncio.to_thread(self.renew_keys)
                    continue
                self._service = await asyncio.to_thread(self._prepare, found)
                self._found = found
                refused = ""
                certificates = self._service.certificates
                about = await asyncio.to_thread(
                    described_elsewhere, [certificate.chain for certificate in certificates]
                )
                log.info(f"Certificate renewed: {', '.join(about.names)}", until=about.until)
            except CertificateError as error:
                if str(error) != refused:
                    refused = str(error)
                    log.error(f"New certificate is not usable, the old one stays in service: {error}")


if __name__ == "__main__":
    described = describe([chain.encode("ascii") for chain in orjson.loads(sys.stdin.buffer.read())])
    sys.stdout.buffer.write(orjson.dumps(described))
