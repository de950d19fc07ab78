package ext4

import (
	"fmt"

	"github.com/rowan-storage/rowan/snapfs/ext4/crc32c"
	"github.com/rowan-storage/rowan/snapfs/tree"
)

// Extended attributes are in the inode behind its fields, after a magic number
// of 4 bytes, or in a block of their own, which starts with ext4_xattr_header,
//
//	0x00  h_magic     00 00 02 ea
//	0x04  h_refcount
//	0x08  h_blocks    1
//	0x0c  h_hash
//	0x10  h_checksum  CRC-32C, with metadata_csum
//
// and is 32 bytes. In both places entries follow, ext4_xattr_entry, up to four
// zero bytes,
//
//	0x00  e_name_len      1 byte
//	0x01  e_name_index    1 byte: what the name begins with
//	0x02  e_value_offs    2 bytes: from the first entry in an inode, from the
//	                      start of the block in a block
//	0x04  e_value_inum    with ea_inode: the inode that has the value
//	0x08  e_value_size
//	0x0c  e_hash
//	0x10  e_name          padded to 4 bytes
//
// and values fill the place from its end downwards.
const (
	xattrMagic       = 0xea020000
	xattrHeaderSize  = 32
	xattrEntryHeader = 16
	xattrChecksum    = 0x10
)

// Values of e_name_index.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
	xattrSystem     = 7
	xattrHurd       = 10
)

// xattrEntry is a decoded entry.
type xattrEntry struct {
	index     uint8
	name      string
	hash      uint32
	valueIno  uint32
	valueSize uint32
	value     []byte // if valueIno is 0
}

// isInlineData says whether the entry is the content of the file itself.
func (x xattrEntry) isInlineData() bool { return x.index == xattrSystem && x.name == "data" }

// fullName is the name under which Linux shows the attribute; false if it does
// not show it.
func (x xattrEntry) fullName() (string, bool) {
	switch x.index {
	case xattrUser:
		return "user." + x.name, true
	case xattrACLAccess:
		return "system.posix_acl_access", true
	case xattrACLDefault:
		return "system.posix_acl_default", true
	case xattrTrusted:
		return "trusted." + x.name, true
	case xattrSecurity:
		return "security." + x.name, true
	case xattrHurd:
		return "gnu." + x.name, true
	}
	return "", false
}

// parseXattrs decodes the entries that start at byte first of b. The offsets of
// their values are from the start of b.
func (sb *superblock) parseXattrs(b []byte, first int) (entries []xattrEntry, problem string) {
	end := first // of the list of entries
	for {
		if end+4 > len(b) {
			return nil, "list of entries without an end"
		}
		if le32(b[end:]) == 0 {
			break
		}
		if end+xattrEntryHeader > len(b) || end+xattrEntryLen(b[end]) > len(b) {
			return nil, "entry beyond the end"
		}
		end += xattrEntryLen(b[end])
	}
	for off := first; off < end; off += xattrEntryLen(b[off]) {
		e := b[off:]
		x := xattrEntry{
			index:     e[1],
			name:      string(e[xattrEntryHeader : xattrEntryHeader+int(e[0])]),
			valueIno:  le32(e[4:]),
			valueSize: le32(e[8:]),
			hash:      le32(e[12:]),
		}
		switch at := int(le16(e[2:])); {
		case x.valueIno != 0 && sb.incompat&incompatEAInode == 0:
			return nil, fmt.Sprintf("attribute %q: value in an inode without that feature", x.name)
		case x.valueSize > maxXattrValue:
			return nil, fmt.Sprintf("attribute %q: value of %d bytes", x.name, x.valueSize)
		case x.valueIno != 0 || x.valueSize == 0:
		case at < end+4 || at > len(b) || int(x.valueSize) > len(b)-at:
			return nil, fmt.Sprintf("attribute %q: value of %d bytes at %d", x.name, x.valueSize, at)
		default:
			x.value = b[at : at+int(x.valueSize)]
		}
		entries = append(entries, x)
	}
	return entries, ""
}

// xattrEntryLen is the length of an entry with a name of nameLen bytes.
func xattrEntryLen(nameLen uint8) int { return (xattrEntryHeader + int(nameLen) + 3) &^ 3 }

