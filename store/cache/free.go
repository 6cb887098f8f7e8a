package cache

import (
	"fmt"
	"syscall"
)

// free asks the system how much of the folder's file system is free for anybody but root.
func (b *Bucket) free() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(b.options.Dir, &st); err != nil {
		return 0, fmt.Errorf("stat file system of %s: %w", b.options.Dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
