"""Every message of the corpus becomes the API's call, or the refusal, that lies beside it."""

from __future__ import annotations

import orjson
import pytest

from ingress.message import parse
from sandbox.plunk_api.schema import complaints
from tests.support.corpus import FOLDER, digests, load, names, outcome, readings

NAMES = names()


@pytest.mark.parametrize("name", NAMES)
def test_a_message_becomes_what_is_expected(name: str) -> None:
    example = load(name)
    found = outcome(example.raw, example.recipients)
    if example.refusal:
        assert found == example.refusal
        return
    assert isinstance(found, dict), found
    assert complaints(orjson.loads(parse(example.raw, recipients=example.recipients).call)) == []
    assert found["call"] == example.expected["call"]
    assert {key: found[key] for key in example.expected} == example.expected


@pytest.mark.parametrize("name", NAMES)
def test_a_message_and_its_expectation_were_read(name: str) -> None:
    if readings().get(name) != digests(name):
        pytest.fail(
            f"tests/corpus/{name}: changed or new since somebody read it. Read the expectation beside the message, "
            f"in full, then record it: python -m tests.corpus.record_reading {name}"
        )


def test_the_record_names_no_message_that_is_gone() -> None:
    assert sorted(readings()) == NAMES


def test_the_corpus_is_whole() -> None:
    assert len(NAMES) >= 150
    beside = {path.stem for pattern in ("*.json", "*.refusal") for path in FOLDER.glob(pattern)}
    assert beside == set(NAMES)
    assert not [name for name in NAMES if (FOLDER / f"{name}.json").exists() and (FOLDER / f"{name}.refusal").exists()]
