"""Compose file, Procfile and image: what can be known of them without a container engine."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


def test_procfile_has_both_roles() -> None:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    assert lines == ["ingress: python -m ingress", "forwarder: python -m forwarder"]


def test_compose_redis_keeps_what_it_acknowledges() -> None:
    command = " ".join(COMPOSE["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command


def test_compose_roles_are_hardened_and_probed() -> None:
    for role in ("ingress", "forwarder"):
        service = COMPOSE[role]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "/readyz" in " ".join(service["healthcheck"]["test"])
        assert service["stop_grace_period"] == "30s"
    assert COMPOSE["ingress"]["volumes"][0].endswith(":/certs:ro")
    assert COMPOSE["forwarder"]["deploy"]["replicas"] == 2


def test_the_trial_brings_a_database_and_an_api_and_production_does_not() -> None:
    assert {name for name, service in COMPOSE.items() if service.get("profiles") == ["demo"]} == {"postgres", "api"}


def test_the_image_runs_without_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001" in lines
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("GNU AFFERO GENERAL PUBLIC LICENSE")
