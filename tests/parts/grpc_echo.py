"""A gRPC server whose messages are plain bytes, and its health service. Usage: grpc_echo.py ADDRESS PORT [CERTIFICATE KEY]

/echo.Echo/Unary, /Count (N messages for the text N), /Sum (how many messages, how many bytes), /Chat (each back at once),
/Fail (an error with trailers of its own), /Sleep (until the client gives up; /Cancelled says how many did).
"""
import sys
import threading
from concurrent import futures

import grpc

cancelled = 0
lock = threading.Lock()


def unary(request, context):
    said = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-heard", said.get("x-say", "")),))
    context.set_trailing_metadata((("x-length", str(len(request))), ("x-data-bin", bytes(range(256)))))
    return request


def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def total(requests, context):
    messages = [len(request) for request in requests]
    return b"%d %d" % (len(messages), sum(messages))


def chat(requests, context):
    yield from requests


def fail(request, context):
    context.set_trailing_metadata((("x-why", "on purpose"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after one message")


def sleep(request, context):
    ended, over = threading.Event(), []

    def gone():
        # Also where nobody asks for the next message any more, and so nothing below goes on.
        global cancelled
        with lock:
            cancelled += not over
        ended.set()

    context.add_callback(gone)
    if request == b"stream":
        yield b"begun"
    ended.wait(100)
    over.append(True)


def how_many(request, context):
    return b"%d" % cancelled


def health(request, context):
    # HealthCheckRequest has the service's name as field 1, HealthCheckResponse the status: 1 is SERVING.
    if request in (b"", b"\x0a\x09echo.Echo"):
        return b"\x08\x01"
    context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")


def main():
    echo = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Sum": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Sleep": grpc.unary_stream_rpc_method_handler(sleep),
        "Cancelled": grpc.unary_unary_rpc_method_handler(how_many),
    }
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("echo.Echo", echo),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(health)}
            ),
        )
    )
    where = f"{sys.argv[1]}:{sys.argv[2]}"
    if len(sys.argv) > 3:
        certificate, key = (open(name, "rb").read() for name in sys.argv[3:5])
        server.add_secure_port(where, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        server.add_insecure_port(where)
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


main()
