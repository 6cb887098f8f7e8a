// Package install puts Lifeboat onto a node and takes it off again: CRIU and the wrapper beneath /opt/lifeboat, and the
// runtime handler "lifeboat" into containerd's configuration.
//
// # What holds
//
//   - The other runtimes stay as they are. A drop-in that holds only our handler can silently delete others (where its
//     schema is not the main file's), so the effective configuration (`containerd config dump`) is compared with and
//     without our part on a staged copy, before any file that containerd reads is touched, and once more afterwards. If
//     anything but our handler differs, the old bytes are there again and the error says what differed.
//   - Every file appears whole: temporary name, fsync, rename. The main file is edited only where it imports no folder,
//     and then only by one block at its end, which uninstall cuts out: byte for byte what was there before.
//   - containerd is restarted only when bytes have changed, or when a run before was ended between the change and the
//     restart (a marker file remembers that). If it does not come back, the old bytes return and it is restarted again.
//   - An end by signal cleans nothing up: the next run completes what this one began. Two runs never overlap (flock).
//   - Uninstall goes the other way, the binaries last; the wrapper itself stays as long as a container runs through it,
//     for containerd could not end that container without it.
//
// A distribution that writes containerd's configuration anew on each restart (k3s) drops our part; its own template is
// the place to put it there.
package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/lifeboat-dev/lifeboat/restore/runtime"
)

// Options say what to put where. DefaultOptions are those of a node; tests bring their own.
type Options struct {
	Host Host
	// Source holds bin/ and lib/ as the image brings them.
	Source string
	// Containerd and Config are host paths of containerd's binary and main file; empty: those of the running one.
	Containerd, Config string
	// Socket is the host path of containerd's socket; empty: /run/containerd/containerd.sock.
	Socket string
	// RestartCommand runs in the host's namespaces; RestartTimeout is how long containerd may take to answer again.
	RestartCommand []string
	RestartTimeout time.Duration
	// Proc is the proc file system that shows the host's processes; empty: /proc.
	Proc   string
	Logger zerolog.Logger
}

// DefaultOptions are those of the DaemonSet's init container.
func DefaultOptions(hostRoot string, logger zerolog.Logger) Options {
	return Options{
		Host:           DefaultHost(hostRoot),
		Source:         "/usr/lib/lifeboat",
		RestartCommand: []string{"systemctl", "restart", "containerd"},
		RestartTimeout: time.Minute,
		Logger:         logger,
	}
}

func (o Options) proc() string { return first(o.Proc, "/proc") }

// Result is what Install or Uninstall found and did.
type Result struct {
	// Containerd is the version; Schema that of its main file.
	Containerd string
	Schema     int64
	// File is the host path that holds our handler.
	File string
	// Runtime is the host path of the runtime beneath.
	Runtime string
	// FilesWritten counts the binaries that were new or differed.
	FilesWritten int
	// Changed says that containerd's configuration changed; Restarted that containerd was restarted.
	Changed, Restarted bool
	// InUse names a container that still runs through the wrapper, which uninstall has therefore left in place.
	InUse string
}

// Host paths beside Prefix.
const (
	lockPath    = "/run/lifeboat/install.lock"
	stagePath   = Prefix + "/stage"
	runtimePath = Prefix + "/etc/runtime.json"
	pendingPath = Prefix + "/etc/restart-pending"
	wrapperPath = Prefix + "/bin/lifeboat-runtime"
	// statePath is the agent's --state-dir: where an agent was killed, it holds the memory of what it was dumping.
	statePath     = "/var/lib/lifeboat"
	shimStatePath = "/run/containerd/io.containerd.runtime.v2.task"
)

// Install puts Lifeboat onto the host. It may be repeated: what is in place already stays untouched.
func Install(ctx context.Context, o Options) (Result, error) {
	unlock, err := lock(o.Host.Path(lockPath))
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	daemon, err := findContainerd(ctx, o)
	if err != nil {
		return Result{}, err
	}
	var result Result
	if result.Containerd, err = daemon.version(ctx); err != nil {
		return result, err
	}
	config, err := readConfiguration(o.Host, daemon.config)
	if err != nil {
		return result, err
	}
	result.Schema, result.File = config.schema, first(config.dropIn, config.path)
	changes, model, want, err := daemon.rehearse(ctx, config)
	if err != nil {
		return result, err
	}
	if result.Runtime, err = o.putFiles(ctx, model, &result.FilesWritten); err != nil {
		return result, err
	}
	err = daemon.apply(ctx, o, changes, want, &result)
	return result, err
}

