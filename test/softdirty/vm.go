package softdirty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// VM is a virtual machine that can be run, any number of times and side by side.
type VM struct {
	// Root is a Debian root with a kernel and its modules, Disk the same as an ext4 file system. Both are only read.
	Root, Disk string
	// MemoryMiB is 1536 where it is 0.
	MemoryMiB int
}

// Job is a program that a VM runs as root.
type Job struct {
	// Program is the file of a static executable, or of one that needs nothing that Root lacks. Inside it is /test-binary.
	Program string
	Args    []string
	Env     []string
	// Output takes what it prints, as it comes.
	Output io.Writer
}

const (
	defaultMemory = 1536
	// waitDelay is how long a killed QEMU may take to go.
	waitDelay = 5 * time.Second
	// kernelArguments: a panic ends the VM; mitigations cost an emulated processor much and protect nobody here; on a machine
	// under load the emulated timer is late, which the kernel would take for a broken one.
	// Debian's kernel shows memory that may not be read to tracers alone, which makes every lazy dump of such memory a full one.
	kernelArguments = "console=ttyS0 loglevel=5 panic=-1 mitigations=off random.trust_cpu=on no_timer_check proc_mem.force_override=always"
	consoleTail     = 4 << 10
	guestPackage    = "github.com/lifeboat-dev/lifeboat/test/softdirty/guest"
)

// Run boots the VM, runs the job, and returns its exit status: 128 and the signal's number where one ended it. It fails
// where the VM ends without the job having ended, and where ctx does.
func (vm VM) Run(ctx context.Context, job Job) (int, error) {
	status, err := vm.run(ctx, job)
	if err != nil {
		return 0, fmt.Errorf("run %s in a VM: %w", filepath.Base(job.Program), err)
	}
	return status, nil
}

func (vm VM) run(ctx context.Context, job Job) (int, error) {
	dir, err := os.MkdirTemp("", "lifeboat-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	kernel, err := vm.boot(ctx, dir, job)
	if err != nil {
		return 0, err
	}
	err = vm.emulate(ctx, dir, kernel, job.Output)
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	text, fault := os.ReadFile(filepath.Join(dir, "status"))
	if err == nil {
		err = fault
	}
	if err == nil {
		var status int
		if status, err = strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return status, nil
		}
	}
	console, _ := os.ReadFile(filepath.Join(dir, "console"))
	return 0, fmt.Errorf("it ended without an exit status: %w; its console says:\n%s", err, console[max(0, len(console)-consoleTail):])
}

// boot makes the initramfs below dir, and returns the path of the kernel.
func (vm VM) boot(ctx context.Context, dir string, job Job) (kernel string, _ error) {
	kernel, err := theOnly(filepath.Join(vm.Root, "boot/vmlinuz-*"))
	if err != nil {
		return "", err
	}
	release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	module, err := theOnly(filepath.Join(vm.Root, "lib/modules", release, "kernel/drivers/block/virtio_blk.ko*"))
	if err != nil {
		return "", err
	}
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-o", guest, guestPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the VM's init: %w: %s", err, said)
	}
	orders, err := json.Marshal(append([]string{strconv.Itoa(len(job.Args))}, append(job.Args, job.Env...)...))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "job"), orders, 0o600); err != nil {
		return "", err
	}
	return kernel, writeInitramfs(filepath.Join(dir, "initramfs"), map[string]string{
		"init": guest, "job": filepath.Join(dir, "job"), "program": job.Program, "virtio_blk": module,
	})
}

func theOnly(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d files are %s, want one; `bed prepare` makes the VM's root", len(found), pattern)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// emulate runs QEMU until the VM ends.
func (vm VM) emulate(ctx context.Context, dir, kernel string, output io.Writer) error {
	// cx16: QEMU 7.2 emulates that instruction so that the guest panics now and then.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1",
		"-m", strconv.Itoa(max(vm.MemoryMiB, defaultMemory)), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", filepath.Join(dir, "initramfs"), "-append", kernelArguments,
		"-drive", "if=none,id=root,format=raw,snapshot=on,cache=unsafe,file="+vm.Disk, "-device", "virtio-blk-pci,drive=root",
		"-serial", "file:"+filepath.Join(dir, "console"), "-serial", "file:/dev/fd/3", "-serial", "file:"+filepath.Join(dir, "status"))
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	var complaints strings.Builder
	cmd.ExtraFiles, cmd.Stderr = []*os.File{write}, &complaints
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = waitDelay
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return fmt.Errorf("start QEMU: %w; `bed deps` installs it", err)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(output, read)
		copied <- errors.Join(err, read.Close())
	}()
	err = cmd.Wait()
	if err != nil {
		err = fmt.Errorf("QEMU: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	return errors.Join(err, <-copied)
}
