package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// writeTimeout bounds the time that a client takes to read an answer.
const writeTimeout = 30 * time.Second

// answer notes the status of an answer and bounds the time that sending it
// takes, counted from its first byte.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
		// Not every ResponseWriter has deadlines; those of sockets do.
		_ = http.NewResponseController(a.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// wrap puts limits, logging and the handling of panics around the routes.
func (s *Server) wrap(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w}
		start := time.Now()
		defer s.logRequest(a, r, start)
		defer s.recoverPanic(a, r)
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			writeProblem(a, problem(http.StatusServiceUnavailable, wire.Busy, "too many requests at once, try again"))
			return
		}
		if !setContentType(a, r) || !readBody(a, r) {
			return
		}
		route(mux, a, r)
	})
}

// setContentType admits JSON alone and leaves nothing in the header that a
// later parser could trip over.
func setContentType(w http.ResponseWriter, r *http.Request) bool {
	given := r.Header.Get("Content-Type")
	if given == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(given)
	if err != nil || kind != "application/json" {
		writeProblem(w, problem(http.StatusUnsupportedMediaType, wire.Invalid, "the body must be application/json"))
		return false
	}
	r.Header.Set("Content-Type", kind)
	return true
}

// readBody reads the body of a request, up to what is more than any operation
// takes. huma would call one that is cut off an error of the server, and leave
// the deadline on the connection, where it ends whatever takes longer.
func readBody(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	control := http.NewResponseController(w)
	// Not every ResponseWriter has deadlines; those of sockets do.
	_ = control.SetReadDeadline(time.Now().Add(bodyReadTimeout))
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes))
	_ = control.SetReadDeadline(time.Time{})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		writeProblem(w, problem(http.StatusRequestTimeout, wire.Invalid, "the body of the request did not come in time"))
		return false
	case err != nil:
		writeProblem(w, problem(http.StatusBadRequest, wire.Invalid, "the body of the request was cut off"))
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	return true
}

// route serves r by mux, whose own plain-text errors become problems.
func route(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	handler, pattern := mux.Handler(r)
	if pattern != "" {
		mux.ServeHTTP(w, r)
		return
	}
	c := &capture{header: http.Header{}}
	handler.ServeHTTP(c, r)
	if allow := c.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
	}
	writeProblem(w, problem(c.status, codeOf(c.status), "there is no "+r.Method+" "+r.URL.Path))
}

// capture is a ResponseWriter that keeps the status and drops the body.
type capture struct {
	header http.Header
	status int
}

func (c *capture) Header() http.Header         { return c.header }
func (c *capture) Write(p []byte) (int, error) { return len(p), nil }
func (c *capture) WriteHeader(status int)      { c.status = status }

func (s *Server) recoverPanic(a *answer, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	s.log.Error("panic while serving the API", "method", r.Method, "path", r.URL.Path,
		"panic", v, "stack", string(debug.Stack()))
	if a.status == 0 {
		writeProblem(a, problem(http.StatusInternalServerError, wire.Internal, "the request met a bug, see the daemon's log"))
	}
}

func (s *Server) logRequest(a *answer, r *http.Request, start time.Time) {
	level := slog.LevelInfo
	switch {
	case a.status >= 500:
		level = slog.LevelWarn
	case r.Method == http.MethodGet:
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "API request", "method", r.Method, "path", r.URL.Path,
		"status", a.status, "user", userOf(r.Context()), "duration", time.Since(start))
}

func writeProblem(w http.ResponseWriter, p *wire.Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(p)
}