// rehearse works out the changes and proves on a staged copy that they add our handler and nothing else. It returns
// them with the handler that ours is modelled on and the effective configuration to expect.
func (c containerd) rehearse(ctx context.Context, config configuration) (changes []change, model, want map[string]any, err error) {
	defer func() { _ = os.RemoveAll(c.host.Path(stagePath)) }()
	before, err := c.staged(ctx, config, config.removal())
	if err != nil {
		return nil, nil, nil, err
	}
	if model, err = modelHandler(before); err != nil {
		return nil, nil, nil, err
	}
	handler := ourHandler(model)
	text, err := stanza(config.schema, handler)
	if err != nil {
		return nil, nil, nil, err
	}
	changes = config.addition(text)
	if want, err = c.staged(ctx, config, changes); err != nil {
		return nil, nil, nil, err
	}
	return changes, model, want, onlyAdds(before, want, Handler, handler)
}

// staged is the effective configuration after the changes.
func (c containerd) staged(ctx context.Context, config configuration, changes []change) (map[string]any, error) {
	path, err := config.stage(stagePath, changes)
	if err != nil {
		return nil, err
	}
	return c.dump(ctx, path)
}

// putFiles copies the binaries, libraries first, and names the runtime beneath, which it returns.
func (o Options) putFiles(ctx context.Context, model map[string]any, written *int) (string, error) {
	name, err := beneath(model)
	if err != nil {
		return "", err
	}
	path, err := o.Host.lookPath(ctx, name)
	if err != nil {
		return "", fmt.Errorf("find the runtime that containerd runs now: %w", err)
	}
	for _, folder := range []string{"lib", "bin"} {
		count, err := copyFolder(filepath.Join(o.Source, folder), o.Host.Path(filepath.Join(Prefix, folder)))
		*written += count
		if err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(runtime.File{Runtime: path})
	if err != nil {
		return "", err
	}
	_, err = writeFile(o.Host.Path(runtimePath), append(text, '\n'), 0o644)
	return path, err
}

// apply makes the changes, has containerd read them and restarts it where needed. On error the old bytes are back,
// unless the context has ended.
func (c containerd) apply(ctx context.Context, o Options, changes []change, want map[string]any, result *Result) error {
	old, err := o.current(changes)
	if err != nil {
		return err
	}
	for i := range changes {
		result.Changed = result.Changed || !changes[i].same(old[i])
	}
	if result.Changed {
		if err := c.write(ctx, o, changes, old, want); err != nil {
			return err
		}
		o.Logger.Info().Str("file", result.File).Msg("containerd's configuration changed")
	}
	if _, err := os.Stat(o.Host.Path(pendingPath)); err != nil {
		return nil
	}
	if err := c.restart(ctx, o); err != nil {
		if ctx.Err() != nil || !result.Changed {
			return err
		}
		back := errors.Join(o.put(old), c.restart(ctx, o))
		return fmt.Errorf("containerd did not come back with our runtime handler, so its old configuration is in "+
			"place again: %w", errors.Join(err, back))
	}
	result.Restarted = true
	return removeFile(o.Host.Path(pendingPath))
}

// write puts the changes in place, the marker of a restart to come first, and compares what containerd makes of them.
func (c containerd) write(ctx context.Context, o Options, changes, old []change, want map[string]any) error {
	if _, err := writeFile(o.Host.Path(pendingPath), nil, 0o644); err != nil {
		return err
	}
	err := o.put(changes)
	if err == nil && want != nil {
		var got map[string]any
		if got, err = c.dump(ctx, c.config); err == nil {
			if faults := difference(want, got, ""); len(faults) > 0 {
				err = fmt.Errorf("containerd's effective configuration is not the rehearsed one: %v", faults[:min(len(faults), 5)])
			}
		}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, o.put(old), removeFile(o.Host.Path(pendingPath)))
}

// current are the bytes that changes would replace.
func (o Options) current(changes []change) ([]change, error) {
	var old []change
	for _, next := range changes {
		text, err := os.ReadFile(o.Host.Path(next.path))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read what is to change: %w", err)
		}
		old = append(old, change{path: next.path, text: text})
	}
	return old, nil
}

func (o Options) put(changes []change) error {
	for _, next := range changes {
		path := o.Host.Path(next.path)
		if next.text == nil {
			if err := removeFile(path); err != nil {
				return err
			}
			continue
		}
		if _, err := writeFile(path, next.text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c change) same(other change) bool {
	return (c.text == nil) == (other.text == nil) && bytes.Equal(c.text, other.text)
}
