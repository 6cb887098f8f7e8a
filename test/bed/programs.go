package bed

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	kubernetesVersion = "v1.36.3"
	versionPackage    = "k8s.io/component-base/version"
)

//go:embed shim/prlimit.c
var shimSource []byte

// buildKubernetes returns the folder of the Kubernetes server binaries.
func buildKubernetes(ctx context.Context, p *reporter, root string) (string, error) {
	minor := strings.Split(kubernetesVersion, ".")[1]
	ldflags := fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s "+
		"-X %[1]s.gitTreeState=clean -X %[1]s.gitCommit=%[2]s -X %[1]s.buildDate=2026-01-01T00:00:00Z",
		versionPackage, kubernetesVersion, minor)
	const from = "k8s.io/kubernetes/cmd/"
	return buildModule(ctx, p, filepath.Join(root, "test/bed/k8s"), "kubernetes", ldflags, "selinux,notest,grpcnotrace",
		from+"kube-apiserver", from+"kube-controller-manager", from+"kube-scheduler", from+"kubelet")
}

// buildTools returns the folder with versitygw.
func buildTools(ctx context.Context, p *reporter, root string) (string, error) {
	return buildModule(ctx, p, filepath.Join(root, "test/bed/tools"), "tools", "-s -w", "",
		"github.com/versity/versitygw/cmd/versitygw")
}

// buildMinio returns the folder with MinIO, the S3 server that tests use beside versitygw.
func buildMinio(ctx context.Context, p *reporter, root string) (string, error) {
	return buildModule(ctx, p, filepath.Join(root, "test/bed/tools"), "minio", "-s -w", "", "github.com/minio/minio")
}

// buildContainerd returns the folder with the containerd that test/bed/tools names, and its shim.
func buildContainerd(ctx context.Context, p *reporter, root string) (string, error) {
	const from = "github.com/containerd/containerd/v2"
	dir := filepath.Join(root, "test/bed/tools")
	version, err := command(ctx, dir, nil, "go", "list", "-m", "-f", "{{.Version}}", from).Output()
	if err != nil {
		return "", fmt.Errorf("find containerd's version: %w", err)
	}
	ldflags := fmt.Sprintf("-s -w -X %[1]s/version.Version=%[2]s -X %[1]s/version.Package=%[1]s", from, strings.TrimSpace(string(version)))
	return buildModule(ctx, p, dir, "containerd", ldflags, "no_btrfs,no_devmapper,no_zfs",
		from+"/cmd/containerd", from+"/cmd/containerd-shim-runc-v2")
}

// buildModule builds static programs of a module and keeps them in the cache, one by one so that progress shows.
func buildModule(ctx context.Context, p *reporter, dir, name, ldflags, tags string, packages ...string) (string, error) {
	parts := append([]string{ldflags, tags}, packages...)
	for _, file := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return "", fmt.Errorf("read the module of %s: %w", name, err)
		}
		parts = append(parts, string(b))
	}
	version, err := command(ctx, dir, nil, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("find Go's version: %w", err)
	}
	parts = append(parts, string(version))
	what := "building " + name + " (minutes at first, then seconds)"
	return cached(ctx, p, what, "bin-"+name+"-"+key(parts...), func(tmp string) error {
		for i, pkg := range packages {
			program := filepath.Base(pkg)
			p.say("building %s: %s (%d of %d)", name, program, i+1, len(packages))
			err := run(command(ctx, dir, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false",
				"-tags", tags, "-ldflags", ldflags, "-o", filepath.Join(tmp, program), pkg))
			if err != nil {
				return fmt.Errorf("build %s: %w", program, err)
			}
		}
		return nil
	})
}

// buildOwn builds a static program of the product's module. Beds that come up side by side build the same ones, so out is
// replaced in one step.
func buildOwn(ctx context.Context, root, pkg, out string) error {
	dir := filepath.Dir(out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for %s: %w", out, err)
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("make folder for %s: %w", out, err)
	}
	defer os.RemoveAll(tmp)
	built := filepath.Join(tmp, filepath.Base(out))
	err = run(command(ctx, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", built, pkg))
	if err != nil {
		return err
	}
	return os.Rename(built, out)
}

// BuildBinary builds a static program of the product's module, given as a package path relative to the checkout
// ("./cmd/lifeboat-agent"), into the file out.
func BuildBinary(ctx context.Context, pkg, out string) error {
	root, err := checkout(ctx)
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	return buildOwn(ctx, root, pkg, out)
}

const bedCommand = "./test/bed/cmd/bed"

// bedBinary puts the bed program into the state folder: itself where this process is it, built otherwise.
func bedBinary(ctx context.Context, root, out string) error {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Path != module+strings.TrimPrefix(bedCommand, ".") {
		return buildOwn(ctx, root, bedCommand, out)
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy own program: %w", err)
	}
	return os.WriteFile(out, b, 0o755)
}

// buildShim returns the prlimit shim, or "" where the machine grants CAP_SYS_RESOURCE and needs none.
func buildShim(ctx context.Context, p *reporter) (string, error) {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	if err != nil {
		return "", fmt.Errorf("look for CAP_SYS_RESOURCE: %w", err)
	}
	if has == 1 {
		return "", nil
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", fmt.Errorf("this machine lacks CAP_SYS_RESOURCE, and gcc to build CRIU a way round it: %w", err)
	}
	return cached(ctx, p, "building the prlimit shim", "prlimit-shim-"+key(string(shimSource))+".so", func(tmp string) error {
		cmd := command(ctx, "", nil, "gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-o", tmp, "-")
		cmd.Stdin = strings.NewReader(string(shimSource))
		return run(cmd)
	})
}
