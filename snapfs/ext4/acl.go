package ext4

import (
	"encoding/binary"
	"fmt"
)

// A POSIX access control list is stored without the numbers that say nothing,
//
//	0x0  a_version  1
//	0x4  entries:   e_tag, e_perm, 2 bytes each; for a named user or group e_id
//
// and getxattr(2) gives posix_acl_xattr_header and entries that are all alike:
//
//	0x0  a_version  2
//	0x4  entries:   e_tag, e_perm, 2 bytes each; e_id, ffffffff where it says nothing
const (
	aclVersionStored = 1
	aclVersionXattr  = 2
	aclHeaderSize    = 4
	aclShortSize     = 4
	aclFullSize      = 8
	aclUndefinedID   = 0xffffffff
)

// Values of e_tag.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// aclToXattr turns a stored list into the value of system.posix_acl_*.
func aclToXattr(b []byte) (value []byte, problem string) {
	if len(b) < aclHeaderSize || le32(b) != aclVersionStored {
		return nil, "unknown version"
	}
	value = binary.LittleEndian.AppendUint32(nil, aclVersionXattr)
	for b = b[aclHeaderSize:]; len(b) > 0; {
		if len(b) < aclShortSize {
			return nil, "entry cut short"
		}
		tag, size, id := le16(b), aclShortSize, uint32(aclUndefinedID)
		switch tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
		case aclUser, aclGroup:
			size = aclFullSize
			if len(b) < size {
				return nil, "entry cut short"
			}
			id = le32(b[aclShortSize:])
		default:
			return nil, fmt.Sprintf("entry with tag %#x", tag)
		}
		value = append(value, b[:aclShortSize]...)
		value = binary.LittleEndian.AppendUint32(value, id)
		b = b[size:]
	}
	return value, ""
}
