package workload

import (
	"errors"
	"fmt"
	"slices"
)

// CheckSnapshot tells how an image of all devices, snapshot within the window,
// is not one point in the history of each writer.
func (w *Workload) CheckSnapshot(win *Window, image Versions) error {
	var errs []error
	for i, wr := range w.writers {
		wr.mu.Lock()
		requests := slices.Clone(wr.done[:win.submitted[i]])
		wr.mu.Unlock()
		if err := w.prefix(wr, requests, win.acked[i], image); err != nil {
			errs = append(errs, fmt.Errorf("writer %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// CheckAll tells how an image does not hold all that was submitted, at rest.
func (w *Workload) CheckAll(image Versions) error {
	win := w.Begin()
	w.End(win)
	return w.CheckSnapshot(win, image)
}

// prefix looks for a beginning of the requests, no shorter than least, after
// which the writer's sectors hold what the image does.
func (w *Workload) prefix(wr *writer, requests []request, least int, image Versions) error {
	state := w.replay(requests[:least])
	differ := 0
	w.each(wr, func(d, s int) {
		if state[d][s] != image[d][s] {
			differ++
		}
	})
	if differ == 0 {
		return nil
	}
	first := w.describe(wr, state, image)
	for _, r := range requests[least:] {
		for s := r.sector; s < r.sector+r.count; s++ {
			was, is := state[r.device][s] == image[r.device][s], r.version == image[r.device][s]
			state[r.device][s] = r.version
			switch {
			case was && !is:
				differ++
			case !was && is:
				differ--
			}
		}
		if differ == 0 {
			return nil
		}
	}
	return fmt.Errorf("no point in its history is what was found: of %d requests, %d acknowledged before: %s",
		len(requests), least, first)
}

// Settle takes note of an image found after the devices failed under the
// writers: each holds all that was acknowledged, and the request in flight in
// full, in part or not at all. From then on what was found is the history.
func (w *Workload) Settle(image Versions) error {
	var errs []error
	for i, wr := range w.writers {
		if err := w.settle(wr, image); err != nil {
			errs = append(errs, fmt.Errorf("writer %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

func (w *Workload) settle(wr *writer, image Versions) error {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	acked := wr.done
	if wr.doing {
		last := wr.done[len(wr.done)-1]
		acked = slices.Clip(wr.done[:len(wr.done)-1])
		for s := last.sector; s < last.sector+last.count; s++ {
			if image[last.device][s] == last.version {
				acked = append(acked, request{last.device, s, 1, last.version})
			}
		}
	}
	state := w.replay(acked)
	same := true
	w.each(wr, func(d, s int) { same = same && state[d][s] == image[d][s] })
	if !same {
		return fmt.Errorf("of %d requests: %s", len(acked), w.describe(wr, state, image))
	}
	wr.done, wr.doing = acked, false
	return nil
}

// Rewind takes note that a device was reverted to an image: what the writers
// did to it is forgotten and the image stands in its place.
func (w *Workload) Rewind(device int, image []uint64) {
	for _, wr := range w.writers {
		wr.mu.Lock()
		wr.done = slices.DeleteFunc(wr.done, func(r request) bool { return r.device == device })
		wr.mu.Unlock()
	}
	for s, version := range image {
		if version != zeroVersion {
			wr := w.writers[owner(s, len(w.writers))]
			wr.done = append(wr.done, request{device, s, 1, version})
		}
	}
}

// replay returns what the devices hold after the requests.
func (w *Workload) replay(requests []request) Versions {
	state := make(Versions, w.config.Devices)
	for d := range state {
		state[d] = make([]uint64, w.config.Sectors)
	}
	for _, r := range requests {
		for s := r.sector; s < r.sector+r.count; s++ {
			state[r.device][s] = r.version
		}
	}
	return state
}

// each calls f for every sector of every device that belongs to the writer.
func (w *Workload) each(wr *writer, f func(device, sector int)) {
	for d := range w.config.Devices {
		for s := range w.config.Sectors {
			if owner(s, len(w.writers)) == wr.index {
				f(d, s)
			}
		}
	}
}

// describe names the first differences between what should be and what is.
func (w *Workload) describe(wr *writer, state, image Versions) string {
	text, count := "", 0
	w.each(wr, func(d, s int) {
		if state[d][s] == image[d][s] {
			return
		}
		if count++; count <= 3 {
			text += fmt.Sprintf("device %d sector %d holds write %d instead of %d; ", d, s, image[d][s], state[d][s])
		}
	})
	return fmt.Sprintf("%s%d sectors differ", text, count)
}
