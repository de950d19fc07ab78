package httpapi

import (
	"context"
	"errors"
	"net/http"

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
			return problem(c.status, c.code, err.Error())
		}
	}
	return problem(http.StatusInternalServerError, wire.Internal, err.Error())
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
