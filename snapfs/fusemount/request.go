package fusemount

import (
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// interruptGrace is for how long a request goes on after the kernel has said
// that whoever waits for it got a signal. Most signals are no reason to fail a
// read of a file, which few programs expect, and most requests end by then.
const interruptGrace = time.Second

// outcome is what a request came to.
type outcome[T any] struct {
	value T
	err   error
	panic any
}

// serve runs one request and waits for its end or, if that does not come though
// the kernel has asked to give the request up, fails with EINTR. The request then
// goes on, within the time limits of snapfs, with nobody to take its outcome,
// which is closed if it can be: it may use no memory of the library's.
func serve[T any](cancel <-chan struct{}, request func() (T, error)) (T, error) {
	done := make(chan outcome[T], 1)
	go func() {
		var o outcome[T]
		defer func() {
			o.panic = recover()
			done <- o
		}()
		o.value, o.err = request()
	}()
	select {
	case o := <-done:
		return o.result()
	case <-cancel:
	}
	grace := time.NewTimer(interruptGrace)
	defer grace.Stop()
	select {
	case o := <-done:
		return o.result()
	case <-grace.C:
	}
	go func() {
		if o := <-done; o.err == nil && o.panic == nil {
			if c, ok := any(o.value).(io.Closer); ok {
				_ = c.Close() // nobody has seen it
			}
		}
	}()
	var none T
	return none, syscall.EINTR
}

// result hands a panic on to where the library ends it.
func (o outcome[T]) result() (T, error) {
	if o.panic != nil {
		panic(o.panic)
	}
	return o.value, o.err
}

// requestStatus is what the kernel is told of a request.
func requestStatus(err error) fuse.Status {
	if err == syscall.EINTR { // of serve itself
		return fuse.EINTR
	}
	return status(err)
}

// readBuffers are of maxRequestBytes.
var readBuffers = sync.Pool{New: func() any { return new([maxRequestBytes]byte) }}

// readAnswer is what a read has read, in a buffer that goes back to the pool.
type readAnswer struct {
	buf *[maxRequestBytes]byte
	n   int
}

func (r *readAnswer) Bytes([]byte) ([]byte, fuse.Status) { return r.buf[:r.n], fuse.OK }
func (r *readAnswer) Size() int                          { return r.n }
func (r *readAnswer) Done()                              { readBuffers.Put(r.buf) }

// Close gives the buffer of a read back that nobody waits for any more.
func (r *readAnswer) Close() error {
	r.Done()
	return nil
}
