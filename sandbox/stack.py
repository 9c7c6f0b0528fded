"""The whole relay on loopback: Redis, PostgreSQL, the stand-in API, the ingress and the forwarder."""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox.postgres_server import PostgresServer
from sandbox.processes import ServerProcess, accepts_connections, free_port
from sandbox.redis_server import RedisServer

ROOT: Final = Path(__file__).parents[1]
DEMO_PROJECT: Final = "5b1b6e0e-0000-4000-8000-000000000001"
DEMO_SECRET: Final = "sk_demo_0123456789abcdef0123456789abcdef"
DEMO_DOMAIN: Final = "example.com"
UNVERIFIED_DOMAIN: Final = "unverified.example"


def make_certificate(directory: Path, *names: str, days: int = 30) -> None:
    """A self-signed certificate for ``names`` and 127.0.0.1: privkey.pem and fullchain.pem."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "privkey.pem").write_bytes(pem)
    (directory / "fullchain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class PlunkApiServer:
    """The stand-in API as a process; its counts, records and faults over HTTP."""

    def __init__(self, directory: Path, database_url: str, *, port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.records = directory / "sent.jsonl"
        """One line for each mail that was sent and each change of an idempotency key."""
        self._session = requests.Session()
        self._session.trust_env = False
        self.process = ServerProcess(
            [
                *(sys.executable, "-m", "sandbox.plunk_api", "--port", str(self.port)),
                *("--database-url", database_url, "--records", str(self.records)),
            ],
            log=directory / "plunk_api.log",
            environ={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(lambda: accepts_connections(self.port))

    def stop(self) -> None:
        self.process.stop(timeout=5)

    def sent(self) -> list[dict[str, Any]]:
        """Every mail that was really sent: ``project``, ``idempotency_key``, ``at`` and the call's ``body``."""
        found: list[dict[str, Any]] = self._session.get(f"{self.url}/_control/sent", timeout=30).json()
        return found

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._session.get(f"{self.url}/_control/counts", timeout=30).json()
        return found

    def fail(self, kind: str, **fault: Any) -> None:
        """Make trouble: see ``sandbox.plunk_api.app.Fault``."""
        self._control("POST", "faults", {"kind": kind, **fault})

    def clear_faults(self) -> None:
        self._control("DELETE", "faults", None)

    def options(self, **options: bool) -> None:
        """``rate_limit`` on or off, ``ignore_keys`` as older installations do."""
        self._control("POST", "options", options)

    def reset(self) -> None:
        self._control("POST", "reset", None)

    def _control(self, method: str, path: str, json: Any) -> None:
        self._session.request(method, f"{self.url}/_control/{path}", json=json, timeout=30).raise_for_status()


class Role:
    """One of the relay's own processes: ``ingress`` or ``forwarder``."""

    def __init__(self, name: str, directory: Path, environ: Mapping[str, str], *args: str) -> None:
        self.environ = dict(environ)
        self.process = ServerProcess(
            [sys.executable, "-m", name, *args],
            log=directory / f"{name}.log",
            environ={**os.environ, "PYTHONPATH": str(ROOT), **self.environ},
        )

    def start(self, *, ready_text: str) -> None:
        before = self.process.log.stat().st_size if self.process.log.exists() else 0
        self.process.start()
        # In bytes, as the log's size is: of a log with "→" in each line it would else skip what the new process says.
        self.process.wait_ready(lambda: ready_text.encode() in self.process.log.read_bytes()[before:])

    def output(self) -> str:
        return self.process.log.read_text("utf-8", "replace") if self.process.log.exists() else ""


