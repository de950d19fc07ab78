package blockdevtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Do works on a copy of the catalogue, which becomes the catalogue with the
// commit.
func (t *toy) Do(_ context.Context, a Action) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, err := json.Marshal(t.cat)
	if err != nil {
		return err
	}
	undo := func() {
		// An attempt that failed may have left its files, and failed syncs.
		next, failed := t.cat.Next, t.cat.Failed
		t.cat = toyCatalogue{}
		_ = json.Unmarshal(before, &t.cat)
		t.cat.Next, t.cat.Failed = next, failed
	}
	removed, err := t.act(a)
	if err == nil {
		err = t.commit()
	}
	if err != nil {
		undo()
		return errors.Join(err, t.commit())
	}
	for _, name := range removed {
		t.remove(name)
	}
	return nil
}

// remove drops a file that nothing uses any more. What is left of it, the next
// start removes.
func (t *toy) remove(name string) {
	for _, n := range t.copies(name) {
		if f := t.files[n]; f != nil {
			_ = f.Close()
			delete(t.files, n)
		}
		_ = t.fs.Remove(n)
	}
}

// act changes the catalogue and returns the files that are then superfluous.
func (t *toy) act(a Action) (removed []string, err error) {
	if a.Kind == OpSettle || a.Kind == OpCompact {
		return nil, nil
	}
	if a.Kind == OpCreateLUN {
		return nil, t.add(a.NewName, "", a.SizeBytes)
	}
	for i, name := range a.LUNs {
		l := findToy(t.cat.LUNs, name)
		switch a.Kind {
		case OpResize:
			l.Size = a.SizeBytes
		case OpRenameLUN:
			l.Name = a.NewName
		case OpDeleteLUN:
			for _, s := range append(l.Snaps, *l) {
				removed = append(removed, s.File)
			}
			t.cat.LUNs = slices.DeleteFunc(t.cat.LUNs, func(x toyLUN) bool { return x.Name == name })
		case OpSnapshot:
			err = t.freeze(l, a.NewName)
			if err == nil && t.bug == groupInSteps && i+1 < len(a.LUNs) {
				err = t.commit()
			}
		case OpRevert:
			var file string
			file, err = t.revert(l, a)
			removed = append(removed, file)
		case OpClone:
			s := findToy(l.Snaps, a.Snapshot)
			err = t.add(a.NewName, s.File, s.Size)
		case OpDeleteSnapshot:
			file := findToy(l.Snaps, a.Snapshot).File
			if t.bug == removesFirst {
				t.remove(file)
			}
			removed = append(removed, file)
			l.Snaps = slices.DeleteFunc(l.Snaps, func(x toyLUN) bool { return x.Name == a.Snapshot })
		case OpRenameSnapshot:
			findToy(l.Snaps, a.Snapshot).Name = a.NewName
		default:
			err = fmt.Errorf("toy: %v", a.Kind)
		}
		if err != nil {
			return nil, err
		}
	}
	return removed, nil
}

func (t *toy) add(name, from string, size int64) error {
	file, err := t.newFile(from, size)
	t.cat.LUNs = append(t.cat.LUNs, toyLUN{ID: t.cat.Next, Name: name, File: file, Size: size})
	return err
}

// freeze makes the LUN's content durable too, as a snapshot must.
func (t *toy) freeze(l *toyLUN, name string) error {
	file := l.File
	err := t.sync(l.File)
	if err == nil && t.bug != sharesSnapshot {
		file, err = t.newFile(l.File, l.Size)
	}
	l.Snaps = append(l.Snaps, toyLUN{Name: name, File: file, Size: l.Size})
	return err
}

// revert returns the LUN's old file.
func (t *toy) revert(l *toyLUN, a Action) (string, error) {
	s := *findToy(l.Snaps, a.Snapshot)
	if err := t.freeze(l, a.NewName); err != nil {
		return "", err
	}
	if t.bug == revertInSteps {
		if err := t.commit(); err != nil {
			return "", err
		}
	}
	old := l.File
	file, err := t.newFile(s.File, s.Size)
	if err != nil {
		return "", err
	}
	if t.bug == revertSavesWrong {
		l.Snaps[len(l.Snaps)-1].File = s.File
	}
	l.File, l.Size = file, s.Size
	return old, nil
}
