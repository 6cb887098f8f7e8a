package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Prefix is where Lifeboat lies on a host. CRIU's loader and libraries are bound to this path.
const Prefix = "/opt/lifeboat"

// searchPath is PATH for commands on the host, whatever the container's is.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Host is a host as seen from a container on it.
type Host struct {
	// Root is where the host's root is mounted.
	Root string
	// Command is put before every command that shall run in the host's namespaces.
	Command []string
}

// DefaultHost is the host beneath a privileged container with hostPID, mounted at root.
func DefaultHost(root string) Host {
	return Host{Root: root, Command: []string{"nsenter", "-t", "1", "-m", "-u", "-i", "-n", "--"}}
}

// Path is where a path of the host is found in this container.
func (h Host) Path(path string) string { return filepath.Join(h.Root, path) }

// run runs a command on the host and returns its stdout. An error carries its stderr.
func (h Host) run(ctx context.Context, env []string, args ...string) ([]byte, error) {
	command := h.command(ctx, env, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%s on the host: %w: %s", strings.Join(args, " "), err, lastLines(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// detached runs a command that leaves a container behind: its stdin, stdout and stderr, which become the container's, are
// /dev/null.
func (h Host) detached(ctx context.Context, env []string, args ...string) error {
	if err := h.command(ctx, env, args...).Run(); err != nil {
		return fmt.Errorf("%s on the host: %w", strings.Join(args, " "), err)
	}
	return nil
}

// spawn runs a command on the host that may leave processes behind. Its output goes to a file, for a pipe would have to
// be held open for them.
func (h Host) spawn(ctx context.Context, args ...string) error {
	output, err := os.CreateTemp("", "lifeboat-*")
	if err != nil {
		return fmt.Errorf("keep the output of %s: %w", args[0], err)
	}
	defer func() { _ = os.Remove(output.Name()); _ = output.Close() }()
	command := h.command(ctx, nil, args...)
	command.Stdout, command.Stderr = output, output
	if err := command.Run(); err != nil {
		said, _ := os.ReadFile(output.Name())
		return fmt.Errorf("%s on the host: %w: %s", strings.Join(args, " "), err, lastLines(string(said)))
	}
	return nil
}

// pipeGrace is how long a command that was cut short may hold its output open.
const pipeGrace = 2 * time.Second

func (h Host) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	line := append(append([]string{}, h.Command...), "env", "PATH="+Prefix+"/bin:"+searchPath)
	line = append(append(line, env...), args...)
	command := exec.CommandContext(ctx, line[0], line[1:]...)
	command.WaitDelay = pipeGrace
	return command
}

// lookPath finds a program in the host's PATH.
func (h Host) lookPath(ctx context.Context, name string) (string, error) {
	if filepath.IsAbs(name) {
		if _, err := os.Stat(h.Path(name)); err != nil {
			return "", fmt.Errorf("find %s on the host: %w", name, err)
		}
		return name, nil
	}
	out, err := h.run(ctx, nil, "sh", "-c", `command -v -- "$0"`, name)
	if err != nil {
		return "", fmt.Errorf("find %s in the host's PATH (%s): %w", name, searchPath, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// lastLines keeps an error readable.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
