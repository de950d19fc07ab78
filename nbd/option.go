package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/rowan-storage/rowan/nbd/wire"
)

// replyChunkBytes is about how much of a long answer is sent at a time.
const replyChunkBytes = 32 << 10

// blockSizes are those of every export. They are the defaults of the
// specification, and so need not be asked for.
func blockSizes() wire.BlockSizes {
	return wire.BlockSizes{Minimum: 1, Preferred: 4096, Maximum: wire.MaxPayload}
}

// exportNameOption answers NBD_OPT_EXPORT_NAME, which cannot be refused but by
// disconnecting.
func (h *handshake) exportNameOption(ctx context.Context, data []byte) (done bool, err error) {
	name, err := wire.ParseExportName(data)
	if err != nil {
		return false, err
	}
	if h.style == wire.Extended {
		return false, errors.New("nbd: NBD_OPT_EXPORT_NAME after extended headers were negotiated")
	}
	if err := h.open(ctx, name); err != nil {
		return false, fmt.Errorf("nbd: export %q: %w", name, err)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(h.export.Size()))
	b = binary.BigEndian.AppendUint16(b, h.transmissionFlags())
	if !h.noZeroes {
		b = append(b, make([]byte, wire.ExportNameZeroes)...)
	}
	_, err = h.conn.Write(b)
	return err == nil, err
}

// infoOption answers NBD_OPT_INFO and NBD_OPT_GO.
func (h *handshake) infoOption(ctx context.Context, o wire.Option, data []byte) (done bool, err error) {
	name, infos, err := wire.ParseInfoRequest(data)
	if err != nil {
		return false, h.answer(o, wire.RepErrInvalid, err.Error())
	}
	if err := h.open(ctx, name); err != nil {
		return false, h.answerOpen(o, err)
	}
	e := h.export
	b := wire.AppendOptionReply(nil, o, wire.RepInfo,
		wire.AppendExportInfo(nil, uint64(e.Size()), h.transmissionFlags()))
	if slices.Contains(infos, wire.InfoName) {
		b = wire.AppendOptionReply(b, o, wire.RepInfo, wire.AppendStringInfo(nil, wire.InfoName, e.Name))
	}
	if slices.Contains(infos, wire.InfoDescription) && e.Description != "" {
		b = wire.AppendOptionReply(b, o, wire.RepInfo,
			wire.AppendStringInfo(nil, wire.InfoDescription, e.Description))
	}
	if slices.Contains(infos, wire.InfoBlockSize) {
		b = wire.AppendOptionReply(b, o, wire.RepInfo, wire.AppendBlockSizeInfo(nil, blockSizes()))
	}
	_, err = h.conn.Write(wire.AppendOptionReply(b, o, wire.RepAck, nil))
	return o == wire.OptGo && err == nil, err
}

// transmissionFlags says what the export can do, in the style that was
// negotiated.
func (h *handshake) transmissionFlags() uint16 {
	flags := wire.FlagHasFlags | wire.FlagSendFlush | wire.FlagSendFUA |
		wire.FlagCanMultiConn | wire.FlagSendCache
	if h.export.ReadOnly {
		flags |= wire.FlagReadOnly
	} else {
		flags |= wire.FlagSendTrim | wire.FlagSendWriteZeroes | wire.FlagSendFastZero
	}
	if h.style != wire.Simple {
		flags |= wire.FlagSendDF
	}
	if h.style == wire.Extended {
		flags |= wire.FlagBlockStatusPayload
	}
	return flags
}

// listOption answers NBD_OPT_LIST.
func (h *handshake) listOption(ctx context.Context) error {
	list, err := h.exports.List(ctx)
	if err != nil {
		return h.answerOpen(wire.OptList, err)
	}
	var b []byte
	for _, e := range list {
		b = wire.AppendOptionReply(b, wire.OptList, wire.RepServer, wire.AppendServer(nil, e.Name, e.Description))
		if len(b) > replyChunkBytes {
			if _, err := h.conn.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err = h.conn.Write(wire.AppendOptionReply(b, wire.OptList, wire.RepAck, nil))
	return err
}

// metaOption answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (h *handshake) metaOption(ctx context.Context, o wire.Option, data []byte) error {
	set := o == wire.OptSetMetaContext
	if set {
		h.metaName, h.contexts = "", nil // also when the option fails
	}
	if h.style == wire.Simple {
		return h.answer(o, wire.RepErrInvalid, "structured replies have to be negotiated first")
	}
	name, queries, err := wire.ParseMetaRequest(data, maxMetaQueries)
	if errors.Is(err, wire.ErrTooMany) {
		return h.answer(o, wire.RepErrTooBig, err.Error())
	}
	if err != nil {
		return h.answer(o, wire.RepErrInvalid, err.Error())
	}
	if err := h.open(ctx, name); err != nil {
		return h.answerOpen(o, err)
	}
	contexts := h.export.metaContexts()
	if set || len(queries) > 0 {
		contexts = matching(contexts, queries, !set)
	}
	if set {
		if len(contexts) > maxContexts {
			return h.answer(o, wire.RepErrTooBig, "too many metadata contexts at a time")
		}
		for i := range contexts {
			contexts[i].id = uint32(i + 1)
		}
		h.metaName, h.contexts = name, contexts
	}
	var b []byte
	for _, c := range contexts {
		b = wire.AppendOptionReply(b, o, wire.RepMetaContext, wire.AppendMetaContext(nil, c.id, c.name))
		if len(b) > replyChunkBytes {
			if _, err := h.conn.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err = h.conn.Write(wire.AppendOptionReply(b, o, wire.RepAck, nil))
	return err
}

// open makes h.export the export with this name.
func (h *handshake) open(ctx context.Context, name string) error {
	if h.export != nil && h.exportName == name {
		return nil
	}
	h.closeExport()
	e, err := h.exports.Open(ctx, name, h.client)
	if err != nil {
		return err
	}
	h.export, h.exportName = e, name
	return nil
}

// closeExport closes h.export, if there is one.
func (h *handshake) closeExport() {
	if h.export != nil && h.export.Close != nil {
		h.export.Close() // nothing was written through it
	}
	h.export, h.exportName = nil, ""
}

// answerOpen tells the client why an export cannot be had, or a list of them.
func (h *handshake) answerOpen(o wire.Option, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return h.answer(o, wire.RepErrUnknown, "no such export")
	case errors.Is(err, fs.ErrPermission):
		return h.answer(o, wire.RepErrPolicy, "permission denied")
	case errors.Is(err, syscall.ESHUTDOWN):
		return h.answer(o, wire.RepErrShutdown, "the server is shutting down")
	default:
		return h.answer(o, wire.RepErrUnknown, "the export is not available: "+wire.FromError(err).Errno().Error())
	}
}
