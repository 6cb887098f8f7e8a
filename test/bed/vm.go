package bed

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// vmPackages is what the machine of package softdirty consists of: a kernel that tracks writes, and what dumps. crun needs
// cgroup v2 and libcriu2.
var vmPackages = []string{"criu", "crun", "iproute2", "iptables", "kmod", "libcriu2", "linux-image-cloud-amd64",
	"mount", "nftables", "procps", "runc"}

// VM are the parts of a virtual machine with soft-dirty tracking. Nobody may write to them.
type VM struct {
	// Root is a Debian root with a kernel and its modules, runc and CRIU; Disk is the same as an ext4 file system.
	Root, Disk string
}

// PrepareVM makes and caches the parts of a VM. It writes a line for every step to progress.
func PrepareVM(ctx context.Context, progress io.Writer) (VM, error) {
	return prepareVM(ctx, newReporter(progress))
}

// spareDisk is the room on the disk beside the root, in MiB: runs write into copies of it.
const spareDisk = 512

func prepareVM(ctx context.Context, p *reporter) (VM, error) {
	if err := ensurePackages(ctx, p); err != nil {
		return VM{}, err
	}
	root, err := debianRoot(ctx, p, vmPackages)
	if err != nil {
		return VM{}, err
	}
	if kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*")); err != nil || len(kernels) != 1 {
		return VM{}, fmt.Errorf("the VM's root has %d kernels: remove %s and try again", len(kernels), root)
	}
	disk, err := cached(ctx, p, "making a disk of the VM's root", filepath.Base(root)+".ext4", func(tmp string) error {
		size, err := treeSize(root)
		if err != nil {
			return err
		}
		// No journal and no checks at boot: a run throws away what it wrote.
		return run(command(ctx, "", nil, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root, tmp,
			fmt.Sprintf("%dM", size>>20*5/4+spareDisk)))
	})
	return VM{Root: root, Disk: disk}, err
}

// treeSize adds up the files below dir.
func treeSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("add up %s: %w", dir, err)
	}
	return sum, nil
}
