package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/nbd"
)

// exports shows a pool's LUNs, and their snapshots as lun@snapshot, to NBD
// clients.
type exports struct{ pool *blockdev.Pool }

// List lists every LUN, each followed by its snapshots.
func (e exports) List(context.Context) ([]nbd.ExportInfo, error) {
	luns, err := e.pool.LUNs()
	if err != nil {
		return nil, err
	}
	snapshots, err := e.pool.SnapshotNames("")
	if err != nil {
		return nil, err
	}
	of := map[string][]nbd.ExportInfo{}
	for _, s := range snapshots {
		of[s.LUN] = append(of[s.LUN], nbd.ExportInfo{Name: s.LUN + "@" + s.Name, Description: describeSnapshot(s)})
	}
	var list []nbd.ExportInfo
	for _, l := range luns {
		list = append(list, nbd.ExportInfo{Name: l.Name, Description: describeLUN(l)})
		list = append(list, of[l.Name]...)
	}
	return list, nil
}

func describeLUN(l blockdev.LUNInfo) string { return "LUN " + l.UUID }

func describeSnapshot(s blockdev.SnapshotName) string {
	return fmt.Sprintf("snapshot of %s, %s consistent", s.Created.UTC().Format("2006-01-02 15:04:05 MST"), s.Consistency)
}

// Open opens lun for reading and writing, or lun@snapshot for reading.
func (e exports) Open(_ context.Context, name, client string) (*nbd.Export, error) {
	lun, snapshot, isSnapshot := strings.Cut(name, "@")
	if isSnapshot {
		return e.openSnapshot(lun, snapshot, client)
	}
	info, err := e.pool.LUN(lun)
	if err != nil {
		return nil, err
	}
	snapshots, err := e.pool.SnapshotNames(lun)
	if err != nil {
		return nil, err
	}
	v, err := e.pool.OpenLUN(lun, client)
	if err != nil {
		return nil, err
	}
	return &nbd.Export{
		Device: v, Name: name, Description: describeLUN(info), ChangeContexts: names(snapshots), Close: v.Close,
	}, nil
}

func (e exports) openSnapshot(lun, snapshot, client string) (*nbd.Export, error) {
	v, err := e.pool.OpenSnapshot(lun, snapshot, client)
	if err != nil {
		return nil, err
	}
	snapshots, err := e.pool.SnapshotNames(lun)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	export := &nbd.Export{Device: v, Name: lun + "@" + snapshot, ReadOnly: true, Close: v.Close}
	i := slices.IndexFunc(snapshots, func(s blockdev.SnapshotName) bool { return s.Name == snapshot })
	if i >= 0 { // else it was deleted or renamed meanwhile
		export.Description = describeSnapshot(snapshots[i])
		export.ChangeContexts = names(snapshots[:i])
	}
	return export, nil
}

func names(snapshots []blockdev.SnapshotName) []string {
	var out []string
	for _, s := range snapshots {
		out = append(out, s.Name)
	}
	return out
}
