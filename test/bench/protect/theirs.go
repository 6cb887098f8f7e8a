package protect

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"

	"github.com/lifeboat-dev/lifeboat/test/bench/rig"
)

// What there is without Lifeboat, as rows name it.
const (
	runcTmpfs = "runc checkpoint to tmpfs"
	runcDisk  = "runc checkpoint to disk"
	kubelet   = "kubelet's checkpoint API"
	thenPut   = ", then tar | zstd | PUT"
)

// Folders of the node.
const (
	tmpfsFolder = "/run/lifeboat-bench"
	diskFolder  = "/var/tmp/lifeboat-bench"
)

// theirs measures what one would use without Lifeboat on a job that it does not protect yet. in names the series. uploads
// says whether what goes to the disk is measured too: it takes most of the time.
func (l *lab) theirs(ctx context.Context, j *job, in string, uploads bool) error {
	if err := l.dumpToTmpfs(ctx, j, in); err != nil {
		return fmt.Errorf("%s: %w", runcTmpfs, err)
	}
	if !uploads {
		return nil
	}
	if err := l.dumpToDisk(ctx, j, in); err != nil {
		return fmt.Errorf("%s: %w", runcDisk, err)
	}
	// A large container may take the kubelet longer than it is willing to wait.
	if err := l.askKubelet(ctx, j, in); err != nil {
		l.missing = append(l.missing, fmt.Errorf("%s%s: %w", in, kubelet, err))
	}
	return nil
}

func (l *lab) dumpToTmpfs(ctx context.Context, j *job, in string) (err error) {
	if _, err := l.Node.Exec(ctx, "mount", "--mkdir", "-t", "tmpfs", "-o", "size=90%", "tmpfs", tmpfsFolder); err != nil {
		return err
	}
	defer func() {
		_, fault := l.Node.Exec(context.WithoutCancel(ctx), "umount", tmpfsFolder)
		err = errors.Join(err, fault)
	}()
	if err := l.Runc(ctx, j.pod, tmpfsFolder); err != nil {
		return err
	}
	work, err := l.Seen(tmpfsFolder + "/work")
	if err != nil {
		return err
	}
	return l.addFrozen(in+runcTmpfs, work)
}

func (l *lab) dumpToDisk(ctx context.Context, j *job, in string) (err error) {
	defer func() {
		_, fault := l.Node.Exec(context.WithoutCancel(ctx), "rm", "-rf", diskFolder)
		err = errors.Join(err, fault)
	}()
	folder, err := l.Seen(diskFolder)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := l.Runc(ctx, j.pod, diskFolder); err != nil {
		return err
	}
	dumped := time.Since(began)
	if err := l.put(ctx, j, in+runcDisk+thenPut, began, func(to io.Writer) error {
		return rig.Tar(to, filepath.Join(folder, "images"))
	}); err != nil {
		return err
	}
	l.Add(in+runcDisk, dumped.Seconds())
	return l.addFrozen(in+runcDisk, filepath.Join(folder, "work"))
}

func (l *lab) askKubelet(ctx context.Context, j *job, in string) (err error) {
	began := time.Now()
	archive, err := l.Kubelet(ctx, j.pod)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(archive)) }()
	l.Add(in+kubelet, time.Since(began).Seconds())
	if err := l.put(ctx, j, in+kubelet+thenPut, began, func(to io.Writer) error { return rig.CopyFile(to, archive) }); err != nil {
		return err
	}
	if err := extract(archive, statsDump, l.Folder); err != nil {
		return err
	}
	return l.addFrozen(in+kubelet, l.Folder)
}

// put uploads what write writes, and notes how long all has taken since it began.
func (l *lab) put(ctx context.Context, j *job, name string, began time.Time, write func(io.Writer) error) error {
	client, close, err := l.Client()
	if err != nil {
		return err
	}
	defer close()
	size, err := l.Piped(ctx, client, j.name, write)
	if err != nil {
		return err
	}
	l.Add(name, time.Since(began).Seconds())
	l.Add(name+", bytes", float64(size))
	return nil
}

// frozen is how a series of how long a job stood still is called.
func frozen(name string) string { return name + ", frozen" }

// statsDump is the file in which CRIU says what a dump took.
const statsDump = "stats-dump"

// addFrozen notes for how long CRIU says that it held the job still.
func (l *lab) addFrozen(name, work string) error {
	f, err := os.Open(filepath.Join(work, statsDump))
	if err != nil {
		return fmt.Errorf("open what CRIU says of a dump: %w", err)
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, true).Decode(&stats.StatsEntry{})
	if err != nil {
		return fmt.Errorf("read what CRIU says of a dump: %w", err)
	}
	for _, entry := range image.Entries {
		if said, ok := entry.Message.(*stats.StatsEntry); ok && said.GetDump().GetFrozenTime() > 0 {
			l.Add(frozen(name), float64(said.GetDump().GetFrozenTime())/1e6)
			return nil
		}
	}
	return fmt.Errorf("read what CRIU says of a dump: %s does not say how long it took", f.Name())
}

// extract writes one file of a tar into a folder.
func extract(archive, name, folder string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer f.Close()
	for entries := tar.NewReader(f); ; {
		entry, err := entries.Next()
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", name, archive, err)
		}
		if path.Base(entry.Name) != name {
			continue
		}
		content, err := io.ReadAll(entries)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("take %s out of %s: %w", name, archive, err)
		}
		return nil
	}
}
