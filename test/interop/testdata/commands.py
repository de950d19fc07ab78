# Every command of the transmission phase, with its flags. A script for nbdsh;
# uri names a LUN of 64 MiB.
h.set_export_name("web")
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_structured_replies_negotiated()
assert h.get_size() == 64 << 20

# Reads and writes at odd offsets, with and without FUA.
data = bytes(range(256)) * 40
h.pwrite(data, 12345)
assert h.pread(len(data), 12345) == data
h.pwrite(b"x" * 4096, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 1 << 20) == b"x" * 4096
h.pwrite(b"end", (64 << 20) - 3)
assert h.pread(3, (64 << 20) - 3) == b"end"
h.flush()

# Zeroing in its three forms, and discarding, both read as zeros afterwards.
h.pwrite(b"z" * 65536, 2 << 20)
h.zero(8192, 2 << 20)
h.zero(8192, (2 << 20) + 8192, nbd.CMD_FLAG_NO_HOLE)
h.zero(8192, (2 << 20) + 16384, nbd.CMD_FLAG_FAST_ZERO)
h.trim(8192, (2 << 20) + 24576, nbd.CMD_FLAG_FUA)
assert h.pread(32768, 2 << 20) == bytes(32768)
assert h.pread(32768, (2 << 20) + 32768) == b"z" * 32768
h.zero(100, (2 << 20) + 40000)
assert h.pread(102, (2 << 20) + 39999) == b"z" + bytes(100) + b"z"
h.cache(65536, 2 << 20)

# A structured read over data and holes, and one that must not be cut up.
def collect(flags):
    chunks = []
    def chunk(buf, offset, status, error):
        chunks.append((offset, bytes(buf), status))
    whole = h.pread_structured(2 << 20, 1 << 20, chunk, flags)
    return bytes(whole), chunks
whole, chunks = collect(0)
assert whole == h.pread(2 << 20, 1 << 20)
assert any(status == nbd.READ_HOLE for _, _, status in chunks), [(o, len(b), s) for o, b, s in chunks]
whole_df, chunks = collect(nbd.CMD_FLAG_DF)
assert whole_df == whole and len(chunks) == 1, len(chunks)

# Block status covers the range, in order, in extents with a length.
def status(length, offset, flags=0):
    found = []
    def extent(context, at, entries, error):
        assert context == "base:allocation" and at == offset
        found.extend(entries)
    h.block_status(length, offset, extent, flags)
    return list(zip(found[0::2], found[1::2]))
entries = status(64 << 20, 0)
assert sum(n for n, _ in entries) == 64 << 20 and all(n > 0 for n, _ in entries), entries
one = status(64 << 20, 0, nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 1 and one[0][0] <= 64 << 20, one

h.shutdown()
