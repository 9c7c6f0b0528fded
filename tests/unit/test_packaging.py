"""Image, compose file, Procfile, Makefile and lock: what can be known of them without a container engine."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import compose_spec
import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from forwarder.__main__ import main as forwarder
from ingress.__main__ import main as ingress
from sandbox.plunk_api.__main__ import main as plunk_api
from sandbox.redis_server import CALM
from shared.settings import VARIABLES, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ROLES = ("ingress", "forwarder")
COMMANDS = {"ingress": ingress, "forwarder": forwarder, "sandbox.plunk_api": plunk_api}

# Docker Compose's own variables in the file, beside the settings.
COMPOSE_VARIABLES = {"CERTS", "WORKERS"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's (instruction, arguments), in order."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


def interpolated(value: str, **environ: str) -> str:
    """A compose value with ``${NAME:-default}`` filled in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: environ.get(m[1]) or m[2], value)


def assert_command_is_understood(words: list[str]) -> None:
    """``python -m module arguments``: the module's own command takes these arguments."""
    python, dash_m, module, *arguments = words
    assert (python, dash_m) == ("python", "-m")
    context: click.Context = COMMANDS[module].make_context(module, arguments)
    assert not context.args


def test_procfile_has_both_roles() -> None:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    assert lines == ["ingress: python -m ingress", "forwarder: python -m forwarder"]
    for line in lines:
        assert_command_is_understood(shlex.split(line.partition(": ")[2]))


# The compose file


def test_the_compose_file_is_what_the_specification_demands() -> None:
    compose = compose_spec.PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(interpolated(COMPOSE_TEXT))))
    compose.validate()
    assert set(compose.services or {}) == {"ingress", "forwarder", "redis", "postgres", "api"}


def test_a_mistake_in_a_compose_file_would_be_seen() -> None:
    with pytest.raises(ValueError, match="replicas"):
        compose_spec.PyCompose.from_yaml("services: {a: {image: x, deploy: {replicas: many}}}")


@pytest.mark.parametrize("service", [name for name in COMPOSE if "build" in COMPOSE[name]])
def test_compose_commands_are_understood(service: str) -> None:
    command = COMPOSE[service]["command"]
    assert isinstance(command, list), "in exec form: the process itself gets Docker's SIGTERM"
    for workers in ("", "4"):
        assert_command_is_understood([interpolated(word, WORKERS=workers) for word in command])


def test_compose_redis_keeps_what_it_acknowledges() -> None:
    command = " ".join(COMPOSE["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command
    for name, value in CALM.items():
        assert f"--{name} {value}" in command, "as the sandbox's, with which all is tested and measured"
    assert COMPOSE["redis"]["volumes"] == ["redis:/data"]


@pytest.mark.parametrize("service", [*ROLES, "api"])
def test_compose_services_are_hardened(service: str) -> None:
    assert COMPOSE[service]["read_only"] is True
    assert COMPOSE[service]["cap_drop"] == ["ALL"]
    assert COMPOSE[service]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("role", ROLES)
def test_compose_roles_are_probed_and_given_time_to_stop(role: str) -> None:
    service = COMPOSE[role]
    assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "shared.healthcheck"]
    assert load_settings({}).shutdown_timeout < int(service["stop_grace_period"].removesuffix("s"))
    assert service["tmpfs"] == ["/tmp"], "where several processes leave their metrics"


def test_compose_scales_the_forwarder() -> None:
    forwarder = COMPOSE["forwarder"]
    assert forwarder["deploy"]["replicas"] == 2
    assert not {"container_name", "ports", "hostname"} & set(forwarder), "--scale needs all of these to be free"


def test_compose_ports_and_certificates_are_where_the_settings_look() -> None:
    service = COMPOSE["ingress"]
    found = load_settings(service["environment"] | {"API_URI": "", "DATABASE_URL": "", "REDIS_URL": ""})
    inside = {int(port.rpartition(":")[2]) for port in service["ports"]}
    assert inside == {found.port_secure, found.port_submission} == {465, 587}
    assert [interpolated(port) for port in service["ports"]] == ["465:465", "587:587"]
    volume = interpolated(service["volumes"][0])
    assert volume == f"./certs:{found.cert_path}:ro"
    assert service["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "0"}


@pytest.mark.parametrize("role", ROLES)
def test_any_setting_can_be_given_in_env(role: str) -> None:
    assert COMPOSE[role]["env_file"] == [{"path": ".env", "required": False}]
    settings = {name.upper() for name in VARIABLES}
    fixed = COMPOSE[role]["environment"]
    assert set(fixed) <= settings, "no variable that nobody reads"
    # What the compose file fixes is the containers' affair, but for what it takes from .env itself.
    assert {name for name, value in fixed.items() if "${" not in value} == {
        *("HOST", "PORT_SECURE", "PORT_SUBMISSION", "CERT_PATH", "HEALTH_PORT", "LOG_FORMAT")
    }
    for name, value in fixed.items():
        assert "${" not in value or value.startswith(f"${{{name}:-")
    load_settings({name: interpolated(value) for name, value in fixed.items()})


def test_the_compose_file_reads_no_unknown_variable() -> None:
    read = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert read - COMPOSE_VARIABLES <= {name.upper() for name in VARIABLES}


def test_the_trial_brings_a_database_and_an_api_and_production_does_not() -> None:
    assert {name for name, service in COMPOSE.items() if service.get("profiles") == ["demo"]} == {"postgres", "api"}
    for mount in COMPOSE["postgres"]["volumes"]:
        assert (ROOT / mount.split(":")[0]).is_file()
    environment = COMPOSE["ingress"]["environment"]
    assert interpolated(environment["API_URI"]) == "http://api:3000"
    assert interpolated(environment["DATABASE_URL"]) in " ".join(COMPOSE["api"]["command"])


# The image


def test_the_image_holds_what_it_needs_and_nothing_that_is_kept_out() -> None:
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert ignored[0] == "*"
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for words in copied for source in words[:-1]}
    assert sources == {"requirements.lock", "requirements-demo.lock", "ingress", "forwarder", "shared", "sandbox"}
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in)


