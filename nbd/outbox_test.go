package nbd

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// outboxPair is an outbox, and the other end of its connection.
func outboxPair(t *testing.T, free func(*exchange), broken func(error)) (*outbox, net.Conn) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	clock := &stallClock{period: time.Second, timeout: time.Hour}
	return newOutbox(here, &stallGuard{clock: clock}, free, broken), there
}

func message8(n uint64) *exchange {
	x := &exchange{}
	x.out = append(x.out, binary.BigEndian.AppendUint64(x.head[:0], n))
	return x
}

// Whatever is handed in by however many at once is sent, once and whole, and
// nobody who handed something in stays behind.
func TestOutboxSendsAll(t *testing.T) {
	const senders, each = 8, 500
	var freed atomic.Int64
	o, there := outboxPair(t, func(*exchange) { freed.Add(1) }, func(err error) { t.Error(err) })
	var all sync.WaitGroup
	for s := range uint64(senders) {
		all.Go(func() {
			for i := range uint64(each) {
				o.send(message8(s*each + i))
			}
		})
	}
	seen := map[uint64]bool{}
	b := make([]byte, 8)
	for range senders * each {
		mustReadFull(t, there, b)
		seen[binary.BigEndian.Uint64(b)] = true
	}
	all.Wait()
	o.drain()
	if len(seen) != senders*each || freed.Load() != senders*each {
		t.Errorf("%d of %d were sent, %d freed", len(seen), senders*each, freed.Load())
	}
	if o.held != 0 || len(o.queue) != 0 || o.sending {
		t.Errorf("%d bytes remain", o.held)
	}
}

func TestOutboxFailsOnceAndFreesAll(t *testing.T) {
	var freed, broken atomic.Int64
	o, there := outboxPair(t, func(*exchange) { freed.Add(1) }, func(error) { broken.Add(1) })
	var all sync.WaitGroup
	for i := range uint64(50) {
		all.Go(func() { o.send(message8(i)) })
	}
	mustReadFull(t, there, make([]byte, 8))
	there.Close()
	all.Wait()
	o.drain()
	o.send(message8(99))
	if freed.Load() != 51 || broken.Load() != 1 {
		t.Errorf("%d freed, %d times broken", freed.Load(), broken.Load())
	}
	if o.failure() == nil || o.waitRoom() == nil {
		t.Error("the failure is not remembered")
	}
}

func TestOutboxWaitRoom(t *testing.T) {
	o, there := outboxPair(t, func(*exchange) {}, func(error) {})
	large := func() *exchange {
		return &exchange{out: [][]byte{make([]byte, maxQueuedBytes/2+1)}}
	}
	var all sync.WaitGroup
	for range 3 { // one is being sent, two wait
		all.Go(func() { o.send(large()) })
	}
	eventually(t, "two wait", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.queue) == 2
	})
	waited := make(chan error, 1)
	go func() { waited <- o.waitRoom() }()
	select {
	case <-waited:
		t.Fatal("there is no room")
	case <-time.After(10 * time.Millisecond):
	}
	mustReadFull(t, there, make([]byte, 3*(maxQueuedBytes/2+1)))
	if err := <-waited; err != nil {
		t.Error(err)
	}
	all.Wait()
}
