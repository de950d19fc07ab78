package history

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// SectorSize is the unit of requests in bytes.
const SectorSize = 512

const (
	wordSize = 8
	// edges are the registers of a sector: its first and its last word.
	edges = 2
)

// Log is the history of a number of devices, all of one length, that read as
// zeros when it begins.
type Log struct {
	devices, sectors int
	clock            atomic.Int64
	stamps           atomic.Uint64

	mu      sync.Mutex
	clients []*Client
}

// NewLog returns an empty history of devices of so many sectors each.
func NewLog(devices, sectors int) *Log { return &Log{devices: devices, sectors: sectors} }

// Client records the requests of one goroutine.
type Client struct {
	log      *Log
	requests []request
	freezes  []freeze
}

// Client returns a new one.
func (l *Log) Client() *Client {
	c := &Client{log: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients = append(l.clients, c)
	return c
}

// span is the time in which a request was under way, in readings of the clock.
type span struct{ call, ret int64 }

// request is a change of a range of sectors or a read of it.
type request struct {
	span
	device, sector, count int
	stamp                 uint64  // of a change, 0 for a read
	zeros                 bool    // the change is a discard or a write of zeros
	found                 []value // of a read, by sector
}

// value is what a sector holds: the stamps of its edges, 0 for zeros.
type value [edges]uint64

// freeze is a snapshot of a group.
type freeze struct {
	span
	name    string
	devices []int
	found   [][]value // by device of the group, by sector
}

func (c *Client) now() int64 { return c.log.clock.Add(1) }

// Write writes sectors by way of do, which is given what to write and how far
// from the beginning of the device.
func (c *Client) Write(device, sector, count int, do func(p []byte, offsetBytes int64) error) error {
	r := request{device: device, sector: sector, count: count, stamp: c.log.stamps.Add(1)}
	p := make([]byte, count*SectorSize)
	for i := range count {
		encode(p[i*SectorSize:][:SectorSize], device, sector+i, r.stamp)
	}
	r.call = c.now()
	err := do(p, int64(sector)*SectorSize)
	r.ret = c.now()
	c.requests = append(c.requests, r)
	return err
}

// Zero makes sectors read as zeros by way of do.
func (c *Client) Zero(device, sector, count int, do func(offsetBytes, lengthBytes int64) error) error {
	r := request{device: device, sector: sector, count: count, stamp: c.log.stamps.Add(1), zeros: true}
	r.call = c.now()
	err := do(int64(sector)*SectorSize, int64(count)*SectorSize)
	r.ret = c.now()
	c.requests = append(c.requests, r)
	return err
}

// Read reads sectors by way of do.
func (c *Client) Read(device, sector, count int, do func(p []byte, offsetBytes int64) error) error {
	r := request{device: device, sector: sector, count: count}
	p := make([]byte, count*SectorSize)
	r.call = c.now()
	err := do(p, int64(sector)*SectorSize)
	r.ret = c.now()
	if err != nil {
		return err
	}
	if r.found, err = c.log.decode(p, device, sector); err != nil {
		return err
	}
	c.requests = append(c.requests, r)
	return nil
}

// Freeze takes a snapshot of some devices by way of do, which returns an image
// of each in their order.
func (c *Client) Freeze(name string, devices []int, do func() ([]io.ReaderAt, error)) error {
	f := freeze{name: name, devices: devices}
	f.call = c.now()
	images, err := do()
	f.ret = c.now()
	if err != nil {
		return err
	}
	p := make([]byte, c.log.sectors*SectorSize)
	for i, d := range devices {
		if _, err := images[i].ReadAt(p, 0); err != nil {
			return fmt.Errorf("history: reading snapshot %s: %w", name, err)
		}
		found, err := c.log.decode(p, d, 0)
		if err != nil {
			return fmt.Errorf("%w, in snapshot %s", err, name)
		}
		f.found = append(f.found, found)
	}
	c.freezes = append(c.freezes, f)
	return nil
}

// encode fills a sector with a stamp and its place.
func encode(p []byte, device, sector int, stamp uint64) {
	for i := 0; i < SectorSize; i += wordSize {
		binary.LittleEndian.PutUint64(p[i:], stamp^place(device, sector, i))
	}
}

// place is a number for a word of a sector that has no small stamp in common
// with that of another word.
func place(device, sector, offset int) uint64 {
	x := uint64(device)<<48 | uint64(sector)<<12 | uint64(offset) | 1<<63
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// decode returns what sectors hold, an error if it is what nobody wrote there.
func (l *Log) decode(p []byte, device, sector int) ([]value, error) {
	found := make([]value, len(p)/SectorSize)
	for i := range found {
		for offset := 0; offset < SectorSize; offset += wordSize {
			stamp := binary.LittleEndian.Uint64(p[i*SectorSize+offset:])
			if stamp != 0 {
				stamp ^= place(device, sector+i, offset)
				if stamp == 0 || stamp > l.stamps.Load() {
					return nil, fmt.Errorf("history: device %d sector %d byte %d holds what was never written there", device, sector+i, offset)
				}
			}
			switch offset {
			case 0:
				found[i][0] = stamp
			case SectorSize - wordSize:
				found[i][1] = stamp
			}
		}
	}
	return found, nil
}
