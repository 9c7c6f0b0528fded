"""Settings: names and defaults of the specification, one line a mistake, nothing secret in it, docs that are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError, allowed_values, load_settings, settings_table

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"

SPECIFIED = {
    "API_URI": "http://localhost:3000",
    "SMTP_DOMAIN": "",
    "PORT_SECURE": 465,
    "PORT_SUBMISSION": 587,
    "MAX_RECIPIENTS": 5,
    "CERT_PATH": Path("/certs"),
    "MAX_MESSAGE_SIZE_MB": 10,
    "MAX_ATTACHMENT_SIZE_MB": 10,
    "MAX_ATTACHMENTS_COUNT": 10,
    "PREFLIGHT_TIMEOUT": 10,
    "PREFLIGHT_TTL": 0,
    "DEFER_TRANSIENT": False,
    "MESSAGE_LIFETIME": 86_400,
    "ON_AMBIGUOUS": "retry",
    "DEDUPLICATE_SECONDS": 600,
}


@pytest.mark.parametrize(("name", "default"), SPECIFIED.items())
def test_defaults(name: str, default: object) -> None:
    assert getattr(load_settings({}), name.lower()) == default
    assert getattr(load_settings({name: ""}), name.lower()) == default, "an empty variable counts as not set"


def test_acme_json_is_in_cert_path_unless_named() -> None:
    assert load_settings({"CERT_PATH": "/x"}).acme_json == Path("/x/acme.json")
    assert load_settings({"ACME_JSON_PATH": "/y/a.json"}).acme_json == Path("/y/a.json")


MISTAKES = [
    ({"API_URI": "localhost:3000"}, "API_URI: must be a URL that starts with http:// or https://"),
    ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL: must be a URL that starts with postgresql://"),
    ({"REDIS_URL": "localhost"}, "REDIS_URL: must be a URL that starts with redis://"),
    ({"PORT_SECURE": "0"}, "PORT_SECURE: must be greater than or equal to 1 (default 465)"),
    ({"PORT_SECURE": "x"}, "PORT_SECURE: must be a valid integer"),
    ({"PORT_SUBMISSION": "70000"}, "PORT_SUBMISSION: must be less than or equal to 65535"),
    ({"PORT_SECURE": "587"}, "PORT_SUBMISSION: must differ from PORT_SECURE (both are 587)"),
    ({"HEALTH_PORT": "587"}, "HEALTH_PORT: must differ from PORT_SUBMISSION (both are 587)"),
    ({"PORTS_EXTRA": "2525,465"}, "PORTS_EXTRA: must differ from PORT_SECURE (both are 465)"),
    ({"MAX_RECIPIENTS": "0"}, "MAX_RECIPIENTS: must be greater than or equal to 1"),
    ({"MAX_RECIPIENTS": "101"}, "MAX_RECIPIENTS: must be less than or equal to 100"),
    ({"DEFER_TRANSIENT": "perhaps"}, "DEFER_TRANSIENT: must be a valid boolean"),
    ({"ON_AMBIGUOUS": "guess"}, "ON_AMBIGUOUS: must be 'retry' or 'hold'"),
    ({"LOG_FORMAT": "xml"}, "LOG_FORMAT: must be 'auto', 'pretty' or 'json'"),
    ({"QUEUE_NAME": "a b"}, "QUEUE_NAME: "),
    ({"DATABASE_URL_FILE": "/nowhere"}, "DATABASE_URL_FILE: must name a readable file"),
]


@pytest.mark.parametrize(("environ", "line"), MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_is_one_line_that_names_the_variable(environ: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert len(caught.value.mistakes) == 1
    assert caught.value.mistakes[0].startswith(line)
    assert "\n" not in caught.value.mistakes[0]


BOUNDS = [
    (name.upper(), key, getattr(rule, key))
    for name, field in Settings.model_fields.items()
    for rule in field.metadata
    for key in ("ge", "gt", "le")
    if hasattr(rule, key)
]


@pytest.mark.parametrize(("name", "key", "bound"), BOUNDS, ids=str)
def test_each_bound_is_kept(name: str, key: str, bound: int) -> None:
    outside = bound + 1 if key == "le" else bound - 1 if key == "ge" else bound
    with pytest.raises(SettingsError) as caught:
        load_settings({name: str(outside)})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{name}: must be ")
    assert str(bound) in mistake
    # The bound itself is allowed, but for what a port or a size has to do with others.
    inside = bound if key != "gt" else bound + 1
    if "PORT" not in name:
        assert getattr(load_settings({name: str(inside)}), name.lower()) == inside


CHOICES = [name for name in Settings.model_fields if "," in allowed_values(name)]


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_is_taken_and_nothing_else(name: str) -> None:
    for choice in allowed_values(name).split(", "):
        found = load_settings({"PROXY_TRUSTED": "10.0.0.0/8", name.upper(): choice})
        assert str(getattr(found, name)).lower() == choice
    with pytest.raises(SettingsError) as caught:
        load_settings({name.upper(): "something else"})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{name.upper()}: must be ")


def test_every_number_has_its_bounds() -> None:
    numbers = {name.upper() for name, field in Settings.model_fields.items() if field.annotation in (int, float)}
    assert numbers == {name for name, _, _ in BOUNDS}


RANGES = {
    "port_secure": "1 to 65535",
    "max_recipients": "1 to 100",
    "queue_max_messages": "0 or more",
    "message_lifetime": "more than 0",
    "idle_timeout": "more than 0 to 86400",
    "require_tls": "true, false",
    "on_ambiguous": "retry, hold",
    "api_uri": "",
}


@pytest.mark.parametrize(("name", "shown"), RANGES.items())
def test_the_table_tells_what_a_setting_may_be(name: str, shown: str) -> None:
    assert allowed_values(name) == shown


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"API_URI": "x", "MAX_RECIPIENTS": "0", "PORT_SECURE": "-1"})
    assert {line.partition(":")[0] for line in caught.value.mistakes} == {"API_URI", "MAX_RECIPIENTS", "PORT_SECURE"}


def test_no_message_and_no_repr_holds_a_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"DATABASE_URL": "mysql://u:hunter2@x", "REDIS_URL": "http://:hunter2@x"})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(load_settings({"DATABASE_URL": "postgresql://u:hunter2@x/y"}))


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:hunter2@redis:6379\n")
    assert load_settings({"REDIS_URL_FILE": str(tmp_path / "url")}).redis_url == "redis://:hunter2@redis:6379"


def test_the_table_in_the_docs_is_the_codes_own() -> None:
    assert settings_table() in DOCS.read_text(encoding="utf-8"), "run make docs"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
