"""How many bytes of messages may be in flight within the memory that is theirs."""

from __future__ import annotations

from ingress.limits import COPIES, message_budget

MIB = 1024 * 1024


def test_messages_and_what_is_made_of_them_stay_within_the_memory() -> None:
    budget = message_budget(256 * MIB, largest=10 * MIB)
    assert budget * COPIES <= 256 * MIB
    assert budget >= 100 * MIB


def test_there_is_room_for_one_message_of_the_largest_size() -> None:
    assert message_budget(16 * MIB, largest=50 * MIB) == 50 * MIB
