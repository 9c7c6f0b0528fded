"""The queued message's codec: what one release writes, every later one reads."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from shared.queued_message import CODEC_VERSION, FIELDS, CodecError, QueuedMessage, State, decode, encode

GOLDEN = Path(__file__).parent / "golden"

MESSAGE = QueuedMessage(
    id="0123456789abcdef0123456789abcdef",
    project_id="7a0c9a52-0000-4000-8000-000000000001",
    sender="Ärger@example.com",
    recipients=("b@example.net", "c@example.net"),
    envelope_from="bounce@example.com",
    accepted_at=1_790_000_000.25,
    message_id="<abc@client>",
    subject="Grüße",
    idempotency_key=None,
    body=b'{"from":"a@example.com","to":["b@example.net"],"subject":"s","body":"<p>b</p>"}',
    digest="d" * 64,
)


def stored_values(mapping: dict[str, object]) -> list[bytes | None]:
    """The hash as Redis would give it back: all values bytes, absent ones None."""
    values: list[bytes | None] = []
    for field in FIELDS:
        value = mapping.get(field)
        values.append(None if value is None else value if isinstance(value, bytes) else str(value).encode())
    return values


def test_what_is_encoded_is_decoded() -> None:
    stored = decode(stored_values(encode(MESSAGE)))
    assert stored is not None
    # The digest serves only at the hand-over, under a key of its own.
    assert stored.message == QueuedMessage(
        **{name: getattr(MESSAGE, name) for name in QueuedMessage.__slots__ if name != "digest"}
    )
    assert (stored.state, stored.job_id, stored.attempts, stored.generation) == (State.WAITING, "", 0, 1)
    assert stored.last_answer is None


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("queued_message_v*.json")), ids=lambda path: path.stem)
def test_every_version_ever_written_is_read(path: Path) -> None:
    stored = decode(stored_values(orjson.loads(path.read_bytes())))
    assert stored is not None
    assert stored.message.id == MESSAGE.id
    assert stored.message.recipients == MESSAGE.recipients
    assert stored.message.accepted_at == MESSAGE.accepted_at
    assert stored.message.body == MESSAGE.body
    assert stored.generation == 2
    assert stored.state is State.RETRY
    assert stored.last_answer == {"at": 1_790_000_001.5, "status": 503, "code": "", "message": "the API answered 503"}


def test_there_is_a_golden_file_of_this_version() -> None:
    assert (GOLDEN / f"queued_message_v{CODEC_VERSION}.json").exists()


def test_this_release_still_writes_its_golden_envelope() -> None:
    golden = orjson.loads((GOLDEN / f"queued_message_v{CODEC_VERSION}.json").read_bytes())
    assert orjson.loads(golden["envelope"]) == orjson.loads(MESSAGE.envelope()), "changed form: raise CODEC_VERSION"


def test_no_secret_has_a_place_in_it() -> None:
    assert "secret" not in QueuedMessage.__slots__
    assert b"secret" not in MESSAGE.envelope()


def test_a_message_that_is_gone_is_none() -> None:
    assert decode([None] * len(FIELDS)) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"envelope": b"{}"},
        {"envelope": b"not json"},
        {"envelope": b"[]"},
        {"envelope": None},
        {"body": None},
        {"envelope": orjson.dumps({**orjson.loads(MESSAGE.envelope()), "v": CODEC_VERSION + 1})},
        {"attempts": b"x"},
        {"state": b"lost"},
    ],
)
def test_what_cannot_be_read_says_so(broken: dict[str, bytes | None]) -> None:
    mapping = {**encode(MESSAGE), **broken}
    with pytest.raises(CodecError):
        decode(stored_values(mapping))


@pytest.mark.parametrize(
    ("own_key", "generation", "key"),
    [
        (None, 1, MESSAGE.id),
        (None, 2, MESSAGE.id + ".2"),
        ("order-7", 1, "order-7"),
        ("order-7", 3, "order-7.3"),
        ("k" * 255, 1, "k" * 255),
    ],
)
def test_each_generation_has_its_own_idempotency_key(own_key: str | None, generation: int, key: str) -> None:
    envelope = orjson.dumps({**orjson.loads(MESSAGE.envelope()), "idempotency_key": own_key})
    mapping = {**encode(MESSAGE), "envelope": envelope, "generation": generation}
    stored = decode(stored_values(mapping))
    assert stored is not None
    assert stored.idempotency_key == key


def test_a_long_key_of_the_clients_own_stays_within_the_apis_limit() -> None:
    envelope = orjson.dumps({**orjson.loads(MESSAGE.envelope()), "idempotency_key": "k" * 255})
    stored = decode(stored_values({**encode(MESSAGE), "envelope": envelope, "generation": 2}))
    assert stored is not None
    assert len(stored.idempotency_key) <= 255
    assert stored.idempotency_key.endswith(".2")
