package blockdev

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// scrubbed starts a scrub and waits for its end.
func (s *summed) scrubbed(lun, snapshot string) ScrubInfo {
	s.t.Helper()
	_, err := s.p.StartScrub(context.Background(), lun, snapshot)
	s.must(err)
	return s.scrubEnd()
}

func (s *summed) scrubEnd() ScrubInfo {
	s.t.Helper()
	for {
		info, err := s.p.LastScrub()
		s.must(err)
		if info.State != ScrubRunning {
			return info
		}
		runtime.Gosched()
	}
}

func (s *summed) verdict(info ScrubInfo, ref string) Verdict {
	for _, v := range info.Snapshots {
		if v.LUN+"@"+v.Snapshot == ref {
			return v.Verdict
		}
	}
	return ""
}

func TestScrub(t *testing.T) {
	s := newSummed(t)
	if _, err := s.p.LastScrub(); !errors.Is(err, ErrNotFound) {
		t.Errorf("before the first scrub: %v", err)
	}
	v := s.lun("a")
	s.write(v, 1, 0, 600)
	s.snapshot("a", "s1")
	s.write(v, 2, 100, 10)
	s.snapshot("a", "s2")
	w := s.lun("b")
	s.write(w, 3, 0, 50)
	s.snapshot("b", "s1")
	if _, err := s.p.StartScrub(context.Background(), "a", "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	s.must(s.p.maintain(context.Background(), false)) // sealed, and no sums
	info := s.scrubbed("", "")
	if info.UnsummedBytes != 660*BlockSize || info.DoneBytes != info.UnsummedBytes || info.TotalBytes != info.DoneBytes {
		t.Errorf("without sums: %+v", info)
	}
	if info.Damaged() || s.verdict(info, "a@s1") != Unverified {
		t.Errorf("without sums: %+v", info)
	}
	s.settle()
	info = s.scrubbed("", "")
	if info.UnsummedBytes != 0 || info.DoneBytes != 660*BlockSize || info.Damaged() || len(info.Snapshots) != 3 || s.verdict(info, "a@s2") != Intact {
		t.Errorf("all is well: %+v", info)
	}

	s.flip("a", "s1", 100) // hidden by s2
	s.flip("a", "s1", 300)
	s.flip("a", "s1", 301)
	s.flip("b", "s1", 7)
	info = s.scrubbed("", "")
	if len(info.Findings) != 3 || info.Snapshots == nil {
		t.Fatalf("%d findings: %+v", len(info.Findings), info.Findings)
	}
	for i, want := range []ScrubFinding{
		{OffsetBytes: 100 * BlockSize, LengthBytes: BlockSize, Snapshots: []string{"a@s1"}},
		{OffsetBytes: 300 * BlockSize, LengthBytes: 2 * BlockSize, Snapshots: []string{"a@s1", "a@s2"}, LUNs: []string{"a"}},
		{OffsetBytes: 7 * BlockSize, LengthBytes: BlockSize, Snapshots: []string{"b@s1"}, LUNs: []string{"b"}},
	} {
		got := info.Findings[i]
		if got.OffsetBytes != want.OffsetBytes || got.LengthBytes != want.LengthBytes || !slices.Equal(got.Snapshots, want.Snapshots) || !slices.Equal(got.LUNs, want.LUNs) {
			t.Errorf("finding %d: %+v, want %+v", i, got, want)
		}
		if !strings.HasPrefix(got.File, "segments/") || got.What != "wrong checksum" {
			t.Errorf("finding %d: %+v", i, got)
		}
	}
	for _, ref := range []string{"a@s1", "a@s2", "b@s1"} {
		if s.verdict(info, ref) != Damaged {
			t.Errorf("%s is %q", ref, s.verdict(info, ref))
		}
	}
	if info = s.scrubbed("b", ""); len(info.Findings) != 1 || info.DoneBytes != 50*BlockSize || len(info.Snapshots) != 1 {
		t.Errorf("scrub of b: %+v", info)
	}
	if info = s.scrubbed("a", "s1"); len(info.Findings) != 2 || len(info.Snapshots) != 1 {
		t.Errorf("scrub of a@s1: %+v", info)
	}
	s.reopen()
	if last, err := s.p.LastScrub(); err != nil || last.Snapshot != "s1" || len(last.Findings) != 2 {
		t.Errorf("after a restart: %+v, %v", last, err)
	}
}

// TestScrubFindsFiles: the engine's own files are read as well.
func TestScrubFindsFiles(t *testing.T) {
	s := newSummed(t)
	v := s.lun("a")
	s.write(v, 1, 0, 60)
	s.snapshot("a", "s1")
	s.write(v, 1, 70, 6)
	s.snapshot("a", "s2")
	s.settle()
	s.flipByte(sumsName(1), sumsHeaderSize+10)
	s.flipByte(presenceName(2), 50)
	info := s.scrubbed("", "")
	if len(info.Findings) != 2 {
		t.Fatalf("%+v", info.Findings)
	}
	sums, presence := info.Findings[0], info.Findings[1]
	if sums.File != sumsName(1) || !strings.Contains(sums.What, "offset") || !slices.Equal(sums.Snapshots, []string{"a@s1", "a@s2"}) {
		t.Errorf("%+v", sums)
	}
	if presence.File != presenceName(2) || !slices.Equal(presence.Snapshots, []string{"a@s2"}) {
		t.Errorf("%+v", presence)
	}
	if _, err := s.read("a", "s1", 0, BlockSize); err != nil {
		t.Errorf("without its sums a block is read as it is: %v", err)
	}
	s.must(os.Remove(filepath.Join(s.dir, segmentName(1, 0))))
	s.p.segments.mu.Lock()
	clear(s.p.segments.open)
	s.p.segments.mu.Unlock()
	if info = s.scrubbed("a", "s1"); len(info.Findings) != 2 || info.Findings[1].LengthBytes != 60*BlockSize {
		t.Errorf("a segment that is gone: %+v", info.Findings)
	}
}

// TestScrubGoesOn: a scrub that a restart cuts off goes on where it was.
func TestScrubGoesOn(t *testing.T) {
	ctx := context.Background()
	s := newSummed(t)
	v := s.lun("a")
	_, err := s.p.ResizeLUN(ctx, "a", 16<<20)
	s.must(err)
	s.write(v, 1, 0, 4096)
	s.snapshot("a", "s1")
	s.settle()
	s.flip("a", "s1", 3)
	s.flip("a", "s1", 4090)
	s.p.backgroundRate = 1 << 20 // so that it is not done at once
	_, err = s.p.StartScrub(ctx, "a", "")
	s.must(err)
	for {
		info, err := s.p.LastScrub()
		s.must(err)
		if info.DoneBytes > 0 {
			break
		}
		runtime.Gosched()
	}
	if _, err := s.p.StartScrub(ctx, "", ""); !errors.Is(err, ErrInUse) {
		t.Errorf("a second scrub: %v", err)
	}
	s.reopen()
	info, err := s.p.LastScrub()
	s.must(err)
	if info.DoneBytes == 0 || len(info.Findings) != 1 {
		t.Errorf("after the restart: %+v", info)
	}
	info = s.scrubEnd()
	if info.State != ScrubDone || len(info.Findings) != 2 || info.DoneBytes != 16<<20 {
		t.Errorf("at the end: %+v", info)
	}
	s.p.backgroundRate = 1 << 20
	_, err = s.p.StartScrub(ctx, "", "")
	s.must(err)
	stopped, err := s.p.StopScrub(ctx)
	if err != nil || stopped.State != ScrubStopped || stopped.Finished == nil {
		t.Errorf("stopped: %+v, %v", stopped, err)
	}
	if _, err := s.p.StopScrub(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("stopped twice: %v", err)
	}
}

// TestScrubBesideMerges: layers are merged, removed and overwritten in place
// under scrubs, and nothing is found.
func TestScrubBesideMerges(t *testing.T) {
	ctx := context.Background()
	s := newSummed(t)
	v := s.lun("a")
	s.p.backgroundRate = -1
	var names []string
	for i := range 40 {
		s.write(v, byte(i), int64(i*13%900), 100)
		name := "s" + strconv.Itoa(i)
		s.snapshot("a", name)
		names = append(names, name)
		s.settle()
		if info, err := s.p.LastScrub(); err != nil || info.State != ScrubRunning {
			if info.Damaged() {
				t.Fatalf("%+v", info.Findings)
			}
			_, err := s.p.StartScrub(ctx, "", "")
			s.must(err)
		}
		if len(names) > 3 {
			s.delete("a", names[i%3])
			names = slices.Delete(names, i%3, i%3+1)
		}
		if i%5 == 4 { // all into the head
			for _, n := range names {
				s.delete("a", n)
			}
			names = nil
			_, err := v.WriteAt(bytes.Repeat([]byte{byte(i)}, 1<<20), 0)
			s.must(err)
		}
	}
	if info := s.scrubEnd(); info.Damaged() {
		t.Fatalf("%+v", info.Findings)
	}
}
