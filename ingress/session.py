"""One SMTP connection: aiosmtpd's session and envelope over a stream and command loop of our own.

aiosmtpd gives the protocol's frame (``SMTP``, ``Session``, ``Envelope``). What it does that a mail relay must not
(unbounded lines, one timeout for everything, exceptions shown to the client, a blocking authenticator, no AUTH on
implicit TLS, LF as a line's end, a hand-over that a disconnect cancels) is replaced here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from ingress.backend import Backend, Login, Submission
from ingress.certificates import CertificateStore
from ingress.clients import client_address
from ingress.commands import Credentials, decode_base64, login_password, parse_mail, parse_rcpt, plain_credentials
from ingress.data import DataTooLarge, NoRoom
from ingress.limits import SharedLimits, Slot, message_budget, room_for_connections
from ingress.replies import Replies, Reply, SmtpError
from ingress.stream import BareNewline, ByteStream, ClientGone, LineTooLong
from ingress.throttle import FailureThrottle, delay_after
from shared.identifiers import random_hex
from shared.log import get_logger
from shared.metrics import AUTH_RESULTS, REPLIES, by_code
from shared.settings import MIB, Settings

COMMAND_LINE: Final = 2048
"""Longest command line in bytes: 512 of RFC 5321 and what the extensions add to MAIL and RCPT."""

AUTH_LINE: Final = 12_288
"""Longest line of an AUTH exchange in bytes (RFC 4954 section 4)."""

MAX_ERRORS: Final = 20
"""Refused commands without an accepted message between them, after which a connection is closed."""

MAX_IDLE_COMMANDS: Final = 100
"""Commands that lead to no message (NOOP, EHLO …), without one between them, after which it is closed."""

IDLE_COMMANDS: Final = frozenset({b"NOOP", b"EHLO", b"HELO", b"HELP", b"VRFY"})
"""RSET is none: it must not close a connection (RFC 5321 section 4.1.1.5)."""

FAIR_SHARE: Final = 50
"""Commands of one connection after which the others have their turn, however many it has pipelined."""

MAX_OVERSHOOT: Final = 1000
"""Recipients past MAX_RECIPIENTS that one transaction may try: a smarthost pipelines more and sends them again."""

TLS_HANDSHAKE: Final = 30.0
"""Seconds that a TLS handshake may take."""

TLS_SHUTDOWN: Final = 3.0
"""Seconds that a client has to answer TLS's good-bye: one that is asleep must not hold up a stop (the loop: 30)."""

LINGER: Final = 2.0
"""Seconds that a client has to hear the last reply and close its side, after the relay has closed its own."""

log = get_logger(__name__)


