package criu

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary what runs in a container.
const roleVariable = "LIFEBOAT_CRIU_ROLE"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == PreDumpCommand {
		check(PreDump(os.Args[2]))
		return
	}
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "big":
		big()
	case "kinds":
		kinds()
	case "stopped":
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	case "wary":
		wary()
	default:
		if role := os.Getenv(roleVariable); strings.HasPrefix(role, "wary ") {
			os.Exit(waryChild(role))
		}
		if name, ok := strings.CutPrefix(os.Getenv(roleVariable), "pair "); ok {
			pair(name)
		}
		(&workload{name: os.Getenv(roleVariable)}).run()
	}
}

const (
	page        = 4096
	countFormat = "%012d"
)

// part is memory that a workload knows the content of: by its seed and the round in which it was written last.
type part struct {
	name    string
	memory  []byte
	protect int // outside of rounds
	moves   bool
	step    int // only every so many pages are touched
	round   int
}

func (p *part) each(do func(n int, content []byte)) {
	for n := 0; n < len(p.memory)/page; n += p.step {
		do(n, p.memory[n*page:(n+1)*page])
	}
}

func (p *part) words(n int, seed uint64) *rand.PCG {
	return rand.NewPCG(seed, uint64(n)<<32|uint64(p.round))
}

// workload proves the memory of one process again and again, and changes some of it.
type workload struct {
	name  string
	parts []*part
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

func memoryAt(pages, flags, fd int) []byte {
	size := uintptr(pages * page)
	address, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, uintptr(flags), uintptr(fd), 0)
	if errno != 0 {
		panic(errno)
	}
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), int(size))
}

const (
	private = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	shared  = unix.MAP_SHARED | unix.MAP_ANONYMOUS
)

func (w *workload) add(name string, memory []byte, step int) *part {
	p := &part{name: name, memory: memory, protect: unix.PROT_READ | unix.PROT_WRITE, step: step}
	w.parts = append(w.parts, p)
	return p
}

func (w *workload) build() {
	still := 2000
	if _, err := os.Stat("/small"); err == nil { // for a machine that is slow
		still = 600
		w.add("private, hardly touched", memoryAt(2000, private|unix.MAP_POPULATE, -1), 50)
	}
	w.add("private", memoryAt(still, private, -1), 1)
	w.add("private that changes", memoryAt(still/4, private, -1), 2).moves = true
	w.add("no access", memoryAt(300, private, -1), 1).protect = unix.PROT_NONE
	w.add("read only", memoryAt(50, private, -1), 3).protect = unix.PROT_READ
	locked := w.add("locked", memoryAt(20, private, -1), 1)
	check(unix.Mlock(locked.memory))
	f := must(os.Create("/mapped-" + w.name))
	check(f.Truncate(64 * page))
	w.add("file, private", memoryAt(64, unix.MAP_PRIVATE, int(f.Fd())), 5)
	w.add("shared anonymous", memoryAt(100, shared, -1), 1).moves = true
	memfd := must(unix.MemfdCreate("workload", 0))
	check(unix.Ftruncate(memfd, 80*page))
	w.add("memfd", memoryAt(80, unix.MAP_SHARED, memfd), 1).moves = true
	if huge := hugePages(); huge {
		w.add("hugetlb", memoryAt(512, private|unix.MAP_HUGETLB, -1), 1)
	}
	for _, p := range w.parts {
		w.write(p)
		check(unix.Mprotect(p.memory, p.protect))
	}
	if w.name == "parent" {
		w.withOthers(memfd)
	}
}

// withOthers starts a child that has a memfd of its parent, one that ended and is not waited for, and, where they can be
// dumped, one that is stopped: under the freezer of cgroup v1 a dump of a stopped task hangs.
func (w *workload) withOthers(memfd int) {
	start := func(role string) {
		cmd := exec.Command("/program")
		cmd.Env = []string{roleVariable + "=" + role}
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(memfd), "memfd")}
		check(cmd.Start())
	}
	start("child")
	zombie := exec.Command("/program", "-test.run", "^$")
	zombie.Env = []string{roleVariable + "=zombie-that-ends"}
	_ = zombie.Start()
	if _, err := os.Stat("/stopped-too"); err == nil {
		start("stopped")
	}
}

func (w *workload) write(p *part) {
	p.each(func(n int, content []byte) {
		words := p.words(n, w.seed(p))
		for i := 0; i < page; i += 8 {
			binary.LittleEndian.PutUint64(content[i:], words.Uint64())
		}
	})
}

func (w *workload) seed(p *part) uint64 {
	seed := uint64(len(w.name))
	for _, c := range p.name {
		seed = seed*31 + uint64(c)
	}
	return seed
}

func (w *workload) prove(p *part) {
	check(unix.Mprotect(p.memory, unix.PROT_READ|unix.PROT_WRITE))
	p.each(func(n int, content []byte) {
		words := p.words(n, w.seed(p))
		for i := 0; i < page; i += 8 {
			if got := binary.LittleEndian.Uint64(content[i:]); got != words.Uint64() {
				check(os.WriteFile("/bad", fmt.Appendf(nil, "%s: %s: page %d, byte %d: %x", w.name, p.name, n, i, got), 0o600))
			}
		}
	})
	if p.moves {
		p.round++
		w.write(p)
	}
	check(unix.Mprotect(p.memory, p.protect))
}

func (w *workload) run() {
	if w.name == "zombie-that-ends" {
		return
	}
	w.build()
	for n := 0; n < 8; n++ {
		go func() { // threads with a stack and a system call each
			for {
				nap(5e6)
			}
		}()
	}
	// One file of one size: what is dumped open is there at the restore, whenever that is.
	count := must(os.Create("/" + w.name))
	for round := 1; ; round++ {
		for _, p := range w.parts {
			w.prove(p)
		}
		must(count.WriteAt(fmt.Appendf(nil, countFormat, round), 0))
		nap(1e7)
	}
}

func nap(nanoseconds int64) {
	left := unix.NsecToTimespec(nanoseconds)
	_ = unix.Nanosleep(&left, nil)
}

// hugePages says whether the machine has huge pages set aside.
func hugePages() bool {
	text, _ := os.ReadFile("/proc/sys/vm/nr_hugepages")
	var free int
	_, _ = fmt.Sscan(string(text), &free)
	return free >= 8
}

// big has one GiB that does not change.
func big() {
	w := &workload{name: "parent"}
	w.add("big", memoryAt(1<<18, private, -1), 1)
	w.write(w.parts[0])
	check(os.WriteFile("/parent", fmt.Appendf(nil, countFormat, 1), 0o600))
	for {
		nap(1e9)
	}
}
