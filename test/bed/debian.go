package bed

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// suite is the Debian release of nodes and images: the first with a CRIU that works on new kernels.
const suite = "forky"

// nodePackages is what a node consists of. etcd and kubectl lie there for the control plane.
var nodePackages = []string{"ca-certificates", "conntrack", "containerd", "containernetworking-plugins", "criu", "curl",
	"etcd-server", "iproute2", "iptables", "jq", "kmod", "kubernetes-client", "mount", "nftables", "procps", "runc"}

// nodePrograms must exist in a node's root: some packages fail to configure in a chroot without harm, some do not.
var nodePrograms = []string{"usr/sbin/criu", "usr/sbin/runc", "usr/bin/containerd", "usr/bin/etcd", "usr/bin/kubectl"}

//go:embed debian.sh
var debianScript string

// DebianRootfs returns a tar of a minimal Debian root with the packages, made once and then taken from the cache. It is
// fit to be an image's one layer.
func DebianRootfs(ctx context.Context, progress io.Writer, packages ...string) (string, error) {
	return debianTar(ctx, newReporter(progress), packages)
}

// DebianRoot returns the folder of a minimal Debian root with the packages, made once and then taken from the cache.
// Nobody may write to it: mount something over it.
func DebianRoot(ctx context.Context, progress io.Writer, packages ...string) (string, error) {
	return debianRoot(ctx, newReporter(progress), packages)
}

func debianTar(ctx context.Context, p *reporter, packages []string) (string, error) {
	root, err := debianRoot(ctx, p, packages)
	if err != nil {
		return "", err
	}
	return cached(ctx, p, "packing a Debian root", filepath.Base(root)+".tar", func(tmp string) error {
		return run(command(ctx, "", nil, "tar", "--sort=name", "--numeric-owner", "--xattrs",
			"--exclude=./var/cache/apt/*.bin", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*",
			"-C", root, "-cf", tmp, "."))
	})
}

// nodeRoot returns the folder of the root that all nodes share.
func nodeRoot(ctx context.Context, p *reporter) (string, error) {
	root, err := debianRoot(ctx, p, nodePackages)
	if err != nil {
		return "", err
	}
	var faults []error
	for _, program := range nodePrograms {
		if _, err := os.Stat(filepath.Join(root, program)); err != nil {
			faults = append(faults, fmt.Errorf("node root lacks %s: remove %s and try again", program, root))
		}
	}
	return root, errors.Join(faults...)
}

// debianRoot returns the folder of a Debian root with the packages.
func debianRoot(ctx context.Context, p *reporter, packages []string) (string, error) {
	packages = slices.Sorted(slices.Values(packages))
	base, err := cached(ctx, p, "debootstrap of Debian "+suite, "debian-"+key(suite, debianScript), func(tmp string) error {
		return run(debianCommand(ctx, "bootstrap", tmp))
	})
	if err != nil || len(packages) == 0 {
		return base, err
	}
	what := "installing Debian packages (" + packages[0]
	if len(packages) > 1 {
		what += fmt.Sprintf(" and %d more", len(packages)-1)
	}
	what += ")"
	return cached(ctx, p, what, "debian-"+key(append(packages, suite, debianScript)...), func(tmp string) error {
		return run(debianCommand(ctx, append([]string{"install", tmp, base}, packages...)...))
	})
}

// debianCommand runs debian.sh in mount and pid namespaces of its own: what it mounts and starts cannot stay behind.
func debianCommand(ctx context.Context, args ...string) *exec.Cmd {
	script := []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", debianScript, "debian.sh"}
	return command(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive", "SUITE=" + suite}, append(script, args...)...)
}
