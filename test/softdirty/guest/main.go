// Command guest is process 1 of the VM of package softdirty: it makes the disk the root, runs the job there, tells how it
// ended, and ends the VM.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	program = "/test-binary"
	// diskWait bounds the wait for the disk.
	diskWait = 20 * time.Second
)

// modules are what CRIU and runc want of the kernel.
var modules = []string{"nf_tables", "tun", "veth", "overlay", "unix_diag", "tcp_diag", "udp_diag", "raw_diag",
	"inet_diag", "netlink_diag", "af_packet_diag"}

func main() {
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest: power off:", err)
	}
}

func run() error {
	text, err := os.ReadFile("/job")
	if err != nil {
		return err
	}
	var orders []string
	if err := json.Unmarshal(text, &orders); err != nil {
		return err
	}
	arguments, err := strconv.Atoi(orders[0])
	if err != nil {
		return err
	}
	if err := findRoot(); err != nil {
		return err
	}
	if said, err := exec.Command("/usr/sbin/modprobe", append([]string{"-a"}, modules...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("load modules: %w: %s", err, said)
	}
	if said, err := exec.Command("/usr/sbin/ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("bring lo up: %w: %s", err, said)
	}
	output, err := port("/dev/ttyS1")
	if err != nil {
		return err
	}
	result, err := port("/dev/ttyS2")
	if err != nil {
		return err
	}
	job := exec.Command(program, orders[1:1+arguments]...)
	job.Env, job.Dir, job.Stdout, job.Stderr = orders[1+arguments:], "/", output, output
	status, err := reap(job)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(result, status)
	return errors.Join(err, drain(output), drain(result))
}

// findRoot makes the disk the root, with the program in it.
func findRoot() error {
	const root = "/disk"
	for _, dir := range []string{root, "/dev"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	driver, err := os.Open("/virtio_blk")
	if err != nil {
		return err
	}
	const compressed = 4 // MODULE_INIT_COMPRESSED_FILE
	if err := unix.FinitModule(int(driver.Fd()), "", compressed); err != nil {
		return fmt.Errorf("load virtio_blk: %w", err)
	}
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for began := time.Now(); ; {
		if err = unix.Mount("/dev/vda", root, "ext4", unix.MS_NOATIME, ""); err == nil {
			break
		}
		if time.Since(began) > diskWait {
			return fmt.Errorf("mount the disk: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	content, err := os.ReadFile("/program")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, program), content, 0o755); err != nil {
		return err
	}
	if err := os.Remove("/program"); err != nil { // it takes memory
		return err
	}
	return errors.Join(enter(root), mounts())
}

// enter makes root the root. Source: switch_root(8), since what the kernel booted with cannot be left by pivot_root.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	return errors.Join(unix.Chroot("."), os.Chdir("/"))
}

func mounts() error {
	for _, m := range []struct{ where, kind, options string }{
		{"/proc", "proc", ""}, {"/sys", "sysfs", ""}, {"/sys/fs/cgroup", "cgroup2", ""}, {"/dev", "devtmpfs", ""},
		{"/dev/pts", "devpts", ""}, {"/dev/shm", "tmpfs", ""}, {"/run", "tmpfs", ""}, {"/tmp", "tmpfs", ""},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.where, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

// port opens a serial port for bytes as they are.
func port(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	mode := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &mode); err != nil {
		return nil, fmt.Errorf("set %s: %w", path, err)
	}
	return f, nil
}

// drain waits until all is sent, as tcdrain(3) does.
func drain(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) }

// reap runs a program, waits for whatever is left to process 1 meanwhile, and returns its exit status.
func reap(job *exec.Cmd) (int, error) {
	if err := job.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == job.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == job.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
