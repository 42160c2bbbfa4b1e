"""Every kind of gRPC call to grpc_echo.py, each with its line at the end. Usage: grpc_client.py ADDRESS:PORT [CA NAME]

With a CA it speaks TLS, and wants a certificate for the name.
"""
import sys
import threading
import time

import grpc

# Nothing here takes that long, but that a machine is busy.
PATIENCE = 30
MEGABYTE = 1_000_000


def check(name, seen, expected):
    if seen != expected:
        sys.exit(f"{name}: saw {seen!r:.300}, expected {expected!r:.300}")


def status_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    sys.exit("a call that has to fail did not")


def calls(channel):
    method = lambda kind, name: getattr(channel, kind)(f"/echo.Echo/{name}")

    unary = method("unary_unary", "Unary")
    answer, call = unary.with_call(b"hello", metadata=(("x-say", "ä is not".encode("ascii", "replace").decode()),), timeout=PATIENCE)
    check("unary", answer, b"hello")
    check("initial metadata", dict(call.initial_metadata()).get("x-heard"), "? is not")
    trailers = dict(call.trailing_metadata())
    check("trailers", (trailers.get("x-length"), trailers.get("x-data-bin")), ("5", bytes(range(256))))
    check("an empty message", unary(b"", timeout=PATIENCE), b"")
    yield "unary"

    check("server stream", [*method("unary_stream", "Count")(b"300", timeout=PATIENCE)], [b"%d" % n for n in range(300)])
    check("an empty stream", [*method("unary_stream", "Count")(b"0", timeout=PATIENCE)], [])
    yield "server-streaming"

    total = method("stream_unary", "Sum")
    check("client stream", total((bytes(n) for n in range(300)), timeout=PATIENCE), b"300 44850")
    check("an empty request", total(iter(()), timeout=PATIENCE), b"0 0")
    yield "client-streaming"

    # Each message only after the answer to the one before: nothing on the way may wait for more.
    turn = threading.Semaphore(1)

    def questions():
        for number in range(100):
            turn.acquire()
            yield b"question %d" % number

    for number, answer in enumerate(method("stream_stream", "Chat")(questions(), timeout=PATIENCE)):
        check("chat", answer, b"question %d" % number)
        turn.release()
    check("chat", number, 99)
    yield "bidirectional"

    error = status_of(lambda: method("unary_unary", "Fail")("wörds".encode(), timeout=PATIENCE))
    seen = (error.code(), error.details(), dict(error.trailing_metadata()).get("x-why"))
    check("an error", seen, (grpc.StatusCode.FAILED_PRECONDITION, "wörds", "on purpose"))
    late = method("unary_stream", "FailLate")(b"", timeout=PATIENCE)
    check("before the error", next(late), b"one")
    error = status_of(lambda: next(late))
    check("a late error", (error.code(), error.details()), (grpc.StatusCode.DATA_LOSS, "after one message"))
    error = status_of(lambda: method("unary_unary", "Nothing")(b"", timeout=PATIENCE))
    check("no such method", error.code(), grpc.StatusCode.UNIMPLEMENTED)
    yield "errors in trailers"

    gone = lambda: int(method("unary_unary", "Cancelled")(b"", timeout=PATIENCE))

    def wait_gone(wanted, what):
        end = time.monotonic() + PATIENCE
        while gone() < wanted:
            if time.monotonic() > end:
                sys.exit(f"{what}: the server was never told")
            time.sleep(0.02)

    before = gone()
    error = status_of(lambda: [*method("unary_stream", "Sleep")(b"", timeout=0.5)])
    check("deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    wait_gone(before + 1, "deadline")
    yield "deadline"
    stream = method("unary_stream", "Sleep")(b"stream", timeout=PATIENCE)
    check("before cancelling", next(stream), b"begun")
    stream.cancel()
    check("cancel", status_of(lambda: next(stream)).code(), grpc.StatusCode.CANCELLED)
    wait_gone(before + 2, "cancel")
    yield "cancel"

    big = bytes(range(256)) * (20 * MEGABYTE // 256)
    check("20 MB", unary(big, timeout=PATIENCE) == big, True)
    check("20 MB of messages", total((big[:MEGABYTE] for _ in range(20)), timeout=PATIENCE), b"20 %d" % (20 * MEGABYTE))
    yield "big messages"

    together = [unary.future(b"%d" % n, timeout=PATIENCE) for n in range(200)]
    check("at once", [call.result() for call in together], [b"%d" % n for n in range(200)])
    yield "two hundred at once"

    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    check("health", health(b"", timeout=PATIENCE), b"\x08\x01")
    error = status_of(lambda: health(b"\x0a\x04none", timeout=PATIENCE))
    check("health of nothing", error.code(), grpc.StatusCode.NOT_FOUND)
    yield "health"


def main():
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    if len(sys.argv) > 2:
        options.append(("grpc.ssl_target_name_override", sys.argv[3]))
        roots = open(sys.argv[2], "rb").read()
        channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(roots), options)
    else:
        channel = grpc.insecure_channel(sys.argv[1], options)
    with channel:
        for name in calls(channel):
            print(f"{name}: ok", flush=True)
    print("all of gRPC", flush=True)


main()
