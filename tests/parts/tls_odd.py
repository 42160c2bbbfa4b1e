"""TLS clients that are odd or broken, each with what must come of it. Usage: tls_odd.py ADDRESS PORT NAME PATH [ONLY]

The server answers 200 to GET PATH on its certificate for NAME, and echoes what is posted to /echo; it speaks TLS 1.2 and 1.3
and HTTP/1.1 by ALPN. A line for each conversation; the exit code is 1 if one went otherwise.
"""
import os
import random
import socket
import struct
import sys
import time

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription, ContentType, KeyUpdateMessageType
from tlslite.errors import TLSAbruptCloseError, TLSLocalAlert, TLSRemoteAlert
from tlslite.messages import Alert, ApplicationData, ClientHello

ADDRESS, PORT, NAME, PATH = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
# Nothing here takes that long; who hangs has failed.
PATIENCE = 20
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
TLS12, TLS13 = (3, 3), (3, 4)
random.seed(5246)


class Wrong(Exception):
    pass


def connect(plain=None):
    """A TCP connection; `plain` changes what is written before the first answer came."""
    raw = socket.create_connection((ADDRESS, PORT), timeout=PATIENCE)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Altered(raw, plain) if plain else raw


class Altered:
    """A socket whose first write, the ClientHello, is done by somebody else."""

    def __init__(self, raw, plain):
        self.raw, self.plain = raw, plain

    def send(self, data):
        if self.plain:
            plain, self.plain = self.plain, None
            plain(self.raw, bytes(data))
            return len(data)
        return self.raw.send(data)

    def sendall(self, data):
        while data:
            data = data[self.send(data) :]

    def __getattr__(self, name):
        return getattr(self.raw, name)


def settings(version, **changes):
    made = HandshakeSettings()
    made.minVersion, made.maxVersion = version, version
    made.versions = [version]
    made.keyShares = ["x25519"]
    made.eccCurves = ["x25519", "secp256r1", "secp384r1"]
    # Not ours, and rustls ignores it: what it would do is the other side's to say.
    made.use_heartbeat_extension = False
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def handshake(version, plain=None, session=None, alpn=None, **changes):
    tls = TLSConnection(connect(plain))
    tls.ignoreAbruptClose = False
    tls.handshakeClientCert(settings=settings(version, **changes), serverName=NAME, session=session, alpn=alpn)
    if tls.version != version:
        raise Wrong(f"the version is {tls.version}")
    return tls


def ask(tls, request=REQUEST):
    if request:
        tls.write(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = tls.read(min=1, max=16384)
        if not part:
            raise Wrong(f"the connection ended after {bytes(answer)!r}")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while length and len(body) < int(length[0]):
        body += tls.read(min=1, max=16384)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Wrong(f"answered {head[:100]!r}")
    return head


# Hellos by hand, for those that no library would say.


def vector(size, data):
    return len(data).to_bytes(size, "big") + data


def extension(number, data):
    return struct.pack("!H", number) + vector(2, data)


def sni(name=None):
    return extension(0, vector(2, b"\0" + vector(2, (name or NAME).encode())))


def alpn(*names):
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def versions(*numbers):
    return extension(43, vector(1, b"".join(struct.pack("!H", number) for number in numbers)))


GROUPS = extension(10, vector(2, struct.pack("!HH", 29, 23)))
SIGNATURES = extension(13, vector(2, struct.pack("!5H", 0x0403, 0x0804, 0x0805, 0x0401, 0x0501)))
SHARE = extension(51, vector(2, struct.pack("!H", 29) + vector(2, bytes(range(1, 33)))))
SUITES = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F)
MASTER_SECRET = extension(23, b"")


def hello(*extensions, version=0x0303, suites=SUITES, session=bytes(32), compression=b"\0", random_=bytes(32), whole=None):
    body = struct.pack("!H", version) + random_ + vector(1, session)
    body += vector(2, b"".join(struct.pack("!H", suite) for suite in suites)) + vector(1, compression)
    body += vector(2, b"".join(extensions)) if whole is None else whole
    return record(22, b"\x01" + vector(3, body))


def record(kind, data, version=0x0301):
    return struct.pack("!BH", kind, version) + vector(2, data)


