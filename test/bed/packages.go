package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sort"
	"strings"
)

// hostPackages maps the commands that the bed needs from the machine to the Debian packages that bring them.
var hostPackages = map[string]string{
	"debootstrap": "debootstrap", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "tar": "tar",
	"gcc": "gcc", "buildah": "buildah", "qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs",
}

// needsHeaders lists what a package needs beside itself to be of use without Recommends.
var needsHeaders = map[string][]string{"gcc": {"libc6-dev"}}

// EnsurePackages installs what the bed and BuildImage need from Debian and this machine lacks.
func EnsurePackages(ctx context.Context, progress io.Writer) error {
	return ensurePackages(ctx, newReporter(progress))
}

func ensurePackages(ctx context.Context, p *reporter) error {
	missing := missingPackages(exec.LookPath)
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks %s and has no apt-get to install them: install them yourself", strings.Join(missing, ", "))
	}
	const wait = "DPkg::Lock::Timeout=300"
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	return p.long("installing "+strings.Join(missing, ", "), func() error {
		// A foreign source that fails must not stop us; if Debian's own did, the next command tells.
		updated := run(command(ctx, "", env, "apt-get", "-o", wait, "update", "-qq"))
		args := append([]string{"apt-get", "-o", wait, "install", "-y", "-qq", "--no-install-recommends"}, missing...)
		if err := run(command(ctx, "", env, args...)); err != nil {
			return errors.Join(err, updated)
		}
		return nil
	})
}

func missingPackages(lookPath func(string) (string, error)) []string {
	seen := map[string]bool{}
	for command, pkg := range hostPackages {
		if _, err := lookPath(command); err == nil || seen[pkg] {
			continue
		}
		seen[pkg] = true
		for _, more := range needsHeaders[pkg] {
			seen[more] = true
		}
	}
	var missing []string
	for pkg := range seen {
		missing = append(missing, pkg)
	}
	sort.Strings(missing)
	return missing
}
