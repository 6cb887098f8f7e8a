package install

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// CRIUVersion asks the host's CRIU, that of the installation in dir, for its version: "4.2.1".
func CRIUVersion(ctx context.Context, hostRoot, dir string) (string, error) {
	out, err := DefaultHost(hostRoot).run(ctx, nil, filepath.Join(first(dir, Prefix), "bin", "criu"), "--version")
	if err != nil {
		return "", fmt.Errorf("ask CRIU for its version: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if version, found := strings.CutPrefix(line, "Version:"); found {
			return strings.TrimSpace(version), nil
		}
	}
	return "", fmt.Errorf("ask CRIU for its version: it says %q", out)
}
