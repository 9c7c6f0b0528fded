"""What the ingress needs to do its work, looked at one by one for ``--check`` and for the parent's readiness."""

from __future__ import annotations

from typing import Final

from ingress.certificates import CertificateError, covers, find_certificate, make_context
from shared.checks import Check, check_api, check_database, check_redis
from shared.settings import Settings

WARN_DAYS: Final = 14
"""Days before its end from which a certificate is warned of."""


def check_all(settings: Settings, *, quick: bool = False) -> list[Check]:
    """Every check of the ingress, in the order of a message's way. ``quick`` leaves out what only changes by hand."""
    checks = [check_redis(settings), check_database(settings)]
    if not quick:
        checks += [check_api(settings), check_certificate(settings)]
    return checks


def check_certificate(settings: Settings) -> Check:
    """Whether there is a certificate, that it covers SMTP_DOMAIN and that it lasts a while yet."""
    try:
        certificate = find_certificate(settings)
        if certificate is None:
            detail = (
                f"none in {settings.cert_path}: port {settings.port_secure} stays closed, mail travels in clear text"
            )
            return Check(name="certificate", ok=not settings.require_tls, detail=detail, is_warning=True)
        make_context(certificate)
        names, days = certificate.names, certificate.days_left()
    except (CertificateError, ValueError) as error:
        return Check(name="certificate", ok=False, detail=str(error))
    detail = f"{', '.join(names)} from {certificate.source}, {days:.0f} days left"
    if days <= 0:
        return Check(name="certificate", ok=False, detail=detail)
    covered = not settings.smtp_domain or any(covers(name, settings.smtp_domain) for name in names)
    if not covered:
        detail += f"; does not cover SMTP_DOMAIN {settings.smtp_domain}"
    return Check(name="certificate", ok=True, detail=detail, is_warning=days < WARN_DAYS or not covered)
