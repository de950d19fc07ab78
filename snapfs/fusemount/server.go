package fusemount

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// subtype makes the type of the mounts "fuse.rowan".
const subtype = "rowan"

// maxRequestBytes is the size of the largest read or write.
const maxRequestBytes = 1 << 20

// maxBackground is how many requests the kernel has under way of those that
// nobody waits for, such as readahead and the I/O of a loop device.
const maxBackground = 64

// Server is a mount. Its methods are safe for concurrent use.
type Server struct {
	dir    string // absolute, without symbolic links
	server *fuse.Server
	served chan struct{} // closed when the mount has ended

	mu       sync.Mutex // held while unmounting
	detached bool       // out of the directory tree, but perhaps in use
}

// mountOptions is what the mounts of this package differ in.
type mountOptions struct {
	source     string // shown as the device of the mount
	readOnly   bool
	allowOther bool
	log        *slog.Logger
	extra      uint64 // capabilities beside those of the library
}

// newServer mounts raw on dir and serves it.
func newServer(dir string, raw fuse.RawFileSystem, o mountOptions) (*Server, error) {
	dir, err := mountPoint(dir)
	if err != nil {
		return nil, err
	}
	opts := &fuse.MountOptions{
		AllowOther:               o.allowOther,
		MaxBackground:            maxBackground,
		MaxWrite:                 maxRequestBytes,
		FsName:                   o.source,
		Name:                     subtype,
		Logger:                   slog.NewLogLogger(o.log.Handler(), slog.LevelWarn),
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        o.extra,
		PanicHandler: func(what any) fuse.Status {
			o.log.Error("panic while serving a request", "panic", fmt.Sprint(what))
			return fuse.EIO
		},
	}
	if os.Geteuid() == 0 {
		opts.DirectMountStrict = true
		opts.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV
		if o.readOnly {
			opts.DirectMountFlags |= unix.MS_RDONLY
		}
	} else {
		if err := checkHelper(o.allowOther); err != nil {
			return nil, err
		}
		if o.readOnly {
			opts.Options = []string{"ro"}
		}
	}
	server, err := fuse.NewServer(raw, dir, opts)
	if err != nil {
		return nil, mountError(dir, err)
	}
	if err := closeOnExec(); err != nil {
		return nil, errors.Join(err, server.Unmount())
	}
	s := &Server{dir: dir, server: server, served: make(chan struct{})}
	go func() {
		defer close(s.served)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("fusemount: mount on %s: %w", dir, err), s.Unmount())
	}
	return s, nil
}

// mountError says in words why a mount failed.
func mountError(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("fusemount: mount on %s: the kernel has no FUSE (/dev/fuse is missing): load the module fuse: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("fusemount: mount on %s: not allowed here (a container needs the capability SYS_ADMIN and /dev/fuse): %w", dir, err)
	}
	return fmt.Errorf("fusemount: mount on %s: %w", dir, err)
}

// closeOnExec keeps the connection with the kernel out of programs that are
// started later, which would keep a mount alive whose server is dead. The
// library leaves that open where it mounts by itself.
func closeOnExec() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("fusemount: %w", err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == "/dev/fuse" {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				return fmt.Errorf("fusemount: %s: %w", dir, err)
			}
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// Dir is the directory of the mount.
func (s *Server) Dir() string { return s.dir }

// Wait waits until the mount has ended, by Unmount or from outside.
func (s *Server) Wait() { <-s.served }

// Unmount ends the mount. It fails with EBUSY while files in it are open or
// somebody is in it, and does nothing if the mount has ended already.
func (s *Server) Unmount() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended() {
		return nil
	}
	if s.detached {
		return fmt.Errorf("fusemount: a file in what was mounted on %s is still open: %w", s.dir, syscall.EBUSY)
	}
	if err := s.server.Unmount(); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("fusemount: unmount %s: somebody is in it or has a file in it open: %w", s.dir, err)
		}
		return fmt.Errorf("fusemount: unmount %s: %w", s.dir, err)
	}
	<-s.served
	return nil
}

// UnmountLazily takes the mount out of the directory tree at once. It ends, and
// Wait returns, when the last file in it is closed.
func (s *Server) UnmountLazily() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached || s.ended() {
		return nil
	}
	err := detach(s.dir)
	s.detached = err == nil
	return err
}

// ended tells whether the mount has ended. Ending takes the server a moment
// after the kernel has taken the mount away.
func (s *Server) ended() bool {
	select {
	case <-s.served:
		return true
	default:
	}
	if top, err := topMount(s.dir); s.detached || err == nil && top.isOurs() {
		return false
	}
	select {
	case <-s.served:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// detach unmounts dir lazily.
func detach(dir string) error {
	var err error
	if os.Geteuid() == 0 {
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	} else {
		var out []byte
		if out, err = exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		return fmt.Errorf("fusemount: unmount %s: %w", dir, err)
	}
	return nil
}