GOOD = (GROUPS, SIGNATURES, SHARE, MASTER_SECRET, versions(0x0304, 0x0303))


def answer_to(*said, then=None):
    """What the server does about raw bytes: ("hello", version), ("alert", description), ("closed",)."""
    raw = connect()
    try:
        for part in said:
            raw.sendall(part)
        return heard(raw)
    except (ConnectionResetError, BrokenPipeError):
        return ("closed",)
    except TimeoutError:
        return ("silent",)
    finally:
        raw.close()


def heard(raw):
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        part = raw.recv(16384)
        if not part:
            return ("closed",)
        data += part
    if data[0] == ContentType.alert:
        return ("alert", AlertDescription.toStr(data[6]))
    if data[0] == ContentType.handshake and data[5] == 2:
        return ("hello", "1.3" if b"\x00\x2b\x00\x02\x03\x04" in data else "1.2")
    return ("other", data[:20].hex())


def expect(seen, *wanted):
    if seen not in wanted:
        raise Wrong(f"{seen}, expected {wanted}")


# What every server must bear.


def plain_tls_12():
    ask(handshake(TLS12))


def plain_tls_13():
    ask(handshake(TLS13))


def hello_in_records_of_one_byte():
    def plain(raw, data):
        raw.sendall(b"".join(record(22, data[at : at + 1]) for at in range(5, len(data))))

    for version in (TLS12, TLS13):
        ask(handshake(version, plain))


def hello_byte_by_byte():
    def plain(raw, data):
        for at in range(len(data)):
            raw.sendall(data[at : at + 1])
            if at % 50 == 0:
                time.sleep(0.001)

    for version in (TLS12, TLS13):
        ask(handshake(version, plain))


def hello_of_sixteen_kilobytes():
    padding = extension(21, bytes(15_000))
    expect(answer_to(hello(sni(), *GOOD, padding)), ("hello", "1.3"))


def hello_with_values_that_nobody_knows():
    # GREASE (RFC 8701), as browsers send it: suites, groups, versions, extensions, protocols.
    grease = 0x2A2A
    groups = extension(10, vector(2, struct.pack("!3H", grease, 29, 23)))
    share = extension(51, vector(2, struct.pack("!H", grease) + vector(2, b"\0") + struct.pack("!H", 29) + vector(2, bytes(range(1, 33)))))
    sent = hello(
        extension(grease, b""), sni(), groups, SIGNATURES, share, MASTER_SECRET,
        versions(grease, 0x0304, 0x0303), alpn(b"\x2a\x2a", b"http/1.1"), extension(0x3A3A, b"\0"),
        suites=(grease, *SUITES),
    )
    expect(answer_to(sent), ("hello", "1.3"))


def hello_without_a_name():
    expect(answer_to(hello(*GOOD)), ("hello", "1.3"))


def hello_in_a_group_without_a_share():
    # HelloRetryRequest (RFC 8446 section 4.1.4), then an ordinary handshake.
    ask(handshake(TLS13, keyShares=[], eccCurves=["secp256r1", "x25519"]))


def record_version_of_every_minor():
    for minor in (0, 1, 2, 3):
        sent = hello(sni(), *GOOD)
        expect(answer_to(sent[:1] + bytes([3, minor]) + sent[3:]), ("hello", "1.3"))


def padded_records():
    def padding(length, kind, most):
        return random.choice((0, 1, 255, max(0, most - length - 1)))

    tls = handshake(TLS13, padding_cb=padding)
    for _ in range(5):
        ask(tls)


def application_data_byte_by_byte():
    for version in (TLS12, TLS13):
        tls = handshake(version)
        tls.recordSize = 1
        ask(tls)


def empty_records_between():
    tls = handshake(TLS13)
    for at in range(0, len(REQUEST), 20):
        for _ in tls._sendMsg(ApplicationData().create(bytearray())):
            pass
        tls.write(REQUEST[at : at + 20])
    ask(tls, b"")


def key_updates():
    tls = handshake(TLS13)
    for number in range(20):
        kind = KeyUpdateMessageType.update_requested if number % 2 else KeyUpdateMessageType.update_not_requested
        for _ in tls.send_keyupdate_request(kind):
            pass
        ask(tls)


