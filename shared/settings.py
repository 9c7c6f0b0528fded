"""All settings of the relay: read once from the environment, at the edge, and handed down as one frozen value.

Every setting has a working default. A secret may be given as ``NAME_FILE`` (a path), as Docker and Kubernetes hand
secrets over. A wrong value ends the start with one line a mistake, each naming the variable and what it should be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MIB: Final = 1024 * 1024

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


_HOST_AND_PORT: Final = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]*)(?::\d{1,5})?")


class SettingsError(Exception):
    """The environment is not usable; ``mistakes`` is one line a mistake, each beginning with the variable's name."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def _setting(default: Any, description: str, **rules: Any) -> Any:
    return Field(default=default, description=description, **rules)


class Settings(BaseModel):
    """One field a variable; the field's name in capitals is the variable's name."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True, hide_input_in_errors=True)

    # From the original relay
    api_uri: str = _setting("http://localhost:3000", "Plunk API base URL")
    smtp_domain: str = _setting("", "The relay's own name: picks the certificate in acme.json and greets clients")
    port_secure: Port = _setting(465, "SMTPS port (implicit TLS); not opened without a certificate")
    port_submission: Port = _setting(587, "Submission port (STARTTLS; plaintext when there is no certificate)")
    max_recipients: int = _setting(5, "Most recipients of one message", ge=1, le=100)
    cert_path: Path = _setting(Path("/certs"), "Directory of privkey.pem and fullchain.pem")
    acme_json_path: Path | None = _setting(None, "Traefik's acme.json (default: acme.json in CERT_PATH)")
    database_url: str = _setting(
        "postgresql://postgres:postgres@localhost:5432/postgres", "Plunk's PostgreSQL, read only", repr=False
    )
    redis_url: str = _setting("redis://localhost:6379", "The queue's Redis (redis:// or rediss://)", repr=False)

    # Listening
    host: str = _setting("0.0.0.0", "Address to listen on; :: listens on IPv6 too")  # noqa: S104
    ports_extra: tuple[int, ...] = _setting(
        (), "More ports, comma-separated (2525: as PORT_SUBMISSION; ending in 465: implicit TLS)"
    )
    health_port: int = _setting(0, "Port of /livez, /readyz and /metrics; 0 = off", ge=0, le=65535)
    ingress_processes: int = _setting(1, "Ingress processes that share the ports (SO_REUSEPORT)", ge=1, le=64)
    max_connections: int = _setting(2000, "Most connections of one ingress process", ge=1)
    max_connections_per_ip: int = _setting(
        200, "Most connections of one address (IPv6: of one /64) to one ingress process", ge=1
    )
    proxy_protocol: bool = _setting(False, "Every connection begins with a PROXY header, version 1 or 2")
    proxy_trusted: tuple[IPv4Network | IPv6Network, ...] = _setting(
        (), "The proxies' networks, comma-separated; others are refused under PROXY_PROTOCOL"
    )

    # The session
    max_message_size_mb: int = _setting(10, "Largest message in MiB, announced by SIZE", ge=1, le=50)
    max_attachment_size_mb: int = _setting(10, "The API's limit of all attachments together, in MiB", ge=1, le=50)
    max_attachments_count: int = _setting(10, "The API's limit of attachments a message", ge=0, le=100)
    ingress_memory_mb: int = _setting(
        256, "Most memory of messages in flight over all connections, parsing included, in MiB", ge=16
    )
    idle_timeout: Seconds = _setting(300, "Seconds without a byte after which a connection is closed (RFC 5321: 300)")
    data_timeout: Seconds = _setting(900, "Seconds that one message's upload may take in all")
    session_timeout: Seconds = _setting(3600, "Seconds that one connection may last in all")
    require_tls: bool = _setting(False, "Refuse to start without a certificate")
    auth_max_failures: int = _setting(3, "Failed authentications after which a connection is closed", ge=1)
    auth_throttle_failures: int = _setting(
        20, "Failed authentications of one address or key's beginning after which each more gets 421", ge=1
    )
    auth_throttle_seconds: int = _setting(900, "Seconds after which failed authentications are forgotten", ge=1)
    auth_allow_list: tuple[IPv4Network | IPv6Network, ...] = _setting(
        (), "Networks whose failed authentications are not counted over connections, comma-separated"
    )
    shutdown_timeout: Seconds = _setting(25, "Seconds that a stopping process gives open transactions (Heroku: < 30)")

    # Preflight
    preflight_timeout: Seconds = _setting(10, "Seconds that the preflight may take, retries included")
    preflight_ttl: float = _setting(0, "Seconds that a good preflight answer is kept a key and sender; 0 = not", ge=0)
    defer_transient: bool = _setting(False, "Answer 451 instead of 554 when the API says 429 or 5xx in the preflight")

    # Queue
    batch_size: int = _setting(
        100, "Most messages stored in one step, and taken in hand by a worker at once", ge=1, le=1000
    )
    queue_max_messages: int = _setting(1_000_000, "Waiting messages past which mail gets 452; 0 = no limit", ge=0)
    queue_name: str = _setting("plunk-smtp", "Name of the RQ queue, prefix of the Redis keys", pattern=r"^[\w.-]+$")
    require_durable_redis: bool = _setting(False, "Refuse to start on a Redis that may lose acknowledged writes")
    deduplicate_seconds: int = _setting(
        600, "A client's repeat of a message within this time is one mail; 0 = off", ge=0
    )

    # Forwarder
    forward_concurrency: int = _setting(20, "API calls that one worker makes at the same time", ge=1, le=200)
    forward_timeout: float = _setting(10, "Seconds that one API call may take", gt=0, le=12)
    message_lifetime: float = _setting(
        86_400, "Seconds after which an undelivered message becomes a dead letter (the API keeps keys 24 h)", gt=0
    )
    on_ambiguous: Literal["retry", "hold"] = _setting(
        "retry", "What becomes of mail whose first try ended in 5xx: retry with a new key, or hold as a dead letter"
    )
    bounce_notices: bool = _setting(False, "Send the envelope's sender a notice of mail that became a dead letter")
    dead_letter_webhook: str = _setting(
        "", "URL that is told of each dead letter by a signed POST (see docs/operations.md)", repr=False
    )
    dead_letter_webhook_secret: str = _setting("", "Key of the webhook's signature, 16 characters or more", repr=False)

    # Logs
    log_format: Literal["auto", "pretty", "json"] = _setting("auto", "auto: pretty on a terminal, else JSON")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Least level that is logged")

    @field_validator("api_uri")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if _scheme(value) not in ("http", "https") or not urlsplit(value).hostname:
            raise ValueError("must be a URL that starts with http:// or https://")
        return value.rstrip("/")

    @field_validator("dead_letter_webhook")
    @classmethod
    def _webhook_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must be a URL that starts with http:// or https://")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("postgres", "postgresql"):
            raise ValueError("must be a URL that starts with postgresql://")
        hosts = urlsplit(value).netloc.rpartition("@")[2]
        if not all(_HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")):
            raise ValueError("must be a URL that starts with postgresql:// and names hosts with ports that are numbers")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        if _scheme(value) not in ("redis", "rediss", "unix"):
            raise ValueError("must be a URL that starts with redis://, rediss:// or unix://")
        return value

    @field_validator("ports_extra")
    @classmethod
    def _ports(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= port <= 65535 for port in value):
            raise ValueError("must be ports from 1 to 65535, separated by commas")
        return value

    @field_validator("proxy_trusted", "auth_allow_list", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(item.strip()) for item in value.split(",") if item.strip())
        except ValueError:
            raise ValueError("must be networks such as 10.0.0.0/8 or fd00::/8, separated by commas") from None

    @model_validator(mode="after")
    def _proxies_named(self) -> Settings:
        if self.proxy_protocol and not self.proxy_trusted:
            raise ValueError("PROXY_TRUSTED: must name the proxies' networks when PROXY_PROTOCOL is true")
        return self

    @field_validator("ports_extra", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @model_validator(mode="after")
    def _webhook_signed(self) -> Settings:
        if self.dead_letter_webhook and len(self.dead_letter_webhook_secret) < 16:
            raise ValueError("DEAD_LETTER_WEBHOOK_SECRET: must be 16 characters or more with DEAD_LETTER_WEBHOOK")
        return self

    @model_validator(mode="after")
    def _ports_distinct(self) -> Settings:
        taken: dict[int, str] = {}
        ports = [("PORT_SECURE", self.port_secure), ("PORT_SUBMISSION", self.port_submission)]
        ports += [("PORTS_EXTRA", port) for port in self.ports_extra]
        if self.health_port:
            ports.append(("HEALTH_PORT", self.health_port))
        for name, port in ports:
            if port in taken:
                raise ValueError(f"{name}: must differ from {taken[port]} (both are {port})")
            taken[port] = name
        return self

    @property
    def acme_json(self) -> Path:
        return self.acme_json_path or self.cert_path / "acme.json"

    @property
    def max_message_bytes(self) -> int:
        return self.max_message_size_mb * MIB


def _scheme(url: str) -> str:
    """Scheme of a URL, "" when its host or port cannot be read: what a library would say of it quotes the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ""
    return parts.scheme


