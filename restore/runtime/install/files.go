package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// writeFile puts data at path by temporary name, fsync and rename, and says whether that changed anything. An existing
// file keeps its owner and mode; a new one gets mode.
func writeFile(path string, data []byte, mode os.FileMode) (bool, error) {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	if err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make folder: %w", err)
	}
	temporary, err := os.CreateTemp(dir, ".lifeboat-*")
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	if err := fill(temporary, path, data, mode); err != nil {
		_ = temporary.Close()
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	if err := temporary.Close(); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, syncDir(dir)
}

// fill writes the temporary file that is to take the place of path.
func fill(file *os.File, path string, data []byte, mode os.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := file.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
				return err
			}
		}
	}
	if err := file.Chmod(mode); err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// removeFile removes path where it exists.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in dir durable. A folder that is not there has none.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// copyFolder copies the files of from into to, only those whose bytes differ, and returns how many it wrote.
func copyFolder(from, to string) (int, error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, fmt.Errorf("list what to install: %w", err)
	}
	written := 0
	for _, entry := range entries {
		source := filepath.Join(from, entry.Name())
		info, err := os.Stat(source)
		if err != nil {
			return written, fmt.Errorf("read what to install: %w", err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		data, err := os.ReadFile(source)
		if err != nil {
			return written, fmt.Errorf("read what to install: %w", err)
		}
		changed, err := writeFile(filepath.Join(to, entry.Name()), data, info.Mode().Perm())
		if err != nil {
			return written, err
		}
		if changed {
			written++
		}
	}
	return written, nil
}

// lock takes the one lock of all installations on this host and returns how to give it back. It does not wait: who
// holds it is an installer too, and comes to the same end.
func lock(path string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the lock's folder: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("another lifeboat-agent is installing or uninstalling on this node; try again when it "+
			"has ended: lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}