class SmtpSession(SMTP):
    """One connection. Made by ``SessionFactory``."""

    def __init__(
        self, factory: SessionFactory, *, implicit_tls: bool, peer: str | None = None, slot: Slot | None = None
    ) -> None:
        # SMTP.__init__ inspects its handler at length for every connection; nothing of that is used here.
        self.loop = asyncio.get_running_loop()
        self._factory = factory
        self._settings = factory.settings
        self._backend = factory.backend
        # On a port with implicit TLS the loop has made the handshake before this protocol hears of the connection.
        self._tls_active = implicit_tls
        self.transport: Any = None
        self._stream = ByteStream(pause=self._pause_reading, resume=self._resume_reading)
        self._out = bytearray()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._peer = peer
        self._slot = slot
        self._login: Login | None = None
        self._auth_failures = 0
        self._errors = 0
        self._idle_commands = 0
        self._served = 0
        self._overshoot = 0
        self._main: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_for_client = False
        self._in_data = False
        self._handing_over = False
        self._data_started = 0.0
        self._upgrading = False
        self._closing = False
        self._lost = False
        self.id = random_hex(6)

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._upgrading:
            self.transport = transport
            return
        self.transport = transport
        if self._peer is None:
            peername = transport.get_extra_info("peername")
            self._peer = client_address(str(peername[0])) if isinstance(peername, tuple) else ""
        self.peer = self._peer
        self.session = Session(self.loop)
        self.envelope = Envelope()
        now = self.loop.time()
        self._last_byte = now
        self._connected = now
        # Who has not authenticated is no client yet: all of that must be done in the time of one idle spell.
        self._deadline = now + self._settings.idle_timeout
        self._timer = self.loop.call_later(self._settings.idle_timeout, self._look_at_clock)
        self._factory.add(self)
        if self._slot is None:
            self._slot = self._factory.limits.enter(self.peer)
        self._main = self.loop.create_task(self._serve(self._slot.is_free))

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._last_byte = self.loop.time()
        self._stream.feed(data)

    def eof_received(self) -> bool:
        if self._closing:
            return False
        self._stream.feed_eof()
        # A client that has said all may still read our answers; TLS has no such half-open state.
        return not self._tls_active

    def connection_lost(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._stream.feed_eof()
        self._closing = True
        self._can_write.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._slot is not None:
            self._slot.release()
        if self._handing_over:
            # A client that hangs up now must not leave "accepted or not?" undecided: the session ends after it.
            return
        if self._main is not None:
            self._main.cancel()
        self._factory.discard(self)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def _pause_reading(self) -> None:
        if not self._closing:
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._closing:
            self.transport.resume_reading()

    # The clock: idle time, one upload's time and the session's time are three limits; our own work counts for none

    def _look_at_clock(self) -> None:
        now = self.loop.time()
        limits = [(self._last_byte + self._settings.idle_timeout, Replies.IDLE_TIMEOUT)]
        if self._in_data:
            limits.append((self._data_started + self._settings.data_timeout, Replies.SESSION_TIMEOUT))
        else:
            limits.append((self._deadline, Replies.SESSION_TIMEOUT if self._login else Replies.IDLE_TIMEOUT))
        due, reply = min(limits, key=lambda limit: limit[0])
        if not self._waiting_for_client:
            self._timer = self.loop.call_later(1.0, self._look_at_clock)
        elif due <= now:
            self._hang_up(reply.value)
        else:
            self._timer = self.loop.call_later(min(due - now, self._settings.idle_timeout), self._look_at_clock)

    def _hang_up(self, reply: Reply) -> None:
        """Say ``reply`` and close, whatever the client does."""
        if self._closing:
            return
        self._closing = True
        log.info("Connection closed by the relay", session=self.id, peer=self.peer, reply=str(reply))
        self.transport.write(bytes(self._out) + reply.encode())
        self._out.clear()
        self._linger()

    def _linger(self) -> None:
        """Close when the client has, so that it hears the last reply.

        A socket that is closed with unread input resets the connection (RFC 1122 section 4.2.2.13), and what was said
        before is lost with it: a client in the middle of an upload would never hear why.
        """
        if self.transport.is_closing() or self._tls_active or not self.transport.can_write_eof():
            # TLS says good-bye and waits for the client's (``TLS_SHUTDOWN``).
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER, self.transport.close)

    def stop(self) -> None:
        """The server stops: 421 now when the client is idle; otherwise it follows the transaction under way."""
        if self._waiting_for_client and not self._in_data and not self._in_transaction:
            self._hang_up(Replies.SHUTTING_DOWN.value)

    @property
    def _in_transaction(self) -> bool:
        return self.envelope is not None and self.envelope.mail_from is not None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that serves this connection."""
        return self._main

    def abort(self) -> None:
        """Close without a word: the time to stop is up."""
        self._closing = True
        self.transport.abort()

    # The session's side

    async def _serve(self, welcome: bool) -> None:
        try:
            if not welcome:
                # Nothing of it lingers: a crowd must not hold what there is too little of.
                self._say(Replies.TOO_MANY_CONNECTIONS.value)
                self._close()
                return
            if self._factory.is_stopping:
                # It came as the server began to stop, which could not tell it yet.
                self._hang_up(Replies.SHUTTING_DOWN.value)
                return
            self._say(self._factory.greeting)
            while not self._closing:
                await self._serve_command()
        except ClientGone:
            self._close()
        except asyncio.CancelledError:
            # Only connection_lost cancels, and never during a hand-over.
            pass
        except Exception:
            log.exception("Session failed", session=self.id, peer=self.peer)
            self._hang_up(Replies.TROUBLE.value)

    async def _serve_command(self) -> None:
        try:
            line = await self._read_line(COMMAND_LINE if self._login else AUTH_LINE)
            command, _, argument = line.partition(b" ")
            command = command.upper()
            handler = COMMANDS.get(command)
            if handler is None:
                raise Replies.COMMAND_UNKNOWN.error()
            if command in IDLE_COMMANDS:
                self._idle_commands += 1
            self._served += 1
            if self._served % FAIR_SHARE == 0:
                await asyncio.sleep(0)
            await handler(self, argument.decode("utf-8", "surrogateescape").strip())
        except LineTooLong:
            self._refuse(Replies.COMMAND_TOO_LONG.value)
        except BareNewline as error:
            if error.ambiguous:
                # What follows the LF may be an argument to one reader and a command to another: it is neither here.
                self._hang_up(Replies.COMMAND_BARE_NEWLINE.value)
                return
            self._refuse(Replies.COMMAND_BARE_NEWLINE.value)
        except SmtpError as error:
            self._refuse(error.reply)
        except ClientGone:
            raise
        except Exception:
            # Unknown trouble is temporary, and its details are for the log alone.
            log.exception("Command failed", session=self.id, peer=self.peer)
            self._refuse(Replies.TROUBLE.value)
        if self._idle_commands >= MAX_IDLE_COMMANDS:
            self._hang_up(Replies.TOO_MANY_COMMANDS.value)
        elif self._errors >= MAX_ERRORS:
            self._hang_up(Replies.TOO_MANY_ERRORS.value)
        elif self._factory.is_stopping and not self._in_transaction:
            self._hang_up(Replies.SHUTTING_DOWN.value)

    async def _read_line(self, limit: int) -> bytes:
        if not self._stream.has_line:
            await self._flush()
        self._waiting_for_client = True
        try:
            return await self._stream.read_line(limit)
        finally:
            self._waiting_for_client = False

    def _say(self, reply: Reply) -> None:
        """Answer; pipelined commands' answers go out together."""
        self._out += reply.encode()

    def _refuse(self, reply: Reply) -> None:
        self._errors += 1
        self._say(reply)

    async def _flush(self) -> None:
        if self._out and not self._closing:
            self.transport.write(bytes(self._out))
            self._out.clear()
            if not self._can_write.is_set():
                await self._can_write.wait()

    def _close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._out:
                self.transport.write(bytes(self._out))
                self._out.clear()
            self.transport.close()

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        """Turn TLS on; when the handshake fails the connection is closed."""
        self._stream.clear()
        self._upgrading = True
        try:
            transport = await self.loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=TLS_HANDSHAKE,
                ssl_shutdown_timeout=TLS_SHUTDOWN,
            )
        except (ssl.SSLError, OSError, EOFError, asyncio.IncompleteReadError, TimeoutError) as error:
            log.info("TLS handshake failed", session=self.id, peer=self.peer, error=type(error).__name__)
            self.abort()
            # The loop tells nobody of a connection that is lost during the handshake.
            self.connection_lost(None)
            return
        finally:
            self._upgrading = False
        if transport is None:
            return
        self.transport = transport
        self._tls_active = True
        # RFC 3207 section 4.2: what was learnt without TLS is forgotten.
        self.session = Session(self.loop)
        self.envelope = Envelope()
        self._login = None

    # Commands

    def _reset(self) -> None:
        self.envelope = Envelope()
        self._overshoot = 0

    def _hello(self, argument: str) -> None:
        if not argument:
            raise Replies.SYNTAX.error(syntax="EHLO hostname")
        self._reset()
        session = cast(Session, self.session)
        session.host_name = argument

    async def smtp_HELO(self, argument: str) -> None:
        self._hello(argument)
        self._out += f"250 {self._factory.host}\r\n".encode("ascii", "replace")

    async def smtp_EHLO(self, argument: str) -> None:
        self._hello(argument)
        cast(Session, self.session).extended_smtp = True
        has_certificate = self._factory.certificates.context is not None
        self._out += self._factory.extensions(offers_tls=has_certificate and not self._tls_active)

    async def smtp_STARTTLS(self, argument: str) -> None:
        if argument:
            raise Replies.SYNTAX.error(syntax="STARTTLS")
        if self._tls_active:
            raise Replies.TLS_ACTIVE.error()
        context = self._factory.certificates.context
        if context is None:
            raise Replies.TLS_UNAVAILABLE.error()
        # Bytes pipelined after STARTTLS would count as sent under TLS: they are thrown away before and after the reply.
        self._stream.clear()
        self._say(Replies.STARTTLS_READY.value)
        await self._flush()
        await self._start_tls(context)

    async def smtp_AUTH(self, argument: str) -> None:
        session = cast(Session, self.session)
        if not session.host_name:
            raise Replies.BAD_SEQUENCE.error(expected="EHLO first")
        if self._login is not None:
            raise Replies.AUTH_TWICE.error()
        if self._in_transaction:
            raise Replies.BAD_SEQUENCE.error(expected="AUTH is not allowed during a mail transaction")
        if self._factory.certificates.context is not None and not self._tls_active:
            raise Replies.TLS_REQUIRED_FOR_AUTH.error()
        mechanism, _, initial = argument.partition(" ")
        exchange = {"PLAIN": self._auth_plain, "LOGIN": self._auth_login}.get(mechanism.upper())
        if exchange is None:
            raise Replies.AUTH_MECHANISM.error()
        try:
            credentials = await exchange(initial.strip().encode("utf-8", "surrogateescape"))
            await self._check_credentials(credentials)
        except LineTooLong:
            raise Replies.AUTH_TOO_LONG.error() from None
        except SmtpError as error:
            by_code(AUTH_RESULTS, error.reply.code).inc()
            raise

    async def _check_credentials(self, credentials: Credentials) -> None:
        await self._flush()
        try:
            # A wrong user costs the same look-up as a wrong secret and gets the same words.
            login = await self._backend.authenticate(credentials.password, peer=self.peer)
            if not credentials.is_known_user:
                raise Replies.AUTH_INVALID.error(cause="unknown user")
        except SmtpError as error:
            if error.reply.code != Replies.AUTH_INVALID.value.code:
                log.error("Authentication is not possible now", session=self.id, cause=error.cause)
                raise
            await self._auth_failed(error, credentials.password)
            return
        self._login = login
        self._deadline = self._connected + self._settings.session_timeout
        by_code(AUTH_RESULTS, 235).inc()
        log.info("Authenticated", session=self.id, peer=self.peer, project=login.project.id)
        self._say(Replies.AUTH_OK.value)

    async def _auth_failed(self, error: SmtpError, secret: str) -> None:
        """Say no, the later the more often it was said; raises ``error`` while the client may try again."""
        self._auth_failures += 1
        strike = await self._factory.throttle.failed(self.peer, secret)
        failures = max(self._auth_failures, strike.failures)
        # docs/fail2ban matches this line.
        log.warning(f"Authentication failed from [{self.peer}]", session=self.id, peer=self.peer, failures=failures)
        await asyncio.sleep(delay_after(failures))
        is_last = self._auth_failures >= self._settings.auth_max_failures
        if not (strike.is_too_many or is_last):
            raise error
        by_code(AUTH_RESULTS, error.reply.code).inc()
        if not strike.is_too_many:
            self._say(error.reply)
        self._hang_up(Replies.AUTH_TOO_MANY.value)

    async def _auth_plain(self, initial: bytes) -> Credentials:
        return plain_credentials(initial or await self._challenge(b"334 \r\n"))

    async def _auth_login(self, initial: bytes) -> Credentials:
        user = decode_base64(initial or await self._challenge(b"334 VXNlcm5hbWU6\r\n"))
        return Credentials(user=user, password=login_password(await self._challenge(b"334 UGFzc3dvcmQ6\r\n")))

    async def _challenge(self, challenge: bytes) -> bytes:
        self._out += challenge
        await self._flush()
        line = await self._read_line(AUTH_LINE)
        if line == b"*":
            raise Replies.AUTH_CANCELLED.error()
        return line

    async def smtp_MAIL(self, argument: str) -> None:
        if not cast(Session, self.session).host_name:
            raise Replies.BAD_SEQUENCE.error(expected="EHLO first")
        if self._login is None:
            if self._factory.certificates.context is not None and not self._tls_active:
                raise Replies.TLS_REQUIRED.error()
            raise Replies.AUTH_FIRST.error()
        if self._in_transaction:
            raise Replies.BAD_SEQUENCE.error(expected="RSET before another MAIL")
        mail = parse_mail(argument)
        if mail.size > self._settings.max_message_bytes:
            raise Replies.SIZE_EXCEEDED.error(limit=self._settings.max_message_bytes)
        try:
            await self._backend.check_sender(self._login, mail.domain)
        except SmtpError as error:
            log.warning("Sender refused", session=self.id, reply=str(error.reply), cause=error.cause)
            raise
        envelope = cast(Envelope, self.envelope)
        envelope.mail_from = mail.address
        envelope.smtp_utf8 = mail.smtputf8
        self._say(Replies.OK.value)

    async def smtp_RCPT(self, argument: str) -> None:
        if not self._in_transaction:
            raise Replies.BAD_SEQUENCE.error(expected="MAIL first")
        envelope = cast(Envelope, self.envelope)
        address = parse_rcpt(argument)
        if address not in envelope.rcpt_tos:
            if len(envelope.rcpt_tos) >= self._settings.max_recipients:
                # No error of the client's: a smarthost pipelines all it has, and sends the refused ones again.
                self._overshoot += 1
                self._errors -= self._overshoot <= MAX_OVERSHOOT
                raise Replies.TOO_MANY_RECIPIENTS.error(limit=self._settings.max_recipients)
            envelope.rcpt_tos.append(address)
        self._say(Replies.OK.value)

    async def smtp_DATA(self, argument: str) -> None:
        if argument:
            raise Replies.SYNTAX.error(syntax="DATA")
        if not self._in_transaction:
            raise Replies.BAD_SEQUENCE.error(expected="MAIL first")
        envelope = cast(Envelope, self.envelope)
        login = self._login
        if not envelope.rcpt_tos or login is None:
            raise Replies.NO_RECIPIENTS.error()
        self._say(Replies.START_DATA.value)
        await self._flush()
        held = 0

        def reserve(count: int) -> bool:
            nonlocal held
            if self._factory.limits.reserve(count):
                held += count
                return True
            # What it has had so far is thrown away with the rest: there is room for others at once.
            self._factory.limits.release(held)
            held = 0
            return False

        try:
            reply = await self._accept(envelope, login, reserve)
        except SmtpError as error:
            reply = error.reply
        finally:
            self._factory.limits.release(held)
            self._reset()
        if self._lost:
            # Nobody hears the reply to a hand-over that outlived its connection.
            return
        by_code(REPLIES, reply.code).inc()
        if reply.code >= 400:
            self._refuse(reply)
        else:
            self._errors = self._idle_commands = 0
            self._say(reply)
        await self._flush()

    async def _accept(self, envelope: Envelope, login: Login, reserve: Callable[[int], bool]) -> Reply:
        self._data_started = self.loop.time()
        self._in_data = self._waiting_for_client = True
        try:
            data = await self._stream.read_data(self._settings.max_message_bytes, reserve=reserve)
        except DataTooLarge as error:
            reply = Replies.SIZE_EXCEEDED.value.filled(limit=self._settings.max_message_bytes)
            if not error.ended:
                # No end in sight: the reply is said, and the rest of the upload is not waited for.
                self._hang_up(reply)
            return reply
        except NoRoom:
            return Replies.BUSY.value
        finally:
            self._in_data = self._waiting_for_client = False
        work = self._backend.accept(
            Submission(
                login=login,
                envelope_from=cast(str, envelope.mail_from),
                recipients=tuple(envelope.rcpt_tos),
                data=data,
                session=self.id,
                peer=self.peer,
            )
        )
        # The backend alone holds the message now, and lets it go once it has the API's call.
        del data
        self._handing_over = True
        try:
            return await work
        finally:
            self._handing_over = False
            if self._lost:
                self._factory.discard(self)

    async def smtp_RSET(self, argument: str) -> None:
        self._reset()
        self._say(Replies.OK.value)

    async def smtp_NOOP(self, argument: str) -> None:
        self._say(Replies.OK.value)

    async def smtp_VRFY(self, argument: str) -> None:
        self._say(Replies.VRFY.value)

    async def smtp_EXPN(self, argument: str) -> None:
        raise Replies.NOT_IMPLEMENTED.error()

    async def smtp_HELP(self, argument: str) -> None:
        self._say(Replies.HELP.value)

    async def smtp_QUIT(self, argument: str) -> None:
        self._say(Replies.BYE.value)
        self._close()