def key_update_of_no_kind():
    tls = handshake(TLS13)
    for _ in tls.send_keyupdate_request(7):
        pass
    fails(tls, "illegal_parameter", "decode_error")


def resumption():
    for version in (TLS12, TLS13):
        first = handshake(version)
        ask(first)
        again = handshake(version, session=first.session)
        ask(again)
        if not again.resumed:
            raise Wrong(f"TLS {version} was not resumed")


def tickets_that_were_changed():
    # Nobody's ticket is no reason to refuse anybody: a full handshake (RFC 5077 section 3.3, RFC 8446 section 4.2.11).
    for change in (flipped, cut, longer, other):
        first = handshake(TLS13)
        ask(first)
        for ticket in first.session.tickets:
            ticket.ticket = bytearray(change(bytes(ticket.ticket)))
        again = handshake(TLS13, session=first.session)
        ask(again)
        if again.resumed:
            raise Wrong(f"{change.__name__} resumed")
        # tlslite takes any answer to a ticket of TLS 1.2 for a resumption: by hand.
        first = handshake(TLS12)
        ask(first)
        ticket = change(bytes(first.session.tls_1_0_tickets[0].ticket))
        raw = connect()
        raw.sendall(hello(sni(), GROUPS, SIGNATURES, MASTER_SECRET, extension(35, ticket)))
        messages = flight(raw, 2)
        if messages != [2, 11]:
            raise Wrong(f"{change.__name__}: TLS 1.2 answers with messages {messages}")


def flight(raw, count):
    """The kinds of the first handshake messages of the answer, as long as they are in the clear."""
    data, said, kinds = b"", b"", []
    while len(kinds) < count:
        part = raw.recv(16384)
        if not part:
            break
        data += part
        while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[3:5], "big"):
            end = 5 + int.from_bytes(data[3:5], "big")
            if data[0] != ContentType.handshake:
                return kinds + [("record", data[0])]
            said, data = said + data[5:end], data[end:]
        while len(said) >= 4 and len(said) >= 4 + int.from_bytes(said[1:4], "big"):
            kinds.append(said[0])
            said = said[4 + int.from_bytes(said[1:4], "big") :]
    return kinds[:count]


def flipped(ticket):
    at = random.randrange(len(ticket))
    return ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :]


def cut(ticket):
    return ticket[: random.randrange(1, len(ticket))]


def longer(ticket):
    return ticket + os.urandom(random.randrange(1, 500))


def other(ticket):
    return os.urandom(len(ticket))


def last_words_before_the_answer():
    # close_notify closes one direction only (RFC 8446 section 6.1).
    tls = handshake(TLS13)
    tls.write(REQUEST)
    tls.closeSocket = False
    for _ in tls._sendMsg(Alert().create(AlertDescription.close_notify, 1)):
        pass
    ask(tls, b"")


