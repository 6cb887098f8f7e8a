package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Uninstall takes Lifeboat off the host: the handler out of containerd's configuration, which is then byte for byte what
// it was, a restart, the agent's dumps and the binaries last. Containers run on. Take the node's label off first, so that no new pod comes.
// It may be repeated; where a container still runs through the wrapper, Result.InUse says so and the wrapper stays.
func Uninstall(ctx context.Context, o Options) (Result, error) {
	unlock, err := lock(o.Host.Path(lockPath))
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	daemon, err := findContainerd(ctx, o)
	if err != nil {
		return Result{}, err
	}
	config, err := readConfiguration(o.Host, daemon.config)
	if err != nil {
		return Result{}, err
	}
	result := Result{Schema: config.schema, File: first(config.dropIn, config.path)}
	if err := daemon.apply(ctx, o, config.removal(), nil, &result); err != nil {
		return result, err
	}
	if result.InUse, err = o.inUse(); err != nil {
		return result, err
	}
	return result, o.removeFiles(result.InUse != "")
}

// inUse is the id of a container whose shim runs our wrapper, empty where there is none. The shim keeps its options, the
// name of its binary among them, in the bundle.
func (o Options) inUse() (string, error) {
	files, err := filepath.Glob(o.Host.Path(filepath.Join(shimStatePath, "*", "*", "options.json")))
	if err != nil {
		return "", fmt.Errorf("look for containers of ours: %w", err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(wrapperPath)) {
			return filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", nil
}

// removeFiles removes what the agent has kept, and what Install has put beneath Prefix, but for the wrapper and the name of
// the runtime beneath where they are needed yet.
func (o Options) removeFiles(keepWrapper bool) error {
	if err := os.RemoveAll(o.Host.Path(statePath)); err != nil {
		return fmt.Errorf("remove the agent's dumps: %w", err)
	}
	if !keepWrapper {
		if err := os.RemoveAll(o.Host.Path(Prefix)); err != nil {
			return fmt.Errorf("remove the binaries: %w", err)
		}
		return nil
	}
	for _, path := range []string{"lib", "stage", "bin/criu"} {
		if err := os.RemoveAll(o.Host.Path(filepath.Join(Prefix, path))); err != nil {
			return fmt.Errorf("remove the binaries: %w", err)
		}
	}
	return nil
}
