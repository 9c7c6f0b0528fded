"""Certificates of every kind for tests: EC and RSA, valid, expired, wild, and acme.json as Traefik writes it."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Pair = tuple[bytes, bytes]
"""Certificate and key, PEM."""


def make_pair(*names: str, key: Literal["ec", "rsa"] = "ec", days: float = 30, passphrase: bytes = b"") -> Pair:
    """A self-signed certificate for ``names`` that ends ``days`` days from now."""
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    private = ec.generate_private_key(ec.SECP256R1()) if key == "ec" else rsa.generate_private_key(65_537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        cipher = serialization.BestAvailableEncryption(passphrase)
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    return certificate.public_bytes(serialization.Encoding.PEM), pem


def write_pem(directory: Path, pair: Pair) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "fullchain.pem").write_bytes(pair[0])
    (directory / "privkey.pem").write_bytes(pair[1])


def acme_entry(names: Sequence[str], pair: Pair) -> dict[str, Any]:
    return {
        "domain": {"main": names[0], "sans": list(names[1:]) or None},
        "certificate": base64.b64encode(pair[0]).decode(),
        "key": base64.b64encode(pair[1]).decode(),
        "Store": "default",
    }


def write_acme(path: Path, entries: Iterable[dict[str, Any]], *, resolver: str = "myresolver") -> None:
    """An acme.json, swapped in whole as Traefik does not but as a careful copy would."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps({"other": None, resolver: {"Account": {}, "Certificates": list(entries)}}))
    fresh.replace(path)
