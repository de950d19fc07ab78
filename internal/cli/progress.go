package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// The times of the progress line.
const (
	progressDelay = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress starts to show what a command does, on standard error if that is a
// terminal, from one second on. The text comes from describe, which is called
// from another goroutine. The returned function takes the line away again and
// must be called before anything else is written.
func (a *app) progress(describe func() string) (stop func()) {
	if !isTerminal(a.env.Stderr) {
		return func() {}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { showProgress(a.env.Stderr, describe, quit) })
	return sync.OnceFunc(func() {
		close(quit)
		wg.Wait()
	})
}

func showProgress(w io.Writer, describe func() string, quit <-chan struct{}) {
	delay := time.NewTimer(progressDelay)
	defer delay.Stop()
	select {
	case <-quit:
		return
	case <-delay.C:
	}
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		fmt.Fprintf(w, "\r\x1b[K%s", printable(describe()))
		select {
		case <-quit:
			fmt.Fprint(w, "\r\x1b[K")
			return
		case <-tick.C:
		}
	}
}

// waiting describes an operation whose end cannot be foreseen.
func waiting(what string) func() string {
	start := time.Now()
	return func() string {
		return fmt.Sprintf("%s … %d s", what, int(time.Since(start).Seconds()))
	}
}