class Stack:
    """All servers of a full relay. ``start`` brings them up in order, ``stop`` down in the reverse order.

    With ``services``, another stack's Redis, PostgreSQL and API are used, which stay that stack's to start and stop;
    give QUEUE_NAME then.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tls: bool = True,
        workers: int = 1,
        preferred_ports: Mapping[str, int] | None = None,
        services: Stack | None = None,
        probes: bool = False,
        **settings: str,
    ) -> None:
        ports = preferred_ports or {}
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._owns_services = services is None
        if services is None:
            self.redis = RedisServer(directory / "redis", port=ports.get("redis", 0))
            self.postgres = PostgresServer(directory / "postgres", port=ports.get("postgres", 0))
            self.api = PlunkApiServer(directory / "api", self.postgres.url, port=ports.get("api", 0))
        else:
            self.redis, self.postgres, self.api = services.redis, services.postgres, services.api
        self.port_submission = free_port(ports.get("submission", 0))
        self.port_secure = free_port(ports.get("secure", 0))
        self.certificates = directory / "certs"
        if tls:
            make_certificate(self.certificates, "localhost")
        self.environ = {
            "API_URI": self.api.url,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "HOST": "127.0.0.1",
            "PORT_SUBMISSION": str(self.port_submission),
            "PORT_SECURE": str(self.port_secure),
            "CERT_PATH": str(self.certificates),
            "SMTP_DOMAIN": "localhost",
            "LOG_FORMAT": "json",
            # Tests guess wrong on purpose; those of the throttle itself set this anew.
            "AUTH_ALLOW_LIST": "127.0.0.0/8",
            **settings,
        }
        self.queue_name = self.environ.get("QUEUE_NAME", "plunk-smtp")
        self.probes = {name: free_port() for name in ("ingress", "forwarder")} if probes else {}
        self.ingress = Role("ingress", directory, self._environ_of("ingress"))
        self.forwarder = Role("forwarder", directory, self._environ_of("forwarder"), "--workers", str(workers))

    def _environ_of(self, role: str) -> dict[str, str]:
        return {**self.environ, **({"HEALTH_PORT": str(self.probes[role])} if role in self.probes else {})}

    def probe(self, role: str, path: str) -> requests.Response:
        """The answer of a role's probe port; the stack was made with ``probes=True``."""
        return requests.get(f"http://127.0.0.1:{self.probes[role]}{path}", timeout=30)

    def start_services(self) -> None:
        """Redis, PostgreSQL with the demo project, and the API."""
        self.redis.start()
        self.postgres.start()
        self.add_project(DEMO_SECRET, project_id=DEMO_PROJECT, verified=[DEMO_DOMAIN], unverified=[UNVERIFIED_DOMAIN])
        self.api.start()

    def start(self) -> None:
        self.start_services()
        self.start_ingress()
        self.start_forwarder()

    def start_ingress(self) -> None:
        self.ingress.start(ready_text=f"SMTP server listening on port {self.port_submission}")

    def start_forwarder(self) -> None:
        self.forwarder.start(ready_text="Forwarder started")

    def stop(self) -> None:
        for process in (self.ingress.process, self.forwarder.process):
            process.stop()
        if self._owns_services:
            self.api.stop()
            self.postgres.stop()
            self.redis.stop()

    def queued(self) -> int:
        """Messages that were accepted and are neither sent nor dead."""
        with self.redis.client() as client:
            return int(cast(int, client.zcard(f"{self.queue_name}:messages")))

    def add_project(
        self,
        secret: str,
        *,
        project_id: str | None = None,
        verified: list[str] | None = None,
        unverified: list[str] | None = None,
    ) -> str:
        """A project with its domains in PostgreSQL; its id."""
        project_id = project_id or str(uuid.uuid4())
        rows = [(domain, True) for domain in verified or []] + [(domain, False) for domain in unverified or []]
        sql = f"INSERT INTO projects VALUES ('{project_id}', 'Demo', 'pk_{project_id}', '{secret}', false)"
        sql += " ON CONFLICT DO NOTHING;\n"
        for domain, is_verified in rows:
            sql += f"INSERT INTO domains VALUES ('{uuid.uuid4()}', '{project_id}', '{domain}', {is_verified})"
            sql += " ON CONFLICT DO NOTHING;\n"
        self.postgres.execute(sql)
        return project_id

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
