package ext4

// With inline_data, small content is kept in the inode: the first 60 bytes in
// i_block, the rest as the value of the attribute system.data, which is in the
// inode too. A directory has
//
//	0x00  inode of the parent directory
//	0x04  entries, to the end of i_block
//
// and further entries in system.data; neither "." nor ".." is stored.
const inlineDirHeader = 4

// inlineData puts the two parts together.
func (f *FS) inlineData(in *inode) ([]byte, error) {
	entries, err := f.inodeXattrs(in)
	if err != nil {
		return nil, err
	}
	data := append([]byte(nil), in.blockArea()...)
	for _, x := range entries {
		if !x.isInlineData() {
			continue
		}
		if x.valueIno != 0 {
			return nil, in.corrupt("inline data in another inode")
		}
		return append(data, x.value...), nil
	}
	return nil, in.corrupt("inline data without its attribute")
}

// inlineEntries gives the parts of an inline directory that hold entries.
func (f *FS) inlineEntries(in *inode) ([][]byte, error) {
	data, err := f.inlineData(in)
	if err != nil {
		return nil, err
	}
	parts := [][]byte{data[inlineDirHeader:inodeBlockSize]}
	if len(data) > inodeBlockSize {
		parts = append(parts, data[inodeBlockSize:])
	}
	return parts, nil
}
