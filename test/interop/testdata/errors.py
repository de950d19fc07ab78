# Requests that the server must refuse, with the error of the specification,
# and go on serving. libnbd's own checks are switched off. A script for nbdsh;
# uri names a LUN of 64 MiB.
import errno

h.connect_uri(uri)
h.set_strict_mode(0)
size = h.get_size()

def fails(wanted, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errnum in wanted, (e.errnum, e.string, call)
    else:
        assert False, "not refused: %r" % (call,)

past = (errno.EINVAL, errno.ENOSPC)
fails(past, h.pwrite, b"x" * 512, size)
fails(past, h.pwrite, b"x" * 1024, size - 512)
fails((errno.EINVAL,), h.pread, 512, size)
fails((errno.EINVAL,), h.pread, 1024, size - 512)
fails((errno.EINVAL,), h.pread, 512, 1 << 62)
fails((errno.EINVAL,), h.trim, 4096, size)
fails(past, h.zero, 0xffffffff, 4096)
fails((errno.EINVAL, errno.EOVERFLOW), h.pread, 33 << 20, 0)
# A command flag that nobody has defined.
fails((errno.EINVAL,), h.pwrite, b"x" * 512, 0, 1 << 15)

# It still serves, the same connection and others.
h.pwrite(b"alive", 0)
assert h.pread(5, 0) == b"alive"
h.shutdown()
other = nbd.NBD()
other.connect_uri(uri)
assert other.pread(5, 0) == b"alive"
other.shutdown()
