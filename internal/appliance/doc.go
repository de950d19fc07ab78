// Package appliance is the one place where the engine, the protocols and the
// API are joined into a daemon.
//
// Run opens the pool, serves NBD and the API until its context ends, and then
// stops in this order: no new clients; requests in flight end, within a bound;
// the pool is flushed and closed. Being killed at any moment instead costs the
// next start a recovery and loses nothing that was acknowledged.
//
// A unix socket is guarded by a lock file beside it, held for as long as the
// daemon lives. Whoever holds the lock may replace the socket that a killed
// daemon left; a daemon that finds it held does not start.
package appliance
