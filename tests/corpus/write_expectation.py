"""Writes what the parser makes of messages of the corpus beside them, for a person to read before it is committed.

``python -m tests.corpus.write_expectation NAME…`` (without ``.eml``). No test calls this: an expectation that is
written by what it checks is worth only as much as the eyes that read it, and a test fails until
``python -m tests.corpus.record_reading NAME…`` says that they have.
"""

from __future__ import annotations

import json
import sys

from tests.support.corpus import FOLDER, RECIPIENTS, outcome


def main(names: list[str]) -> None:
    for name in names:
        known = FOLDER / f"{name}.json"
        before = json.loads(known.read_text("utf-8")) if known.exists() else {}
        found = outcome((FOLDER / f"{name}.eml").read_bytes(), before.get("recipients", RECIPIENTS))
        if isinstance(found, str):
            known.unlink(missing_ok=True)
            (FOLDER / f"{name}.refusal").write_text(found + "\n", "utf-8")
            continue
        (FOLDER / f"{name}.refusal").unlink(missing_ok=True)
        usual = {"recipients": list(RECIPIENTS), "message_id": None, "idempotency_key": None, "drop": False}
        kept = {key: value for key, value in found.items() if key in before or key == "call" or value != usual.get(key)}
        if len(found["from_domains"]) == 1 and "from_domains" not in before:
            kept.pop("from_domains", None)
        if "message_id" not in before:
            kept.pop("message_id", None)
        known.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
