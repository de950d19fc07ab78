package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// errAborted ends a handshake that the client ended with NBD_OPT_ABORT.
var errAborted = errors.New("the client ended the handshake")

// handshake is the first phase of a connection, until the transmission phase.
//
// It reads from the socket exactly what each option is long, never ahead. So
// nothing that a stranger put on the wire before TLS is taken for something
// said within it.
type handshake struct {
	conn      net.Conn // what was accepted, later TLS over it
	tlsConfig *tls.Config
	exports   Exports
	limits    Limits
	client    string // who it is

	fixed    bool // NBD_FLAG_C_FIXED_NEWSTYLE
	noZeroes bool // NBD_FLAG_C_NO_ZEROES
	tls      bool // TLS was started

	style wire.Style
	// export was opened by the last option that named one, so that
	// NBD_OPT_GO serves what NBD_OPT_INFO told of. It is called exportName
	// there.
	export     *Export
	exportName string
	// metaName is the export that contexts were selected for.
	metaName string
	contexts []metaContext
}

// negotiated is what came of a handshake.
type negotiated struct {
	export   *Export
	style    wire.Style
	contexts []metaContext
}

// run returns when the transmission phase begins. On an error no export is
// left open.
func (h *handshake) run(ctx context.Context) (*negotiated, error) {
	n, err := h.negotiate(ctx)
	if err != nil {
		h.closeExport()
		return nil, err
	}
	return n, nil
}

func (h *handshake) negotiate(ctx context.Context) (*negotiated, error) {
	flags := wire.FlagFixedNewstyle | wire.FlagNoZeroes
	if _, err := h.conn.Write(wire.AppendGreeting(nil, flags)); err != nil {
		return nil, err
	}
	var b [wire.ClientFlagsSize]byte
	if _, err := io.ReadFull(h.conn, b[:]); err != nil {
		return nil, err
	}
	client := binary.BigEndian.Uint32(b[:])
	if client&^uint32(flags) != 0 {
		return nil, fmt.Errorf("nbd: unknown client flags %#x", client)
	}
	h.fixed = client&uint32(wire.FlagFixedNewstyle) != 0
	h.noZeroes = client&uint32(wire.FlagNoZeroes) != 0
	if h.tlsConfig != nil && !h.fixed {
		return nil, errors.New("nbd: TLS is required, and the client cannot start it")
	}
	for range h.limits.MaxOptions {
		o, data, err := h.readOption()
		if err != nil {
			return nil, err
		}
		done, err := h.option(ctx, o, data)
		if err != nil {
			return nil, err
		}
		if done {
			return h.result(), nil
		}
	}
	return nil, fmt.Errorf("nbd: more than %d options", h.limits.MaxOptions)
}

// result is what was negotiated when the transmission phase begins.
func (h *handshake) result() *negotiated {
	n := &negotiated{export: h.export, style: h.style}
	if h.metaName == h.exportName {
		n.contexts = h.contexts
	}
	return n
}

// readOption reads the next option and its data.
func (h *handshake) readOption() (wire.Option, []byte, error) {
	var b [wire.OptionHeaderSize]byte
	if _, err := io.ReadFull(h.conn, b[:]); err != nil {
		return 0, nil, err
	}
	o, n, err := wire.ParseOptionHeader(b[:])
	if err != nil {
		return 0, nil, err
	}
	if n > maxOptionBytes {
		return 0, nil, fmt.Errorf("nbd: option %d with %d bytes of data", o, n)
	}
	data := make([]byte, n)
	_, err = io.ReadFull(h.conn, data)
	return o, data, err
}

// option answers an option and tells whether the transmission phase begins.
func (h *handshake) option(ctx context.Context, o wire.Option, data []byte) (done bool, err error) {
	if h.tlsConfig != nil && !h.tls && o != wire.OptStartTLS && o != wire.OptAbort {
		if o == wire.OptExportName {
			return false, errors.New("nbd: an export was asked for before TLS")
		}
		return false, h.answer(o, wire.RepErrTLSReqd, "TLS is required")
	}
	switch o {
	case wire.OptExportName:
		return h.exportNameOption(ctx, data)
	case wire.OptAbort:
		if err := h.answer(o, wire.RepAck, ""); err != nil {
			return false, err
		}
		return false, errAborted
	case wire.OptInfo, wire.OptGo:
		return h.infoOption(ctx, o, data)
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		return false, h.metaOption(ctx, o, data)
	case wire.OptList, wire.OptStartTLS, wire.OptStructuredReply, wire.OptExtendedHeaders:
		if len(data) != 0 {
			return false, h.answer(o, wire.RepErrInvalid, "the option takes no data")
		}
	default:
		return false, h.answer(o, wire.RepErrUnsup, "")
	}
	switch o {
	case wire.OptList:
		return false, h.listOption(ctx)
	case wire.OptStartTLS:
		return false, h.startTLS(ctx)
	case wire.OptExtendedHeaders:
		h.style = wire.Extended
	default:
		if h.style == wire.Extended {
			return false, h.answer(o, wire.RepErrExtHeaderReqd, "extended headers were negotiated")
		}
		h.style = wire.Structured
	}
	return false, h.answer(o, wire.RepAck, "")
}

// answer sends the only or last reply to an option; text is for errors.
func (h *handshake) answer(o wire.Option, t wire.ReplyType, text string) error {
	_, err := h.conn.Write(wire.AppendOptionReply(nil, o, t, []byte(text)))
	return err
}

// startTLS answers NBD_OPT_STARTTLS and does the handshake of TLS. What was
// negotiated before is forgotten.
func (h *handshake) startTLS(ctx context.Context) error {
	switch {
	case h.tls:
		return h.answer(wire.OptStartTLS, wire.RepErrInvalid, "TLS was started already")
	case h.tlsConfig == nil:
		return h.answer(wire.OptStartTLS, wire.RepErrPolicy, "the server has no TLS here")
	}
	if err := h.answer(wire.OptStartTLS, wire.RepAck, ""); err != nil {
		return err
	}
	t := tls.Server(h.conn, h.tlsConfig)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("nbd: TLS: %w", err)
	}
	h.closeExport()
	h.style, h.metaName, h.contexts = wire.Simple, "", nil
	h.conn, h.tls = t, true
	h.client = describeCertificate(h.client, t.ConnectionState())
	return nil
}
