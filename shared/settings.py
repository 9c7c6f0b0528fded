"""All settings of the relay: read once from the environment, at the edge, and handed down as one frozen value.

Every setting has a working default. A secret may be given as ``NAME_FILE`` (a path), as Docker and Kubernetes hand
secrets over. A wrong value ends the start with one line a mistake, each naming the variable and what it should be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from shared.variables import (
    LAST_PORT,
    choice,
    networks,
    number,
    path,
    port,
    ports,
    seconds,
    switch,
    text,
    variables_of,
    whole,
)

MIB: Final = 1024 * 1024

LogFormat = Literal["auto", "pretty", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
OnAmbiguous = Literal["retry", "hold"]

_HOST_AND_PORT: Final = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]*)(?::\d{1,5})?")
_QUEUE_NAME: Final = re.compile(r"[\w.-]+")


class SettingsError(Exception):
    """The environment is not usable; ``mistakes`` is one line a mistake, each beginning with the variable's name."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def _scheme(url: str) -> str:
    """Scheme of a URL, "" when its host or port cannot be read: what a library would say of it quotes the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ""
    return parts.scheme


def _http_url(value: str) -> str:
    if _scheme(value) not in ("http", "https") or not urlsplit(value).hostname:
        raise ValueError("must be a URL that starts with http:// or https://")
    return value.rstrip("/")


def _webhook_url(value: str) -> str:
    if value:
        _http_url(value)
    # A person's own URL stays as it is, to its last slash; an empty file is as good as none.
    return value


def _database_url(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must be a URL that starts with postgresql://")
    if not all(_HOST_AND_PORT.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")):
        raise ValueError("must be a URL that starts with postgresql:// and names hosts with ports that are numbers")
    return value


def _redis_url(value: str) -> str:
    if _scheme(value) not in ("redis", "rediss", "unix"):
        raise ValueError("must be a URL that starts with redis://, rediss:// or unix://")
    return value


def _queue_name(value: str) -> str:
    if not _QUEUE_NAME.fullmatch(value):
        raise ValueError("must be of letters, digits, '.', '_' and '-'")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One field a variable; the field's name in capitals is the variable's name."""

    # From the original relay
    api_uri: str = text("http://localhost:3000", "Plunk API base URL", check=_http_url)
    smtp_domain: str = text("", "The relay's own name: picks the certificate in acme.json and greets clients")
    port_secure: int = port(465, "SMTPS port (implicit TLS); not opened without a certificate")
    port_submission: int = port(587, "Submission port (STARTTLS; plaintext when there is no certificate)")
    max_recipients: int = whole(5, "Most recipients of one message", ge=1, le=100)
    cert_path: Path = path(Path("/certs"), "Directory of privkey.pem and fullchain.pem")
    acme_json_path: Path | None = path(None, "Traefik's acme.json (default: acme.json in CERT_PATH)")
    database_url: str = text(
        "postgresql://postgres:postgres@localhost:5432/postgres",
        "Plunk's PostgreSQL, read only",
        check=_database_url,
        is_secret=True,
    )
    redis_url: str = text(
        "redis://localhost:6379", "The queue's Redis (redis:// or rediss://)", check=_redis_url, is_secret=True
    )

    # Listening
    host: str = text("0.0.0.0", "Address to listen on; :: listens on IPv6 too")  # noqa: S104
    ports_extra: tuple[int, ...] = ports(
        (), "More ports, comma-separated (2525: as PORT_SUBMISSION; ending in 465: implicit TLS)"
    )
    health_port: int = whole(0, "Port of /livez, /readyz and /metrics; 0 = off", ge=0, le=LAST_PORT)
    ingress_processes: int = whole(1, "Ingress processes that share the ports (SO_REUSEPORT)", ge=1, le=64)
    max_connections: int = whole(2000, "Most connections of one ingress process", ge=1)
    max_connections_per_ip: int = whole(
        200, "Most connections of one address (IPv6: of one /64) to one ingress process", ge=1
    )
    proxy_protocol: bool = switch(False, "Every connection begins with a PROXY header, version 1 or 2")
    proxy_trusted: tuple[IPv4Network | IPv6Network, ...] = networks(
        (), "The proxies' networks, comma-separated; others are refused under PROXY_PROTOCOL"
    )

    # The session
    max_message_size_mb: int = whole(10, "Largest message in MiB, announced by SIZE", ge=1, le=50)
    max_attachment_size_mb: int = whole(10, "The API's limit of all attachments together, in MiB", ge=1, le=50)
    max_attachments_count: int = whole(10, "The API's limit of attachments a message", ge=0, le=100)
    ingress_memory_mb: int = whole(
        256, "Most memory of messages in flight over all connections, parsing included, in MiB", ge=16
    )
    idle_timeout: float = seconds(300, "Seconds without a byte after which a connection is closed (RFC 5321: 300)")
    data_timeout: float = seconds(900, "Seconds that one message's upload may take in all")
    session_timeout: float = seconds(3600, "Seconds that one connection may last in all")
    require_tls: bool = switch(False, "Refuse to start without a certificate")
    auth_max_failures: int = whole(3, "Failed authentications after which a connection is closed", ge=1)
    auth_throttle_failures: int = whole(
        20, "Failed authentications of one address or key's beginning after which each more gets 421", ge=1
    )
    auth_throttle_seconds: int = whole(900, "Seconds after which failed authentications are forgotten", ge=1)
    auth_allow_list: tuple[IPv4Network | IPv6Network, ...] = networks(
        (), "Networks whose failed authentications are not counted over connections, comma-separated"
    )
    shutdown_timeout: float = seconds(25, "Seconds that a stopping process gives open transactions (Heroku: < 30)")

    # Preflight
    preflight_timeout: float = seconds(10, "Seconds that the preflight may take, retries included")
    preflight_ttl: float = number(0, "Seconds that a good preflight answer is kept a key and sender; 0 = not", ge=0)
    defer_transient: bool = switch(False, "Answer 451 instead of 554 when the API says 429 or 5xx in the preflight")

    # Queue
    batch_size: int = whole(
        100, "Most messages stored in one step, and taken in hand by a worker at once", ge=1, le=1000
    )
    queue_max_messages: int = whole(1_000_000, "Waiting messages past which mail gets 452; 0 = no limit", ge=0)
    queue_name: str = text("plunk-smtp", "Name of the RQ queue, prefix of the Redis keys", check=_queue_name)
    require_durable_redis: bool = switch(False, "Refuse to start on a Redis that may lose acknowledged writes")
    deduplicate_seconds: int = whole(600, "A client's repeat of a message within this time is one mail; 0 = off", ge=0)

    # Forwarder
    forward_concurrency: int = whole(20, "API calls that one worker makes at the same time", ge=1, le=200)
    forward_timeout: float = number(10, "Seconds that one API call may take", gt=0, le=12)
    message_lifetime: float = number(
        86_400, "Seconds after which an undelivered message becomes a dead letter (the API keeps keys 24 h)", gt=0
    )
    on_ambiguous: OnAmbiguous = choice(
        "retry",
        "What becomes of mail whose first try ended in 5xx: retry with a new key, or hold as a dead letter",
        OnAmbiguous,
    )
    bounce_notices: bool = switch(False, "Send the envelope's sender a notice of mail that became a dead letter")
    dead_letter_webhook: str = text(
        "",
        "URL that is told of each dead letter by a signed POST (see docs/operations.md)",
        check=_webhook_url,
        is_secret=True,
    )
    dead_letter_webhook_secret: str = text("", "Key of the webhook's signature, 16 characters or more", is_secret=True)

    # Logs
    log_format: LogFormat = choice("auto", "auto: pretty on a terminal, else JSON", LogFormat)
    log_level: LogLevel = choice("info", "Least level that is logged", LogLevel)

    @property
    def acme_json(self) -> Path:
        return self.acme_json_path or self.cert_path / "acme.json"

    @property
    def max_message_bytes(self) -> int:
        return self.max_message_size_mb * MIB


