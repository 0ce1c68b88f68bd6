#!/usr/bin/env python3
"""A tiny HTTP backend for the examples: says its name to every GET.

    backend.py NAME [PORT [PORT_FILE]]

Port 0, the default, is any free port; PORT_FILE is written, whole, once connections are taken.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

name = sys.argv[1]
port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
port_file = sys.argv[3] if len(sys.argv) > 3 else None


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections, as the proxy likes them
    disable_nagle_algorithm = True

    def do_GET(self):
        body = f"{name}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Backend)
server.daemon_threads = True
if port_file:
    with open(port_file + ".partial", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(port_file + ".partial", port_file)
else:
    print(f"{name} listens on 127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
