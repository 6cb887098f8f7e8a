// Package files reads the file trees that belong to a pod's state, each of them once: the writable layer of each container's
// overlay, the emptyDir volumes that any of them mounts and the pod's /dev/shm.
//
// Preload, while the containers run, hands contents to the store ahead; AddTo, while they are frozen, adds every entry, and
// reads again only what may have changed since. What holds:
//
//   - AddTo's entries are complete, whatever was preloaded: names, owners, modes and attributes are always those of now.
//   - A file is not read again only where its inode, size, mtime and ctime are those of before it was read; where that
//     ctime was older by some clock ticks than the beginning of the pass that read it (clocks of files are coarse: a
//     change within the same tick would leave no trace); where no process of the pod had mapped it shared (stores to
//     mapped pages leave none either); and where its file system is one that is known to set ctime at the first store to
//     each page (ext4, xfs, btrfs). So what is in memory (tmpfs, /dev/shm) is read each time, and only compared.
//   - No symbolic link is followed within a tree, also where the container swaps folders for links meanwhile: every name is
//     resolved by openat2 below the tree's root, and a file is read through what was looked at.
//   - Access times do not change where the kernel lets them be (O_NOATIME).
//   - Sockets are left out: CRIU binds those that are open anew, and a name that nobody listens to is better gone. So are
//     device nodes, which no generation may bring. What is open and has no name any more is CRIU's (its ghost files).
//   - A hard link is one within its tree. A file has one content: that of the first of its names in the order of paths.
//   - Memory: the names in one folder and in those above it, 100 bytes for each file with more than one name, 50 for
//     each mapped file; contents pass through a buffer of 256 KiB, the store's. What is known of each file is kept by the
//     store's Writer. One thread reads.
//   - Time: some 10 microseconds of a core for each entry, whatever was preloaded, and what reading and comparing takes
//     (about a second for 3 GB) for what is read. A large file that changed in one place is read whole, and that block stored.
package files

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// Writer takes what is read. A *store.Writer is one; its documentation says what the methods do.
type Writer = snapshot.FileWriter

// Stats says what a pass did.
type Stats struct {
	// Entries are those seen, Excluded those left out by a pattern; what is below an excluded folder is not seen at all.
	Entries, Excluded int64
	// Files are the regular files that were read, Spared those that did not have to be.
	Files, Spared int64
	// BytesRead are those of Files, without their holes; BytesSpared is the size of the others.
	BytesRead, BytesSpared int64
	// Vanished counts what could not be read in its turn, for it went or changed. It stays 0 while the container is frozen.
	Vanished int64
	// Seconds is how long it took, CPUSeconds what the reading thread used of the processor, the Writer's work included.
	Seconds, CPUSeconds float64
}

// Reader reads trees of containers of this node.
type Reader struct {
	// Limit bounds the CPU time of Preload, together with all else that shares it; nil for no bound.
	Limit *memory.Limit

	hostRoot string
	// mountinfo is where the host's mounts are listed, and proc where PIDs are the host's; others in tests.
	mountinfo, proc string
}

// New returns a Reader for a host whose root this process sees at hostRoot, and in whose PID namespace it runs.
func New(hostRoot string) *Reader {
	return &Reader{hostRoot: hostRoot, mountinfo: "/proc/1/mountinfo", proc: "/proc"}
}

// Preload hands the contents of the files of a pod's running containers to w, but for those that w has and that cannot have
// changed. It adds no entry. That files change, move and go meanwhile is normal. It fails where w or ctx do, and where a
// tree is not there at all.
func (r *Reader) Preload(ctx context.Context, pod []snapshot.Container, leaveOut exclude.Patterns, w Writer) (Stats, error) {
	p := &pass{reader: r, leaveOut: leaveOut, live: true, limit: r.Limit}
	p.take = func(ctx context.Context, f *found) error { return p.preload(ctx, w, f) }
	return p.run(ctx, pod)
}

// AddTo adds every entry of the trees of a pod's frozen containers to w, with its content: that which w has where it cannot have
// changed since it was read. What is read may be kept for the generation after.
func (r *Reader) AddTo(ctx context.Context, pod []snapshot.Container, leaveOut exclude.Patterns, w Writer) (Stats, error) {
	p := &pass{reader: r, leaveOut: leaveOut}
	p.take = func(ctx context.Context, f *found) error { return p.add(ctx, w, f) }
	return p.run(ctx, pod)
}

// podTrees are those of all containers, each once: what several mount is the same by its name.
func (r *Reader) podTrees(pod []snapshot.Container) ([]*tree, error) {
	if len(pod) == 0 {
		return nil, errors.New("no container has files")
	}
	var trees []*tree
	known := map[string]bool{}
	for _, c := range pod {
		its, err := r.trees(c)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
		for _, t := range its {
			if !known[t.root] {
				known[t.root] = true
				trees = append(trees, t)
			}
		}
	}
	return trees, nil
}

// trees are those that a container mounts.
func (r *Reader) trees(c snapshot.Container) ([]*tree, error) {
	rootfs := filepath.Join(c.Bundle, "rootfs")
	overlay, err := layout.FindOverlay(r.mountinfo, rootfs)
	if err != nil {
		return nil, err
	}
	mounts, err := layout.ReadStateMounts(filepath.Join(r.hostRoot, c.Bundle))
	if err != nil {
		return nil, err
	}
	trees := []*tree{{host: overlay.Upper, root: layout.LayerPath(c.Name), merged: filepath.Join(r.hostRoot, rootfs)}}
	for name, source := range mounts.Volumes {
		trees = append(trees, &tree{host: source, root: path.Join(layout.Volumes, name)})
	}
	if mounts.SHM != "" {
		trees = append(trees, &tree{host: mounts.SHM, root: layout.SHM})
	}
	return trees, nil
}

// run walks the trees of a pod's containers.
func (p *pass) run(ctx context.Context, pod []snapshot.Container) (Stats, error) {
	p.began = time.Now()
	meter := startMeter(p.limit)
	p.pay = meter.pay
	err := p.walk(ctx, pod)
	p.stats.Seconds, p.stats.CPUSeconds = time.Since(p.began).Seconds(), meter.end().Seconds()
	return p.stats, err
}

func (p *pass) walk(ctx context.Context, pod []snapshot.Container) error {
	trees, err := p.reader.podTrees(pod)
	if err != nil {
		return err
	}
	p.init = pod[0].PID // they are all below the pod's cgroup
	if p.live {
		p.findMapped() // before anything is looked at
	}
	for _, t := range trees {
		if p.leaveOut.Match(t.root) {
			p.stats.Excluded++
			continue
		}
		err := t.open(filepath.Join(p.reader.hostRoot, t.host))
		if err == nil {
			err = errors.Join(p.visit(ctx, t, "."), t.close())
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", t.host, err)
		}
	}
	return nil
}
