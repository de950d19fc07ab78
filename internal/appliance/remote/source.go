package remote

import (
	"context"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/snapfs"
)

// Source shows the appliance's snapshots to snapfs.
func (a *Appliance) Source() snapfs.Source { return source{a} }

type source struct{ *Appliance }

func (s source) LUNs(ctx context.Context) ([]string, error) {
	luns, err := s.api.LUNs(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(luns))
	for _, l := range luns {
		names = append(names, l.Name)
	}
	return names, nil
}

func (s source) Snapshots(ctx context.Context, lun string) ([]snapfs.Snapshot, error) {
	list, err := s.api.Snapshots(ctx, lun)
	if err != nil {
		return nil, notExist(err)
	}
	snapshots := make([]snapfs.Snapshot, 0, len(list))
	for _, w := range list {
		snapshots = append(snapshots, snapfs.Snapshot{
			Name: w.Name, ID: w.ID, Created: w.Created, SizeBytes: w.SizeBytes,
			Consistency: w.Consistency, MappedBytes: w.MappedBytes, Info: details(w),
		})
	}
	return snapshots, nil
}

// details are what info.json says beside the rest: nothing that changes while
// the snapshot exists.
func details(w wire.Snapshot) map[string]any {
	d := map[string]any{}
	for key, value := range map[string]string{"created_by": w.CreatedBy, "comment": w.Comment, "group": w.Group} {
		if value != "" {
			d[key] = value
		}
	}
	if len(w.Evidence) > 0 {
		d["evidence"] = w.Evidence
	}
	return d
}

func (s source) Open(ctx context.Context, lun, snapshot string) (snapfs.Image, error) {
	return s.Dial(ctx, lun+"@"+snapshot)
}
