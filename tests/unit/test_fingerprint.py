"""What makes a message a repeat of another: all of it must be the same, to the last byte."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from ingress.acceptance import HASHED_AT_ONCE, INLINE_BYTES, content_digest, fingerprint
from ingress.backend import Login, Submission
from shared.projects import Project


def printed(
    *,
    project: str = "p",
    envelope_from: str = "a@example.com",
    recipients: tuple[str, ...] = ("b@x.example", "c@x.example"),
    message_id: str = "<1@client>",
    data: bytes = b"Subject: s\r\n\r\ntext\r\n",
) -> str:
    login = Login(project=Project(id=project, verified_domains=frozenset()), secret="sk")
    submission = Submission(
        login=login, envelope_from=envelope_from, recipients=recipients, data=data, session="s", peer="192.0.2.1"
    )
    return fingerprint(submission, message_id, content_digest(data))


@pytest.mark.parametrize(
    "other",
    [
        {"project": "q"},
        {"envelope_from": "z@example.com"},
        {"envelope_from": ""},
        {"recipients": ("b@x.example",)},
        {"recipients": ("b@x.example", "c@x.example", "d@x.example")},
        {"message_id": "<2@client>"},
        {"data": b"Subject: s\r\n\r\ntexts\r\n"},
        # The same characters, cut elsewhere.
        {"project": "pa", "envelope_from": "@example.com"},
        {"recipients": ("b@x.examplec@x.example",)},
        {"recipients": ("b@x.example", "c@x.example<"), "message_id": "1@client>"},
    ],
    ids=str,
)
def test_whatever_differs_makes_another_message(other: dict[str, Any]) -> None:
    assert printed() == printed()
    assert printed(**other) != printed()


@pytest.mark.parametrize("size", [0, 1, HASHED_AT_ONCE, HASHED_AT_ONCE + 1, INLINE_BYTES, INLINE_BYTES + 1, 200_000])
def test_all_of_a_message_is_hashed_whatever_its_size(size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert content_digest(data) == hashlib.sha256(data).digest()
