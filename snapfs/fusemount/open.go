package fusemount

import (
	"context"
	"errors"
	"io"
	"iter"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

func (b *browser) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		return fuse.EROFS
	}
	f, err := serve(cancel, func() (*snapfs.File, error) { return b.root.Open(b.ctx, tree.Ino(in.NodeId)) })
	if err != nil {
		return requestStatus(err)
	}
	out.Fh = b.keep(f)
	// Also what may change: another content has another number.
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (b *browser) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, ok := handleOf[*snapfs.File](b, in.Fh)
	if !ok {
		return nil, fuse.EBADF
	}
	size, off := min(len(buf), int(in.Size), maxRequestBytes), int64(in.Offset)
	answer, err := serve(cancel, func() (*readAnswer, error) {
		r := &readAnswer{buf: readBuffers.Get().(*[maxRequestBytes]byte)}
		n, err := f.ReadAt(r.buf[:size], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, errors.Join(err, r.Close())
		}
		r.n = n
		return r, nil
	})
	if err != nil {
		return nil, requestStatus(err)
	}
	return answer, fuse.OK
}

func (b *browser) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f, ok := handleOf[*snapfs.File](b, in.Fh)
	if !ok {
		return fuse.EBADF
	}
	// The answer must not be written to when it was given up.
	question := *in
	answer, err := serve(cancel, func() (seekAnswer, error) {
		var a seekAnswer
		a.status = seek(b.ctx, f.Extents, f.Size(), &question, &a.out)
		return a, nil
	})
	if err != nil {
		return requestStatus(err)
	}
	*out = answer.out
	return answer.status
}

type seekAnswer struct {
	out    fuse.LseekOut
	status fuse.Status
}

// seek finds data or a hole (lseek(2), "Seeking file data and holes").
func seek(ctx context.Context, extents extentFunc, sizeBytes int64, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	off := int64(in.Offset)
	if off < 0 || off >= sizeBytes {
		return fuse.Status(syscall.ENXIO)
	}
	wanted := in.Whence == unix.SEEK_DATA
	at, found := off, false
	err := extents(ctx, off, sizeBytes-off, func(n int64, data bool) bool {
		if found = data == wanted; found {
			return false
		}
		at += n
		return true
	})
	switch {
	case err != nil:
		return status(err)
	case found:
		out.Offset = uint64(at)
	case wanted:
		return fuse.Status(syscall.ENXIO)
	default:
		out.Offset = uint64(sizeBytes) // there is a hole at the end of every file
	}
	return fuse.OK
}

// extentFunc tells where there is data, as snapfs.Extenter does.
type extentFunc func(ctx context.Context, off, n int64, yield func(lengthBytes int64, data bool) bool) error

func (b *browser) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if f, ok := b.drop(in.Fh).(*snapfs.File); ok {
		_ = f.Close() // always nil
	}
}

// openDir is an open directory: its listing when it was opened, so that a
// place in it stays that place.
type openDir struct {
	ino     tree.Ino
	entries []tree.DirEntry // without "." and ".."
	err     error           // told at the end of the listing
	lazy    bool            // entries are described only when asked for
}

func (b *browser) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	dir := tree.Ino(in.NodeId)
	entries, err := serve(cancel, func() ([]tree.DirEntry, error) { return b.root.ReadDir(b.ctx, dir) })
	if err != nil && len(entries) == 0 {
		return requestStatus(err)
	}
	out.Fh = b.keep(&openDir{ino: dir, entries: entries, err: err, lazy: b.root.Lazy(dir)})
	if !b.root.Volatile(dir) {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// dots is how many places "." and ".." take.
const dots = 2

// from gives the part of the listing that begins at a place: the number of
// entries before it. It comes with the place after each.
func (d *openDir) from(place uint64) iter.Seq2[uint64, tree.DirEntry] {
	return func(yield func(uint64, tree.DirEntry) bool) {
		if place < 1 && !yield(1, tree.DirEntry{Name: ".", Ino: d.ino, Type: tree.Directory}) {
			return
		}
		if place < dots && !yield(dots, tree.DirEntry{Name: "..", Ino: fuse.FUSE_UNKNOWN_INO, Type: tree.Directory}) {
			return
		}
		for i := max(place, dots) - dots; i < uint64(len(d.entries)); i++ {
			if !yield(i+dots+1, d.entries[i]) {
				return
			}
		}
	}
}

// end is what the reader of a listing is told at its end: that part of the
// directory is damaged, after everything that could be read.
func (d *openDir) end(place uint64) fuse.Status {
	if place >= uint64(len(d.entries))+dots {
		return status(d.err)
	}
	return fuse.OK
}

func dirEntry(e tree.DirEntry, next uint64) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: typeBits(e.Type), Off: next}
}

func (b *browser) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, ok := handleOf[*openDir](b, in.Fh)
	if !ok {
		return fuse.EBADF
	}
	for next, e := range d.from(in.Offset) {
		if !out.AddDirEntry(dirEntry(e, next)) {
			break
		}
	}
	return d.end(in.Offset)
}

// ReadDirPlus lists a directory with the attributes of its files. Where those
// cannot be had, or would open filesystems, the kernel asks when it needs them.
func (b *browser) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, ok := handleOf[*openDir](b, in.Fh)
	if !ok {
		return fuse.EBADF
	}
	for next, e := range d.from(in.Offset) {
		entry := out.AddDirLookupEntry(dirEntry(e, next))
		if entry == nil {
			break
		}
		if d.lazy || e.Name == "." || e.Name == ".." {
			continue
		}
		attr, err := b.stat(cancel, e.Ino)
		if err == syscall.EINTR {
			break // nobody waits for more
		}
		if err == nil {
			b.setEntry(entry, attr)
			out.FixMode(entry.Mode)
		}
	}
	return d.end(in.Offset)
}

func (b *browser) ReleaseDir(in *fuse.ReleaseIn) { b.drop(in.Fh) }
