// Package offline looks at a pool that no daemon has open: what rowan check
// does.
package offline
