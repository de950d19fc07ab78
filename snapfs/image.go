package snapfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
)

// retryEvery is how often a failed read is tried once more, on a new
// connection: enough to survive a daemon that was restarted, not so often that
// a disk that cannot be read keeps everybody busy.
const retryEvery = time.Second

// image is the image of one snapshot: opened when it is first read, closed when
// it has been idle, opened anew after a failure. It stays usable throughout, so
// that what was read from it need not be read again.
type image struct {
	object    string // for errors: "web@monday"
	sizeBytes int64
	timeout   time.Duration // of opening, and of a read
	// open opens and verifies the image.
	open   func(ctx context.Context) (Image, error)
	flight singleflight.Group

	mu      sync.Mutex
	current *connection // nil while closed
	pins    int         // open files that keep the image open
	lastUse time.Time
	retried time.Time // when a failed read was last tried again
	retired bool      // the snapshot is gone: close as soon as possible
	closed  bool
}

// connection is an opened Image. Its fields are guarded by image.mu.
type connection struct {
	Image
	users  int
	doomed bool // to be closed by the last user
	once   sync.Once
}

// ReadAt reads the image. Errors of the source come as ErrUnreachable or
// ErrGone, a read that begins or ends past the end of the image as io.EOF.
func (im *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, im.errorf(syscall.EINVAL, errors.New("negative offset"))
	}
	if off >= im.sizeBytes {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), im.sizeBytes-off)]
	n, err := im.readFull(want, off)
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return n, err
}

// readFull reads p, once more on a new connection if the present one fails.
func (im *image) readFull(p []byte, off int64) (int, error) {
	for attempt := 0; ; attempt++ {
		c, err := im.acquire(context.Background())
		if err != nil {
			return 0, err
		}
		n, err := im.readOnce(c, p, off)
		if n == len(p) {
			return n, nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if attempt > 0 || errors.Is(err, syscall.ESTALE) || errors.Is(err, errLate) || !im.mayRetry() {
			return 0, im.failure(err)
		}
	}
}

// errLate says that a read got no answer in time.
var errLate error = lateError{}

type lateError struct{}

func (lateError) Error() string { return "there was no answer in time" }

// Timeout tells readers of filesystems that another try is not worth it.
func (lateError) Timeout() bool { return true }

// readOnce reads p over a connection and gives that back.
func (im *image) readOnce(c *connection, p []byte, off int64) (n int, err error) {
	defer func() { im.release(c, n == len(p)) }()
	late := time.AfterFunc(im.timeout, func() { im.breakOff(c) })
	n, err = c.ReadAt(p, off)
	if !late.Stop() && err != nil {
		err = fmt.Errorf("%w (%v): %w", errLate, im.timeout, err)
	}
	return n, err
}

// breakOff closes a connection under those who use it: their reads fail.
func (im *image) breakOff(c *connection) {
	im.mu.Lock()
	c.doomed = true
	if im.current == c {
		im.current = nil
	}
	im.mu.Unlock()
	closeConnection(c)
}

func (im *image) mayRetry() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	if time.Since(im.retried) < retryEvery {
		return false
	}
	im.retried = time.Now()
	return true
}

// Extents tells where the image holds data; all of it if the source does not
// say.
func (im *image) Extents(ctx context.Context, off, n int64, yield func(int64, bool) bool) error {
	if n <= 0 {
		return nil
	}
	c, err := im.acquire(ctx)
	if err != nil {
		return err
	}
	x, ok := c.Image.(Extenter)
	if !ok {
		im.release(c, true)
		yield(n, true)
		return nil
	}
	// What yield takes does not count.
	late := time.AfterFunc(im.timeout, func() { im.breakOff(c) })
	err = x.Extents(ctx, off, n, func(length int64, data bool) bool {
		late.Stop()
		defer late.Reset(im.timeout)
		return yield(length, data)
	})
	late.Stop()
	im.release(c, err == nil)
	if err != nil {
		return im.failure(err)
	}
	return nil
}

// pin keeps the image open until unpin.
func (im *image) pin(ctx context.Context) error {
	c, err := im.acquire(ctx)
	if err != nil {
		return err
	}
	im.mu.Lock()
	im.pins++
	im.mu.Unlock()
	im.release(c, true)
	return nil
}

func (im *image) unpin() {
	im.mu.Lock()
	im.pins--
	im.lastUse = time.Now()
	var c *connection
	if im.retired {
		c = im.takeIdle(0)
	}
	im.mu.Unlock()
	closeConnection(c)
}

