"""What is told of a dead letter: notices, the webhook's event and signature."""

from __future__ import annotations

import base64
import email
import hashlib
import hmac
from email.message import Message
from typing import Any

import orjson
import pytest

from forwarder.dead_letters import STATUS_CODES, DeadLetterAftermath, describe, make_notice
from forwarder.webhook import LONGEST_DELAY, MOST_TRIES, delay_before, sign
from sandbox.plunk_api.schema import complaints
from shared.queued_message import QueuedMessage, State, StoredMessage
from shared.settings import SettingsError, load_settings

REFUSED = {"at": 1_790_000_100.0, "status": 422, "code": "VALIDATION_ERROR", "message": "Bad <address>"}


def dead(**changes: Any) -> StoredMessage:
    call = {"from": "a@example.com", "to": ["b@x.example"], "subject": "Hi", "body": "<p>secret content</p>"}
    fields: dict[str, Any] = {
        "id": "0123456789abcdef0123456789abcdef",
        "project_id": "p",
        "sender": "shop@example.com",
        "recipients": ("b@x.example", "c@y.example"),
        "envelope_from": "bounce@example.com",
        "accepted_at": 1_790_000_000.0,
        "body": orjson.dumps(call | changes.pop("call", {})),
        "message_id": "<abc@client>",
        "subject": "Hello {{name}} & <co>",
    }
    message = QueuedMessage(**{**fields, **changes})
    return StoredMessage(
        message=message,
        state=State.SENDING,
        job_id="j",
        attempts=2,
        generation=1,
        last_answer=REFUSED,
        first_at=1_790_000_050.0,
    )


AFTERMATH = DeadLetterAftermath(with_event=True, with_notice=True, reporting_mta="relay.example")


def notice_of(stored: StoredMessage, answer: dict[str, Any] = REFUSED) -> QueuedMessage:
    notice = AFTERMATH.notice(stored, attempts=3, answer=answer)
    assert notice is not None
    return notice


def test_a_notice_is_what_the_api_takes_and_rfc_3464_asks_for() -> None:
    notice = notice_of(dead())
    call = orjson.loads(notice.body)
    assert complaints(call) == []
    assert (call["from"], call["to"]) == ("mailer-daemon@example.com", ["bounce@example.com"])
    assert call["headers"] == {
        "Auto-Submitted": "auto-replied",
        "In-Reply-To": "<abc@client>",
        "References": "<abc@client>",
    }
    assert "{{" not in call["subject"] + call["body"], "the API would take it for a template"
    assert "Hello { {name} } &amp; &lt;co&gt;" in call["body"]
    assert "422 Bad &lt;address&gt;" in call["body"]
    assert "secret content" not in notice.body.decode()
    report, headers = call["attachments"]
    assert (report["contentType"], headers["contentType"]) == ("message/delivery-status", "text/rfc822-headers")
    about, *recipients = groups(report["content"])
    assert about["Reporting-MTA"] == "dns; relay.example"
    assert about["Arrival-Date"] == "Mon, 21 Sep 2026 14:13:20 +0000"
    assert [group["Final-Recipient"] for group in recipients] == ["rfc822; b@x.example", "rfc822; c@y.example"]
    for group in recipients:
        assert (group["Action"], group["Status"]) == ("failed", "5.6.0")
        assert group["Diagnostic-Code"] == "x-plunk; 422 Bad <address>"
    original = email.message_from_bytes(base64.b64decode(headers["content"]))
    assert (original["From"], original["Message-ID"]) == ("shop@example.com", "<abc@client>")


def groups(content: str) -> list[Message]:
    """The groups of fields of a delivery status, which blank lines divide."""
    text = base64.b64decode(content).decode()
    assert "\n" not in text.replace("\r\n", "")
    return [email.message_from_string(group) for group in text.strip().split("\r\n\r\n")]


