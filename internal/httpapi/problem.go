package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowan-storage/rowan/blockdev"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
)

// problemOf puts an error of the engine into the API's words.
func problemOf(err error) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	for _, c := range []struct {
		class  error
		code   wire.Code
		status int
	}{
		{blockdev.ErrNotFound, wire.NotFound, http.StatusNotFound},
		{blockdev.ErrExists, wire.Exists, http.StatusConflict},
		{blockdev.ErrInvalid, wire.Invalid, http.StatusUnprocessableEntity},
		{blockdev.ErrInUse, wire.InUse, http.StatusConflict},
		{blockdev.ErrLocked, wire.Locked, http.StatusLocked},
		{blockdev.ErrReadOnly, wire.ReadOnly, http.StatusForbidden},
		{blockdev.ErrNoSpace, wire.NoSpace, http.StatusInsufficientStorage},
		{blockdev.ErrStale, wire.Stale, http.StatusGone},
		{blockdev.ErrCorrupt, wire.Damaged, http.StatusInternalServerError},
		{blockdev.ErrFailed, wire.Failed, http.StatusInternalServerError},
		{blockdev.ErrClosed, wire.Stopping, http.StatusServiceUnavailable},
		{context.Canceled, wire.Stopping, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, c.class) {
			return problem(c.status, c.code, detailOf(err))
		}
	}
	return problem(http.StatusInternalServerError, wire.Internal, err.Error())
}

// detailOf says what happened in a sentence for people, where the engine's words
// are none.
func detailOf(err error) string {
	var e *blockdev.Error
	if !errors.As(err, &e) || err != error(e) {
		return err.Error()
	}
	switch e.Class {
	case blockdev.ErrNoSpace:
		// Which file the engine was writing to, the cause, tells only its
		// developers something.
		what := "there is no space left in the pool"
		if e.Detail != "" {
			what += ": " + e.Detail
		}
		if kind, _, named := strings.Cut(e.Object, " "); named && (kind == "LUN" || kind == "snapshot") {
			return e.Object + ": " + what
		}
		return what
	case blockdev.ErrInvalid:
		if e.Detail == "" {
			break
		}
		if i := strings.LastIndex(e.Detail, ": "); i > 0 && (e.Object == "size" || e.Object == "name") {
			return fmt.Sprintf("the %s %s is not possible: %s", e.Object, e.Detail[:i], e.Detail[i+2:])
		}
		return e.Object + ": " + e.Detail
	}
	return err.Error()
}

func problem(status int, code wire.Code, detail string) *wire.Problem {
	return &wire.Problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// transformError turns what huma itself says of a bad request into a Problem.
func transformError(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problem(e.Status, codeOf(e.Status), e.Detail)
	for _, d := range e.Errors {
		if d != nil {
			p.Errors = append(p.Errors, wire.Field{Location: d.Location, Message: d.Message})
		}
	}
	return p, nil
}

func codeOf(status int) wire.Code {
	switch {
	case status == http.StatusNotFound:
		return wire.NotFound
	case status >= 400 && status < 500:
		return wire.Invalid
	}
	return wire.Internal
}
