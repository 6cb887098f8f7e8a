package memory

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a workload: quiet, child, racing, execs, tracked, trackedChild, big.
const roleVariable = "LIFEBOAT_MEMORY_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "quiet":
		quiet(os.Stdout)
	case "child":
		child(os.Stdout)
	case "racing":
		racing(os.Stdout)
	case "execs":
		execs()
	case "tracked":
		tracked(os.Stdout)
	case "trackedChild":
		trackedChild()
	case "big":
		big(os.Stdout)
	default:
		os.Exit(m.Run())
	}
}

// held is memory of a workload that stays as it is, of which the pages at Pages were written.
type held struct {
	Name    string
	PID     int
	Shared  bool
	Inode   uint64 // of shared memory
	Address uint64 // in the object where it is shared
	Length  uint64
	Pages   []int
	Seed    uint64
}

func (h held) page(n int) []byte {
	page := make([]byte, pageSize)
	fill(page, h.Seed, n)
	return page
}

// fill writes what page n of an area of that seed has.
func fill(page []byte, seed uint64, n int) {
	value := rand.New(rand.NewPCG(seed, uint64(n)))
	for i := 0; i < len(page); i += 8 {
		binary.LittleEndian.PutUint64(page[i:], value.Uint64())
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func call(number uintptr, args ...uintptr) uintptr {
	var a [6]uintptr
	copy(a[:], args)
	result, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		panic(fmt.Sprintf("system call %d: %v", number, errno))
	}
	return result
}

// mapped maps pages, of which none is there yet.
func mapped(pages int, flags, fd int) uintptr {
	address := call(unix.SYS_MMAP, 0, uintptr(pages*pageSize), unix.PROT_READ|unix.PROT_WRITE, uintptr(flags), uintptr(fd), 0)
	if flags&unix.MAP_ANONYMOUS != 0 && flags&unix.MAP_HUGETLB == 0 {
		call(unix.SYS_MADVISE, address, uintptr(pages*pageSize), unix.MADV_NOHUGEPAGE)
	}
	return address
}

// bytesAt are length bytes of memory that Go does not know.
func bytesAt(address uintptr, length int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), length)
}

type builder struct {
	seed uint64
	all  []held
}

// write fills every step-th of the pages.
func (b *builder) write(name string, address uintptr, pages, step int) *held {
	b.seed++
	h := held{Name: name, PID: os.Getpid(), Address: uint64(address), Length: uint64(pages * pageSize), Seed: b.seed + uint64(os.Getpid())<<32}
	for n := 0; n < pages; n += step {
		fill(bytesAt(address+uintptr(n*pageSize), pageSize), h.Seed, n)
		h.Pages = append(h.Pages, n)
	}
	b.all = append(b.all, h)
	return &b.all[len(b.all)-1]
}

const (
	private = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	shared  = unix.MAP_SHARED | unix.MAP_ANONYMOUS
)

func (b *builder) privates() {
	size := func(pages int) uintptr { return uintptr(pages * pageSize) }
	b.write("anonymous", mapped(600, private, -1), 600, 1)
	b.write("every third page", mapped(300, private, -1), 300, 3)
	at := mapped(16, private, -1)
	b.write("PROT_NONE", at, 16, 1)
	call(unix.SYS_MPROTECT, at, size(16), unix.PROT_NONE)
	at = mapped(16, private, -1)
	b.write("PROT_WRITE", at, 16, 2)
	call(unix.SYS_MPROTECT, at, size(16), unix.PROT_WRITE)
	at = mapped(32, private, -1)
	b.write("every other page PROT_NONE", at, 32, 1)
	for n := 0; n < 32; n += 2 {
		call(unix.SYS_MPROTECT, at+size(n), size(1), unix.PROT_NONE)
	}
	at = mapped(16, private, -1)
	b.write("locked", at, 16, 1)
	call(unix.SYS_MLOCK, at, size(16))
	at = mapped(20, private, -1)
	moved := b.write("moved", at, 20, 2)
	to := mapped(20, private, -1)
	moved.Address = uint64(call(unix.SYS_MREMAP, at, size(20), size(20), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to))
	const huge = 2 << 20
	at = (call(unix.SYS_MMAP, 0, 3*huge, unix.PROT_READ|unix.PROT_WRITE, private, ^uintptr(0)) + huge - 1) &^ (huge - 1)
	call(unix.SYS_MADVISE, at, huge, unix.MADV_HUGEPAGE)
	b.write("huge", at, huge/pageSize, 1)
	at = mapped(24, private, -1)
	b.write("with guard pages", at, 24, 1)
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, at+size(8), size(8), 102); errno == 0 { // MADV_GUARD_INSTALL, Linux 6.13
		h := &b.all[len(b.all)-1]
		h.Pages = append(h.Pages[:8:8], h.Pages[16:]...)
	}
	f := must(os.CreateTemp("", "file-private"))
	check(os.Remove(f.Name()))
	check(f.Truncate(int64(size(8))))
	at = mapped(8, unix.MAP_PRIVATE, int(f.Fd()))
	for n := range 8 {
		_ = bytesAt(at+size(n), 1)[0]
	}
	b.write("file, two pages written", at, 8, 5)
	if hugePages() {
		b.write("hugetlb", mapped(huge/pageSize, private|unix.MAP_HUGETLB, -1), huge/pageSize, 1)
	}
}

