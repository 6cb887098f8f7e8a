package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/restore/runtime"
)

// SelfTestOptions say which installation to test.
type SelfTestOptions struct {
	// HostRoot is where the host's root is seen.
	HostRoot string
	// Dir is the host path of the installation; empty: Prefix.
	Dir string
	// Command is put before commands for the host; empty: that of DefaultHost.
	Command []string
}

// selfTestTimeout bounds the whole test; it takes about a second.
const selfTestTimeout = time.Minute

// selfTestConfig is what CRIU is told of: the network is the host's, so it is not to be locked.
const selfTestConfig = "network-lock skip\n"

// SelfTest proves that this host can dump and restore: a small process is run by the runtime beneath, dumped with our
// CRIU, restored, and must go on counting where it stood. It leaves nothing behind, whatever happens. An error carries
// the last lines of CRIU's log.
func SelfTest(ctx context.Context, o SelfTestOptions) error {
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	host := DefaultHost(o.HostRoot)
	if o.Command != nil {
		host.Command = o.Command
	}
	dir := first(o.Dir, Prefix)
	settings, err := ReadSettings(host.Path(dir))
	if err != nil {
		return err
	}
	here, err := os.MkdirTemp(host.Path(dir), "self-test-")
	if err != nil {
		return fmt.Errorf("make a folder for the self-test: %w", err)
	}
	t := trial{host: host, here: here, id: "lifeboat-" + filepath.Base(here), runtime: settings.Runtime}
	t.there = filepath.Join(dir, filepath.Base(here))
	err = t.run(ctx, host.Path(filepath.Join(dir, "bin", "lifeboat-runtime")))
	return errors.Join(err, t.clear(context.WithoutCancel(ctx)))
}

// ReadSettings reads which runtime lies beneath, as Install has noted it, from an installation's folder as it is seen
// from here.
func ReadSettings(dir string) (runtime.File, error) {
	var settings runtime.File
	path := filepath.Join(dir, "etc", "runtime.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return settings, fmt.Errorf("read the installation's settings: %w", err)
	}
	if err := json.Unmarshal(text, &settings); err != nil {
		return settings, fmt.Errorf("read %s: %w", path, err)
	}
	return settings, nil
}

// trial is one self-test: a bundle in a folder of its own, seen as here in this container and as there on the host.
type trial struct {
	host        Host
	here, there string
	id, runtime string
}

// counted is the file in the container's root that Count counts into.
const counted = "/number"

func (t trial) run(ctx context.Context, program string) error {
	if err := t.bundle(program); err != nil {
		return err
	}
	if err := t.runc(ctx, "run", "--detach", "--bundle", t.there, t.id); err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	if err := t.counts(ctx, 0); err != nil {
		return fmt.Errorf("wait for the container to count: %w", err)
	}
	images := []string{"--image-path", t.there + "/image", "--work-path", t.there + "/work"}
	if err := t.runc(ctx, append(append([]string{"checkpoint"}, images...), t.id)...); err != nil {
		return t.withLog("dump a container", "dump.log", err)
	}
	stood := t.number()
	if err := t.runc(ctx, append(append([]string{"restore", "--detach", "--bundle", t.there}, images...), t.id)...); err != nil {
		return t.withLog("restore a container", "restore.log", err)
	}
	if err := t.counts(ctx, stood); err != nil {
		return t.withLog(fmt.Sprintf("wait for the restored container to count on from %d", stood), "restore.log", err)
	}
	return nil
}

// bundle lays out an OCI bundle whose root holds nothing but the program.
func (t trial) bundle(program string) error {
	type object = map[string]any
	namespaces := []object{}
	for _, kind := range []string{"pid", "mount", "ipc", "uts"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	config, err := json.Marshal(object{
		"ociVersion": "1.0.2",
		"root":       object{"path": "rootfs"},
		"process": object{
			"args": []string{"/program", runtime.CountArgument, counted}, "cwd": "/", "env": []string{"PATH=/"},
			"user": object{"uid": 0, "gid": 0}, "noNewPrivileges": true,
		},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=64k"}},
		},
		"linux": object{"namespaces": namespaces, "cgroupsPath": "/" + t.id},
	})
	if err != nil {
		return fmt.Errorf("write the self-test's bundle: %w", err)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read the self-test's program: %w", err)
	}
	for name, text := range map[string][]byte{
		"config.json": config, "rootfs/program": binary, "criu.conf": []byte(selfTestConfig), "image/.keep": nil, "work/.keep": nil,
	} {
		if _, err := writeFile(filepath.Join(t.here, name), text, 0o755); err != nil {
			return fmt.Errorf("write the self-test's bundle: %w", err)
		}
	}
	return nil
}

// runc calls the runtime beneath, which leaves its reasons in a log. It has a state folder of its own.
func (t trial) runc(ctx context.Context, args ...string) error {
	line := append([]string{t.runtime, "--root", t.there + "/state", "--log", t.there + "/log", "--log-format", "json"}, args...)
	err := t.host.detached(ctx, []string{"CRIU_CONFIG_FILE=" + t.there + "/criu.conf"}, line...)
	if err == nil {
		return nil
	}
	said, _ := os.ReadFile(filepath.Join(t.here, "log"))
	return fmt.Errorf("%w: %s", err, lastLines(string(said)))
}

// counts waits until the number is above floor.
func (t trial) counts(ctx context.Context, floor int) error {
	for t.number() <= floor {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it stands at %d: %w", t.number(), ctx.Err())
		case <-time.After(runtime.CountPause):
		}
	}
	return nil
}

func (t trial) number() int {
	text, err := os.ReadFile(filepath.Join(t.here, "rootfs", counted))
	if err != nil {
		return 0
	}
	number, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0
	}
	return number
}

// withLog adds the errors in a log of CRIU's.
func (t trial) withLog(what, name string, err error) error {
	return fmt.Errorf("%s: %w\nCRIU's log: %s", what, err, strings.TrimSpace(runtime.LogTail(filepath.Join(t.here, "work", name))))
}

// clear ends the container, where there is one, and removes the folder.
func (t trial) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	var err error
	if _, missing := os.Stat(filepath.Join(t.here, "state", t.id)); missing == nil {
		err = t.runc(ctx, "delete", "--force", t.id)
	}
	if err := errors.Join(err, os.RemoveAll(t.here)); err != nil {
		return fmt.Errorf("clear the self-test away: %w", err)
	}
	return nil
}
