"""The way of one message through the ingress: parse, check the senders, preflight, hand over, 250."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ingress.backend import Login, Submission
from ingress.handover import HandOver
from ingress.message import Limits, ParsedMessage, parse
from ingress.preflight import Preflight
from ingress.replies import Replies, Reply, SmtpError
from shared.log import get_logger
from shared.metrics import ACCEPT_SECONDS
from shared.projects import DirectoryUnavailable, ProjectDirectory
from shared.queued_message import QueuedMessage, new_message_id

INLINE_BYTES: Final = 64 * 1024
"""Largest message that is parsed on the event loop; a larger one goes to a thread, so that no session waits for it."""

HASHED_AT_ONCE: Final = 2047
"""Bytes up to which hashlib keeps the interpreter: to get it back from another thread costs more than the digest."""

log = get_logger(__name__)


class Acceptance:
    """The sessions' backend (``ingress.backend.Backend``) over the database, the API and the queue."""

    def __init__(
        self,
        *,
        directory: ProjectDirectory,
        preflight: Preflight,
        handover: HandOver,
        parsers: ThreadPoolExecutor,
        digesters: ThreadPoolExecutor,
        limits: Limits,
        deduplicate: bool,
    ) -> None:
        self._directory = directory
        self._preflight = preflight
        self._handover = handover
        self._parsers = parsers
        self._digesters = digesters
        self._limits = limits
        self._deduplicate = deduplicate

    async def authenticate(self, secret: str, *, peer: str) -> Login:
        try:
            project = await self._directory.by_secret(secret)
        except DirectoryUnavailable as error:
            raise Replies.AUTH_UNAVAILABLE.error(cause=f"database: {error}") from error
        if project is None:
            raise Replies.AUTH_INVALID.error(cause="unknown secret")
        return Login(project=project, secret=secret)

    async def check_sender(self, login: Login, domain: str) -> None:
        if not await self._is_verified(login, domain):
            raise Replies.SENDER_DOMAIN.error(cause=f"domain {domain}")

    async def accept(self, submission: Submission) -> Reply:
        started = time.monotonic()
        message_id = new_message_id()
        bound = log.bind(message_id=message_id, session=submission.session, project=submission.login.project.id)
        to = ", ".join(submission.recipients)
        size = len(submission.data)
        try:
            parsed, content = await self._parse(submission)
            # From here on the API's call is all that is kept of the message.
            submission.data = b""
            await self._check_header_senders(submission.login, parsed)
            # A large body is on its way to Redis while the API is asked.
            staging = None if parsed.drop else self._handover.stage(message_id, parsed.body)
            try:
                await self._preflight.check(secret=submission.login.secret, sender=parsed.sender)
            except SmtpError:
                self._handover.forget(message_id, staging)
                # What was promised once is promised, whatever the API says now. Only here is it looked up before the
                # hand-over, which recognises a repeat by itself: in good times a repeat costs nothing more.
                first_id = await self._handover.first_id(await self._digest(submission, parsed, content))
                if first_id is None:
                    raise
                bound.info(f"Email is a repeat of {first_id}: {parsed.sender} → {to}")
                return Replies.QUEUED.value.filled(id=first_id)
            if parsed.drop:
                bound.info(f"Email dropped as asked: {parsed.sender} → {to}")
                return Replies.DROPPED.value
            queued_id = await self._handover.put(
                QueuedMessage(
                    id=message_id,
                    project_id=submission.login.project.id,
                    sender=parsed.sender,
                    recipients=submission.recipients,
                    envelope_from=submission.envelope_from,
                    accepted_at=time.time(),
                    body=parsed.body,
                    message_id=parsed.message_id,
                    subject=parsed.subject,
                    idempotency_key=parsed.idempotency_key,
                    digest=await self._digest(submission, parsed, content),
                ),
                staging,
            )
        except SmtpError as error:
            bound.warning(
                f"Email refused: {submission.envelope_from} → {to}",
                reply=str(error.reply),
                cause=error.cause,
                **error.log_fields,
            )
            raise
        except Exception as error:
            # A defect: the client is asked to come again, and the log has the message's id beside the traceback.
            bound.exception(f"Email failed: {submission.envelope_from} → {to}")
            raise Replies.TROUBLE.error(cause=type(error).__name__) from error
        finally:
            ACCEPT_SECONDS.observe(time.monotonic() - started)
        if queued_id != message_id:
            bound.info(f"Email is a repeat of {queued_id}: {parsed.sender} → {to}", client_message_id=parsed.message_id)
        else:
            bound.info(
                f"Email accepted: {parsed.sender} → {to}",
                client_message_id=parsed.message_id,
                bytes=size,
                peer=submission.peer,
                **({"headers_left_out": parsed.headers_left_out} if parsed.headers_left_out else {}),
            )
        return Replies.QUEUED.value.filled(id=queued_id)

    async def _parse(self, submission: Submission) -> tuple[ParsedMessage, bytes | Awaitable[bytes]]:
        """The message as the API takes it, and the digest of its content, which for a large one may yet come."""
        data = submission.data
        if len(data) <= INLINE_BYTES:
            return self._read(submission), content_digest(data)
        loop = asyncio.get_running_loop()
        # Beside the parse and the way to Redis: hashlib lets go of the interpreter.
        content = loop.run_in_executor(self._digesters, content_digest, data)
        return await loop.run_in_executor(self._parsers, self._read, submission), content

    async def _digest(self, submission: Submission, parsed: ParsedMessage, content: bytes | Awaitable[bytes]) -> str:
        # A message without a Message-ID is never taken for a repeat: two alike may both be meant.
        if not self._deduplicate or not parsed.message_id or parsed.drop:
            return ""
        known = content if isinstance(content, bytes) else await content
        return fingerprint(submission, parsed.message_id, known)

    def _read(self, submission: Submission) -> ParsedMessage:
        return parse(submission.data, recipients=submission.recipients, limits=self._limits)

    async def _check_header_senders(self, login: Login, parsed: ParsedMessage) -> None:
        for domain in parsed.from_domains:
            if not await self._is_verified(login, domain):
                raise Replies.FROM_DOMAIN.error(cause=f"domain {domain}")

    async def _is_verified(self, login: Login, domain: str) -> bool:
        if domain in login.project.verified_domains:
            return True
        # It may have been verified since this session authenticated.
        try:
            return await self._directory.is_verified(login.project.id, domain)
        except DirectoryUnavailable as error:
            raise Replies.SENDER_UNAVAILABLE.error(cause=f"database: {error}") from error


def content_digest(data: bytes) -> bytes:
    """SHA-256 of a message."""
    digest = hashlib.sha256()
    view = memoryview(data)
    step = HASHED_AT_ONCE if len(view) <= INLINE_BYTES else max(1, len(view))
    for start in range(0, len(view), step):
        digest.update(view[start : start + step])
    return digest.digest()


def fingerprint(submission: Submission, message_id: str, content: bytes) -> str:
    """SHA-256 over project, envelope, Message-ID and content: equal only for a client's repeat of one message."""
    parts = (submission.login.project.id, submission.envelope_from, *submission.recipients, message_id, "")
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape") + content).hexdigest()
