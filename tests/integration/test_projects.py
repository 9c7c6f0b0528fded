"""The project directory against a real PostgreSQL: sessions that ask together share a query, and none gets old news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sandbox.postgres_server import PostgresServer
from shared.projects import DirectoryUnavailable, Project, ProjectDirectory


class Counting(ProjectDirectory):
    """Counts its queries."""

    queries = 0

    async def _fetch(self, query: str, *args: object) -> list[Any]:
        self.queries += 1
        return await super()._fetch(query, *args)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
async def directory(postgres: PostgresServer) -> AsyncIterator[Counting]:
    postgres.execute(
        "TRUNCATE projects CASCADE;"
        "INSERT INTO projects VALUES ('a', 'A', 'pk_a', 'sk_a'), ('b', 'B', 'pk_b', 'sk_b');"
        "INSERT INTO domains VALUES ('1', 'a', 'One.example', true), ('2', 'a', 'two.example', false);"
    )
    directory = Counting(postgres.url)
    yield directory
    await directory.close()


A = Project(id="a", verified_domains=frozenset({"one.example"}))
B = Project(id="b", verified_domains=frozenset())


async def test_one_question_is_one_query(directory: Counting) -> None:
    assert await directory.by_secret("sk_a") == A
    assert directory.queries == 1


async def test_a_crowd_shares_queries_and_each_gets_its_own_answer(directory: Counting) -> None:
    secrets = ["sk_a", "sk_b", "sk_wrong", "sk_\x00", "sk_\udcff", "sk_ä"] * 20
    found = await asyncio.gather(*map(directory.by_secret, secrets))
    assert found == [A, B, None, None, None, None] * 20
    # On a quiet machine 2: the first's own and the crowd's. A busy one takes longer to ask 80 questions.
    assert directory.queries <= 8


async def test_an_answer_is_never_older_than_its_question(directory: Counting, postgres: PostgresServer) -> None:
    await directory.by_secret("sk_a")
    for round in range(3):
        # Asked again at once, within the time in which questions gather.
        postgres.execute(f"UPDATE projects SET secret = 'sk_new{round}' WHERE id = 'a'")
        old, new = await asyncio.gather(
            directory.by_secret("sk_a" if not round else f"sk_new{round - 1}"), directory.by_secret(f"sk_new{round}")
        )
        assert (old, new) == (None, A)


async def test_one_who_goes_away_takes_no_answer_from_the_others(directory: Counting) -> None:
    first, second = (asyncio.create_task(directory.by_secret("sk_a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == A


async def test_without_a_database_every_question_of_a_group_fails_and_later_ones_do_not(
    postgres: PostgresServer, directory: Counting
) -> None:
    await directory.by_secret("sk_a")
    postgres.stop()
    try:
        asked = await asyncio.gather(*(directory.by_secret(s) for s in ("sk_a", "sk_b")), return_exceptions=True)
    finally:
        postgres.start()
    assert [type(answer) for answer in asked] == [DirectoryUnavailable] * 2
    assert await directory.by_secret("sk_b") == B