// hugePages says whether the machine has huge pages set aside.
func hugePages() bool {
	text, _ := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	var free int
	_, _ = fmt.Sscan(string(text), &free)
	return free >= 2
}

func (b *builder) shared(inherited *os.File) {
	// The inode of what has no file descriptor is in maps.
	inodeOf := func(address uintptr) uint64 {
		for a := range areasOf(must(os.Open("/proc/self/maps"))) {
			if a.start <= uint64(address) && uint64(address) < a.end {
				return a.inode
			}
		}
		panic("not mapped")
	}
	inObject := func(h *held, inode uint64) { h.Address, h.Inode, h.Shared = 0, inode, true }
	at := mapped(64, shared, -1)
	inObject(b.write("shared anonymous", at, 64, 3), inodeOf(at))
	id := call(unix.SYS_SHMGET, unix.IPC_PRIVATE, uintptr(8*pageSize), 0o600)
	at = call(unix.SYS_SHMAT, id, 0, 0)
	call(unix.SYS_SHMCTL, id, unix.IPC_RMID, 0)
	inObject(b.write("System V", at, 8, 1), inodeOf(at))
	check(inherited.Truncate(int64(40 * pageSize)))
	at = mapped(40, unix.MAP_SHARED, int(inherited.Fd()))
	inObject(b.write("memfd", at, 40, 2), inodeOf(at))
	open := must(unix.MemfdCreate("only open", 0))
	check(unix.Ftruncate(open, int64(500*pageSize)))
	at = mapped(500, unix.MAP_SHARED, open)
	inObject(b.write("memfd that is not mapped", at, 500, 7), inodeOf(at))
	call(unix.SYS_MUNMAP, at, uintptr(500*pageSize))
	if hugePages() {
		const pages = 512
		at = mapped(pages, shared|unix.MAP_HUGETLB, -1)
		inObject(b.write("shared hugetlb", at, pages, 1), inodeOf(at))
	}
}

func (b *builder) tell(out io.Writer) { check(json.NewEncoder(out).Encode(b.all)) }

// untilClosed waits for the end of the standard input.
func untilClosed() { _, _ = io.Copy(io.Discard, os.Stdin) }

// quiet has memory of all kinds and a child with which it shares some, and touches nothing.
func quiet(out *os.File) {
	runtime.GC()
	memfd := os.NewFile(uintptr(must(unix.MemfdCreate("given", 0))), "memfd")
	b := &builder{}
	b.privates()
	b.shared(memfd)
	command := role("child")
	command.ExtraFiles = []*os.File{memfd}
	command.Stdin = os.Stdin
	output := must(command.StdoutPipe())
	check(command.Start())
	var ofChild []held
	check(json.NewDecoder(output).Decode(&ofChild))
	b.all = append(b.all, ofChild...)
	zombie := exec.Command("true")
	check(zombie.Start())
	check(unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)) // it has ended, and stays
	b.tell(out)
	untilClosed()
	_ = command.Wait()
}

