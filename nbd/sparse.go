package nbd

import "github.com/rowan-storage/rowan/nbd/wire"

const (
	// minSparseRead is the length in bytes from which on a read that a worker
	// serves shows holes as such.
	minSparseRead = 64 << 10
	// minHoleBytes is the length of the shortest hole that a read shows as a
	// hole. It leaves room for the headers of two chunks in its place.
	minHoleBytes = 4096
	// maxReadChunks is how many chunks the reply to a read has at most.
	maxReadChunks = 64
)

// run is a part of a read, relative to its start.
type run struct {
	start, n int
	data     bool
}

// readSparse answers a read with a chunk for each run of data and each
// hole. It makes no reply if the device cannot tell or has no holes there.
func (s *session) readSparse(x *exchange) (made bool, err error) {
	var room [maxReadChunks]run
	runs := s.runs(room[:0], x)
	if len(runs) == 0 || len(runs) == 1 && runs[0].data {
		return false, nil
	}
	for _, r := range runs {
		if !r.data {
			continue
		}
		if err := s.readAt(x.buf.payload(r.start + r.n)[r.start:], int64(x.Offset)+int64(r.start)); err != nil {
			return false, err
		}
	}
	for i, r := range runs {
		var flags uint16
		if i == len(runs)-1 {
			flags = wire.ChunkFlagDone
		}
		if r.data {
			s.addData(x, r.start, r.n, flags)
		} else {
			s.addHole(x, r.start, r.n, flags)
		}
	}
	return true, nil
}

// addHole adds to the reply a hole, written where its data would be. The end
// of that place is left to the header of the data that follows.
func (s *session) addHole(x *exchange, start, n int, flags uint16) {
	head := s.style.ChunkBytes()
	b := x.buf.mem[headroom+start:][:head+wire.HoleSize]
	wire.PutChunk(b, wire.Chunk{
		Flags: flags, Type: wire.ChunkOffsetHole, Cookie: x.Cookie,
		Offset: x.Offset, Length: wire.HoleSize,
	}, s.style)
	wire.PutHole(b[head:], x.Offset+uint64(start), uint32(n))
	x.out = append(x.out, b)
}

// runs appends the runs of data and holes of a read, holes that are too short
// being data, and data alone once there are nearly too many. No two runs of
// data touch. It returns none if the device cannot tell.
func (s *session) runs(runs []run, x *exchange) []run {
	device, ok := s.export.Device.(extenter)
	if !ok {
		return nil
	}
	add := func(r run) {
		last := len(runs) - 1
		data := r.data || r.n < minHoleBytes
		if last >= 0 && runs[last].data && (data || last >= cap(runs)-2) {
			runs[last].n += r.n
		} else if r.n > 0 {
			runs = append(runs, run{r.start, r.n, data})
		}
	}
	end := int(x.Length)
	var current run
	err := device.Extents(s.ctx, int64(x.Offset), int64(x.Length), func(length int64, data bool) bool {
		if length <= 0 || current.end() == end {
			return false
		}
		if data != current.data {
			add(current)
			current = run{current.end(), 0, data}
		}
		current.n += int(min(length, int64(end-current.end())))
		return true
	})
	add(current)
	if err != nil || current.end() != end {
		return nil
	}
	return runs
}

func (r run) end() int { return r.start + r.n }
