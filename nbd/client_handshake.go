package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/rowan-storage/rowan/nbd/wire"
)

const (
	// maxReplyBytes is the length of the longest reply to an option that a
	// client takes, maxReplies how many replies to one option.
	maxReplyBytes = 64 << 10
	maxReplies    = 1024
)

// negotiate connects to a server and does the handshake up to the
// transmission phase, in the best style that the server offers, up to best.
func negotiate(ctx context.Context, network, address string, o ClientOptions, best wire.Style) (net.Conn, exportInfo, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, exportInfo{}, fmt.Errorf("nbd: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	h := &clientHandshake{conn: conn}
	info, err := h.run(ctx, address, o, best)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, exportInfo{}, fmt.Errorf("nbd: handshake with %s: %w", address, err)
	}
	return h.conn, info, nil
}

// clientHandshake is the client's side of a handshake. It reads exactly what
// each reply is long, so that nothing said before TLS is taken for something
// said within it.
type clientHandshake struct {
	conn net.Conn
}

func (h *clientHandshake) run(ctx context.Context, address string, o ClientOptions, best wire.Style) (exportInfo, error) {
	var none exportInfo
	if err := h.greet(); err != nil {
		return none, err
	}
	if o.TLS != nil {
		if err := h.startTLS(ctx, address, o.TLS); err != nil {
			return none, err
		}
	}
	info := exportInfo{blocks: blockSizes()}
	if err := h.chooseStyle(&info, best); err != nil {
		return none, err
	}
	if err := h.chooseContexts(&info, o); err != nil {
		return none, err
	}
	return info, h.enter(&info, o.Export)
}

// greet answers the greeting of a fixed newstyle server.
func (h *clientHandshake) greet() error {
	var b [wire.GreetingSize]byte
	if _, err := io.ReadFull(h.conn, b[:]); err != nil {
		return err
	}
	flags, err := wire.ParseGreeting(b[:])
	if err != nil {
		return err
	}
	if flags&wire.FlagFixedNewstyle == 0 {
		return errors.New("the server does not speak fixed newstyle")
	}
	_, err = h.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(wire.FlagFixedNewstyle|wire.FlagNoZeroes))))
	return err
}

// startTLS insists on TLS.
func (h *clientHandshake) startTLS(ctx context.Context, address string, config *tls.Config) error {
	if err := h.ask(wire.OptStartTLS, nil, nil); err != nil {
		return fmt.Errorf("starting TLS: %w", err)
	}
	config = config.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			config.ServerName = host
		}
	}
	t := tls.Client(h.conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("starting TLS: %w", err)
	}
	h.conn = t
	return nil
}

// chooseStyle negotiates extended headers, or else structured replies.
func (h *clientHandshake) chooseStyle(info *exportInfo, best wire.Style) error {
	for _, try := range []struct {
		style  wire.Style
		option wire.Option
	}{{wire.Extended, wire.OptExtendedHeaders}, {wire.Structured, wire.OptStructuredReply}} {
		if try.style > best {
			continue
		}
		var refused *optionError
		switch err := h.ask(try.option, nil, nil); {
		case err == nil:
			info.style = try.style
			return nil
		case !errors.As(err, &refused):
			return err
		}
	}
	return nil
}

// chooseContexts selects base:allocation, if it is to be had, and the changes
// since the snapshots that were asked for.
func (h *clientHandshake) chooseContexts(info *exportInfo, o ClientOptions) error {
	if info.style == wire.Simple {
		if len(o.ChangesSince) > 0 {
			return fmt.Errorf("the server cannot tell changes: %w", syscall.ENOTSUP)
		}
		return nil
	}
	var err error
	for _, prefix := range []string{contextChangedSince, contextDirtyBitmap} {
		names := map[string]string{contextAllocation: ""}
		queries := []string{contextAllocation}
		for _, since := range o.ChangesSince {
			names[prefix+since] = since
			queries = append(queries, prefix+since)
		}
		info.contexts, err = h.setContexts(o.Export, queries, names)
		if err != nil {
			return err
		}
		_, allocation := info.contexts[""]
		if len(info.contexts) == len(names) || !allocation && len(info.contexts) == len(names)-1 {
			return nil
		}
	}
	return fmt.Errorf("the server cannot tell the changes since %q: %w", o.ChangesSince, syscall.ENOTSUP)
}