FILE_SETTINGS: Final = tuple(name.upper() for name, field in Settings.model_fields.items() if not field.repr)
"""Settings that hold a secret, each also readable from the file that ``<NAME>_FILE`` names."""


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of ``environ``; empty variables count as not set. Raises ``SettingsError``."""
    values: dict[str, str] = {}
    mistakes: list[str] = []
    for field in Settings.model_fields:
        name = field.upper()
        if name in FILE_SETTINGS and environ.get(name + "_FILE"):
            try:
                values[field] = Path(environ[name + "_FILE"]).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                mistakes.append(f"{name}_FILE: must name a readable file ({reason})")
        elif environ.get(name, "") != "":
            values[field] = environ[name].strip()
    try:
        settings = Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        mistakes += [_mistake(item) for item in error.errors(include_url=False, include_input=False)]
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def _mistake(item: Any) -> str:
    message = item["msg"].removeprefix("Value error, ")
    if not item["loc"]:
        return str(message)
    name = str(item["loc"][0])
    message = message.replace("Input should be", "must be")
    field = Settings.model_fields[name]
    default = f" (default {shown})" if field.repr and (shown := _shown(field.default)) else ""
    return f"{name.upper()}: {message}{default}"


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def allowed_values(name: str) -> str:
    """What a setting may be, for a person: a range, a choice, or "" where only its own check can say."""
    field = Settings.model_fields[name]
    if field.annotation is bool:
        return "true, false"
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    bounds = {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "gt", "le") if hasattr(rule, key)}
    least = bounds.get("ge", bounds.get("gt"))
    if least is None:
        return ""
    strictly = "more than " if "gt" in bounds else ""
    if "le" not in bounds:
        return f"{strictly}{least}" if strictly else f"{least} or more"
    return f"{strictly}{least} to {bounds['le']}"


def settings_table() -> str:
    """The settings as a Markdown table, the one that stands in docs/settings.md."""
    lines = ["| Variable | Default | Values | Description |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        shown = _shown(field.default)
        default = f"`{shown}`" if shown else "(empty)"
        lines.append(f"| `{name.upper()}` | {default} | {allowed_values(name)} | {field.description} |")
    return "\n".join(lines) + "\n"
