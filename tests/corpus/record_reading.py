"""Records that somebody has read a message of the corpus and its expectation, the one beside the other, in full.

``python -m tests.corpus.record_reading NAME…`` (without ``.eml``) writes their digests to ``read.tsv``; a test fails
for a pair that is not in it. Whoever runs it answers for this: what a good mail program would show of the bytes was
decided first, decoded without the relay's parser, and then compared with the expectation: every character and line of
the text, names and addresses, headers passed on or left out, names, types and bytes of the files. Nothing records a
reading on its own; ``write_expectation`` does not.
"""

from __future__ import annotations

import sys

from tests.support.corpus import READ, digests, names, readings


def main(read: list[str]) -> None:
    known = set(names())
    if unknown := sorted(set(read) - known):
        sys.exit(f"no message of the corpus: {', '.join(unknown)}")
    record = {name: pair for name, pair in readings().items() if name in known}
    record |= {name: digests(name) for name in read}
    READ.write_text("".join(f"{name}\t{pair[0]}\t{pair[1]}\n" for name, pair in sorted(record.items())), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