// setContexts selects metadata contexts and returns the ids of those that the
// server has, under what names says of them.
func (h *clientHandshake) setContexts(export string, queries []string, names map[string]string) (map[string]uint32, error) {
	ids := map[string]uint32{}
	data := wire.AppendMetaRequest(nil, export, queries...)
	err := h.ask(wire.OptSetMetaContext, data, func(t wire.ReplyType, data []byte) error {
		if t != wire.RepMetaContext {
			return nil
		}
		id, name, err := wire.ParseMetaContext(data)
		if err != nil {
			return err
		}
		key, asked := names[name]
		if _, twice := ids[key]; !asked || twice {
			return fmt.Errorf("the server selected the metadata context %q", name)
		}
		ids[key] = id
		return nil
	})
	var refused *optionError
	if errors.As(err, &refused) && refused.t == wire.RepErrUnsup {
		return ids, nil
	}
	return ids, err
}

// enter enters the transmission phase.
func (h *clientHandshake) enter(info *exportInfo, export string) error {
	told := false
	data := wire.AppendInfoRequest(nil, export, wire.InfoBlockSize)
	err := h.ask(wire.OptGo, data, func(t wire.ReplyType, data []byte) error {
		if t != wire.RepInfo {
			return nil
		}
		kind, err := wire.ParseInfoType(data)
		if err != nil {
			return err
		}
		switch kind {
		case wire.InfoExport:
			told = true
			info.sizeBytes, info.flags, err = wire.ParseExportInfo(data)
		case wire.InfoBlockSize:
			info.blocks, err = wire.ParseBlockSizeInfo(data)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("export %q: %w", export, err)
	}
	if !told || info.flags&wire.FlagHasFlags == 0 {
		return fmt.Errorf("export %q: the server tells nothing about it", export)
	}
	return nil
}

// optionError is a server's refusal of an option.
type optionError struct {
	t       wire.ReplyType
	message string
}

func (e *optionError) Error() string {
	if e.message == "" {
		return e.t.String()
	}
	return fmt.Sprintf("%v: %q", e.t, e.message)
}

// Unwrap gives the refusals that callers tell apart an error of the system.
func (e *optionError) Unwrap() error {
	switch e.t {
	case wire.RepErrUnknown:
		return fs.ErrNotExist
	case wire.RepErrPolicy, wire.RepErrTLSReqd:
		return fs.ErrPermission
	case wire.RepErrShutdown:
		return syscall.ESHUTDOWN
	case wire.RepErrUnsup, wire.RepErrPlatform:
		return syscall.ENOTSUP
	default:
		return nil
	}
}

// ask sends an option and calls each for its replies but the last.
func (h *clientHandshake) ask(o wire.Option, data []byte, each func(wire.ReplyType, []byte) error) error {
	if _, err := h.conn.Write(wire.AppendOption(nil, o, data)); err != nil {
		return err
	}
	for range maxReplies {
		var b [wire.ReplyHeaderSize]byte
		if _, err := io.ReadFull(h.conn, b[:]); err != nil {
			return err
		}
		r, err := wire.ParseOptionReply(b[:])
		if err != nil {
			return err
		}
		if r.Option != o {
			return fmt.Errorf("a reply to option %d, not %d", r.Option, o)
		}
		if r.DataBytes > maxReplyBytes {
			return fmt.Errorf("a reply of %d bytes to option %d", r.DataBytes, o)
		}
		data := make([]byte, r.DataBytes)
		if _, err := io.ReadFull(h.conn, data); err != nil {
			return err
		}
		switch {
		case r.Type == wire.RepAck:
			return nil
		case r.Type.IsError():
			return &optionError{r.Type, string(data[:min(len(data), maxMessageBytes)])}
		case each == nil:
			return fmt.Errorf("an unexpected reply to option %d: %v", o, r.Type)
		}
		if err := each(r.Type, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d replies to option %d", maxReplies, o)
}
