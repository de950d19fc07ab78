package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is one NBD server under measurement, a process of its own, or a file
// that fio uses without any.
type server struct {
	name   string
	socket string
	export string
	cmd    *exec.Cmd // nil for a file
	file   string
}

// client is how fio reaches the server.
func (s *server) client() []string {
	if s.cmd == nil {
		return []string{"--ioengine=io_uring", "--filename=" + s.file}
	}
	return []string{"--ioengine=nbd", fmt.Sprintf("--uri=nbd+unix:///%s?socket=%s", s.export, s.socket)}
}

// start runs the server and waits until it listens on its socket.
func start(ctx context.Context, name, socket, export string, line ...string) (*server, error) {
	s := &server{name: name, socket: socket, export: export}
	s.cmd = exec.Command(line[0], line[1:]...)
	var stderr bytes.Buffer // read only after the end
	s.cmd.Stderr = &stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return s, c.Close()
		}
		select {
		case <-ctx.Done():
			err = errors.Join(fmt.Errorf("%s does not listen: %w", name, err), s.stop())
			return nil, fmt.Errorf("%w\n%s", err, stderr.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the server and waits for it.
func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	_ = s.cmd.Wait() // ended by a signal, as asked
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, 100 per second
// on every Linux architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpu returns the user and system time that the server has used so far.
func (s *server) cpu() (time.Duration, error) {
	if s.cmd == nil {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses and may hold
	// anything; utime and stime are the 14th and 15th.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", s.cmd.Process.Pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// setup knows where the servers' files and programs are.
type setup struct {
	dir       string
	sizeBytes int64
	rowand    string
	rowan     string
	ours      *server
}

func (b *setup) path(name string) string { return filepath.Join(b.dir, name) }

// rawFile makes a sparse file of the size of the LUN.
func (b *setup) rawFile(name string) (string, error) {
	path := b.path(name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Truncate(b.sizeBytes), f.Close())
}

func (b *setup) startRowand(ctx context.Context) (*server, error) {
	s, err := start(ctx, rowand, b.path("rowand.sock"), "bench",
		b.rowand, "--pool", b.path("pool"), "--api", b.path("api.sock"), "--nbd", "unix:"+b.path("rowand.sock"))
	if err != nil {
		return nil, err
	}
	if err := b.api(ctx, "lun", "create", "bench", "--size", strconv.FormatInt(b.sizeBytes, 10)); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	b.ours = s
	return s, nil
}

// api runs a command of the appliance.
func (b *setup) api(ctx context.Context, args ...string) error {
	return command(ctx, b.rowan, append([]string{"--api", b.path("api.sock")}, args...)...)
}

func (b *setup) startNBDKit(ctx context.Context) (*server, error) {
	file, err := b.rawFile("nbdkit.raw")
	if err != nil {
		return nil, err
	}
	socket := b.path("nbdkit.sock")
	return start(ctx, nbdkit, socket, "", "nbdkit", "-f", "-U", socket, "file", file)
}

func (b *setup) startQEMU(ctx context.Context) (*server, error) {
	file, err := b.rawFile("qemu.raw")
	if err != nil {
		return nil, err
	}
	socket := b.path("qemu.sock")
	return start(ctx, qemuNBD, socket, "", "qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", socket, file)
}

// direct is a file of its own that fio uses by io_uring, through the page cache.
func (b *setup) direct(context.Context) (*server, error) {
	file, err := b.rawFile("direct.raw")
	return &server{name: direct, file: file}, err
}

// overlays are the forms of qcow2 that stand for a snapshot, by name.
var overlays = map[string]string{
	overlayQCOW2:      "cluster_size=65536",
	overlayExtendedL2: "cluster_size=131072,extended_l2=on",
}

// startOverlay serves a new qcow2 overlay over the file that qemu-nbd's raw
// measurement filled.
func (b *setup) startOverlay(ctx context.Context, name string) (*server, error) {
	overlay := b.path("overlay.qcow2")
	if err := os.Remove(overlay); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", overlays[name],
		"-b", b.path("qemu.raw"), "-F", "raw", overlay)
	if err != nil {
		return nil, err
	}
	socket := b.path("overlay.sock")
	return start(ctx, name, socket, "", "qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "-k", socket, overlay)
}

// command runs a program that must succeed.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
