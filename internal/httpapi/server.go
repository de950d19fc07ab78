package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// The bounds of what clients can make the server hold.
const (
	maxConnections  = 256
	maxRequests     = 64 // served at once
	maxHeaderBytes  = 16 << 10
	maxBodyBytes    = 256 << 10
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	bodyReadTimeout = 10 * time.Second
)

// Options say what a Server serves.
type Options struct {
	Engine Engine
	// Version and Started are shown in the status, and so are API, the path of
	// the socket, and PID.
	Version string
	Started time.Time
	API     string
	PID     int
	// NBD returns where NBD is served.
	NBD func() []wire.NBD
	// Logger gets a line per request: changes at info, reads at debug.
	Logger *slog.Logger
}

// Server serves the API.
type Server struct {
	opts  Options
	log   *slog.Logger
	slots chan struct{} // one per request being served
	http  *http.Server
	api   huma.API

	mu       sync.Mutex
	silent   map[net.Conn]bool // connections that have not said anything yet
	stopping bool
}

// New makes a server; Serve starts it.
func New(o Options) *Server {
	s := &Server{opts: o, log: o.Logger, slots: make(chan struct{}, maxRequests), silent: map[net.Conn]bool{}}
	mux := http.NewServeMux()
	s.api = humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Rowan", Version: o.Version,
				Description: "LUNs and snapshots of a Rowan appliance. Sizes, offsets and lengths are in bytes. " +
					"Every error is a problem (RFC 9457) with a `code` that does not change.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			},
		},
		OpenAPIPath: "/openapi",
		Formats: map[string]huma.Format{
			"application/json": huma.DefaultJSONFormat,
			"json":             huma.DefaultJSONFormat,
		},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{transformError},
	})
	s.registerLUNs()
	s.registerSnapshots()
	s.registerScrubs()
	// What huma would answer errors with, had they not been made Problems.
	delete(s.api.OpenAPI().Components.Schemas.Map(), "ErrorModel")
	delete(s.api.OpenAPI().Components.Schemas.Map(), "ErrorDetail")
	s.http = &http.Server{
		Handler:           s.wrap(mux),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if limited, ok := c.(*limitConn); ok {
				c = limited.Conn
			}
			return withUser(ctx, c)
		},
		ConnState: s.noteState,
	}
	return s
}

// Serve answers the connections of l until Shutdown, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(newLimitListener(l, maxConnections))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("httpapi: %w", err)
}

// noteState keeps track of the connections that have not said anything yet, and
// closes those that come while the server stops.
func (s *Server) noteState(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.silent, c)
		return
	}
	if s.stopping {
		c.Close()
		return
	}
	s.silent[c] = true
}

// Shutdown closes the listener and all connections without a request, and waits
// for the requests being served. When ctx ends first it closes their
// connections and returns an error.
func (s *Server) Shutdown(ctx context.Context) error {
	// net/http would wait five seconds for those that have not said anything.
	s.mu.Lock()
	s.stopping = true
	for c := range s.silent {
		c.Close()
	}
	s.mu.Unlock()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("httpapi: requests were cut off: %w", err), s.http.Close())
	}
	return nil
}

// Handler returns the handler of all requests.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// OpenAPI returns the description of the API as OpenAPI 3.1 in JSON.
func (s *Server) OpenAPI() ([]byte, error) {
	data, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("httpapi: describing the API: %w", err)
	}
	return append(data, '\n'), nil
}

// handle adds one operation, with the bounds and the error answer that all
// share.
func handle[I, O any](s *Server, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	op.Path = wire.Prefix + op.Path
	op.MaxBodyBytes = maxBodyBytes
	op.BodyReadTimeout = -1 // the body has been read, see readBody
	schemas := s.api.OpenAPI().Components.Schemas
	problemSchema := schemas.Schema(problemType, true, "Problem")
	op.Responses = map[string]*huma.Response{"default": {
		Description: "An error",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problemSchema}},
	}}
	status := op.DefaultStatus
	if status == 0 {
		status = http.StatusOK
	}
	op.Responses[fmt.Sprint(status)] = &huma.Response{Description: http.StatusText(status)}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			p := problemOf(err)
			if p.Code == wire.NoSpace {
				s.log.Warn("no space left", "operation", op.OperationID, "err", err) // of which the client is told less
			}
			return nil, p
		}
		return out, nil
	})
}
