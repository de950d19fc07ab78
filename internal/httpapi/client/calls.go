package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// Status tells how the appliance is.
func (c *Client) Status(ctx context.Context) (wire.Status, error) {
	var out wire.Status
	err := c.do(ctx, request{method: http.MethodGet, path: []string{"status"}, answer: &out})
	return out, err
}

// LUNs lists the LUNs by name.
func (c *Client) LUNs(ctx context.Context) ([]wire.LUN, error) {
	var out wire.LUNs
	err := c.do(ctx, request{method: http.MethodGet, path: []string{"luns"}, answer: &out})
	return out.LUNs, err
}

// LUN describes a LUN.
func (c *Client) LUN(ctx context.Context, name string) (wire.LUN, error) {
	var out wire.LUN
	err := c.do(ctx, request{method: http.MethodGet, path: []string{"luns", name}, answer: &out})
	return out, err
}

// CreateLUN makes an empty LUN.
func (c *Client) CreateLUN(ctx context.Context, name string, sizeBytes int64) (wire.LUN, error) {
	var out wire.LUN
	err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"luns"},
		body: wire.CreateLUN{Name: name, SizeBytes: sizeBytes}, answer: &out,
	})
	return out, err
}

// ChangeLUN renames or grows a LUN.
func (c *Client) ChangeLUN(ctx context.Context, name string, change wire.ChangeLUN) (wire.LUN, error) {
	var out wire.LUN
	err := c.do(ctx, request{method: http.MethodPatch, path: []string{"luns", name}, body: change, answer: &out})
	return out, err
}

// DeleteLUN deletes a LUN, with its snapshots and though clients are connected
// if so told.
func (c *Client) DeleteLUN(ctx context.Context, name string, withSnapshots, force bool) error {
	return c.do(ctx, request{
		method: http.MethodDelete, path: []string{"luns", name},
		query: flags(map[string]bool{"with_snapshots": withSnapshots, "force": force}),
	})
}

// Snapshots lists the snapshots of a LUN, or all for "", by LUN, then time.
func (c *Client) Snapshots(ctx context.Context, lun string) ([]wire.Snapshot, error) {
	var query url.Values
	if lun != "" {
		query = url.Values{"lun": {lun}}
	}
	var out wire.Snapshots
	err := c.do(ctx, request{method: http.MethodGet, path: []string{"snapshots"}, query: query, answer: &out})
	return out.Snapshots, err
}

// Snapshot describes a snapshot.
func (c *Client) Snapshot(ctx context.Context, lun, name string) (wire.Snapshot, error) {
	var out wire.Snapshot
	err := c.do(ctx, request{method: http.MethodGet, path: snapshotPath(lun, name), answer: &out})
	return out, err
}

// CreateSnapshots snapshots a group of LUNs in one point of time, all or none.
func (c *Client) CreateSnapshots(ctx context.Context, r wire.CreateSnapshots) ([]wire.Snapshot, error) {
	var out wire.Snapshots
	err := c.do(ctx, request{method: http.MethodPost, path: []string{"snapshots"}, body: r, answer: &out})
	return out.Snapshots, err
}

// RenameSnapshot gives a snapshot another name.
func (c *Client) RenameSnapshot(ctx context.Context, lun, name, newName string) (wire.Snapshot, error) {
	var out wire.Snapshot
	err := c.do(ctx, request{
		method: http.MethodPatch, path: snapshotPath(lun, name),
		body: wire.ChangeSnapshot{Name: newName}, answer: &out,
	})
	return out, err
}

// DeleteSnapshot deletes a snapshot, though clients are reading it if force.
func (c *Client) DeleteSnapshot(ctx context.Context, lun, name string, force bool) error {
	return c.do(ctx, request{
		method: http.MethodDelete, path: snapshotPath(lun, name), query: flags(map[string]bool{"force": force}),
	})
}

// LockSnapshot keeps a snapshot from deletion, until a time if it is not nil.
func (c *Client) LockSnapshot(ctx context.Context, lun, name string, until *time.Time) (wire.Snapshot, error) {
	var out wire.Snapshot
	err := c.do(ctx, request{
		method: http.MethodPut, path: snapshotPath(lun, name, "lock"), body: wire.Lock{Until: until}, answer: &out,
	})
	return out, err
}

// UnlockSnapshot takes a snapshot's lock off.
func (c *Client) UnlockSnapshot(ctx context.Context, lun, name string) (wire.Snapshot, error) {
	var out wire.Snapshot
	err := c.do(ctx, request{method: http.MethodDelete, path: snapshotPath(lun, name, "lock"), answer: &out})
	return out, err
}

// Clone makes a LUN that begins as a snapshot.
func (c *Client) Clone(ctx context.Context, lun, name, newLUN string) (wire.LUN, error) {
	var out wire.LUN
	err := c.do(ctx, request{
		method: http.MethodPost, path: snapshotPath(lun, name, "clone"), body: wire.Clone{Name: newLUN}, answer: &out,
	})
	return out, err
}

// Revert brings a LUN back to a snapshot and returns the snapshot that keeps
// the state from before.
func (c *Client) Revert(ctx context.Context, lun, name string, r wire.Revert) (wire.Snapshot, error) {
	var out wire.Reverted
	err := c.do(ctx, request{method: http.MethodPost, path: snapshotPath(lun, name, "revert"), body: r, answer: &out})
	return out.Saved, err
}

// Diff yields the ranges by which the state to of a LUN differs from the state
// from, in order: to "" is the present state, from "" is nothing. After an
// error it yields no more.
func (c *Client) Diff(ctx context.Context, lun, from, to string) iter.Seq2[wire.Range, error] {
	return func(yield func(wire.Range, error) bool) {
		query := url.Values{"from": {from}, "to": {to}, "limit": {strconv.Itoa(wire.MaxDiffRanges)}}
		for {
			var page wire.Diff
			err := c.do(ctx, request{
				method: http.MethodGet, path: []string{"luns", lun, "diff"}, query: query, answer: &page,
			})
			if err != nil {
				yield(wire.Range{}, err)
				return
			}
			for _, r := range page.Ranges {
				if !yield(r, nil) {
					return
				}
			}
			if page.NextOffsetBytes == nil {
				return
			}
			query.Set("offset_bytes", strconv.FormatInt(*page.NextOffsetBytes, 10))
		}
	}
}

// Scrub describes the scrub that is running, or the last one.
func (c *Client) Scrub(ctx context.Context) (wire.Scrub, error) {
	var out wire.Scrub
	err := c.do(ctx, request{method: http.MethodGet, path: []string{"scrub"}, answer: &out})
	return out, err
}

// StartScrub begins a scrub of a LUN's snapshots, of one of them, or of all for
// "".
func (c *Client) StartScrub(ctx context.Context, lun, snapshot string) (wire.Scrub, error) {
	var out wire.Scrub
	err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"scrub"},
		body: wire.StartScrub{LUN: lun, Snapshot: snapshot}, answer: &out,
	})
	return out, err
}

// StopScrub stops the scrub that is running.
func (c *Client) StopScrub(ctx context.Context) (wire.Scrub, error) {
	var out wire.Scrub
	err := c.do(ctx, request{method: http.MethodDelete, path: []string{"scrub"}, answer: &out})
	return out, err
}

func snapshotPath(lun, name string, more ...string) []string {
	return append([]string{"luns", lun, "snapshots", name}, more...)
}

// flags makes a query of those that are set.
func flags(set map[string]bool) url.Values {
	query := url.Values{}
	for name, on := range set {
		if on {
			query.Set(name, "true")
		}
	}
	return query
}
