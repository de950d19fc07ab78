package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// maxAnswerBytes bounds an answer: a hundred thousand snapshots fit.
const maxAnswerBytes = 128 << 20

// dialTimeout bounds how long a connection may take. A live daemon accepts at
// once.
const dialTimeout = 5 * time.Second

// Client sends requests to one appliance.
type Client struct {
	socket string
	http   *http.Client
}

// New makes a client of the appliance whose API is at the unix socket. It does
// not connect yet.
func New(socket string) *Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &Client{socket: socket, http: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxIdleConns:    4,
			IdleConnTimeout: 30 * time.Second,
		},
		// The API never redirects; following one would be following an error.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Socket is the path of the API's socket.
func (c *Client) Socket() string { return c.socket }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// UnreachableError says that no appliance answered at a socket.
type UnreachableError struct {
	Socket string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("client: no answer at %s: %v", e.Socket, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// path joins the parts of a path, each one segment of it.
func path(parts ...string) (string, error) {
	var b strings.Builder
	b.WriteString(wire.Prefix)
	for _, p := range parts {
		// These would name another path, whatever way they are escaped.
		if p == "" || p == "." || p == ".." {
			return "", &wire.Problem{
				Title: "Unprocessable Entity", Status: http.StatusUnprocessableEntity, Code: wire.Invalid,
				Detail: fmt.Sprintf("%q is not a name", p),
			}
		}
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String(), nil
}

// request is one call of the API.
type request struct {
	method string
	path   []string // segments below the prefix
	query  url.Values
	body   any // nil for none
	answer any // where to decode the answer, nil for none
}

func (c *Client) do(ctx context.Context, r request) error {
	target, err := path(r.path...)
	if err != nil {
		return err
	}
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://rowan"+target, body)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.transportError(ctx, err)
	}
	defer res.Body.Close()
	return c.decode(res, r.answer)
}

func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &UnreachableError{Socket: c.socket, Err: err}
}

func (c *Client) decode(res *http.Response, answer any) error {
	limited := &io.LimitedReader{R: res.Body, N: maxAnswerBytes}
	dec := json.NewDecoder(limited)
	if res.StatusCode >= 300 {
		var p wire.Problem
		if err := dec.Decode(&p); err != nil || p.Code == "" {
			return &UnreachableError{Socket: c.socket,
				Err: fmt.Errorf("the answer is HTTP status %s and not of an appliance", res.Status)}
		}
		return &p
	}
	if answer == nil {
		return nil
	}
	if err := dec.Decode(answer); err != nil {
		if limited.N <= 0 {
			err = fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
		}
		return &UnreachableError{Socket: c.socket, Err: err}
	}
	return nil
}