VARIABLES: Final = variables_of(Settings)
"""Field's name → how its variable is read and what it may be."""

FILE_SETTINGS: Final = tuple(name.upper() for name, variable in VARIABLES.items() if variable.is_secret)
"""Settings that hold a secret, each also readable from the file that ``<NAME>_FILE`` names."""


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of ``environ``; empty variables count as not set. Raises ``SettingsError``."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for field, variable in VARIABLES.items():
        name = field.upper()
        if name in FILE_SETTINGS and environ.get(name + "_FILE"):
            try:
                given = Path(environ[name + "_FILE"]).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                mistakes.append(f"{name}_FILE: must name a readable file ({reason})")
                continue
        elif environ.get(name, "") != "":
            given = environ[name].strip()
        else:
            continue
        try:
            values[field] = variable.read(given)
        except ValueError as error:
            shown = "" if variable.is_secret else variable.shown_default
            mistakes.append(f"{name}: {error}" + (f" (default {shown})" if shown else ""))
    if mistakes:
        raise SettingsError(mistakes)
    settings = Settings(**values)
    if mistakes := [*_contradictions(settings)]:
        raise SettingsError(mistakes)
    return settings


def _contradictions(settings: Settings) -> Iterator[str]:
    """One line for each setting that does not go with another."""
    if settings.proxy_protocol and not settings.proxy_trusted:
        yield "PROXY_TRUSTED: must name the proxies' networks when PROXY_PROTOCOL is true"
    if settings.dead_letter_webhook and len(settings.dead_letter_webhook_secret) < 16:
        yield "DEAD_LETTER_WEBHOOK_SECRET: must be 16 characters or more with DEAD_LETTER_WEBHOOK"
    taken: dict[int, str] = {}
    listening = [("PORT_SECURE", settings.port_secure), ("PORT_SUBMISSION", settings.port_submission)]
    listening += [("PORTS_EXTRA", extra) for extra in settings.ports_extra]
    if settings.health_port:
        listening.append(("HEALTH_PORT", settings.health_port))
    for name, number_of_port in listening:
        if number_of_port in taken:
            yield f"{name}: must differ from {taken[number_of_port]} (both are {number_of_port})"
        taken.setdefault(number_of_port, name)


def settings_table() -> str:
    """The settings as a Markdown table, the one that stands in docs/settings.md."""
    lines = ["| Variable | Default | Values | Description |", "|---|---|---|---|"]
    for name, variable in VARIABLES.items():
        default = f"`{variable.shown_default}`" if variable.shown_default else "(empty)"
        lines.append(f"| `{name.upper()}` | {default} | {variable.allowed} | {variable.description} |")
    return "\n".join(lines) + "\n"
