package snapfs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/rowan-storage/rowan/snapfs/ext4"
	"github.com/rowan-storage/rowan/snapfs/partition"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// finding is what an area was found to hold.
type finding struct {
	kind  string // in the name of its directory: "ext4", "luks"
	title string // in words: "ext4 filesystem"
	label string
	uuid  string
	// why says why the area cannot be read, "" if a reader exists. It
	// completes the title to a sentence.
	why string
	// notes are sentences for the administrator.
	notes []string
}

// opener opens a filesystem with its reader. It gives up when ctx is done.
type opener func(ctx context.Context, r io.ReaderAt, sizeBytes int64) (tree.FileSystem, error)

// readers are the filesystems that can be read, by kind.
func readers() map[string]opener {
	return map[string]opener{"ext2": openExt, "ext3": openExt, "ext4": openExt}
}

func openExt(ctx context.Context, r io.ReaderAt, sizeBytes int64) (tree.FileSystem, error) {
	f, err := ext4.Open(ctx, r, sizeBytes)
	if err != nil {
		return nil, err // a nil *ext4.FS would not be a nil FileSystem
	}
	return f, nil
}

// The reasons why an area cannot be read.
const (
	notYet    = "recognised, but its files cannot be read yet; restore the whole LUN, or attach a clone of the snapshot"
	encrypted = "encrypted; restore the whole LUN, or unlock it on a clone of the snapshot"
	noFiles   = "holds no files"
)

// formats find out what an area holds. The order matters: what wraps other
// formats comes before those, and what is told by few bytes comes last.
var formats = [...]func(p *probe) (finding, bool){
	findLUKS,
	findBitLocker,
	findMD,
	findLVM2,
	findZFS,
	findBcache,
	findBlueStore,
	findVMFS,
	findBtrfs,
	findXFS,
	findAPFS,
	findReFS,
	findNTFS,
	findExFAT,
	findSwap,
	findExt,
	findReiserFS,
	findJFS,
	findF2FS,
	findHFSPlus,
	findUFS,
	findSquashFS,
	findOptical,
	findFAT,
	findMDAtEnd,
}

// typed says what partitions hold whose type alone tells that a signature in
// them would not be theirs.
func typed(part *partition.Partition) (finding, bool) {
	if part == nil {
		return finding{}, false
	}
	switch part.Type {
	case "0x42", "AF9B60A0-1431-4F62-BC68-3311714A69AD":
		return finding{kind: "ldm", title: "Windows dynamic disk", why: notYet}, true
	case "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3":
		return finding{kind: "ldm-metadata", title: "Windows dynamic disk metadata", why: noFiles}, true
	case "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D":
		return finding{kind: "storage-spaces", title: "Microsoft Storage Spaces pool", why: notYet}, true
	case "E3C9E316-0B5C-4DB8-817D-F92DF00215AE":
		return finding{kind: "msr", title: "Microsoft reserved partition", why: noFiles}, true
	case "21686148-6449-6E6F-744E-656564454649":
		return finding{kind: "bios-boot", title: "BIOS boot partition", why: noFiles}, true
	case "9D275380-40AD-11DB-BF97-000C2911D1B8", "0xfc":
		return finding{kind: "vmkcore", title: "VMware core dump partition", why: noFiles}, true
	case "9198EFFC-31C0-11DB-8F78-000C2911D1B8":
		return finding{kind: "vmware-reserved", title: "VMware reserved partition", why: noFiles}, true
	}
	return finding{}, false
}

// detect finds out what an area holds. part is its partition, nil for a whole
// disk. The second result is false if nothing was recognised; the finding says
// so in words. Where part of the area cannot be read, what is recognised in the
// rest counts; it fails if that is nothing, or if there was no answer in time.
func detect(r io.ReaderAt, sizeBytes int64, part *partition.Partition) (finding, bool, error) {
	if f, ok := typed(part); ok {
		return f, true, nil
	}
	p := newProbe(r, sizeBytes)
	for _, find := range formats {
		failures := p.failures
		f, ok := find(p)
		if errors.Is(p.err, errLate) {
			return finding{}, false, p.err
		}
		if ok && p.failures == failures {
			return f, true, nil
		}
	}
	if p.err != nil {
		return finding{}, false, p.err
	}
	return unknown(p, part), false, nil
}

// unknown says in words that nothing was recognised.
func unknown(p *probe, part *partition.Partition) finding {
	f := finding{kind: "unknown", title: "Disk", why: "no partition table and no filesystem was recognised"}
	if p.zeros() {
		f.kind, f.why = "empty", "where partition tables and filesystems have their signatures there are only zeros"
	}
	if part == nil {
		f.why += "; its bytes are in " + rawName
		return f
	}
	f.title = fmt.Sprintf("Partition %d", part.Number)
	if part.TypeName != "" {
		f.why += fmt.Sprintf("; the partition table says that it is for: %s", part.TypeName)
	}
	return f
}

// sentence is why the area cannot be read, as its README says it.
func (f finding) sentence() string {
	s := f.title
	if f.label != "" {
		s += fmt.Sprintf(" %q", f.label)
	}
	return s + ": " + f.why + "."
}
