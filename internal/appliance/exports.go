package appliance

import (
	"context"
	"fmt"
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
	snapshots, err := e.pool.Snapshots("")
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

func describeSnapshot(s blockdev.SnapshotInfo) string {
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
	contexts, err := e.snapshotsBefore(lun, 0)
	if err != nil {
		return nil, err
	}
	v, err := e.pool.OpenLUN(lun, client)
	if err != nil {
		return nil, err
	}
	return &nbd.Export{
		Device: v, Name: name, Description: describeLUN(info), ChangeContexts: contexts, Close: v.Close,
	}, nil
}

func (e exports) openSnapshot(lun, snapshot, client string) (*nbd.Export, error) {
	info, err := e.pool.SnapshotInfo(lun, snapshot)
	if err != nil {
		return nil, err
	}
	contexts, err := e.snapshotsBefore(lun, info.ID)
	if err != nil {
		return nil, err
	}
	v, err := e.pool.OpenSnapshot(lun, snapshot, client)
	if err != nil {
		return nil, err
	}
	return &nbd.Export{
		Device: v, Name: lun + "@" + snapshot, Description: describeSnapshot(info), ReadOnly: true,
		ChangeContexts: contexts, Close: v.Close,
	}, nil
}

// snapshotsBefore names the snapshots of a LUN that are older than the one with
// the id, or all for id 0. Ids rise with time.
func (e exports) snapshotsBefore(lun string, id uint64) ([]string, error) {
	snapshots, err := e.pool.Snapshots(lun)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range snapshots {
		if id == 0 || s.ID < id {
			names = append(names, s.Name)
		}
	}
	return names, nil
}
