package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Where restic keeps its repository, on the machine's disk.
const (
	resticRepository = diskFolder + "/restic"
	resticPassword   = trainerFolder + "/restic-password"
)

// resticBackup has restic save the dump, from the same path each time so that it finds the snapshot before, and returns
// how many bytes its repository has grown by.
func (t *trainer) resticBackup(ctx context.Context) (int64, error) {
	before, err := folderSize(t.room.Path(resticRepository))
	if err != nil {
		return 0, err
	}
	if err := t.restic(ctx, "backup", dumpFolder); err != nil {
		return 0, err
	}
	after, err := folderSize(t.room.Path(resticRepository))
	return after - before, err
}

// makeRepository begins an empty repository. Restic encrypts and compresses in its standard way.
func (t *trainer) makeRepository(ctx context.Context) error {
	if err := os.WriteFile(t.room.Path(resticPassword), []byte("bench\n"), 0o600); err != nil {
		return fmt.Errorf("write restic's password: %w", err)
	}
	return t.restic(ctx, "init")
}

func (t *trainer) restic(ctx context.Context, args ...string) error {
	always := []string{"--repo", resticRepository, "--password-file", resticPassword, "--no-cache", "--quiet"}
	_, err := t.room.Run(ctx, "restic", append(always, args...)...)
	return err
}

// folderSize is the sum of the sizes of all files in a folder.
func folderSize(folder string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", folder, err)
	}
	return sum, nil
}
