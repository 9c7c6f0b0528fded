"""Settings: names and defaults of the specification, one line a mistake, nothing secret in it, docs that are true."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import get_type_hints

import pytest

from shared.settings import FILE_SETTINGS, VARIABLES, Settings, SettingsError, load_settings, settings_table

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
    ({"PORT_SECURE": "1e3"}, "PORT_SECURE: must be a valid integer"),
    ({"PORT_SECURE": "\u0661"}, "PORT_SECURE: must be a valid integer"),
    ({"PORT_SECURE": "9" * 5000}, "PORT_SECURE: must be a valid integer"),
    ({"PORT_SECURE": "1_000"}, "PORT_SECURE: must be a valid integer"),
    ({"IDLE_TIMEOUT": "\u0661"}, "IDLE_TIMEOUT: must be a valid number"),
    ({"IDLE_TIMEOUT": "5 min"}, "IDLE_TIMEOUT: must be a valid number (default 300)"),
    ({"MESSAGE_LIFETIME": "nan"}, "MESSAGE_LIFETIME: must be a valid number"),
    ({"MESSAGE_LIFETIME": "inf"}, "MESSAGE_LIFETIME: must be a valid number"),
    ({"PORTS_EXTRA": "25,x"}, "PORTS_EXTRA: must be ports from 1 to 65535, separated by commas"),
    ({"PORTS_EXTRA": "25,65536"}, "PORTS_EXTRA: must be ports from 1 to 65535, separated by commas"),
    ({"PORTS_EXTRA": "25,0"}, "PORTS_EXTRA: must be ports from 1 to 65535, separated by commas"),
    ({"PROXY_TRUSTED": "10.0.0.1/8"}, "PROXY_TRUSTED: must be networks such as 10.0.0.0/8 or fd00::/8"),
    ({"PROXY_PROTOCOL": "true"}, "PROXY_TRUSTED: must name the proxies' networks when PROXY_PROTOCOL is true"),
    ({"DATABASE_URL": "postgresql://[x"}, "DATABASE_URL: must be a URL that starts with postgresql://"),
    ({"DEAD_LETTER_WEBHOOK": "x.example"}, "DEAD_LETTER_WEBHOOK: must be a URL that starts with http:// or https://"),
    ({"DEAD_LETTER_WEBHOOK": "https://x/"}, "DEAD_LETTER_WEBHOOK_SECRET: must be 16 characters or more"),
    ({"PORT_SUBMISSION": "70000"}, "PORT_SUBMISSION: must be less than or equal to 65535"),
    ({"PORT_SECURE": "587"}, "PORT_SUBMISSION: must differ from PORT_SECURE (both are 587)"),
    ({"HEALTH_PORT": "587"}, "HEALTH_PORT: must differ from PORT_SUBMISSION (both are 587)"),
    ({"PORTS_EXTRA": "2525,465"}, "PORTS_EXTRA: must differ from PORT_SECURE (both are 465)"),
    ({"MAX_RECIPIENTS": "0"}, "MAX_RECIPIENTS: must be greater than or equal to 1"),
    ({"MAX_RECIPIENTS": "101"}, "MAX_RECIPIENTS: must be less than or equal to 100"),
    ({"DEFER_TRANSIENT": "perhaps"}, "DEFER_TRANSIENT: must be a valid boolean"),
    ({"ON_AMBIGUOUS": "guess"}, "ON_AMBIGUOUS: must be 'retry' or 'hold'"),
    ({"LOG_FORMAT": "xml"}, "LOG_FORMAT: must be 'auto', 'pretty' or 'json'"),
    ({"QUEUE_NAME": "a b"}, "QUEUE_NAME: must be of letters, digits, '.', '_' and '-' (default plunk-smtp)"),
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
    (name.upper(), key, bound)
    for name, variable in VARIABLES.items()
    for key in ("ge", "gt", "le")
    if (bound := getattr(variable, key)) is not None
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


CHOICES = [name for name, variable in VARIABLES.items() if variable.choices]


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_is_taken_and_nothing_else(name: str) -> None:
    for choice in VARIABLES[name].choices:
        found = load_settings({"PROXY_TRUSTED": "10.0.0.0/8", name.upper(): choice})
        assert str(getattr(found, name)).lower() == choice
    with pytest.raises(SettingsError) as caught:
        load_settings({name.upper(): "something else"})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{name.upper()}: must be ")


WORDS = {True: ["true", "True", "yes", "Y", "on", "1", " t "], False: ["false", "FALSE", "no", "n", "off", "0", "F"]}


@pytest.mark.parametrize(("meant", "word"), [(meant, word) for meant, words in WORDS.items() for word in words])
def test_true_and_false_may_be_spelled_as_people_do(meant: bool, word: str) -> None:
    assert load_settings({"DEFER_TRANSIENT": word}).defer_transient is meant


def test_lists_are_read_with_or_without_spaces() -> None:
    found = load_settings({"PORTS_EXTRA": "2525, 2465,", "PROXY_TRUSTED": "10.0.0.0/8 ,fd00::/8"})
    assert found.ports_extra == (2525, 2465)
    assert found.proxy_trusted == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_the_apis_address_loses_its_last_slash_and_the_webhooks_keeps_it() -> None:
    webhook = {"DEAD_LETTER_WEBHOOK": "https://x.example/hook/", "DEAD_LETTER_WEBHOOK_SECRET": "s" * 16}
    found = load_settings({"API_URI": "https://api.example/", **webhook})
    assert (found.api_uri, found.dead_letter_webhook) == ("https://api.example", "https://x.example/hook/")


def test_defaults_are_what_reading_them_would_give() -> None:
    for name, variable in VARIABLES.items():
        if variable.shown_default:
            assert variable.read(variable.shown_default) == variable.default, name


def test_every_number_has_its_bounds() -> None:
    numbers = {name.upper() for name, kind in get_type_hints(Settings).items() if kind in (int, float)}
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
    assert VARIABLES[name].allowed == shown


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"API_URI": "x", "MAX_RECIPIENTS": "0", "PORT_SECURE": "-1"})
    assert {line.partition(":")[0] for line in caught.value.mistakes} == {"API_URI", "MAX_RECIPIENTS", "PORT_SECURE"}


def test_every_setting_that_does_not_go_with_another_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"PROXY_PROTOCOL": "true", "DEAD_LETTER_WEBHOOK": WEBHOOK, "PORTS_EXTRA": "465,587"})
    told = [line.partition(":")[0] for line in caught.value.mistakes]
    assert told == ["PROXY_TRUSTED", "DEAD_LETTER_WEBHOOK_SECRET", "PORTS_EXTRA", "PORTS_EXTRA"]


def test_a_webhook_whose_file_is_empty_is_none(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("\n")
    assert load_settings({"DEAD_LETTER_WEBHOOK_FILE": str(tmp_path / "url")}).dead_letter_webhook == ""


WEBHOOK = "https://x.example/"
SECRETS = {
    "DATABASE_URL": "postgresql://u:hunter2@x/y",
    "REDIS_URL": "redis://:hunter2@redis:6379",
    "DEAD_LETTER_WEBHOOK": "https://u:hunter2@x.example/",
    "DEAD_LETTER_WEBHOOK_SECRET": "hunter2 and much more",
}


def test_it_is_known_which_settings_hold_a_secret() -> None:
    assert set(FILE_SETTINGS) == set(SECRETS)


@pytest.mark.parametrize(
    "environ",
    [
        {"DATABASE_URL": "mysql://u:hunter2@x", "REDIS_URL": "http://:hunter2@x"},
        # A password that should have been percent-encoded: its beginning is read as a port.
        {"DATABASE_URL": "postgresql://u:hunter2/@x/y"},
        {"REDIS_URL": "redis://:hunter2/@redis:6379"},
        {"DEAD_LETTER_WEBHOOK": "ftp://u:hunter2@x.example/"},
        {"DEAD_LETTER_WEBHOOK": "https://u:hunter2/@x.example/"},
        {"DEAD_LETTER_WEBHOOK": "https://u:hunter2@x.example/", "DEAD_LETTER_WEBHOOK_SECRET": "hunter2"},
        {"DEAD_LETTER_WEBHOOK": WEBHOOK, "DEAD_LETTER_WEBHOOK_SECRET": "hunter2 is 15..."[:15]},
    ],
    ids=str,
)
def test_no_message_holds_a_secret(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert "hunter2" not in str(caught.value)


def test_no_default_of_a_secret_is_shown() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        load_settings({"DATABASE_URL": "mysql://x"})
    assert "default" not in str(caught.value)


def test_no_repr_holds_a_secret() -> None:
    assert "hunter2" not in repr(load_settings(SECRETS))


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_be_in_a_file_which_counts_before_the_variable(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f" {SECRETS[name]}\n")
    others = {key: value for key, value in SECRETS.items() if key != name}
    for beside in ({}, {name: "postgresql://redis://https://"}):
        found = load_settings({**others, **beside, f"{name}_FILE": str(tmp_path / "secret")})
        assert getattr(found, name.lower()) == SECRETS[name]


@pytest.mark.parametrize(("content", "reason"), [(b"redis://hunter2\xff", "not UTF-8"), (None, "No such file")])
def test_a_file_that_cannot_be_read_is_one_line_without_what_is_in_it(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "url").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings({"REDIS_URL_FILE": str(tmp_path / "url")})
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"REDIS_URL_FILE: must name a readable file ({reason}")
    assert "hunter2" not in mistake


def test_the_table_in_the_docs_is_the_codes_own() -> None:
    assert settings_table() in DOCS.read_text(encoding="utf-8"), "run make docs"


def test_every_setting_is_described() -> None:
    assert all(variable.description for variable in VARIABLES.values())
