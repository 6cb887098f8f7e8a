package files

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Size is what one tree of a pod holds.
type Size struct {
	// Tree is the first part of its entries' paths: layers/<container>, shm, volumes/<name>.
	Tree    string
	Entries int64
	// Bytes are those that take space, so without holes.
	Bytes int64
}

// Sizes measures the trees of a pod's running containers, without what is left out. It reads no contents, under the Reader's Limit.
func (r *Reader) Sizes(ctx context.Context, pod []snapshot.Container, leaveOut exclude.Patterns) ([]Size, error) {
	var sizes []Size
	p := &pass{reader: r, leaveOut: leaveOut, live: true, limit: r.Limit}
	p.take = func(_ context.Context, f *found) error {
		if len(sizes) == 0 || sizes[len(sizes)-1].Tree != f.tree.root {
			sizes = append(sizes, Size{Tree: f.tree.root})
		}
		last := &sizes[len(sizes)-1]
		last.Entries++
		if f.HardlinkTo != "" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.node.Fd()), &st); err != nil {
			return fmt.Errorf("measure %s: %w", f.Path, err)
		}
		last.Bytes += st.Blocks * 512
		return nil
	}
	if _, err := p.run(ctx, pod); err != nil {
		return nil, fmt.Errorf("measure files: %w", err)
	}
	return sizes, nil
}