COMMANDS: Final[Mapping[bytes, Callable[[SmtpSession, str], Awaitable[None]]]] = {
    b"HELO": SmtpSession.smtp_HELO,
    b"EHLO": SmtpSession.smtp_EHLO,
    b"STARTTLS": SmtpSession.smtp_STARTTLS,
    b"AUTH": SmtpSession.smtp_AUTH,
    b"MAIL": SmtpSession.smtp_MAIL,
    b"RCPT": SmtpSession.smtp_RCPT,
    b"DATA": SmtpSession.smtp_DATA,
    b"RSET": SmtpSession.smtp_RSET,
    b"NOOP": SmtpSession.smtp_NOOP,
    b"VRFY": SmtpSession.smtp_VRFY,
    b"EXPN": SmtpSession.smtp_EXPN,
    b"HELP": SmtpSession.smtp_HELP,
    b"QUIT": SmtpSession.smtp_QUIT,
}


class SessionFactory:
    """Makes the sessions of one process and ends them: ``factory(implicit_tls=…)`` serves one new connection."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        certificates: CertificateStore,
        throttle: FailureThrottle | None = None,
    ) -> None:
        self.settings = settings
        self.backend = backend
        self.certificates = certificates
        self.throttle = throttle or FailureThrottle(
            None,
            name=settings.queue_name,
            pepper=settings.database_url,
            limit=settings.auth_throttle_failures,
            window=settings.auth_throttle_seconds,
            allowed=settings.auth_allow_list,
        )
        self.host = settings.smtp_domain or socket.gethostname()
        self._extensions: dict[bool, bytes] = {}
        self.greeting = Replies.GREETING.value.filled(host=self.host)
        self.limits = SharedLimits(
            max_connections=min(settings.max_connections, room_for_connections()),
            max_connections_per_ip=settings.max_connections_per_ip,
            max_bytes=message_budget(settings.ingress_memory_mb * MIB, largest=settings.max_message_bytes),
        )
        self._sessions: set[SmtpSession] = set()
        self.is_stopping = False
        """From the begin of ``drain`` on."""

    def __call__(self, *, implicit_tls: bool, peer: str | None = None, slot: Slot | None = None) -> SmtpSession:
        return SmtpSession(self, implicit_tls=implicit_tls, peer=peer, slot=slot)

    def extensions(self, *, offers_tls: bool) -> bytes:
        """The reply to EHLO; no AUTH where the client is to say STARTTLS first."""
        if offers_tls not in self._extensions:
            lines = [self.host, f"SIZE {self.settings.max_message_bytes}", "8BITMIME", "SMTPUTF8", "PIPELINING"]
            lines += ["ENHANCEDSTATUSCODES", "STARTTLS" if offers_tls else "AUTH PLAIN LOGIN", "HELP"]
            text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
            self._extensions[offers_tls] = text.encode("ascii", "replace")
        return self._extensions[offers_tls]

    def add(self, session: SmtpSession) -> None:
        self._sessions.add(session)

    def discard(self, session: SmtpSession) -> None:
        self._sessions.discard(session)

    async def drain(self, seconds: float) -> None:
        """421 to the idle, let the others finish their transaction; after ``seconds`` close what is left."""
        self.is_stopping = True
        for session in tuple(self._sessions):
            session.stop()
        # Those are among them whose client has gone during the hand-over.
        if waiting := {session.task for session in self._sessions if session.task}:
            await asyncio.wait(waiting, timeout=seconds)
        for session in tuple(self._sessions):
            session.abort()
