package nodeinit

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// libFolder holds what the bed itself puts into a node.
const libFolder = "/usr/lib/bed"

// tunables are machine-wide settings that the kubelet wants to write. It is shown the values it wants instead.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// buildRoot makes the node's root file system and moves into it. It leaves the machine's mounts behind.
func buildRoot(c layout.NodeConfig) error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := c.Dir.Node(c.Name, "root")
	for _, dir := range []string{"upper", "work", "root", "containerd", "kubelet", "log", "boot"} {
		if err := os.MkdirAll(c.Dir.Node(c.Name, dir), 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", c.Root, c.Dir.Node(c.Name, "upper"), c.Dir.Node(c.Name, "work"))
	if err := mount("overlay", root, "overlay", 0, layers); err != nil {
		return err
	}
	for _, step := range []func(layout.NodeConfig, string) error{kernelMounts, tunableMounts, stateMounts, programMounts} {
		if err := step(c, root); err != nil {
			return err
		}
	}
	if err := carryKeys(c, root); err != nil {
		return err
	}
	return enter(root)
}

func kernelMounts(_ layout.NodeConfig, root string) error {
	in := func(p string) string { return filepath.Join(root, p) }
	return errors.Join(
		mount("proc", in("proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount("sysfs", in("sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount("/sys/fs/cgroup", in("sys/fs/cgroup"), "", unix.MS_BIND|unix.MS_REC, ""),
		mount("/dev", in("dev"), "", unix.MS_BIND, ""),
		mount("devpts", in("dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
		mount("tmpfs", in("dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		mount("tmpfs", in("run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"),
		mount("tmpfs", in("tmp"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
	)
}

func tunableMounts(c layout.NodeConfig, root string) error {
	values := maps.Clone(tunables)
	values["kernel/random/boot_id"] = c.BootID // the kubelet reports a reboot by it
	for name, value := range values {
		file := c.Dir.Node(c.Name, "boot", strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, filepath.Join(root, "proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// stateMounts binds folders that must not lie on the overlay: containerd makes overlays of its own in them.
func stateMounts(c layout.NodeConfig, root string) error {
	for target, source := range map[string]string{
		"/var/lib/containerd": c.Dir.Node(c.Name, "containerd"),
		"/var/lib/kubelet":    c.Dir.Node(c.Name, "kubelet"),
		"/var/log":            c.Dir.Node(c.Name, "log"),
		layout.SharedFolder:   c.Dir.Shared(),
	} {
		if err := bind(source, filepath.Join(root, target)); err != nil {
			return err
		}
	}
	return nil
}

func programMounts(c layout.NodeConfig, root string) error {
	files := map[string]string{
		libFolder + "/bed": c.BedBinary,
		"/usr/bin/kubelet": filepath.Join(c.Kubernetes, "kubelet"),
	}
	if c.Shim != "" {
		files[shimPath] = c.Shim
	}
	if c.Containerd != "" {
		for _, name := range []string{"containerd", "containerd-shim-runc-v2"} {
			files["/usr/local/bin/"+name] = filepath.Join(c.Containerd, name)
		}
	}
	for target, source := range files {
		if err := bind(source, filepath.Join(root, target)); err != nil {
			return err
		}
	}
	return nil
}

// enter makes root the root of this mount namespace and forgets everything else. Mounts are shared from here on, as
// systemd leaves them: the kubelet's mount propagation needs it.
func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root ends up on top of the new one
		return fmt.Errorf("pivot to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter /: %w", err)
	}
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// bind mounts a file or folder, and makes its target first.
func bind(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = touch(target)
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	return mount(source, target, "", unix.MS_BIND, "")
}

func touch(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o755)
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