func child(out *os.File) {
	b := &builder{}
	mapped(40, unix.MAP_SHARED, 3)
	b.write("of a child", mapped(50, private, -1), 50, 1)
	b.tell(out)
	untilClosed()
}

func role(name string) *exec.Cmd {
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), roleVariable+"="+name)
	return command
}

// racing does all that a scan may stumble over, on many threads, beside memory that stays.
func racing(out *os.File) {
	b := &builder{}
	b.write("quiet", mapped(64, private, -1), 64, 1)
	b.tell(out)
	for n := range 3 {
		go changing(uint64(n))
	}
	go func() {
		for {
			_ = role("execs").Run()
		}
	}()
	go forking()
	untilClosed()
}

// changing maps, writes, moves, shrinks, locks and unmaps at random.
func changing(seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 0))
	for {
		pages := 1 + dice.IntN(2000)
		length := uintptr(pages * pageSize)
		kind := private
		if dice.IntN(4) == 0 {
			kind = shared
		}
		at := mapped(pages, kind, -1)
		for n := 0; n < pages; n += 1 + dice.IntN(4) {
			bytesAt(at+uintptr(n*pageSize), 1)[0] = byte(n)
		}
		half := uintptr(pages/2) * uintptr(pageSize)
		switch dice.IntN(6) {
		case 0:
			at = call(unix.SYS_MREMAP, at, length, 2*length, unix.MREMAP_MAYMOVE)
			length *= 2
		case 1:
			call(unix.SYS_MPROTECT, at, length, unix.PROT_NONE)
		case 2:
			call(unix.SYS_MADVISE, at, length, unix.MADV_DONTNEED)
		case 3:
			if half > 0 {
				call(unix.SYS_MUNMAP, at+half, length-half)
				length = half
			}
		case 4:
			fd := must(unix.MemfdCreate("racing", 0))
			check(unix.Ftruncate(fd, int64(length)))
			_, _ = unix.Write(fd, make([]byte, 1<<16))
			check(unix.Ftruncate(fd, int64(half)))
			check(unix.Close(fd))
		}
		call(unix.SYS_MUNMAP, at, length)
	}
}

// forking makes children that end after a moment.
func forking() {
	runtime.LockOSThread()
	for {
		moment := unix.Timespec{Nsec: 2e6}
		pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if pid == 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&moment)), 0, 0)
			for {
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		}
		var status unix.WaitStatus
		_, _ = unix.Wait4(int(pid), &status, 0, nil)
	}
}

// execs executes itself anew, a few dozen times.
func execs() {
	left, err := strconv.Atoi(os.Getenv("LEFT"))
	if err != nil {
		left = 30
	}
	if left == 0 {
		return
	}
	check(os.Setenv("LEFT", strconv.Itoa(left-1)))
	check(syscall.Exec("/proc/self/exe", []string{"execs"}, os.Environ()))
}

// big has one GiB.
func big(out *os.File) {
	b := &builder{}
	at := mapped(bigPages, private, -1)
	b.write("big", at, bigPages, 1)
	b.all[0].Pages = nil
	b.tell(out)
	untilClosed()
}

const bigPages = 1 << 18

// start starts a workload in a PID namespace of its own, and returns its host PID and what it holds.
func start(t testing.TB, name string) (int, []held) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: PID namespaces, /proc/PID/map_files")
	}
	command := role(name)
	command.Env = append(command.Env, "TMPDIR="+t.TempDir())
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	require.NoError(t, err)
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	// The thread that starts it must outlive it (Pdeathsig).
	runtime.LockOSThread()
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		defer runtime.UnlockOSThread()
		_ = input.Close()
		timer := time.AfterFunc(time.Second, func() { _ = command.Process.Kill() })
		defer timer.Stop()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(output).ReadBytes('\n')
	require.NoError(t, err)
	var all []held
	require.NoError(t, json.Unmarshal(line, &all))
	return command.Process.Pid, all
}

// readBack is where a held page is in what was read.
func (h held) task(rank map[uint64]int) string {
	if h.Shared {
		return "shm/" + strconv.Itoa(rank[h.Inode])
	}
	return filepath.Join("mem", strconv.Itoa(h.PID))
}
