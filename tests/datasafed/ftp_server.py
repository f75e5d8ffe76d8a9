"""A server of FTP for the tests: DIRECTORY PORT USER PASSWORD PERMISSIONS [CERTIFICATE (explicit|implicit)].

Listens on loopback. With a certificate (PEM, with its key) it lets nobody in without TLS.
"""
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

directory, port, user, password, permissions = sys.argv[1:6]
authorizer = DummyAuthorizer()
authorizer.add_user(user, password, directory, perm=permissions)


class Implicit(TLS_FTPHandler):
    """TLS from the first byte on."""

    def handle(self):
        self.secure_connection(self.ssl_context)

    def handle_ssl_established(self):
        FTPHandler.handle(self)

    def ftp_AUTH(self, line):
        self.respond("500 TLS is on already.")


handler = FTPHandler
if len(sys.argv) > 6:
    certificate, way = sys.argv[6:8]
    handler = Implicit if way == "implicit" else TLS_FTPHandler
    handler.certfile = certificate
    handler.tls_control_required = way == "explicit"
    handler.tls_data_required = True
handler.authorizer = authorizer
FTPServer(("127.0.0.1", int(port)), handler).serve_forever()
