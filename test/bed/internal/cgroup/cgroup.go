// Package cgroup makes and removes a node's cgroup in every hierarchy of the machine: version 1, hybrid or version 2.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mountPoint = "/sys/fs/cgroup"

// hierarchies lists the mounted hierarchies' folders.
func hierarchies() ([]string, error) {
	if unified() {
		return []string{mountPoint}, nil
	}
	entries, err := os.ReadDir(mountPoint)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		dir := filepath.Join(mountPoint, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && e.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// unified reports whether the machine has cgroup version 2 alone.
func unified() bool {
	_, err := os.Stat(filepath.Join(mountPoint, "cgroup.controllers"))
	return err == nil
}

// Create makes the cgroup, ready for a kubelet to make its own beneath.
func Create(name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := inherit(root, dir); err != nil {
			return fmt.Errorf("make cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// inherit fills what a new cgroup lacks: cpusets start empty in version 1, controllers start disabled in version 2.
func inherit(root, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(root, file))
		if err == nil && !unified() {
			err = os.WriteFile(filepath.Join(dir, file), b, 0o644)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !unified() {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(b)) {
		for _, d := range []string{root, dir} {
			if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
				return fmt.Errorf("enable %s: %w", controller, err)
			}
		}
	}
	return nil
}

// Kill sends SIGKILL to every process beneath the cgroup and thaws what is frozen: the version 1 freezer holds even a
// dying process. The signal is pending before the thaw, so no frozen process runs an instruction of its own again.
func Kill(name string) error {
	return walk(name, func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return ignoreGone(err)
		}
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 { // 0 is a process outside our pid namespace
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return ignoreGone(thaw(dir))
	})
}

func thaw(dir string) error {
	state := filepath.Join(dir, "freezer.state")
	b, err := os.ReadFile(state)
	if err != nil || strings.TrimSpace(string(b)) == "THAWED" {
		return err
	}
	return os.WriteFile(state, []byte("THAWED"), 0o644)
}

// Remove kills what is left beneath the cgroup and removes it everywhere. A cgroup that does not exist is removed.
func Remove(ctx context.Context, name string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := errors.Join(Kill(name), walk(name, func(dir string) error { return ignoreGone(syscall.Rmdir(dir)) }))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", name, err)
		case <-tick.C:
		}
	}
}

// walk visits the cgroup and all beneath it, children first, in every hierarchy.
func walk(name string, visit func(dir string) error) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	var faults []error
	for _, root := range roots {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return ignoreGone(err)
		})
		faults = append(faults, err)
		for _, dir := range slices.Backward(dirs) {
			faults = append(faults, visit(dir))
		}
	}
	return errors.Join(faults...)
}

// Find lists the folders of the cgroup that exist.
func Find(name string) ([]string, error) {
	var found []string
	err := walk(name, func(dir string) error {
		found = append(found, dir)
		return nil
	})
	return found, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}