// inodeXattrs decodes the attributes in the inode itself.
func (f *FS) inodeXattrs(in *inode) ([]xattrEntry, error) {
	if !in.hasXattrs {
		return nil, nil
	}
	b := in.raw[oldInodeSize+in.extra:]
	if len(b) < 8 || le32(b) != xattrMagic {
		return nil, nil
	}
	entries, problem := f.sb.parseXattrs(b[4:], 0)
	if problem != "" {
		return nil, in.corrupt("attributes: %s", problem)
	}
	return entries, nil
}

// blockXattrs decodes the attributes in the block that the inode points to.
func (f *FS) blockXattrs(in *inode) ([]xattrEntry, error) {
	block := in.xattrBlock(f.sb)
	if block == 0 {
		return nil, nil
	}
	b, err := f.block(block)
	if err != nil {
		return nil, fmt.Errorf("ext4: attributes of inode %d: %w", in.ino, err)
	}
	corrupt := func(format string, args ...any) error {
		return &CorruptError{
			fmt.Sprintf("attributes of inode %d", in.ino),
			int64(block) * f.sb.blockSize, fmt.Sprintf(format, args...),
		}
	}
	if m, n := le32(b), le32(b[8:]); m != xattrMagic || n != 1 {
		return nil, corrupt("magic number %#08x, %d blocks", m, n)
	}
	if f.sb.hasMetadataCsum() {
		want := crc32c.Without(crc32cUint64(f.sb.seed, uint64(block)), b, xattrChecksum, 4)
		if got := le32(b[xattrChecksum:]); want != got {
			return nil, corrupt("checksum %#08x, expected %#08x", got, want)
		}
	}
	entries, problem := f.sb.parseXattrs(b, xattrHeaderSize)
	if problem != "" {
		return nil, corrupt("%s", problem)
	}
	return entries, nil
}

// Xattrs returns the extended attributes that Linux shows of a file.
func (f *FS) Xattrs(ino tree.Ino) (map[string][]byte, error) {
	in, err := f.usedInode(ino)
	if err != nil {
		return nil, err
	}
	entries, err := f.inodeXattrs(in)
	if err != nil {
		return nil, err
	}
	more, err := f.blockXattrs(in)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	total := 0
	for _, x := range append(entries, more...) {
		name, shown := x.fullName()
		if _, have := out[name]; have || !shown { // the inode comes before the block
			continue
		}
		value, err := f.xattrValue(in, x)
		if err != nil {
			return nil, err
		}
		if total += len(value); total > maxXattrTotal {
			return nil, in.corrupt("more than %d bytes of attributes", maxXattrTotal)
		}
		out[name] = value
	}
	return out, nil
}

// xattrValue gives the value of an attribute as getxattr(2) does.
func (f *FS) xattrValue(in *inode, x xattrEntry) ([]byte, error) {
	value := append([]byte{}, x.value...)
	if x.valueIno != 0 {
		var err error
		if value, err = f.readEAInode(in, x); err != nil {
			return nil, err
		}
	}
	if x.index != xattrACLAccess && x.index != xattrACLDefault {
		return value, nil
	}
	acl, problem := aclToXattr(value)
	if problem != "" {
		return nil, in.corrupt("access control list: %s", problem)
	}
	return acl, nil
}

// readEAInode reads a value that has an inode of its own. Such an inode keeps a
// CRC-32C of the value where others have the seconds of i_atime. The older ones
// that Lustre made have none; they have the number of the inode they belong to
// in i_mtime, and its generation.
func (f *FS) readEAInode(in *inode, x xattrEntry) ([]byte, error) {
	ea, err := f.inode(x.valueIno)
	if err != nil {
		return nil, fmt.Errorf("ext4: inode %d: attribute %q: %w", in.ino, x.name, err)
	}
	if !ea.has(flagEAInode) || ea.typ() != modeRegular || ea.size != int64(x.valueSize) {
		return nil, ea.corrupt("is not the value of attribute %q of inode %d", x.name, in.ino)
	}
	fl, err := f.content(ea)
	if err != nil {
		return nil, err
	}
	value := make([]byte, x.valueSize)
	if n, err := fl.ReadAt(value, 0); n < len(value) {
		return nil, unexpectedEOF(err)
	}
	stored, sum := le32(ea.raw[0x08:]), crc32c.Update(f.sb.seed, value)
	lustre := x.hash != stored && le32(ea.raw[0x10:]) == in.ino && ea.generation == in.generation
	if sum != stored && !lustre {
		return nil, ea.corrupt("attribute %q of inode %d: checksum %#08x, expected %#08x", x.name, in.ino, stored, sum)
	}
	return value, nil
}
