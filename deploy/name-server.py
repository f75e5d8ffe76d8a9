"""A name server for a proof: it knows one name, 127.0.0.1, and says of all others that they do not exist (RFC 1035)."""

import socket
import struct
import sys

KNOWN = sys.argv[1].lower().encode()
A = 1

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, client = server.recvfrom(4096)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    question = query[12 : at + 5]
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    is_known = b".".join(labels).lower() == KNOWN
    answers = []
    if is_known and kind == A:
        answers.append(b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + bytes([127, 0, 0, 1]))
    # An answer, recursion available; no such name where it is unknown.
    flags = 0x8180 | (0 if is_known else 3)
    head = query[:2] + struct.pack(">HHHHH", flags, 1, len(answers), 0, 0)
    server.sendto(head + question + b"".join(answers), client)
