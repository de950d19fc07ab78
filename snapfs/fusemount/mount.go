package fusemount

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rowan-storage/rowan/snapfs"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Options sets up a mount. The zero value is ready to use.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	// Source is shown as the device of the mount; "rowan" if it is empty.
	Source string
	// AllowOther lets other users than the one who mounts look: at everything
	// in every snapshot.
	AllowOther bool
}

// Mount mounts the tree of snapshots on a directory, which must exist. The
// caller ends the mount, and closes root after that.
func Mount(dir string, root *snapfs.Root, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Source == "" {
		o.Source = subtype
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &browser{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		root:          root,
		ctx:           ctx,
		cancel:        cancel,
		log:           o.Logger,
		handles:       map[uint64]any{},
	}
	s, err := newServer(dir, b, mountOptions{source: o.Source, readOnly: true, allowOther: o.AllowOther, log: o.Logger})
	if err != nil {
		cancel()
		return nil, err
	}
	root.OnChange(b.changed)
	setReadahead(s.dir, o.Logger)
	return s, nil
}

// readaheadKiB is how much the kernel reads ahead in one go. Its default of 128
// KiB leaves a source at some distance idle between reads.
const readaheadKiB = 1024

// setReadahead asks the kernel for more readahead, which only root may.
func setReadahead(dir string, log *slog.Logger) {
	top, err := topMount(dir)
	if err != nil || os.Geteuid() != 0 {
		return
	}
	path := fmt.Sprintf("/sys/class/bdi/%s/read_ahead_kb", top.device)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n", readaheadKiB), 0); err != nil {
		log.Debug("readahead stays at the kernel's default", "error", err)
	}
}

// browser serves the tree of snapshots.
type browser struct {
	fuse.RawFileSystem // ENOSYS for what is not here

	root   *snapfs.Root
	ctx    context.Context // until the mount ends
	cancel context.CancelFunc
	log    *slog.Logger
	server *fuse.Server

	mu         sync.Mutex
	handles    map[uint64]any // *snapfs.File or *openDir
	lastHandle uint64
}

func (b *browser) String() string { return subtype }

// Init keeps the connection, to tell the kernel about changes.
func (b *browser) Init(s *fuse.Server) { b.server = s }

// OnUnmount closes what is open. The kernel has let go of all of it.
func (b *browser) OnUnmount() {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.handles {
		if f, ok := h.(*snapfs.File); ok {
			_ = f.Close() // always nil
		}
	}
	b.handles = map[uint64]any{}
}

// changed makes the kernel forget what it keeps of a directory.
func (b *browser) changed(dir tree.Ino) {
	for _, status := range []fuse.Status{
		b.server.InodeNotify(uint64(dir), 0, 0),
		b.server.EntryNotify(uint64(dir), "README"),
	} {
		if !status.Ok() && status != fuse.ENOENT {
			b.log.Debug("the kernel was not told of a change", "status", status.String())
		}
	}
}

// keep gives an open file or directory a handle.
func (b *browser) keep(h any) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastHandle++
	b.handles[b.lastHandle] = h
	return b.lastHandle
}

// handleOf finds an open file or directory.
func handleOf[T any](b *browser, fh uint64) (T, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.handles[fh].(T)
	return h, ok
}

// drop forgets a handle.
func (b *browser) drop(fh uint64) any {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.handles[fh]
	delete(b.handles, fh)
	return h
}
