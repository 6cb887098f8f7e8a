package softdirty

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// writeInitramfs writes an archive of executable files, by the name that each has in its root. Source of the format:
// Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
func writeInitramfs(path string, files map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for i, name := range slices.Sorted(maps.Keys(files)) {
		if err = addFile(w, i+1, name, files[name]); err != nil {
			break
		}
	}
	if err == nil {
		err = errors.Join(header(w, 0, 0, 0, "TRAILER!!!"), w.Flush())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

func addFile(w io.Writer, inode int, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const executable = 0o100755
	if err := header(w, inode, executable, info.Size(), name); err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", from)
	}
	return errors.Join(err, pad(w, n))
}

func header(w io.Writer, inode int, mode uint32, size int64, name string) error {
	n, err := fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	return errors.Join(err, pad(w, int64(n)))
}

func pad(w io.Writer, size int64) error {
	_, err := w.Write(make([]byte, (4-size%4)%4))
	return err
}
