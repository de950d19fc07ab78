// Package httpapi serves the appliance's operations as HTTP and JSON,
// described by OpenAPI 3.1 at /openapi.json.
//
// The server turns requests into calls of an Engine and its errors into
// problem details (RFC 9457) with a code that programs can rely on. It keeps
// no state of its own. Every request runs on its own goroutine of net/http;
// what runs at once is bounded, and so are the sizes of headers and bodies, the
// time to send a request and the time to take an answer. An operation itself
// has no time limit: giving up on a snapshot half way helps nobody. It is told
// when its client goes away.
//
// Who may ask is a matter of who can open the listening socket. The kernel says
// who the client is, and that name goes into the log and onto the snapshots
// made.
package httpapi
