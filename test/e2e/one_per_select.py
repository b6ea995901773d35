"""A client that waits for its TLS socket with select() and reads one packet each time, as ruby-mqtt and asyncio-mqtt do.

    one_per_select.py PORT CA_FILE 1.2|1.3 COUNT

It does not ask its TLS library whether it has bytes left. Subscribes to `select/#` at QoS 1 in a Session that is kept, and ends with
0 when COUNT messages have come, or with 1 when the socket is not readable for a long time although they have not.
"""
import select
import socket
import ssl
import sys

PORT, CA, VERSION, COUNT = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
LONG = 10  # seconds after which what should have come never will

context = ssl.create_default_context(cafile=CA)
version = ssl.TLSVersion.TLSv1_2 if VERSION == "1.2" else ssl.TLSVersion.TLSv1_3
context.minimum_version = context.maximum_version = version
below = socket.create_connection(("127.0.0.1", PORT))
below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
tls = context.wrap_socket(below, server_hostname="localhost")


def exactly(count):
    data = b""
    while len(data) < count:
        more = tls.recv(count - len(data))
        if not more:
            sys.exit("the broker closed the connection")
        data += more
    return data


def packet():
    """The next packet: its first byte and its body."""
    readable, _, _ = select.select([tls], [], [], LONG)
    if not readable:
        print(f"stuck after {got} messages")
        sys.exit(1)
    first, remaining, shift = exactly(1)[0], 0, 0
    while True:
        byte = exactly(1)[0]
        remaining |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first, exactly(remaining)


got = 0
tls.sendall(bytes.fromhex("1010 0004 4d515454 04 00 0000 0004 73656c31".replace(" ", "")))
assert packet()[0] == 0x20
tls.sendall(bytes.fromhex("820d 0001 0008 73656c6563742f23 01".replace(" ", "")))
while got < COUNT:
    first, body = packet()
    if first >> 4 != 3:
        continue
    got += 1
    if first & 6:
        at = 2 + int.from_bytes(body[:2], "big")
        tls.sendall(b"\x40\x02" + body[at : at + 2])
print(f"{got} messages")
