package nbd

import "strings"

// The names of metadata contexts. The part after the last colon of the change
// contexts is the name of a snapshot.
const (
	contextAllocation = "base:allocation"
	// contextChangedSince is Rowan's own name, contextDirtyBitmap the one that
	// backup programs written for QEMU look for. Both tell the same.
	contextChangedSince = "rowan:changed-since:"
	contextDirtyBitmap  = "qemu:dirty-bitmap:"
)

// metaContext is a metadata context of an export.
type metaContext struct {
	id    uint32
	name  string
	since string // the snapshot of a change context, "" for base:allocation
}

// metaContexts lists what the export can tell about its blocks.
func (e *Export) metaContexts() []metaContext {
	var all []metaContext
	if _, ok := e.Device.(extenter); ok {
		all = append(all, metaContext{name: contextAllocation})
	}
	if _, ok := e.Device.(changer); ok {
		for _, since := range e.ChangeContexts {
			all = append(all,
				metaContext{name: contextChangedSince + since, since: since},
				metaContext{name: contextDirtyBitmap + since, since: since})
		}
	}
	return all
}

// matching returns, once each, the contexts that match one of the queries: by
// their name or, if wildcards is set, by a part of it up to a colon
// ("base:", "rowan:", "qemu:dirty-bitmap:"). Queries that match nothing are
// ignored, as the specification wants it.
func matching(all []metaContext, queries []string, wildcards bool) []metaContext {
	var found []metaContext
	for _, c := range all {
		for _, q := range queries {
			if c.name == q || wildcards && strings.HasSuffix(q, ":") && strings.HasPrefix(c.name, q) {
				found = append(found, c)
				break
			}
		}
	}
	return found
}
