package layout

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Overlay is the overlay mount of a container's root file system.
type Overlay struct {
	// Upper is the writable layer's folder on the host.
	Upper string
	// Options are those that it was mounted with, as mount(8) takes them.
	Options string
}

// FindOverlay looks the mount at rootfs, a host path, up in the mountinfo file of the host's pid 1.
func FindOverlay(mountinfo, rootfs string) (Overlay, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return Overlay{}, fmt.Errorf("read mounts of the host: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		kind := strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 || fields[4] != rootfs {
			continue
		}
		if kind[0] != "overlay" {
			return Overlay{}, fmt.Errorf("root file system %s is %s; only containerd's overlayfs snapshotter is supported", rootfs, kind[0])
		}
		for option := range strings.SplitSeq(kind[2], ",") {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				return Overlay{Upper: upper, Options: kind[2]}, nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return Overlay{}, fmt.Errorf("read mounts of the host: %w", err)
	}
	return Overlay{}, fmt.Errorf("root file system %s has no writable overlay layer", rootfs)
}