def test_the_image_runs_without_root_and_without_pip() -> None:
    stages = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")
    base = next(stage for stage in stages if " AS base" in stage.splitlines()[0])
    assert "\nUSER 10001\n" in base
    assert "pip uninstall" in base
    assert "--without-pip" in stages[1]
    assert [rest for name, rest in instructions() if name == "USER"] == ["10001"], "and nobody becomes root again"


def test_what_is_installed_is_locked_by_hash() -> None:
    installs = [
        rest for name, rest in instructions() if name == "RUN" and "install " in rest and "uninstall" not in rest
    ]
    assert len(installs) == 2
    for command in installs:
        assert "--require-hashes --only-binary :all:" in command


def test_the_images_python_commands_and_ports_are_ours() -> None:
    versions = {rest.split()[0] for name, rest in instructions() if name == "FROM" and rest.startswith("python:")}
    assert len(versions) == 1
    version = versions.pop().removeprefix("python:").removesuffix("-slim")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    exposed = next(rest for name, rest in instructions() if name == "EXPOSE")
    defaults = load_settings({})
    assert set(map(int, exposed.split())) == {defaults.port_secure, defaults.port_submission}
    command = next(rest for name, rest in instructions() if name == "CMD")
    assert_command_is_understood(yaml.safe_load(command))
    healthcheck = next(rest for name, rest in instructions() if name == "HEALTHCHECK")
    assert yaml.safe_load(healthcheck.partition(" CMD ")[2]) == ["python", "-m", "shared.healthcheck"]
    environment = dict(pair.split("=", 1) for name, rest in instructions() if name == "ENV" for pair in rest.split())
    settings = load_settings({name: value for name, value in environment.items() if name != "PATH"})
    assert (settings.log_format, settings.health_port) == ("json", 8080)


# The lock


def locked(name: str) -> dict[str, tuple[Version, Marker | None, list[str]]]:
    """Package → its locked version, the platforms it is for, and its files' hashes."""
    found = {}
    for entry in (ROOT / name).read_text("utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            requirement = Requirement(entry.partition(" --hash")[0].strip())
            (only,) = requirement.specifier
            assert only.operator == "=="
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
            found[canonicalize_name(requirement.name)] = (Version(only.version), requirement.marker, hashes)
    return found


LOCKS = {"requirements.lock": PROJECT["dependencies"]}
LOCKS["requirements-demo.lock"] = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["demo"]


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_satisfies_the_project(name: str) -> None:
    lock = locked(name)
    for line in LOCKS[name]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)][0]), f"{line}: run make lock"
    assert all(hashes for _, _, hashes in lock.values())


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_whatever_its_packages_need(name: str) -> None:
    lock = locked(name)
    for package, (version, marker, _) in lock.items():
        if marker and not marker.evaluate():
            continue
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.fail(f"{package} is locked and not installed: run make lock")
        if Version(distribution.version) != version:
            continue  # Another release may need other packages.
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in lock, f"{package} needs {line}: run make lock"


def test_the_trials_lock_agrees_with_the_relays() -> None:
    relay, trial = locked("requirements.lock"), locked("requirements-demo.lock")
    assert {name: trial[name][0] for name in relay} == {name: version for name, (version, _, _) in relay.items()}


# The Makefile


def chosen_python(tmp_path: Path, **programs: str) -> str:
    """The interpreter that make chooses where PATH holds nothing but ``programs`` (name → shell script) and tools."""
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    found = subprocess.run(
        ["make", "--no-print-directory", "--eval", "chosen: ; @echo '[$(PYTHON)]'; :", "chosen"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "SHELL": "/bin/sh"},
        executable=shutil.which("make"),
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


WORKS = f'exec {sys.executable} "$@"'
SHIM = 'echo "pyenv: python3.12: command not found" >&2; exit 127'
OLD = "exit 1"


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"python3.12": WORKS, "python3": WORKS}, "[python3.12]"),
        ({"python3.12": SHIM, "python3.11": SHIM, "python3.13": WORKS}, "[python3.13]"),
        ({"python3.12": SHIM, "python3": WORKS}, "[python3]"),
        ({"python3.12": SHIM, "python3": OLD}, "[]"),
        ({}, "[]"),
    ],
)
def test_make_takes_an_interpreter_that_runs(tmp_path: Path, programs: dict[str, str], chosen: str) -> None:
    assert chosen_python(tmp_path, **programs) == chosen


def test_the_licence_is_plunks_own() -> None:
    assert PROJECT["license"] == "AGPL-3.0-only"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("GNU AFFERO GENERAL PUBLIC LICENSE")


def test_readme_and_metadata_agree_on_pythons() -> None:
    metadata: Any = PROJECT
    assert metadata["requires-python"] == ">=3.11"
    assert "Python 3.11" in (ROOT / "README.md").read_text("utf-8")