def test_a_notice_has_no_sender_to_tell_and_one_id_however_often_it_is_made() -> None:
    first, second = notice_of(dead()), notice_of(dead())
    assert first.id == second.id != dead().message.id
    assert first.envelope_from == ""
    assert notice_of(dead(id="1" * 32)).id != first.id


@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        (dead(envelope_from=""), REFUSED),
        (dead(call={"headers": {"auto-submitted": "auto-generated"}}), REFUSED),
        *((dead(), REFUSED | {"status": status}) for status in (401, 402, 403)),
        (dead(), {"at": 1.0, "status": None, "code": "PROJECT_GONE", "message": "the project no longer exists"}),
    ],
)
def test_nobody_is_told_where_that_would_go_round_or_come_to_nothing(
    stored: StoredMessage, answer: dict[str, Any]
) -> None:
    assert AFTERMATH.notice(stored, attempts=1, answer=answer) is None


def test_a_person_who_says_no_auto_submission_is_told() -> None:
    assert notice_of(dead(call={"headers": {"Auto-Submitted": "no"}}))


@pytest.mark.parametrize("status", [None, 400, 404, 413, 422, 500, 503])
def test_each_last_answer_has_its_enhanced_status_code(status: int | None) -> None:
    notice = notice_of(dead(), REFUSED | {"status": status, "code": ""})
    expected = STATUS_CODES.get(status, "5.0.0") if status and status < 500 else "4.4.7"
    assert f"Status: {expected}" in base64.b64decode(orjson.loads(notice.body)["attachments"][0]["content"]).decode()


def test_settings_decide() -> None:
    off = DeadLetterAftermath(with_event=False, with_notice=False, reporting_mta="relay.example")
    assert off.notice(dead(), attempts=1, answer=REFUSED) is None
    assert off.event(dead(), attempts=1, answer=REFUSED) == b""
    assert not load_settings({}).bounce_notices
    with pytest.raises(SettingsError) as caught:
        load_settings({"DEAD_LETTER_WEBHOOK": "https://x.example/hook", "DEAD_LETTER_WEBHOOK_SECRET": "short"})
    assert caught.value.mistakes == [
        "DEAD_LETTER_WEBHOOK_SECRET: must be 16 characters or more with DEAD_LETTER_WEBHOOK"
    ]
    with pytest.raises(SettingsError, match="DEAD_LETTER_WEBHOOK: must be a URL"):
        load_settings({"DEAD_LETTER_WEBHOOK": "ftp://x"})


def test_an_event_is_one_json_line_without_content() -> None:
    event = AFTERMATH.event(dead(), attempts=3, answer=REFUSED)
    assert event.endswith(b"}\n")
    assert event.count(b"\n") == 1
    told = orjson.loads(event)
    assert set(told) == {*describe(dead()), "type"}
    assert (told["type"], told["attempts"], told["first_attempt_at"]) == ("dead_letter", 3, "2026-09-21T14:14:10Z")
    assert told["answer"] == {"status": 422, "code": "VALIDATION_ERROR", "message": "Bad <address>"}
    assert b"secret content" not in event


def test_the_signature_is_what_the_docs_say() -> None:
    body = b'{"a": 1}\n'
    expected = hmac.new(b"k" * 16, b"1790000000." + body, hashlib.sha256).hexdigest()
    assert sign(body, secret="k" * 16, timestamp=1_790_000_000) == "v1=" + expected


def test_deliveries_are_tried_for_a_day_and_more_and_not_for_ever() -> None:
    waits = [delay_before(tries) for tries in range(1, MOST_TRIES)]
    assert waits == sorted(waits)
    assert waits[0] == 5
    assert waits[-1] == LONGEST_DELAY
    assert 86_400 < sum(waits) < 2 * 86_400


def test_make_notice_copes_with_odd_mail() -> None:
    notice = make_notice(
        dead(subject="x\r\ny" * 400, message_id="<ä@x>"), attempts=1, answer={}, reporting_mta="relay.example"
    )
    call = orjson.loads(notice.body)
    assert complaints(call) == []
    assert "In-Reply-To" not in call["headers"]
