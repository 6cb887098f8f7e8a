package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Where containerd lies unless its own command line says otherwise.
const (
	defaultConfig = "/etc/containerd/config.toml"
	defaultSocket = "/run/containerd/containerd.sock"
)

// containerd is the one of this host.
type containerd struct {
	host Host
	// binary and config are host paths; the config need not exist.
	binary, config string
}

// findContainerd takes what the options name, else what the command line of the host's running containerd says, else the
// defaults.
func findContainerd(ctx context.Context, o Options) (containerd, error) {
	found := containerd{host: o.Host, binary: o.Containerd, config: o.Config}
	if found.binary == "" || found.config == "" {
		binary, config := runningContainerd(o.proc())
		found.binary, found.config = first(found.binary, binary), first(found.config, config)
	}
	found.config = first(found.config, defaultConfig)
	if found.binary == "" {
		binary, err := o.Host.lookPath(ctx, "containerd")
		if err != nil {
			return found, fmt.Errorf("no containerd runs on this node and none is in its PATH: Lifeboat needs "+
				"containerd 2.0 or newer: %w", err)
		}
		found.binary = binary
	}
	return found, nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// runningContainerd looks for a containerd in the mount namespace of process 1.
func runningContainerd(proc string) (binary, config string) {
	home, err := os.Readlink(filepath.Join(proc, "1/ns/mnt"))
	if err != nil {
		return "", ""
	}
	names, _ := filepath.Glob(filepath.Join(proc, "[0-9]*/comm"))
	for _, name := range names {
		dir := filepath.Dir(name)
		comm, err := os.ReadFile(name)
		if err != nil || string(comm) != "containerd\n" {
			continue
		}
		if space, err := os.Readlink(filepath.Join(dir, "ns/mnt")); err != nil || space != home {
			continue
		}
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		return strings.TrimSuffix(exe, " (deleted)"), configFlag(strings.Split(string(cmdline), "\x00"))
	}
	return "", ""
}

// configFlag is the value of --config, -config or -c, empty where there is none.
func configFlag(args []string) string {
	for i, arg := range args {
		name, value, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") || (name != "config" && name != "c") {
			continue
		}
		if inline {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

var versionPattern = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.(\d+)\S*`)

// version asks the binary, and refuses what is too old.
func (c containerd) version(ctx context.Context) (string, error) {
	out, err := c.host.run(ctx, nil, c.binary, "--version")
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	match := versionPattern.FindStringSubmatch(string(out))
	if match == nil {
		return "", fmt.Errorf("read containerd's version from %q", bytes.TrimSpace(out))
	}
	if major, err := strconv.Atoi(match[1]); err != nil || major < 2 {
		return "", fmt.Errorf("containerd on this node is %s, and before 2.0 a drop-in replaces the other runtimes: "+
			"upgrade the node's containerd to 2.0 or newer", match[0])
	}
	return match[0], nil
}

// dump is the effective configuration that containerd would run with, given the main file at path on the host. What it
// imports does not count as a part of it.
func (c containerd) dump(ctx context.Context, path string) (map[string]any, error) {
	out, err := c.host.run(ctx, nil, c.binary, "--config", path, "config", "dump")
	if err != nil {
		return nil, fmt.Errorf("containerd does not accept its configuration %s: %w", path, err)
	}
	var effective map[string]any
	if err := toml.Unmarshal(out, &effective); err != nil {
		return nil, fmt.Errorf("read containerd's effective configuration: %w", err)
	}
	delete(effective, "imports")
	return effective, nil
}

// socketPause is the time between two questions whether containerd is up again.
const socketPause = 200 * time.Millisecond

// restart runs the restart command and waits until containerd answers on its socket.
func (c containerd) restart(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.RestartTimeout)
	defer cancel()
	if err := c.host.spawn(ctx, o.RestartCommand...); err != nil {
		return fmt.Errorf("restart containerd: %w", err)
	}
	return c.wait(ctx, first(o.Socket, defaultSocket))
}

func (c containerd) wait(ctx context.Context, socket string) error {
	connection, err := grpc.NewClient("unix://"+c.host.Path(socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer func() { _ = connection.Close() }()
	health := grpc_health_v1.NewHealthClient(connection)
	for {
		connection.ResetConnectBackoff()
		_, err = health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer on %s after its restart: %w", socket, err)
		case <-time.After(socketPause):
		}
	}
}
