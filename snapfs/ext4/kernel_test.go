package ext4_test

import (
	"math/rand/v2"
	"testing"
)

// TestKernel fills filesystems of many kinds through the kernel and compares
// everything with what the kernel then shows.
func TestKernel(t *testing.T) {
	need(t, "mke2fs", "mount", "umount", "setfacl")
	for _, v := range []struct {
		name string
		args []string
		far  int64
	}{
		{"ext2-1k", []string{"-t", "ext2", "-b", "1024"}, 10 << 30},
		{"ext2-revision0", []string{"-t", "ext2", "-r", "0"}, 1 << 30},
		{"ext2-4k", []string{"-t", "ext2", "-b", "4096"}, 1 << 40},
		{"ext2-nofiletype", []string{"-t", "ext2", "-b", "2048", "-O", "^filetype,^dir_index"}, 1 << 33},
		{"ext3-1k", []string{"-t", "ext3", "-b", "1024"}, 10 << 30},
		{"ext3-4k-inode128", []string{"-t", "ext3", "-b", "4096", "-I", "128"}, 1 << 40},
		{"ext4", []string{"-t", "ext4", "-b", "4096"}, 1 << 43},
		{"ext4-1k", []string{"-t", "ext4", "-b", "1024"}, 1 << 41},
		{"ext4-2k", []string{"-t", "ext4", "-b", "2048", "-I", "512"}, 1 << 42},
		{"ext4-noextent", []string{"-t", "ext4", "-b", "4096", "-O", "^extent,^64bit"}, 1 << 40},
		{"ext4-nocsum", []string{"-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"}, 1 << 43},
		{"ext4-32bit", []string{"-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum"}, 1 << 43},
		{"ext4-bigalloc", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"}, 1 << 43},
		{"ext4-bigalloc-1k", []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"}, 1 << 41},
		{"ext4-inline", []string{"-t", "ext4", "-b", "4096", "-O", "inline_data"}, 1 << 43},
		{"ext4-inline-1k", []string{"-t", "ext4", "-b", "1024", "-I", "1024", "-O", "inline_data"}, 1 << 41},
		{"ext4-meta_bg", []string{"-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"}, 1 << 41},
		{"ext4-seed", []string{"-t", "ext4", "-b", "4096", "-O", "metadata_csum,metadata_csum_seed,sparse_super2"}, 1 << 43},
		{"ext4-ea_inode", []string{"-t", "ext4", "-b", "4096", "-O", "ea_inode,large_dir"}, 1 << 43},
		{"ext4-encrypt-mmp", []string{"-t", "ext4", "-b", "4096", "-O", "encrypt,mmp"}, 1 << 43},
		{"ext4-orphan_file", []string{"-t", "ext4", "-b", "4096", "-O", "orphan_file,fast_commit"}, 1 << 43},
		{"ext4-nojournal", []string{"-t", "ext4", "-b", "4096", "-O", "^has_journal,^flex_bg"}, 1 << 43},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			image := makeDirtyImage(t, 72<<20, append(v.args, "-N", "8000")...)
			dir, unmount := mount(t, image)
			p := &population{t: t, dir: dir, rng: rand.New(rand.NewPCG(3, 4)), manyNames: 2500, farOffset: v.far}
			p.all()
			unmount()
			dir, _ = mount(t, image, "ro")
			compare(t, openImage(t, image), dir)
		})
	}
}
