package bed

import (
	"context"
	"io"
	"path/filepath"
)

// Prepared are the parts of a bed that tests also use by themselves, and what else they need.
type Prepared struct {
	// Root is the nodes' Debian root, with runc, CRIU and containerd. Nobody may write to it.
	Root string
	// Versitygw is the program of the bed's S3 server.
	Versitygw string
	// Minio is the program of another S3 server, which no bed runs.
	Minio string
	// VM is for tests that need soft-dirty tracking.
	VM VM
}

// Prepare installs, builds and caches whatever the first Up would and the tests' MinIO, without bringing anything up. It
// writes a line for every step to progress.
func Prepare(ctx context.Context, progress io.Writer) (Prepared, error) {
	if err := EnsurePackages(ctx, progress); err != nil {
		return Prepared{}, err
	}
	checkout, err := checkout(ctx)
	if err != nil {
		return Prepared{}, err
	}
	p := newReporter(progress)
	root, err := nodeRoot(ctx, p)
	if err != nil {
		return Prepared{}, err
	}
	tools, err := buildTools(ctx, p, checkout)
	if err != nil {
		return Prepared{}, err
	}
	for _, build := range []func(context.Context, *reporter, string) (string, error){buildKubernetes, buildContainerd} {
		if _, err := build(ctx, p, checkout); err != nil {
			return Prepared{}, err
		}
	}
	minio, err := buildMinio(ctx, p, checkout)
	if err != nil {
		return Prepared{}, err
	}
	vm, err := prepareVM(ctx, p)
	if err != nil {
		return Prepared{}, err
	}
	return Prepared{Root: root, Versitygw: filepath.Join(tools, "versitygw"), Minio: filepath.Join(minio, "minio"), VM: vm}, nil
}

// Versitygw builds and caches the S3 server alone, and returns its path.
func Versitygw(ctx context.Context, progress io.Writer) (string, error) {
	checkout, err := checkout(ctx)
	if err != nil {
		return "", err
	}
	tools, err := buildTools(ctx, newReporter(progress), checkout)
	return filepath.Join(tools, "versitygw"), err
}