def close_notify_at_the_end():
    for version in (TLS12, TLS13):
        tls = handshake(version)
        ask(tls, REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        try:
            if tls.read(min=1, max=1):
                raise Wrong("there is more")
        except TLSAbruptCloseError:
            raise Wrong("the end could be anybody's: no close_notify")


def protocols():
    for names, wanted in (
        ((b"http/1.1",), b"http/1.1"),
        ((b"spdy/3", b"http/1.1"), b"http/1.1"),
        ((b"http/1.0", b"http/1.1"), b"http/1.1"),
    ):
        tls = handshake(TLS13, alpn=[bytearray(name) for name in names])
        if bytes(tls.session.appProto) != wanted:
            raise Wrong(f"{names}: {tls.session.appProto!r}")
        ask(tls)


# What no server may bear.


def fails(tls, *alerts):
    """The connection ends, and says why in one of these words."""
    try:
        tls.write(REQUEST)
        read = tls.read(min=1, max=100)
        raise Wrong(f"it went on: {bytes(read)!r}")
    except TLSRemoteAlert as alert:
        said = AlertDescription.toStr(alert.description)
        if said not in alerts:
            raise Wrong(f"{said}, expected {alerts}")
    except (ConnectionResetError, BrokenPipeError):
        # Bytes that it did not read any more can take its alert with them.
        pass


def old_versions():
    refused = ("alert", "protocol_version")
    for version in (0x0300, 0x0301, 0x0302):
        expect(answer_to(hello(sni(), GROUPS, SIGNATURES, version=version)), refused)
    expect(answer_to(hello(sni(), GROUPS, SIGNATURES, SHARE, versions(0x0301, 0x0302))), refused)
    expect(answer_to(hello(sni(), GROUPS, SIGNATURES, SHARE, versions(0x0305, 0x7F1C))), refused)


def protocols_that_we_do_not_speak():
    for version in (TLS12, TLS13):
        try:
            handshake(version, alpn=[bytearray(b"imap")])
            raise Wrong(f"TLS {version} went on")
        except TLSRemoteAlert as alert:
            expect(AlertDescription.toStr(alert.description), "no_application_protocol")


def protocols_that_are_malformed():
    refused = ("alert", "decode_error"), ("alert", "illegal_parameter")
    expect(answer_to(hello(sni(), *GOOD, extension(16, b"\0\0"))), *refused)
    expect(answer_to(hello(sni(), *GOOD, alpn(b""))), *refused)
    expect(answer_to(hello(sni(), *GOOD, extension(16, b"\0\x09\x08http/1.1x"))), *refused)


def names_that_are_malformed():
    refused = ("alert", "decode_error"), ("alert", "illegal_parameter"), ("alert", "unrecognized_name")
    expect(answer_to(hello(extension(0, b"\0\0"), *GOOD)), *refused)
    expect(answer_to(hello(extension(0, b"\0\x04\0\0\x09a"), *GOOD)), *refused)
    expect(answer_to(hello(sni("a\0b"), *GOOD)), *refused)
    # Two names of the same kind (RFC 6066 section 3).
    expect(answer_to(hello(extension(0, vector(2, (b"\0" + vector(2, b"a.test")) * 2)), *GOOD)), *refused)


def an_address_for_a_name():
    # Forbidden by RFC 6066 section 3, and sent all the same: whatever comes, it comes at once.
    seen = answer_to(hello(sni("127.0.0.1"), *GOOD))
    if seen[0] not in ("hello", "alert"):
        raise Wrong(str(seen))


def hellos_that_are_malformed():
    refused = ("alert", "decode_error"), ("alert", "illegal_parameter"), ("alert", "handshake_failure"), ("alert", "missing_extension"), ("alert", "protocol_version")
    good = hello(sni(), *GOOD)
    expect(answer_to(hello(*GOOD, SIGNATURES)), *refused)  # an extension twice
    expect(answer_to(hello(sni(), *GOOD, suites=())), *refused)
    expect(answer_to(hello(sni(), *GOOD, suites=(0x00FF, 0x0005))), *refused)
    expect(answer_to(hello(sni(), *GOOD, compression=b"\x01")), *refused)
    expect(answer_to(hello(sni(), *GOOD, session=bytes(33))), *refused)
    expect(answer_to(hello(whole=b"\x00\x09abc")), *refused)
    # Bytes after the message's end.
    body = good[9:]
    expect(answer_to(record(22, b"\x01" + vector(3, body + b"\0\0"))), *refused)


def every_cut_of_a_hello():
    # A hello that says it is whole and is not: no cut of it may be taken for one.
    body = hello(sni(), *GOOD)[9:]
    for at in range(0, len(body), 7):
        seen = answer_to(record(22, b"\x01" + vector(3, body[:at])))
        if seen[0] != "alert":
            raise Wrong(f"cut at {at} of {len(body)}: {seen}")


def hellos_of_random_bytes():
    for _ in range(40):
        sent = bytearray(hello(sni(), *GOOD, alpn(b"http/1.1")))
        for _ in range(random.randrange(1, 8)):
            sent[random.randrange(9, len(sent))] = random.randrange(256)
        seen = answer_to(bytes(sent))
        if seen[0] not in ("alert", "hello"):
            raise Wrong(f"{bytes(sent).hex()}: {seen}")


def records_that_are_too_long():
    seen = answer_to(struct.pack("!BHH", 22, 0x0301, 0x4801) + bytes(0x4801))
    expect(seen, ("alert", "record_overflow"), ("alert", "decode_error"), ("alert", "unexpected_message"), ("closed",))


def records_of_no_kind():
    for kind in (0, 19, 24, 99, 255):
        seen = answer_to(record(kind, b"abcd"))
        if seen[0] not in ("alert", "closed"):
            raise Wrong(f"{kind}: {seen}")


def data_before_the_handshake():
    expect(answer_to(record(23, REQUEST)), ("alert", "unexpected_message"))


def a_message_of_another_state():
    for kind in (0, 2, 4, 8, 11, 12, 15, 16, 20, 24):
        expect(answer_to(record(22, bytes([kind]) + vector(3, bytes(32)))), ("alert", "unexpected_message"), ("alert", "decode_error"), ("alert", "illegal_parameter"))


def http_on_the_port_of_tls():
    seen = answer_to(REQUEST)
    if seen[0] not in ("alert", "closed"):
        raise Wrong(str(seen))


def a_record_that_was_changed():
    for version in (TLS12, TLS13):
        tls = handshake(version)
        raw = tls.sock
        send = raw.send

        def flip(data):
            data = bytearray(data)
            data[-1] ^= 1
            return send(data)

        raw.send = flip
        fails(tls, "bad_record_mac")


def a_second_hello():
    # Renegotiation: never (RFC 8446 section 4.1.2); TLS 1.2 may also say that it won't and go on.
    tls = handshake(TLS13)
    again = ClientHello().create(TLS12, bytearray(32), bytearray(0), [0x1301])
    for _ in tls._sendMsg(again):
        pass
    fails(tls, "unexpected_message", "decode_error", "protocol_version")


def change_cipher_spec_where_there_is_none():
    # Forbidden after the Finished messages (RFC 8446 section 5).
    tls = handshake(TLS13)
    tls.sock.socket.sendall(record(20, b"\x01", 0x0303))
    fails(tls, "unexpected_message")


def an_upload_that_is_cut():
    # The end of TCP is not the end of a body: whatever comes, it is no 200.
    tls = handshake(TLS13)
    tls.write(f"POST /echo HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
    tls.sock.socket.shutdown(socket.SHUT_WR)
    try:
        said = bytes(tls.read(min=1, max=1000))
    except (TLSAbruptCloseError, TLSRemoteAlert, OSError):
        said = b""
    if said.startswith(b"HTTP/1.1 200"):
        raise Wrong("half an upload was taken for a whole one")


CONVERSATIONS = [
    plain_tls_12,
    plain_tls_13,
    hello_in_records_of_one_byte,
    hello_byte_by_byte,
    hello_of_sixteen_kilobytes,
    hello_with_values_that_nobody_knows,
    hello_without_a_name,
    hello_in_a_group_without_a_share,
    record_version_of_every_minor,
    padded_records,
    application_data_byte_by_byte,
    empty_records_between,
    key_updates,
    key_update_of_no_kind,
    resumption,
    tickets_that_were_changed,
    last_words_before_the_answer,
    close_notify_at_the_end,
    protocols,
    old_versions,
    protocols_that_we_do_not_speak,
    protocols_that_are_malformed,
    names_that_are_malformed,
    an_address_for_a_name,
    hellos_that_are_malformed,
    every_cut_of_a_hello,
    hellos_of_random_bytes,
    records_that_are_too_long,
    records_of_no_kind,
    data_before_the_handshake,
    a_message_of_another_state,
    http_on_the_port_of_tls,
    a_record_that_was_changed,
    a_second_hello,
    change_cipher_spec_where_there_is_none,
    an_upload_that_is_cut,
]


def main():
    only = sys.argv[5:]
    wrong = 0
    for conversation in CONVERSATIONS:
        name = conversation.__name__.replace("_", " ")
        if only and conversation.__name__ not in only:
            continue
        began = time.monotonic()
        try:
            conversation()
            print(f"ok: {name}")
        except Exception as error:
            wrong += 1
            print(f"WRONG: {name}: {type(error).__name__}: {error}")
        if time.monotonic() - began > PATIENCE / 2:
            wrong += 1
            print(f"WRONG: {name}: it took {time.monotonic() - began:.1f} s")
    print(f"{wrong} of {len(CONVERSATIONS)} conversations went wrong")
    sys.exit(1 if wrong else 0)


main()
