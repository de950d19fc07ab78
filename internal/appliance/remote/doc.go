// Package remote reaches a running appliance from another process of its host:
// the API says what there is, NBD gives the content. It is what browsing and
// attaching stand on.
//
// Only addresses that need no certificate are used, a unix socket before
// loopback: whoever may use the API's socket is on this host.
package remote
