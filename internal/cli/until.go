package cli

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// parseUntil reads when something ends: a duration from now, such as 12h, 30d
// or 2w, or a time in RFC 3339, or one by this host's clock, or a date, which
// means its end.
func parseUntil(text string, now time.Time) (time.Time, error) {
	until, ok := parseSpan(text, now)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); !ok && err == nil {
			until, ok = t, true
		}
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, now.Location()); !ok && err == nil {
		until, ok = t.AddDate(0, 0, 1), true
	}
	if !ok {
		return time.Time{}, usagef("%q is not a time: give a duration such as 12h, 30d or 2w, a date such as 2030-12-31, "+
			"or a time such as 2030-12-31T18:00", text)
	}
	if !until.After(now) {
		return time.Time{}, usagef("%s is not in the future", text)
	}
	return until, nil
}

// parseSpan reads a duration with days and weeks.
func parseSpan(text string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), true
	}
	for suffix, days := range map[string]int{"d": 1, "w": 7} {
		number, found := strings.CutSuffix(text, suffix)
		if !found {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > math.MaxInt16 {
			return time.Time{}, false
		}
		return now.AddDate(0, 0, n*days), true
	}
	return time.Time{}, false
}