// acquire gives the open connection, opening one if there is none.
func (im *image) acquire(ctx context.Context) (*connection, error) {
	for {
		im.mu.Lock()
		if im.closed {
			im.mu.Unlock()
			return nil, im.errorf(ErrClosed, nil)
		}
		if c := im.current; c != nil {
			c.users++
			im.mu.Unlock()
			return c, nil
		}
		im.mu.Unlock()
		if err := share(ctx, &im.flight, "", func() error { return im.connect(ctx) }); err != nil {
			return nil, err
		}
	}
}

// share has f run once for all who ask for the same at the same time, and waits
// for its end, or for that of ctx. f goes on without those who do not wait any
// more, and has bounds of its own.
func share(ctx context.Context, flight *singleflight.Group, key string, f func() error) error {
	done := flight.DoChan(key, func() (any, error) { return nil, f() })
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connect opens the image. It is not given up when one of those who wait for it
// does, but after the timeout.
func (im *image) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), im.timeout)
	defer cancel()
	opened, err := im.open(ctx)
	if err != nil {
		return im.failure(err)
	}
	if size := opened.Size(); size != im.sizeBytes {
		return errors.Join(im.errorf(ErrUnreachable, fmt.Errorf("the image has %d bytes, the snapshot %d", size, im.sizeBytes)), opened.Close())
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return errors.Join(im.errorf(ErrClosed, nil), opened.Close())
	}
	im.current = &connection{Image: opened}
	im.lastUse = time.Now()
	return nil
}

// release gives a connection back. One that failed is not used again.
func (im *image) release(c *connection, ok bool) {
	im.mu.Lock()
	c.users--
	im.lastUse = time.Now()
	if !ok {
		c.doomed = true
		if im.current == c {
			im.current = nil
		}
	}
	var done *connection
	if c.doomed && c.users == 0 {
		done = c
	} else if im.retired {
		done = im.takeIdle(0)
	}
	im.mu.Unlock()
	closeConnection(done)
}

// closeIdle closes the image if nobody has used it for idle. It tells whether
// the image is closed.
func (im *image) closeIdle(idle time.Duration) bool {
	im.mu.Lock()
	c := im.takeIdle(idle)
	still := im.current != nil
	im.mu.Unlock()
	closeConnection(c)
	return !still
}

// takeIdle takes the connection out of the image if it may be closed now. The
// caller holds im.mu and closes it.
func (im *image) takeIdle(idle time.Duration) *connection {
	c := im.current
	if c == nil || c.users > 0 || im.pins > 0 || time.Since(im.lastUse) < idle {
		return nil
	}
	im.current = nil
	return c
}

// retire closes the image as soon as nobody uses it.
func (im *image) retire() {
	im.mu.Lock()
	im.retired = true
	c := im.takeIdle(0)
	im.mu.Unlock()
	closeConnection(c)
}

// shut closes the image for good, also under those who use it: their reads
// fail.
func (im *image) shut() {
	im.mu.Lock()
	im.closed = true
	c := im.current
	im.current = nil
	if c != nil {
		c.doomed = true
	}
	im.mu.Unlock()
	closeConnection(c)
}

// closeConnection closes an image that was only read: nothing can be lost by an
// error of Close.
func closeConnection(c *connection) {
	if c != nil {
		c.once.Do(func() { _ = c.Close() })
	}
}

// failure makes the error of a source one of the classes.
func (im *image) failure(err error) error {
	switch {
	case transient(err):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESTALE):
		return im.errorf(ErrGone, err)
	}
	return im.errorf(ErrUnreachable, err)
}

func (im *image) errorf(class, cause error) error {
	return &Error{Object: im.object, Class: class, Cause: cause}
}

// window is a range of an image that a reader works on. It remembers that a
// read failed, so that "cannot be read now" is not taken for damage when a
// reader does not hand on the error of a read.
type window struct {
	im        *image
	off       int64
	sizeBytes int64
	failures  atomic.Uint64
}

func (w *window) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, w.im.errorf(syscall.EINVAL, errors.New("negative offset"))
	}
	if off >= w.sizeBytes {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), w.sizeBytes-off)]
	n, err := w.im.ReadAt(want, w.off+off)
	if n == len(want) {
		err = nil
	}
	if err != nil {
		w.failures.Add(1)
		return n, err
	}
	if len(want) < len(p) {
		err = io.EOF
	}
	return n, err
}
