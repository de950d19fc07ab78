# Many requests in flight, on several connections, and a close with requests
# in flight. A script for nbdsh; uri names a LUN of 64 MiB.
import random

random.seed(7)
conns = [nbd.NBD() for _ in range(4)]
for c in conns:
    c.connect_uri(uri)

def drain(c, limit=0):
    while c.aio_in_flight() > limit:
        c.poll(-1)

# Each connection fills its own 16 MiB with 64 KiB requests, 64 in flight.
unit, share = 65536, 16 << 20
wanted = {}
for i, c in enumerate(conns):
    for off in random.sample(range(i * share, (i + 1) * share, unit), share // unit):
        wanted[off] = bytes([random.randrange(1, 256)]) * unit
        c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(wanted[off])), off)
        drain(c, 63)
for c in conns:
    drain(c)

# What one connection wrote and flushed, any other reads.
conns[0].flush()
reads = []
for off in wanted:
    buf = nbd.Buffer(unit)
    reads.append((off, buf))
    c = conns[(off // share + 1) % 4]
    c.aio_pread(buf, off)
    drain(c, 63)
for c in conns:
    drain(c)
for off, buf in reads:
    assert bytes(buf.to_bytearray()) == wanted[off], off

# DISC with requests in flight: the replies still come.
c = conns[0]
buffers = [nbd.Buffer(unit) for _ in range(32)]
cookies = [c.aio_pread(buf, i * unit) for i, buf in enumerate(buffers)]
c.aio_disconnect(0)
while not (c.aio_is_closed() or c.aio_is_dead()):
    c.poll(-1)
for i, cookie in enumerate(cookies):
    assert c.aio_command_completed(cookie), i
    assert bytes(buffers[i].to_bytearray()) == wanted[i * unit], i
for c in conns[1:]:
    c.shutdown()
