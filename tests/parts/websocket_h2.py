"""WebSockets over HTTP/2 (RFC 8441): several on one connection, beside an ordinary request.

Usage: websocket_h2.py ADDRESS PORT COUNT [CA NAME]; the server is websocket_echo.py behind an HTTP/2 proxy.
"""
import os
import socket
import ssl
import struct
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

SOCKETS = 4


def masked(opcode, payload):
    """A frame from a client (RFC 6455 section 5.2)."""
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
    pad = (mask * (length // 4 + 1))[:length]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")
    return head + mask + body


def unmasked(data):
    """The first whole frame of a server, and what follows it; nothing if there is none yet."""
    if len(data) < 2:
        return None
    length, start = data[1], 2
    if length == 126:
        start = 4
    elif length == 127:
        start = 10
    if len(data) < start:
        return None
    if start > 2:
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        return None
    return data[0], bytes(data[start : start + length]), data[start + length :]


class Client:
    def __init__(self, address, port, tls):
        self.socket = socket.create_connection((address, port), timeout=30)
        self.scheme, self.authority = "http", f"{address}:{port}"
        if tls:
            authorities, name = tls
            context = ssl.create_default_context(cafile=authorities)
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=name)
            if self.socket.selected_alpn_protocol() != "h2":
                sys.exit(f"the server chose {self.socket.selected_alpn_protocol()}")
            self.scheme, self.authority = "https", name
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.heads, self.data, self.ended = {}, {}, set()
        self.settled = False
        self.h2.initiate_connection()
        self.flush()
        while not self.settled:
            self.turn()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def turn(self):
        """Takes in what comes."""
        arrived = self.socket.recv(65536)
        if not arrived:
            sys.exit("the connection ended")
        for event in self.h2.receive_data(arrived):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.settled = True
            elif isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset) and event.stream_id in self.ended:
                pass  # That it has ended is what counts; our half of it no longer interests anybody.
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                sys.exit(f"{event!r}")
        self.flush()

    def open(self, path, more, end=False):
        stream = self.h2.get_next_available_stream_id()
        head = [(":scheme", self.scheme), (":authority", self.authority), (":path", path), *more]
        self.h2.send_headers(stream, sorted(head, key=lambda field: not field[0].startswith(":")), end_stream=end)
        self.flush()
        while stream not in self.heads:
            self.turn()
        return stream

    def send(self, stream, data):
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if not room:
                self.turn()
                continue
            self.h2.send_data(stream, data[:room])
            self.flush()
            data = data[room:]

    def frame(self, stream):
        while not (found := unmasked(self.data.setdefault(stream, bytearray()))):
            self.turn()
        first, payload, self.data[stream] = found
        return first, payload


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = Client(address, port, sys.argv[4:6])
    if not client.h2.remote_settings.enable_connect_protocol:
        sys.exit("no SETTINGS_ENABLE_CONNECT_PROTOCOL")
    upgrade = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        ("sec-websocket-version", "13"),
        ("origin", "http://site.test"),
    ]
    streams = [client.open("/chat", upgrade) for _ in range(SOCKETS)]
    for stream in streams:
        if client.heads[stream][":status"] != "200":
            sys.exit(f"answered {client.heads[stream]}")
        if {"upgrade", "connection", "transfer-encoding"} & set(client.heads[stream]):
            sys.exit(f"fields of HTTP/1.1: {client.heads[stream]}")
    for number in range(count):
        stream = streams[number % SOCKETS]
        message = (b"%d " % number).ljust(number * 7919 % 100_000, b"x")
        client.send(stream, masked(2, message))
        first, payload = client.frame(stream)
        if (first, payload) != (0x82, message):
            sys.exit(f"message {number} came back as another one: {first:#x}, {len(payload)} bytes")
    # websocket_echo.py says this to what is no WebSocket; the connection carries both.
    plain = client.open("/", [(":method", "GET")], end=True)
    if client.heads[plain][":status"] != "426":
        sys.exit(f"an ordinary request: {client.heads[plain]}")
    for stream in streams:
        client.send(stream, masked(8, struct.pack("!H", 1000)))
        first, payload = client.frame(stream)
        if first != 0x88 or payload[:2] != struct.pack("!H", 1000):
            sys.exit(f"closed with {first:#x} {payload!r}")
        while stream not in client.ended:
            client.turn()
    print("all closed with 1000", flush=True)


main()
