"""A web server that knows its users by NTLM, as IIS does: who a connection is, its first request says, once and for all.

Usage: ntlm_server.py ADDRESS PORT; users are in the file that NTLM_USER_FILE names (DOMAIN:USER:PASSWORD).
/open tells anybody who the connection belongs to; everything else asks for a user first.
"""
import base64
import http.server
import sys

import spnego


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.user = None
        self.context = None

    def do_GET(self):
        authorization = self.headers.get("Authorization", "")
        if authorization.startswith("NTLM "):
            return self.step(base64.b64decode(authorization[5:]))
        if self.path == "/open" or self.user:
            return self.answer(200, f"user={self.user}\n")
        self.answer(401, "who are you?\n", challenge="NTLM")

    def step(self, token):
        try:
            if self.context is None:
                self.context = spnego.server(protocol="ntlm")
            reply = self.context.step(token)
            complete = self.context.complete
        except spnego.exceptions.SpnegoError as error:
            self.context = None
            return self.answer(401, f"{error}\n", challenge="NTLM")
        if not complete:
            return self.answer(401, "", challenge="NTLM " + base64.b64encode(reply).decode())
        self.user = self.context.client_principal.split("\\")[-1]
        self.context = None
        self.answer(200, f"user={self.user}\n")

    def answer(self, status, text, challenge=None):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    server = Server((sys.argv[1], int(sys.argv[2])), Handler)
    print("listening", flush=True)
    server.serve_forever()
