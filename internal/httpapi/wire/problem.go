package wire

import "fmt"

// Code tells programs what kind of error happened. Codes are never renamed.
type Code string

// The codes.
const (
	NotFound   Code = "not_found"
	Exists     Code = "exists"
	Invalid    Code = "invalid"
	InUse      Code = "in_use"
	Locked     Code = "locked"
	ReadOnly   Code = "read_only"
	NoSpace    Code = "no_space"
	Stale      Code = "stale"
	Failed     Code = "failed"
	Damaged    Code = "damaged"
	NotAllowed Code = "not_allowed"
	Busy       Code = "busy"     // too many requests at once
	Stopping   Code = "stopping" // the daemon is going down
	Internal   Code = "internal"
)

// Problem is the body of every error answer: RFC 9457 problem details with a
// code.
type Problem struct {
	Title  string  `json:"title" doc:"The status in words"`
	Status int     `json:"status" doc:"The HTTP status"`
	Detail string  `json:"detail" doc:"What happened, to which object"`
	Code   Code    `json:"code" enum:"not_found,exists,invalid,in_use,locked,read_only,no_space,stale,failed,damaged,not_allowed,busy,stopping,internal"`
	Errors []Field `json:"errors,omitempty" doc:"What is wrong with which part of the request"`
}

// Field is what is wrong with one part of a request.
type Field struct {
	Location string `json:"location,omitempty" doc:"Such as body.size_bytes"`
	Message  string `json:"message"`
}

// Error says what happened.
func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	for i, f := range p.Errors {
		sep := ": "
		if i > 0 {
			sep = "; "
		}
		s += sep + f.Message
		if f.Location != "" {
			s += fmt.Sprintf(" (%s)", f.Location)
		}
	}
	return s
}

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of RFC 9457, section 3.
func (p *Problem) ContentType(string) string { return "application/problem+json" }
